"""Which nodes train, validate and test, and the graphs that an inductive model may see.

A split depends on the graph, the protocol and the seed alone: one seed repeats a split exactly with one version of
NumPy (whose random streams may change from one release to another).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from lpgnas.errors import DatasetError, GraphError, UnknownName
from lpgnas.graph import BoolArray, Graph, IntArray, Split, check_disjoint

SHCHUR_TRAIN = 20
SHCHUR_VAL = 30


def make_split(graph: Graph, protocol: str, seed: int) -> Split:
    """Split the nodes of a labelled graph.

    Args:
        graph: a graph with labels.
        protocol: `public`: the masks that a published dataset ships. `own`: the masks of a user's graph.
            `full`: of every class, 60 % train, 20 % validate and the rest test, rounded to the nearest node; a
            class always trains on one node at least. `shchur`: of every class, 20 nodes train, 30 validate, the
            rest test; a class of 50 nodes or fewer gets no role at all (Shchur et al. 2018 drop these nodes from
            the graph; here they stay as neighbours).
        seed: seeds a NumPy generator of its own; `public` and `own` ignore it.

    Returns:
        Disjoint masks [N], at least one node to train and one to validate.

    Raises:
        UnknownName: a protocol that does not exist.
        DatasetError: no such masks, no labels, a bad seed, or a split without training or validation nodes.
    """
    if protocol not in PROTOCOLS:
        raise UnknownName("split protocol", protocol, PROTOCOLS)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise DatasetError(f"{graph.name}: the seed of a split must be an integer of at least 0, got {seed!r}")
    split = PROTOCOLS[protocol](graph, protocol, int(seed))
    check_split(split, graph.name)
    return split


def check_split(split: Split, name: str) -> None:
    """Refuse a split that overlaps, or that has no node to train or none to validate.

    Raises:
        DatasetError: says which part is empty and how large the others are.
        GraphError: two masks overlap.
    """
    check_disjoint(split, name)
    sizes = {which: int(getattr(split, which).sum()) for which in ("train", "val", "test")}
    for which in ("train", "val"):
        if sizes[which] == 0:
            raise DatasetError(
                f"{name}: the split {split.protocol!r} has no {which} node (train {sizes['train']}, val {sizes['val']},"
                f" test {sizes['test']}); choose another protocol, or a graph with more nodes a class"
            )


def induced_subgraph(graph: Graph, keep: BoolArray) -> tuple[Graph, IntArray]:
    """The kept nodes, the edges between them in the order of the graph, and each kept node's original id [K] int64.

    Nodes keep their order. Masks, when the graph has any, are restricted to the kept nodes.

    Raises:
        GraphError: `keep` is not bool of shape [N], or keeps nothing.
    """
    if keep.dtype != np.bool_ or keep.shape != (graph.num_nodes,):
        raise GraphError(
            f"{graph.name}: keep must be bool of shape [{graph.num_nodes}], got {keep.dtype} of shape "
            f"{list(keep.shape)}"
        )
    ids = np.flatnonzero(keep).astype(np.int64)
    if ids.size == 0:
        raise GraphError(f"{graph.name}: the subgraph is empty: keep marks none of the {graph.num_nodes} nodes")
    position = np.cumsum(keep, dtype=np.int64) - 1
    source, target = graph.edge_index
    edges = position[graph.edge_index[:, keep[source] & keep[target]]]
    y = None if graph.y is None else graph.y[ids]
    masks = None if graph.masks is None else _restrict(graph.masks, ids)
    return Graph(graph.name, graph.x[ids], edges, y, graph.num_classes, masks), ids


def inductive_training_graph(graph: Graph, split: Split) -> tuple[Graph, Split, IntArray]:
    """What an inductive model sees in training: validation and test nodes and all their edges are absent.

    Selection then runs on `inductive_validation_graph`, the test on the whole graph: each adds nodes that training
    never saw. Nodes without a role (`shchur`, small classes) are absent until the whole graph appears.

    Returns:
        The subgraph of the training nodes, the split restricted to it (all train), and their original ids [K] int64.
    """
    return _inductive(graph, split, split.train)


def inductive_validation_graph(graph: Graph, split: Split) -> tuple[Graph, Split, IntArray]:
    """The subgraph of training and validation nodes, its split (no test node), and their original ids [K] int64."""
    return _inductive(graph, split, split.train | split.val)


def _inductive(graph: Graph, split: Split, keep: BoolArray) -> tuple[Graph, Split, IntArray]:
    subgraph, ids = induced_subgraph(graph, keep)
    return subgraph, _restrict(split, ids), ids


def _restrict(split: Split, ids: IntArray) -> Split:
    return Split(split.protocol, split.train[ids], split.val[ids], split.test[ids])


def _given(graph: Graph, protocol: str, seed: int) -> Split:
    """The masks that came with the graph, if they are of this protocol."""
    del seed
    if graph.masks is not None and graph.masks.protocol == protocol:
        return graph.masks
    works = ["full", "shchur"] if graph.masks is None else [graph.masks.protocol, "full", "shchur"]
    raise DatasetError(f"{graph.name}: came without {protocol!r} masks; these protocols work: {', '.join(works)}")


def _full(graph: Graph, protocol: str, seed: int) -> Split:
    # Integer arithmetic rounds to nearest, and gives a class of one node that node to train.
    return _per_class(graph, protocol, seed, lambda size: ((6 * size + 5) // 10, (2 * size + 5) // 10, size))


def _shchur(graph: Graph, protocol: str, seed: int) -> Split:
    smallest = SHCHUR_TRAIN + SHCHUR_VAL + 1
    split = _per_class(
        graph, protocol, seed, lambda size: (SHCHUR_TRAIN, SHCHUR_VAL, size) if size >= smallest else (0, 0, 0)
    )
    if not split.train.any():
        raise DatasetError(
            f"{graph.name}: no class has the {smallest} nodes that the split {protocol!r} needs; choose 'full'"
        )
    return split


def _per_class(graph: Graph, protocol: str, seed: int, sizes: Callable[[int], tuple[int, int, int]]) -> Split:
    """Shuffle each class and cut it; `sizes` maps a class's size to (train, val, the end of test)."""
    if graph.y is None:
        raise DatasetError(f"{graph.name}: the graph has no labels, so it cannot be split; give y")
    rng = np.random.default_rng(seed)
    train, val, test = (np.zeros(graph.num_nodes, dtype=np.bool_) for _ in range(3))
    for label in range(graph.num_classes):
        nodes = rng.permutation(np.flatnonzero(graph.y == label))
        num_train, num_val, end = sizes(nodes.size)
        train[nodes[:num_train]] = True
        val[nodes[num_train : num_train + num_val]] = True
        test[nodes[num_train + num_val : end]] = True
    return Split(protocol, train, val, test)


PROTOCOLS: Mapping[str, Callable[[Graph, str, int], Split]] = MappingProxyType(
    {"public": _given, "own": _given, "full": _full, "shchur": _shchur}
)
