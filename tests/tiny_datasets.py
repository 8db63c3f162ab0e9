"""A small graph, written in the raw format of every library that lpgnas loads from."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

NUM_NODES = 513
NUM_FEATURES = 40
NUM_CLASSES = 3
NUM_TRAIN = 3
NUM_TEST = 10
"""PyG's Planetoid reader always validates on the 500 nodes after the training nodes."""


@dataclass(frozen=True)
class Tiny:
    """The graph that each reader must give back, and the untidy edges [2, E] that are written."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]
    untidy: npt.NDArray[np.int64]
    train: npt.NDArray[np.bool_]
    val: npt.NDArray[np.bool_]
    test: npt.NDArray[np.bool_]


def tiny() -> Tiny:
    """A ring with a few chords; two binary features a node, one of them the class."""
    nodes = np.arange(NUM_NODES)
    y = nodes % NUM_CLASSES
    x = np.zeros((NUM_NODES, NUM_FEATURES), dtype=np.float32)
    x[nodes, y] = 1
    x[nodes, NUM_CLASSES + nodes % (NUM_FEATURES - NUM_CLASSES)] = 1
    once = np.concatenate([np.stack([nodes, (nodes + 1) % NUM_NODES]), np.array([[0, 7], [100, 300]])], axis=1)
    both = np.concatenate([once, once[::-1]], axis=1)
    order = np.lexsort((both[0], both[1]))
    loops = np.array([[5, 9], [5, 9]])
    train, val, test = nodes < NUM_TRAIN, (nodes >= NUM_TRAIN) & (nodes < NUM_NODES - NUM_TEST), nodes >= 503
    return Tiny(x, y, both[:, order], np.concatenate([both, loops], axis=1), train, val, test)


def write_planetoid(folder: Path, name: str) -> None:
    graph = tiny()
    labelled = NUM_NODES - NUM_TEST
    test_index = np.random.default_rng(0).permutation(np.arange(labelled, NUM_NODES))
    one_hot = np.eye(NUM_CLASSES, dtype=np.int32)[graph.y]
    neighbours: dict[int, list[int]] = {node: [] for node in range(NUM_NODES)}
    for source, target in graph.untidy.T.tolist():
        neighbours[source].append(target)
    neighbours[0].append(neighbours[0][0])  # the published files hold duplicates
    parts: dict[str, object] = {"graph": neighbours}
    for suffix, rows in (("", np.arange(NUM_TRAIN)), ("t", test_index), ("all", np.arange(labelled))):
        parts[f"{suffix}x"] = sparse.csr_matrix(graph.x[rows])
        parts[f"{suffix}y"] = one_hot[rows]
    for part, value in parts.items():
        (folder / f"raw/ind.{name}.{part}").write_bytes(pickle.dumps(value, protocol=2))
    (folder / f"raw/ind.{name}.test.index").write_text("".join(f"{node}\n" for node in test_index))


def write_gnn_benchmark(path: Path) -> None:
    """The npz format of Amazon, Coauthor and CitationFull."""
    graph = tiny()
    x = sparse.csr_matrix(graph.x)
    adjacency = _adjacency(graph.untidy)
    np.savez(
        path,
        attr_data=x.data,
        attr_indices=x.indices,
        attr_indptr=x.indptr,
        attr_shape=x.shape,
        adj_data=adjacency.data,
        adj_indices=adjacency.indices,
        adj_indptr=adjacency.indptr,
        adj_shape=adjacency.shape,
        labels=graph.y,
    )


def write_graphsaint(folder: Path) -> None:
    graph = tiny()
    adjacency = _adjacency(graph.untidy)
    np.savez(
        folder / "raw/adj_full.npz",
        data=adjacency.data,
        indices=adjacency.indices,
        indptr=adjacency.indptr,
        shape=adjacency.shape,
    )
    np.save(folder / "raw/feats.npy", graph.x.astype(np.float64))
    (folder / "raw/class_map.json").write_text(
        json.dumps({str(node): int(label) for node, label in enumerate(graph.y)})
    )
    roles = {"tr": graph.train, "va": graph.val, "te": graph.test}
    (folder / "raw/role.json").write_text(
        json.dumps({role: np.flatnonzero(mask).tolist() for role, mask in roles.items()})
    )


def write_reddit(folder: Path) -> None:
    graph = tiny()
    node_types = graph.train * 1 + graph.val * 2 + graph.test * 3
    np.savez(folder / "raw/reddit_data.npz", feature=graph.x.astype(np.float64), label=graph.y, node_types=node_types)
    sparse.save_npz(folder / "raw/reddit_graph.npz", _adjacency(graph.untidy).tocoo())


def write_ogbn(folder: Path, split: str, *, add_inverse: bool) -> None:
    graph = tiny()
    edges = graph.untidy[:, graph.untidy[0] <= graph.untidy[1]] if add_inverse else graph.untidy
    columns: dict[str, npt.NDArray[np.generic]] = {
        "edge": edges.T,
        "node-feat": graph.x,
        "node-label": graph.y[:, None],
        "num-node-list": np.array([[NUM_NODES]]),
        "num-edge-list": np.array([[edges.shape[1]]]),
        "node_year": np.full((NUM_NODES, 1), 2017),
    }
    for name, values in columns.items():
        _write_csv(folder / f"raw/{name}.csv.gz", values)
    for name, mask in (("train", graph.train), ("valid", graph.val), ("test", graph.test)):
        _write_csv(folder / f"split/{split}/{name}.csv.gz", np.flatnonzero(mask)[:, None])
    (folder / "RELEASE_v1.txt").write_text("")


def _adjacency(edges: npt.NDArray[np.int64]) -> sparse.csr_matrix:
    values = np.ones(edges.shape[1], dtype=np.float32)
    return sparse.csr_matrix((values, (edges[0], edges[1])), shape=(NUM_NODES, NUM_NODES))


def _write_csv(path: Path, values: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(",".join(str(value) for value in row) + "\n" for row in values.tolist())


def _in_raw(file: str) -> Callable[[Path], None]:
    return lambda folder: write_gnn_benchmark(folder / "raw" / file)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "planetoid/Cora": ("Planetoid/Cora", lambda folder: write_planetoid(folder, "cora")),
    "planetoid/CiteSeer": ("Planetoid/CiteSeer", lambda folder: write_planetoid(folder, "citeseer")),
    "planetoid/PubMed": ("Planetoid/PubMed", lambda folder: write_planetoid(folder, "pubmed")),
    "amazon/Computers": ("Amazon/Computers", _in_raw("amazon_electronics_computers.npz")),
    "amazon/Photo": ("Amazon/Photo", _in_raw("amazon_electronics_photo.npz")),
    "coauthor/CS": ("Coauthor/CS", _in_raw("ms_academic_cs.npz")),
    "coauthor/Physics": ("Coauthor/Physics", _in_raw("ms_academic_phy.npz")),
    "CoraFull": ("CitationFull/cora", _in_raw("cora.npz")),
    "Flickr": ("Flickr", write_graphsaint),
    "Reddit": ("Reddit", write_reddit),
    "ogbn-arxiv": ("ogb/ogbn_arxiv", lambda folder: write_ogbn(folder, "time", add_inverse=False)),
    "ogbn-products": ("ogb/ogbn_products", lambda folder: write_ogbn(folder, "sales_ranking", add_inverse=True)),
}
"""Name -> (folder under the data root, writer of the files into that folder)."""


def write(name: str, root: Path) -> Path:
    """Write the tiny graph as the raw files of a dataset; returns the dataset's folder."""
    where, writer = WRITERS[name]
    folder = root / where
    (folder / "raw").mkdir(parents=True)
    writer(folder)
    return folder
