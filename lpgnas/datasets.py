"""Every graph that lpgnas can name: the embedded one, published datasets, and a user's own file.

Published datasets are coalesced and freed of self-loops; a user's graph is taken as given. Edges of published
datasets come sorted by (target, source). Features are as published (nothing is normalised: models do that).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from lpgnas.dataset_sources import LAYOUTS, load_library_data, missing_files
from lpgnas.errors import DatasetError, GraphError, UnknownName
from lpgnas.graph import Features, Graph, IntArray
from lpgnas.graph_files import canonical_csr, graph_from_npz, graph_from_pyg, graph_to_npz, npz_has_masks
from lpgnas.splits import (
    PROTOCOLS,
    check_split,
    induced_subgraph,
    inductive_training_graph,
    inductive_validation_graph,
    make_split,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "DatasetInfo",
    "check_split",
    "dataset_table",
    "default_protocol",
    "graph_from_npz",
    "graph_from_pyg",
    "graph_to_npz",
    "induced_subgraph",
    "inductive_training_graph",
    "inductive_validation_graph",
    "load_dataset",
    "make_split",
    "resolve_data_root",
]

SPARSE_BELOW = 0.1
"""The density under which the features of a published dataset stay sparse."""


@dataclass(frozen=True)
class DatasetInfo:
    """A graph that can be loaded by name.

    Attributes:
        name: what `load_dataset` takes, exactly.
        source: where it comes from.
        nodes: N.
        edges: directed edges as its source publishes them; loading drops duplicates and self-loops.
        features: F.
        classes: C (labels that a node may have at once, for Yelp).
        default_split: the protocol of `make_split` when none is chosen.
        note: what else to know.
    """

    name: str
    source: str
    nodes: int
    edges: int
    features: int
    classes: int
    default_split: str
    note: str


_PLANETOID = "Planetoid (Yang et al. 2016), PyG Planetoid"
_SHCHUR = "gnn-benchmark (Shchur et al. 2018), PyG"
_SAINT = "GraphSAINT (Zeng et al. 2020), PyG"

_ROWS = (
    DatasetInfo(
        "cora",
        "LINQS Cora, ships with lpgnas",
        2708,
        10556,
        1433,
        7,
        "full",
        "offline; LINQS node order, no public split",
    ),
    DatasetInfo("planetoid/Cora", _PLANETOID, 2708, 10556, 1433, 7, "public", "binary features; 140/500/1000"),
    DatasetInfo("planetoid/CiteSeer", _PLANETOID, 3327, 9104, 3703, 6, "public", "binary features; 120/500/1000"),
    DatasetInfo("planetoid/PubMed", _PLANETOID, 19717, 88648, 500, 3, "public", "tf-idf features; 60/500/1000"),
    DatasetInfo("amazon/Computers", f"{_SHCHUR} Amazon", 13752, 491722, 767, 10, "shchur", "binary features"),
    DatasetInfo("amazon/Photo", f"{_SHCHUR} Amazon", 7650, 238162, 745, 8, "shchur", "binary features"),
    DatasetInfo("coauthor/CS", f"{_SHCHUR} Coauthor", 18333, 163788, 6805, 15, "shchur", "binary features"),
    DatasetInfo("coauthor/Physics", f"{_SHCHUR} Coauthor", 34493, 495924, 8415, 5, "shchur", "binary features"),
    DatasetInfo(
        "CoraFull",
        "Bojchevski and Günnemann 2018, PyG CitationFull",
        19793,
        126842,
        8710,
        70,
        "shchur",
        "folder CitationFull/cora; shchur leaves classes of 50 nodes or fewer without a role",
    ),
    DatasetInfo("Flickr", f"{_SAINT} Flickr", 89250, 899756, 500, 7, "public", ""),
    DatasetInfo("Yelp", f"{_SAINT} Yelp", 716847, 13954819, 300, 100, "public", "multi-label: not built yet"),
    DatasetInfo("Reddit", "GraphSAGE (Hamilton et al. 2017), PyG Reddit", 232965, 114615892, 602, 41, "public", ""),
    DatasetInfo(
        "ogbn-arxiv", "Open Graph Benchmark, package ogb", 169343, 1166243, 128, 40, "public", "directed, as published"
    ),
    DatasetInfo(
        "ogbn-products",
        "Open Graph Benchmark, package ogb",
        2449029,
        123718280,
        100,
        47,
        "public",
        "1.4 GB to download",
    ),
)

DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({row.name: row for row in _ROWS})
"""Every name of `load_dataset`, in the order of tables."""


def load_dataset(name: str, data_root: Path | None = None, *, require_labels: bool = True) -> Graph:
    """Load a graph by name, or a user's graph from a path that ends in `.npz`.

    Args:
        name: an exact name of `DATASETS`, or a path ending in `.npz` (see `graph_from_npz`).
        data_root: where published datasets lie, in PyG's layout (see `resolve_data_root`). It may be read-only if the
            raw files are there; otherwise they are downloaded, and kept.
        require_labels: refuse a user's graph without labels; False suits one that is only to be predicted.

    Returns:
        The graph. A published dataset is coalesced, freed of self-loops and sorted by (target, source), and its
        features are CSR when fewer than a tenth of them differ from zero.

    Raises:
        UnknownName: no dataset of this name.
        DatasetError: files that are missing, damaged or impossible to download; multi-label targets.
        GraphError: a user's graph with a wrong array.
    """
    if name.endswith(".npz"):
        return graph_from_npz(Path(name), require_labels=require_labels)
    if name not in DATASETS:
        raise UnknownName("dataset", name, DATASETS)
    if name == "cora":
        return _embedded_cora()
    if name == "Yelp":
        raise DatasetError(
            "dataset 'Yelp': multi-label targets are not built yet (each node has up to 100 labels); choose a dataset "
            "with one class a node, such as Flickr"
        )
    root = resolve_data_root(data_root)
    data, num_classes = load_library_data(name, root)
    try:
        graph = graph_from_pyg(data, name=name, protocol="public", num_classes=num_classes)
    except GraphError as error:
        raise DatasetError(
            f"dataset {name!r}: the files in {root / LAYOUTS[name].folder} are damaged: {error}"
        ) from error
    return Graph(
        name, _compact(graph.x), _coalesced(graph.edge_index, graph.num_nodes), graph.y, graph.num_classes, graph.masks
    )


def resolve_data_root(data_root: Path | None = None) -> Path:
    """The folder of published datasets: the one given, else the variable LPGNAS_DATA, else `~/.cache/lpgnas`.

    It holds `Planetoid/`, `Amazon/`, `Coauthor/`, `CitationFull/` (CoraFull, as `cora/`), `Flickr/`, `Yelp/`, `Reddit/`
    and `ogb/`, each as its library lays it out.
    """
    if data_root is not None:
        return Path(data_root).expanduser()
    named = os.environ.get("LPGNAS_DATA")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "lpgnas"


def default_protocol(name: str) -> str:
    """The split protocol of a dataset when none is chosen; for a user's file `own` if it has masks, else `full`.

    Raises:
        UnknownName: no dataset of this name.
        DatasetError: a path ending in `.npz` that cannot be read.
    """
    if name.endswith(".npz"):
        return "own" if npz_has_masks(name) else "full"
    if name not in DATASETS:
        raise UnknownName("dataset", name, DATASETS)
    return DATASETS[name].default_split


def dataset_table(data_root: Path | None = None) -> pd.DataFrame:
    """One row a dataset, in the order of `DATASETS`.

    Columns: name, nodes, directed edges (as published), features, classes, default split, source, found (the root
    holds every file, so that nothing would be downloaded), note.
    """
    import pandas as pd

    root = resolve_data_root(data_root)
    return pd.DataFrame(
        [
            {
                "name": row.name,
                "nodes": row.nodes,
                "directed edges": row.edges,
                "features": row.features,
                "classes": row.classes,
                "default split": row.default_split,
                "source": row.source,
                "found": row.name not in LAYOUTS or not missing_files(row.name, root),
                "note": row.note,
            }
            for row in DATASETS.values()
        ]
    )


def _embedded_cora() -> Graph:
    with resources.files("lpgnas.data").joinpath("cora.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    indptr, indices = arrays["feature_indptr"], arrays["feature_indices"].astype(np.int32)
    shape = (indptr.size - 1, int(arrays["feature_dim"]))
    x = canonical_csr(sparse.csr_array((np.ones(indices.size, dtype=np.float32), indices, indptr), shape=shape))
    once = arrays["edges"].astype(np.int64).T
    edges = _coalesced(np.concatenate([once, once[::-1]], axis=1), shape[0])
    return Graph("cora", x, edges, arrays["labels"].astype(np.int64), arrays["class_names"].size)


def _coalesced(edge_index: IntArray, num_nodes: int) -> IntArray:
    """Edges sorted by (target, source), each once, without self-loops."""
    source, target = edge_index
    keys = np.unique((target * num_nodes + source)[source != target])
    return np.stack([keys % num_nodes, keys // num_nodes])


def _compact(x: Features) -> Features:
    """CSR if fewer than a tenth of the entries differ from zero, else dense."""
    rows, columns = x.shape
    filled = np.count_nonzero(x) if isinstance(x, np.ndarray) else x.count_nonzero()
    if filled < SPARSE_BELOW * rows * columns:
        return canonical_csr(sparse.csr_array(x))
    return x if isinstance(x, np.ndarray) else x.toarray()
