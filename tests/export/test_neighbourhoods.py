"""Neighbourhoods of a node: the logits of the sampled graph, and of full inference where nothing is left out."""

from __future__ import annotations

import numpy as np
import pytest
import runs
import samples
from export_cases import case
from scipy import sparse

from benchmarks.neighbourhoods import measure
from lpgnas.errors import GraphError
from lpgnas.export.neighbourhoods import NeighbourSampler, hops_of
from lpgnas.graph import Graph
from lpgnas.integer_program import Aggregate
from lpgnas.kernels.executor import Executor

CASES = range(0, 60, 2)


def large_graph(columns: int, seed: int) -> Graph:
    """A multigraph with a hub, loops, duplicates and nodes without edges."""
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, 30, (2, 110))
    hub = np.stack([rng.integers(0, 40, 25), np.full(25, 3)])
    return Graph("large", samples.random_features(rng, 40, columns), np.concatenate([edges, hub], axis=1))


@pytest.mark.parametrize("index", CASES)
def test_without_a_limit_the_first_row_is_that_of_full_inference(index: int) -> None:
    program = case(index).program
    graph, executor = large_graph(program.num_features, index), Executor(program)
    wanted = executor.run(graph.x, graph.edge_index).codes
    sampler = NeighbourSampler(graph, hops_of(program))
    for node in range(0, graph.num_nodes, 3):
        made = sampler.around(node).graph
        np.testing.assert_array_equal(executor.run(made.x, made.edge_index).codes[0], wanted[node])


@pytest.mark.parametrize("index", CASES)
@pytest.mark.parametrize("fan_out", [1, 3])
def test_with_a_limit_it_is_that_of_the_sampled_graph(index: int, fan_out: int) -> None:
    program = case(index).program
    graph, executor = large_graph(program.num_features, index), Executor(program)
    sampler = NeighbourSampler(graph, hops_of(program), fan_out, seed=4)
    whole = sampler.sampled_graph()
    assert whole.max_degree == fan_out
    wanted = executor.run(whole.x, whole.edge_index).codes
    padded = sum(fan_out**hop for hop in range(hops_of(program) + 1))
    for node in range(0, graph.num_nodes, 3):
        made = sampler.around(node, padded).graph
        assert made.num_nodes == padded
        np.testing.assert_array_equal(executor.run(made.x, made.edge_index).codes[0], wanted[node])


def test_the_cases_reach_from_none_to_several_hops() -> None:
    reached = {hops_of(case(index).program) for index in range(60)}
    assert {0, 1, 2, 3} <= reached
    for index in range(60):
        program = case(index).program
        most = sum(isinstance(one, Aggregate) and one.attention != "self" for one in program.operations)
        assert hops_of(program) <= most


def test_one_hop_too_few_is_noticed() -> None:
    """The test above can fail: with fewer hops some row differs."""
    different = 0
    for index in CASES:
        program = case(index).program
        if hops_of(program) == 0:
            continue
        graph, executor = large_graph(program.num_features, index), Executor(program)
        wanted = executor.run(graph.x, graph.edge_index).codes
        sampler = NeighbourSampler(graph, hops_of(program) - 1)
        rows = []
        for node in range(0, 40, 3):
            made = sampler.around(node).graph
            rows.append((executor.run(made.x, made.edge_index).codes[0] != wanted[node]).any())
        different += int(any(rows))
    assert different > len(CASES) // 2


def test_samples_repeat_and_depend_on_the_seed() -> None:
    graph = large_graph(4, 0)
    first, again, other = (NeighbourSampler(graph, 2, 2, seed) for seed in (1, 1, 2))
    hub = [one.around(3) for one in (first, again, other)]
    np.testing.assert_array_equal(hub[0].nodes, hub[1].nodes)
    np.testing.assert_array_equal(hub[0].graph.edge_index, hub[1].graph.edge_index)
    np.testing.assert_array_equal(hub[0].graph.x, hub[1].graph.x)
    assert not np.array_equal(hub[0].graph.edge_index, hub[2].graph.edge_index) or not np.array_equal(
        hub[0].nodes, hub[2].nodes
    )


def test_features_come_along_and_padding_is_empty() -> None:
    dense = large_graph(5, 1)
    graph = Graph("sparse", sparse.csr_array(dense.x), dense.edge_index)
    made = NeighbourSampler(graph, 1, 2).around(3, 9)
    count = made.nodes.size
    assert made.nodes[0] == 3
    assert count <= 3
    np.testing.assert_array_equal(made.graph.x[:count], dense.x[made.nodes])
    assert not made.graph.x[count:].any()
    assert made.graph.edge_index.max() < count
    assert made.graph.in_degree[0] == 2
    lonely = NeighbourSampler(Graph("one", dense.x[:1], np.zeros((2, 0), dtype=np.int64)), 2).around(0)
    assert (lonely.graph.num_nodes, lonely.graph.num_edges) == (1, 0)


def test_refusals() -> None:
    graph = large_graph(4, 0)
    with pytest.raises(GraphError, match="fan-out of 0 keeps no edge"):
        NeighbourSampler(graph, 2, 0)
    with pytest.raises(GraphError, match="-1 hops"):
        NeighbourSampler(graph, -1)
    with pytest.raises(GraphError, match="has no node 40; its nodes are 0 to 39"):
        NeighbourSampler(graph, 1).around(40)
    with pytest.raises(GraphError, match=r"node 3 has \d+ nodes, more than the 4 .* smaller fan-out"):
        NeighbourSampler(graph, 2).around(3, 4)


def test_the_table_counts_what_neighbourhoods_cost() -> None:
    program = next(case(index).program for index in range(60) if hops_of(case(index).program) == 2)
    bare, executor = large_graph(program.num_features, 1), Executor(program)
    classes = executor.run(bare.x, bare.edge_index).codes.argmax(axis=1)
    graph = Graph("labelled", bare.x, bare.edge_index, classes.astype(np.int64), program.num_classes)
    nodes = np.arange(0, 40, 2)
    table = measure(program, graph, nodes, (1, None), 2)
    assert table["fan_out"].tolist() == ["1", "all"]
    assert table["padded_to"].tolist() == ["3", ""]
    assert table["seeds"].tolist() == [2, 1]
    assert table["full_accuracy"].tolist() == [100.0, 100.0]
    assert (table["accuracy"] == table["agreement"]).all()  # the labels are the classes of full inference
    assert table["loss"].tolist() == pytest.approx((100 - table["accuracy"]).tolist())
    assert table["agreement"].tolist()[1] == 100.0
    sampled = [NeighbourSampler(graph, 2, 1, seed).sampled_graph() for seed in (0, 1)]
    same = [executor.run(one.x, one.edge_index).codes.argmax(axis=1)[nodes] == classes[nodes] for one in sampled]
    assert table["agreement"].tolist()[0] == pytest.approx(100 * np.mean(same), abs=0.06)


def test_the_page_shows_the_committed_table() -> None:
    page = (runs.ROOT / "docs/constant_graphs.md").read_text()
    made_by, table = (runs.ROOT / "benchmarks/results/neighbourhoods.md").read_text().split("\n\n", maxsplit=1)
    assert made_by.startswith("Made by `python -m benchmarks.neighbourhoods")
    assert table in page
