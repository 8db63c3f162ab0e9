"""Programs on a constant graph as matrices: the naive codes, and refusals of what is no matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import samples
from constant_cases import OPERATORS, constant_case, csr
from export_cases import case, cora_program
from scipy import sparse

from lpgnas.errors import DegreeError, ExportError, GraphError
from lpgnas.export.constant_graph import MAX_NODES, AggregateStep, LookupStep, TransformStep, constant_program
from lpgnas.integer_program import Aggregate
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.number_formats import Rounding
from lpgnas.operators import ATTENTIONS
from lpgnas.proofs import aggregate_bounds

CASES = 60


@pytest.mark.parametrize("index", range(CASES))
def test_the_matrices_give_the_naive_codes(index: int) -> None:
    sample = constant_case(index)
    for graph, expected in zip(sample.graphs, sample.expected, strict=True):
        made = constant_program(sample.program, csr(graph))
        np.testing.assert_array_equal(made.run(graph.x), expected)
        np.testing.assert_array_equal(made.run(sparse.csr_array(graph.x)), expected)


def test_all_that_a_matrix_holds_came_up() -> None:
    specs = [constant_case(index).spec for index in range(CASES)]
    layers = [layer for spec in specs for layer in spec.layers]
    assert {(layer.attention, layer.aggregation) for layer in layers} == set(OPERATORS)
    assert {layer.shortcut for layer in layers} == {"none", "identity", "linear"}
    assert {spec.rounding for spec in specs} == set(Rounding)
    assert {spec.row_normalize for spec in specs} == {True, False}
    assert any(constant_case(index).program.index is not None for index in range(CASES))
    assert any(len(layer.sources) > 1 for layer in layers)
    assert {layer.self_loops for layer in layers} == {True, False}
    steps = [
        step
        for index in range(CASES)
        for step in constant_program(constant_case(index).program, csr(constant_case(index).graphs[0])).steps
    ]
    assert {type(step) for step in steps} == {TransformStep, AggregateStep, LookupStep}


@pytest.mark.parametrize("index", range(0, CASES, 3))
def test_bounds_hold_and_are_not_above_the_proofs(index: int) -> None:
    sample = constant_case(index)
    for graph in sample.graphs:
        made = constant_program(sample.program, csr(graph))
        rng = np.random.default_rng(index)
        extremes = [graph.x, np.where(rng.random(graph.x.shape) < 0.5, np.float32(3e38), np.float32(-3e38))]
        for x in extremes:
            codes = made.input_codes(x.astype(np.float32))
            assert made.input.low <= codes.min()
            assert codes.max() <= made.input.high
            tensors = made.run_codes(codes) | {"x": codes}
            for step in made.steps:
                if isinstance(step, TransformStep):
                    parts = [(tensors[one.source] @ one.weight.T) << one.align for one in step.terms]
                    total = sum(parts[1:], start=parts[0])
                    assert np.abs(total).max() <= step.sum_bound
                    total = total if step.factor is None else total * step.factor[:, None]
                elif isinstance(step, AggregateStep):
                    sums = step.counts @ tensors[step.source]
                    assert np.abs(sums).max() <= step.sum_bound <= step.operation.accumulator_bound
                    total = (step.operator @ tensors[step.source]) << step.term_shift
                    total = total if step.bias is None else total + step.bias
                    if step.shortcut is not None:
                        total = total + (tensors[step.shortcut] << step.shortcut_shift)
                else:
                    continue
                assert np.abs(total).max() <= step.total_bound
                assert step.total_bound <= step.operation.total_bound


def test_extreme_bounds_are_reached() -> None:
    """The bound of an aggregation without bias is the sum of a row when every message is the lowest code."""
    sample = next(
        one for one in map(constant_case, range(CASES)) if one.program.tensor(one.program.output).columns == 3
    )
    made = constant_program(sample.program, csr(sample.graphs[0]))
    step = next(step for step in made.steps if isinstance(step, AggregateStep))
    message = made.tensor(step.source)
    lowest = np.full((made.num_nodes, message.columns), message.low, dtype=np.int64)
    assert int(np.abs(step.counts @ lowest).max()) == step.sum_bound


def test_duplicates_loops_and_degrees_are_counted_as_given() -> None:
    """Two edges 0 -> 1, a loop 1 -> 1: three incoming edges, four with the added loop."""
    program = constant_case(0).program
    edges = np.array([[0, 0, 1, 2], [1, 1, 1, 0]], dtype=np.int64)
    made = constant_program(program, CsrGraph.from_edges(edges, 3, self_loops=False))
    for step in made.steps:
        if not isinstance(step, AggregateStep) or step.operation.attention == "self":
            continue
        loops = int(step.operation.self_loops)
        np.testing.assert_array_equal(step.counts, [[loops, 0, 1], [2, 1 + loops, 0], [0, 0, loops]])
        if step.operation.attention == "gcn":
            assert step.factor is not None
            wanted = [np.floor(2**15 / np.sqrt(d) + 0.5) if d else 0 for d in (1 + loops, 3 + loops, loops)]
            np.testing.assert_array_equal(step.factor, wanted)


def test_rows_are_normalised_by_the_host() -> None:
    """Binary words times `row24`: exact integers of 25 bits, whose sum is one in 24 places but for the rounding."""
    program = cora_program("fixed4", 168)
    rng = np.random.default_rng(0)
    x = (rng.random((7, 1433)) < 0.02).astype(np.float32)
    x[3] = 0
    graph = samples.SampleGraph("words", x, rng.integers(0, 7, (2, 20)).astype(np.int64))
    made = constant_program(program, csr(graph))
    codes = made.input_codes(x)
    assert (made.input.bits, made.input.fraction, made.input.signed) == (25, 24, False)
    words = x.sum(axis=1).astype(int)
    assert (codes[3] == 0).all()
    assert all(abs(int(row.sum()) - 2**24) <= count for row, count in zip(codes, words, strict=True) if count)
    np.testing.assert_array_equal(made.run(x), Executor(program).run(x, graph.edge_index).codes)
    one_word = np.eye(7, 1433, dtype=np.float32)
    assert made.input_codes(one_word).max() == 2**24 <= made.input.high


@pytest.mark.parametrize("index", range(60))
def test_what_is_no_matrix_is_refused_by_name(index: int) -> None:
    sample = case(index)
    aggregates = [one for one in sample.program.operations if isinstance(one, Aggregate)]
    first = next((one for one in aggregates if ATTENTIONS.get(one.attention).learned or one.aggregation == "max"), None)
    graph = sample.graphs[0]
    if first is None:
        codes = constant_program(sample.program, csr(graph)).run(graph.x)
        np.testing.assert_array_equal(
            np.ldexp(codes.astype(float), -sample.program.logits.fraction), sample.expected[0]
        )
        return
    named = "maximum" if not ATTENTIONS.get(first.attention).learned else f"attention {first.attention} "
    with pytest.raises(ExportError, match=rf"layer {first.layer} aggregate: .*{named}"):
        constant_program(sample.program, csr(graph))


def test_other_refusals() -> None:
    sample = constant_case(0)
    graph = sample.graphs[0]
    looped = CsrGraph.from_edges(graph.edge_index, len(graph.x), self_loops=True)
    with pytest.raises(ExportError, match="without added self-loops"):
        constant_program(sample.program, looped)
    none = np.zeros((2, 0), dtype=np.int64)
    with pytest.raises(ExportError, match=rf"{MAX_NODES + 1} nodes is too large .* neighbourhood"):
        constant_program(sample.program, CsrGraph.from_edges(none, MAX_NODES + 1, self_loops=False))
    hub = np.zeros((2, 61), dtype=np.int64)
    with pytest.raises(DegreeError, match="61 incoming edges"):
        constant_program(sample.program, CsrGraph.from_edges(hub, 2, self_loops=False))
    block = CsrGraph(np.array([0, 1], dtype=np.int64), np.array([2], dtype=np.int32), False, 3)
    with pytest.raises(ExportError, match="one set of nodes, not 3 for 1"):
        constant_program(sample.program, block)
    made = constant_program(sample.program, csr(graph))
    with pytest.raises(ExportError, match="x has 2 rows, but the constant graph has 9 nodes"):
        made.run(graph.x[:2])
    with pytest.raises(GraphError, match="5 columns"):
        made.run(graph.x[:, :5])


def test_an_identity_shortcut_from_normalised_rows_is_refused() -> None:
    """No spec asks for it, but a program may be made otherwise."""
    found = (constant_case(index, tables=False, features=3) for index in range(CASES))
    program = next(
        one.program
        for one in found
        if one.program.row_normalize and one.program.operations[-1].shortcut is None  # type: ignore[union-attr]
    )
    last = program.operations[-1]
    assert isinstance(last, Aggregate)
    shift = last.shift + program.logits.fraction - program.input.fraction
    bias = None if last.bias is None else program.array(last.bias).values
    added = replace(last, shortcut="x", shortcut_shift=shift)
    message = program.tensor(last.input)
    bounds = aggregate_bounds(added, message, program.input, bias, program.max_degree)
    added = replace(added, accumulator_bound=bounds[0], total_bound=bounds[1])
    changed = replace(program, operations=(*program.operations[:-1], added))
    none = CsrGraph.from_edges(np.zeros((2, 0), dtype=np.int64), 2, self_loops=False)
    with pytest.raises(ExportError, match="identity shortcut adds features as they are"):
        constant_program(changed, none)
