"""Splits: disjoint, stratified, repeatable; subgraphs of inductive training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import sparse

from lpgnas.datasets import (
    check_split,
    induced_subgraph,
    inductive_training_graph,
    inductive_validation_graph,
    load_dataset,
    make_split,
)
from lpgnas.errors import DatasetError, GraphError, UnknownName
from lpgnas.graph import Graph, Split

PARTS = ("train", "val", "test")
sizes_of_classes = st.lists(st.integers(0, 80), min_size=1, max_size=6).filter(any)
seeds = st.integers(0, 2**32)


def graph_of(sizes: list[int], shuffle: int = 0) -> Graph:
    """A ring whose classes have the given sizes, in a shuffled order."""
    y = np.random.default_rng(shuffle).permutation(np.repeat(np.arange(len(sizes)), sizes))
    nodes = np.arange(y.size)
    edges = np.stack([nodes, (nodes + 1) % y.size])
    return Graph("ring", np.ones((y.size, 1), dtype=np.float32), edges, y, len(sizes))


def labels(graph: Graph) -> npt.NDArray[np.int64]:
    assert graph.y is not None
    return graph.y


def roles(split: Split) -> npt.NDArray[np.int64]:
    return split.train.astype(np.int64) + split.val + split.test


@given(sizes=sizes_of_classes, seed=seeds)
def test_full_is_stratified_and_covers(sizes: list[int], seed: int) -> None:
    assume(any(size > 2 for size in sizes))
    graph = graph_of(sizes)
    split = make_split(graph, "full", seed)
    assert split.protocol == "full"
    assert (roles(split) == 1).all()
    for label, size in enumerate(sizes):
        members = labels(graph) == label
        train, val, test = (int((getattr(split, part) & members).sum()) for part in PARTS)
        assert train >= min(size, 1)
        assert abs(train - 0.6 * size) <= 0.5
        assert abs(val - 0.2 * size) <= 0.5
        assert abs(test - 0.2 * size) <= 1


@given(sizes=sizes_of_classes, seed=seeds)
def test_shchur_takes_twenty_and_thirty(sizes: list[int], seed: int) -> None:
    graph = graph_of(sizes)
    if max(sizes) <= 50:
        with pytest.raises(DatasetError, match=r"no class has the 51 nodes.*choose 'full'"):
            make_split(graph, "shchur", seed)
        return
    split = make_split(graph, "shchur", seed)
    for label, size in enumerate(sizes):
        members = labels(graph) == label
        found = tuple(int((getattr(split, part) & members).sum()) for part in PARTS)
        assert found == ((20, 30, size - 50) if size > 50 else (0, 0, 0))
    assert (roles(split) <= 1).all()


@pytest.mark.parametrize("protocol", ["full", "shchur"])
@given(seed=seeds)
def test_seed_repeats(protocol: str, seed: int) -> None:
    graph = graph_of([60, 70])
    state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    first, second = make_split(graph, protocol, seed), make_split(graph, protocol, seed)
    other = make_split(graph, protocol, seed + 1)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(first, part), getattr(second, part))
    assert any((getattr(first, part) != getattr(other, part)).any() for part in PARTS)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


def test_full_on_cora() -> None:
    graph = load_dataset("cora")
    split = make_split(graph, "full", 0)
    assert [int(getattr(split, part).sum()) for part in PARTS] == [1626, 542, 540]


def given_masks(protocol: str) -> Graph:
    graph = graph_of([2, 2])
    nodes = np.arange(4)
    return replace(graph, masks=Split(protocol, nodes == 0, nodes == 1, nodes > 1))


@pytest.mark.parametrize("protocol", ["public", "own"])
def test_masks_that_came_with_the_graph(protocol: str) -> None:
    graph = given_masks(protocol)
    assert make_split(graph, protocol, 0) is graph.masks
    other = "own" if protocol == "public" else "public"
    with pytest.raises(
        DatasetError, match=f"came without '{other}' masks; these protocols work: {protocol}, full, shch"
    ):
        make_split(graph, other, 0)
    with pytest.raises(DatasetError, match="these protocols work: full, shchur"):
        make_split(graph_of([2, 2]), protocol, 0)


def test_refused_splits() -> None:
    graph = graph_of([2, 2])
    with pytest.raises(UnknownName, match=r"unknown split protocol 'ful'\. Did you mean 'full'"):
        make_split(graph, "ful", 0)
    for seed in (-1, True, 1.5):
        with pytest.raises(DatasetError, match="must be an integer of at least 0"):
            make_split(graph, "full", seed)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=r"no val node \(train 2, val 0, test 2\)"):
        make_split(graph, "full", 0)
    unlabelled = Graph("bare", graph.x, graph.edge_index)
    with pytest.raises(DatasetError, match="bare: the graph has no labels"):
        make_split(unlabelled, "full", 0)


def test_checked_masks() -> None:
    empty, one = np.zeros(2, dtype=bool), np.array([True, False])
    with pytest.raises(DatasetError, match=r"'own' has no train node \(train 0, val 1, test 0\)"):
        check_split(Split("own", empty, one, empty), "g")
    with pytest.raises(GraphError, match="val_mask and test_mask overlap"):
        check_split(Split("own", ~one, one, one), "g")
    graph = graph_of([1, 1])
    with pytest.raises(DatasetError, match="no val node"):
        make_split(replace(graph, masks=Split("own", one, empty, ~one)), "own", 0)


# Subgraphs


@given(nodes=st.integers(1, 12), edges=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11))), data=st.data())
def test_induced_subgraph(nodes: int, edges: list[tuple[int, int]], data: st.DataObject) -> None:
    inside = [(source % nodes, target % nodes) for source, target in edges]
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=nodes, max_size=nodes).filter(any)))
    x = np.arange(2 * nodes, dtype=np.float32).reshape(nodes, 2)
    edge_index = np.array(inside, dtype=np.int64).reshape(-1, 2).T
    graph = Graph("g", sparse.csr_array(x) if data.draw(st.booleans()) else x, edge_index, np.arange(nodes), nodes)
    subgraph, ids = induced_subgraph(graph, keep)
    assert ids.tolist() == np.flatnonzero(keep).tolist()
    assert ids[subgraph.edge_index].T.tolist() == [list(edge) for edge in inside if keep[edge[0]] and keep[edge[1]]]
    features = subgraph.x if isinstance(subgraph.x, np.ndarray) else subgraph.x.toarray()
    np.testing.assert_array_equal(features, x[ids])
    np.testing.assert_array_equal(labels(subgraph), ids)
    assert subgraph.num_classes == nodes


def test_inductive_graphs_hide_unseen_nodes() -> None:
    graph = load_dataset("cora")
    split = make_split(graph, "full", 3)
    training, restricted, ids = inductive_training_graph(graph, split)
    assert training.num_nodes == int(split.train.sum())
    assert split.train[ids].all()
    assert restricted.protocol == "full"
    assert restricted.train.all()
    assert not restricted.val.any()
    assert not restricted.test.any()
    source, target = graph.edge_index
    assert training.num_edges == int((split.train[source] & split.train[target]).sum())
    selection, restricted, ids = inductive_validation_graph(graph, split)
    assert not split.test[ids].any()
    assert int(restricted.val.sum()) == int(split.val.sum())
    assert training.num_nodes < selection.num_nodes < graph.num_nodes


def test_masks_are_restricted() -> None:
    subgraph, _ = induced_subgraph(given_masks("public"), np.array([True, False, True, False]))
    assert subgraph.masks is not None
    assert subgraph.masks.train.tolist() == [True, False]
    assert subgraph.masks.test.tolist() == [False, True]


def test_refused_subgraphs() -> None:
    graph = graph_of([2, 2])
    with pytest.raises(GraphError, match="keep marks none of the 4 nodes"):
        induced_subgraph(graph, np.zeros(4, dtype=bool))
    with pytest.raises(GraphError, match=r"keep must be bool of shape \[4\], got bool of shape \[3\]"):
        induced_subgraph(graph, np.ones(3, dtype=bool))
    with pytest.raises(GraphError, match="keep must be bool"):
        induced_subgraph(graph, np.ones(4, dtype=np.int64))
