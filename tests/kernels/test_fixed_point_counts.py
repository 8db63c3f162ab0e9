"""Fixed-point counts = a count in plain Python; the counting run gives the very codes of the other one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import naive_counts
import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lpgnas.errors import CheckFailed, DegreeError, GraphError, ProgramError
from lpgnas.integer_program import Aggregate, IntegerProgram
from lpgnas.kernels.executor import BLOCK_EDGES, Executor
from lpgnas.kernels.fixed_point import (
    CountingInference,
    Reached,
    SiteCounts,
    code_bits,
    count_fixed_point,
    gather_block,
    signed_bits,
)

NO_EDGES = np.zeros((2, 0), dtype=np.int64)


def plain(value: Any) -> Any:
    return (value.low, value.high) if isinstance(value, Reached) else value


def check_counts(program: IntegerProgram, graph: samples.SampleGraph) -> tuple[SiteCounts, ...]:
    """Every count of every component, on dense and sparse features."""
    expected = naive_counts.count(program, graph.x, graph.edge_index)
    sites = count_fixed_point(program, graph.x, graph.edge_index)
    assert count_fixed_point(program, sparse.csr_array(graph.x), graph.edge_index) == sites
    counted = {site.name: site for site in sites if site.operation not in ("weight", "bias")}
    assert counted.keys() == expected.keys()
    for name, facts in expected.items():
        seen = {fact: plain(getattr(counted[name], fact)) for fact in facts}
        assert seen == facts, (graph.name, name)
    for site in sites:
        for reached in (site.accumulator, site.total):
            if reached is not None and reached.bound is not None:
                assert max(-reached.low, reached.high) <= reached.bound
                assert reached.bits_needed <= (reached.bits_proved or 0)
        if site.codes_in_format is not None:
            assert site.codes_used is not None
            assert 0 <= site.codes_used <= site.codes_in_format
            assert site.bits_needed <= site.bits <= max(site.bits, site.bits_to_hold)
    inference = CountingInference(Executor(program), graph.x, graph.edge_index)
    executor = Executor(program)
    for _ in range(2):  # what is counted is that of the last run
        assert np.array_equal(inference.predict().codes, executor.run(graph.x, graph.edge_index).codes)
        assert inference.clipped.keys() == {op.output for op in program.operations if isinstance(op, Aggregate)}
        for name, clipped in inference.clipped.items():
            assert clipped.sum() == counted[name].saturations + counted[name].cut
    assert executor.prepare(graph.x, graph.edge_index).clipped == {}
    return sites


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 30), nodes=st.integers(1, 9), edges=st.integers(0, 25))
def test_random_programs_and_graphs(seed: int, nodes: int, edges: int) -> None:
    rng = np.random.default_rng(seed)
    program = samples.random_program(rng, 6, 3, 25)[1]
    check_counts(program, samples.random_graph(rng, nodes, edges, 6))


def test_every_count_comes_up() -> None:
    """What the comparison with the plain count is worth: no count that is always 0, no component never seen."""
    hits: Counter[str] = Counter()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        program = samples.random_program(rng, 6, 3, 40)[1]
        for site in check_counts(program, samples.random_graph(rng, 8, 20, 6)):
            hits[site.operation] += 1
            hits[site.name.rsplit("/", 1)[-1]] += 1
            for fact in ("saturated_low", "saturated_high", "cut", "underflows", "common_places"):
                hits[fact] += getattr(site, fact) > 0
            hits["input saturates"] += site.operation == "input" and site.saturations > 0
            hits["loses probabilities"] += site.name.endswith("probability") and site.underflows > 0
    wanted: tuple[str, ...] = (
        "saturated_low",
        "saturated_high",
        "cut",
        "underflows",
        "common_places",
        "input saturates",
    )
    wanted += ("loses probabilities", "argument", "score", "probability", "lookup", "transform", "aggregate", "weight")
    assert not [fact for fact in wanted if hits[fact] < 5], hits


@pytest.mark.parametrize("graph", samples.adversarial_graphs(6, hub_edges=300), ids=lambda graph: graph.name)
def test_adversarial_graphs(graph: samples.SampleGraph) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        check_counts(samples.random_program(rng, 6, 3, graph.max_degree)[1], graph)


def test_extreme_weights_reach_what_is_proved() -> None:
    """All weights and features extreme on a hub of max_degree edges: some accumulators reach their very bound."""
    reached = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        spec = samples.random_spec(rng, 6, 3)
        sign = 1 if seed % 2 else -1
        program = samples.extreme_program(spec, samples.random_codes(rng, spec, 0), sign=sign, max_degree=60)
        hub = np.stack([rng.integers(0, 5, 60), np.zeros(60, dtype=np.int64)])
        x = np.full((5, 6), 1e30 * sign if spec.input_signed else 1e30, dtype=np.float32)
        for site in check_counts(program, samples.SampleGraph("extreme", x, hub)):
            one = site.accumulator
            reached += one is not None and one.bound is not None and max(-one.low, one.high) == one.bound
    assert reached > 10


def test_several_blocks_of_nodes_and_edges() -> None:
    rng = np.random.default_rng(3)
    program = samples.random_program(np.random.default_rng(3), 4, 3, BLOCK_EDGES)[1]
    edges = np.stack([rng.integers(0, 300, BLOCK_EDGES), np.zeros(BLOCK_EDGES, dtype=np.int64)])
    check_counts(program, samples.SampleGraph("blocks", samples.random_features(rng, 300, 4), edges))


def test_codes_that_are_not_the_counted_ones_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    program = samples.random_program(np.random.default_rng(0), 4, 3, 9)[1]
    graph = samples.random_graph(np.random.default_rng(0), 5, 4, 4)
    count_fixed_point(program, graph.x, graph.edge_index)

    def spoiled(*arguments: Any) -> None:
        gather_block(*arguments)
        arguments[-1][:] = 1 << 20

    monkeypatch.setattr("lpgnas.kernels.fixed_point.gather_block", spoiled)
    with pytest.raises(CheckFailed, match="codes of nodes 0 to 4 are not the counted ones"):
        count_fixed_point(program, graph.x, graph.edge_index)


def test_bits() -> None:
    for value in range(-300, 300):
        bits = signed_bits(min(value, 0), max(value, 0))
        assert -(1 << (bits - 1)) <= value <= (1 << (bits - 1)) - 1
        assert bits == 1 or not -(1 << (bits - 2)) <= value <= (1 << (bits - 2)) - 1
    assert [code_bits(0, high, signed=False) for high in (0, 1, 2, 3, 4, 255, 256)] == [1, 1, 2, 2, 3, 8, 9]
    assert [code_bits(*span, signed=True) for span in ((0, 0), (-2, 1), (-3, 1), (0, 2), (-128, 127))] == [
        2,
        2,
        3,
        3,
        8,
    ]


def test_refusals() -> None:
    program = samples.random_program(np.random.default_rng(1), 4, 3, 2)[1]
    x = np.ones((3, 4), dtype=np.float32)
    with pytest.raises(GraphError, match="5 columns"):
        count_fixed_point(program, np.ones((3, 5), dtype=np.float32), NO_EDGES)
    with pytest.raises(GraphError, match="out of range"):
        count_fixed_point(program, x, np.array([[0], [3]]))
    with pytest.raises(DegreeError, match="node 1 has 3 incoming edges"):
        count_fixed_point(program, x, np.array([[0, 1, 2], [1, 1, 1]]))
    with pytest.raises(ProgramError, match="max_degree"):
        count_fixed_point(replace(program, max_degree=-1), x, NO_EDGES)
