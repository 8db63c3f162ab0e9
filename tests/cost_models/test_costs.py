"""Costs: a model counted by hand, and two independent counts of hundreds of random models."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from timeit import repeat

import numpy as np
import pytest
import runs
import samples
from counting import counted_bits, header_of
from scipy import sparse

from lpgnas.attentions.score import Attention
from lpgnas.components import Component
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import TOTALS, CostReport, CostRow, GraphSize
from lpgnas.cost_models.spec_cost import AGGREGATION_COSTS, SHORTCUT_COSTS, spec_cost
from lpgnas.cost_models.table import cost_table
from lpgnas.errors import GraphError, ProgramError, SpecError, UnknownName
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram, Lookup
from lpgnas.kernels.quantize import SparseCodes, quantize_input
from lpgnas.number_formats import FixedPoint, FormatChoice, Rounding
from lpgnas.operators import AGGREGATIONS, ATTENTIONS, SHORTCUTS, Aggregation
from lpgnas.program_file import to_bytes
from lpgnas.spec import LayerSpec, ModelSpec

CORA = GraphSize(num_nodes=2708, num_edges=10_556)


def gcn(weights: str = "binary", bits: int = 8, hidden: int = 16) -> ModelSpec:
    """A two-layer GCN for Cora with `bits`-bit tensors."""
    weight, fixed = FormatChoice.parse(weights), FormatChoice("fixed", bits)
    first = {Component.LINEAR_WEIGHT: weight, Component.MESSAGE: fixed, Component.ACTIVATION: fixed}
    second = {Component.LINEAR_WEIGHT: weight, Component.MESSAGE: fixed, Component.OUTPUT: fixed}
    layers = (
        LayerSpec("gcn", "sum", "relu", hidden, formats=first),
        LayerSpec("gcn", "sum", "none", 7, formats=second),
    )
    return ModelSpec(num_features=1433, num_classes=7, layers=layers, row_normalize=True)


def score_fractions(spec: ModelSpec, program: IntegerProgram) -> tuple[int, ...]:
    """The fractions that the softmax tables of a program tell."""
    entries = {array.layer: array.values.size for array in program.arrays if array.name.endswith("/softmax_table")}
    return tuple(entries.get(layer, 8).bit_length() - 4 for layer in range(len(spec.layers)))


def rows(report: CostReport) -> list[CostRow]:
    return sorted(report.rows, key=lambda row: (row.layer, row.what))


def test_two_layer_gcn_on_cora_by_hand() -> None:
    report = spec_cost(gcn(), CORA)
    nodes, edges = 2708, 10_556 + 2708
    # One shift a transform, three an aggregation and its 16-bit clamp, for each layer; two fractions for the model.
    parameters = 2 * (4 * 8 + 16) + 2 * 8
    assert report.weight_bits == 1433 * 16 + 16 * 7 + 23 * 16 + parameters
    assert report.buffer_bits == nodes * (2 * 16 + 7) * 8  # N (2 h + C) values
    assert report.input_bits == nodes * 1433
    assert report.output_bits == nodes * 7 * 8
    assert report.peak_bits == nodes * (1433 + 16 * 8)  # the binary features and the first messages
    first, second = nodes * 1433 * 16, nodes * 16 * 7
    assert report.macs == first + second + edges * 23
    assert report.bops == first + second * 8 + edges * 23 * 8
    assert report.mixq_bitops == first * 1 + second * 4.5 + edges * 23 * 8
    assert report.node_coefficient_bits == nodes * (16 + 32)  # both layers share the degrees


def test_peak_of_a_deep_block() -> None:
    assert spec_cost(gcn(hidden=800), CORA).peak_bits == 2708 * 1600 * 8  # messages and activation of the first block


def test_gat_block_by_hand() -> None:
    fixed = FormatChoice("fixed", 4)
    formats = dict.fromkeys(
        (Component.LINEAR_WEIGHT, Component.ATTENTION_WEIGHT, Component.SCORE, Component.MESSAGE, Component.AGGREGATE),
        fixed,
    ) | {Component.OUTPUT: FormatChoice("fixed", 8)}
    layer = LayerSpec("gat", "mean", "tanh", 6, shortcut="identity", self_loops=False, formats=formats)
    spec = ModelSpec(6, 6, (layer,), input_format=FormatChoice("fixed", 2))
    report = spec_cost(spec, GraphSize(10, 30), (2,))
    assert report.buffer_bits == 10 * (6 * 4 + 2 * 32 + 6 * 4)
    shifts = 4 + 1 + 1  # with a shortcut's and a score's
    tables = 32 * 7 + 16 * 8
    assert report.weight_bits == 36 * 4 + 2 * 6 * 4 + 6 * 16 + tables + shifts * 8 + 16 + 2 * 8
    assert report.peak_bits == 10 * (6 * 2 + 6 * 4 + 64 + 6 * 4)  # all that the aggregation reads and writes
    assert report.macs == 10 * 36 + 2 * 10 * 6 + 30 * 6
    assert report.bops == 10 * 36 * 8 + 2 * 10 * 6 * 16 + 30 * 6 * 7 * 4
    assert report.mixq_bitops == 10 * 36 * 3 + 2 * 10 * 6 * 4 + 30 * 6 * 5.5
    assert report.node_coefficient_bits == 10 * 16


def test_spec_and_program_agree_exactly() -> None:
    scored = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        spec, program = samples.random_program(rng, 12, 5, 40)
        size = GraphSize(int(rng.integers(1, 60)), int(rng.integers(0, 300)))
        counted, exact = program_cost(program, size), spec_cost(spec, size, score_fractions(spec, program))
        assert exact.totals() == counted.totals()
        assert rows(exact) == rows(counted)
        bound = spec_cost(spec, size).totals()
        assert bound.pop("weight_bits") >= counted.weight_bits
        assert bound == {name: value for name, value in counted.totals().items() if name != "weight_bits"}
        scored += any(ATTENTIONS.get(layer.attention).learned for layer in spec.layers)
    assert scored > 300


def test_sizes_counted_from_the_file_alone() -> None:
    """Routes keep tensors alive: the recount knows nothing of blocks."""
    for seed in range(120):
        program = samples.random_program(np.random.default_rng(seed), 12, 5, 40)[1]
        totals = program_cost(program, GraphSize(37, 90)).totals()
        counted = counted_bits(header_of(io.BytesIO(to_bytes(program))), 37)
        assert counted == {name: totals[name] for name in counted}


def test_routes_by_hand() -> None:
    """X (12 bits a node) and block 0 are read again by the last block, which has no edges."""
    spec = runs.jumping_spec()
    report = spec_cost(spec, GraphSize(10, 30))
    assert report.peak_bits == 10 * (12 + 8 * 6 + 4 * 6 + 4 * 6)  # all but the logits, in the lookup of block 1
    last = [row for row in report.rows if row.layer == 2]
    assert [row.macs for row in last if row.what == "message"] == [10 * (12 + 8 + 4) * 3]
    assert [row.bops for row in last if row.what == "message"] == [10 * 3 * 4 * (12 * 1 + 8 * 6 + 4 * 6)]
    assert [row.macs for row in last if row.what == "logits"] == [0]
    assert [row.weight_bits for row in last if row.what == "parameters"] == [(1 + 3 + 3) * 8 + 16]


def test_weight_bits_are_those_of_the_file() -> None:
    """The packed arrays of a program hold as many bits as the report says."""
    from lpgnas.program_file import pack_codes

    for seed in range(30):
        program = samples.random_program(np.random.default_rng(seed), 12, 5, 40)[1]
        packed = sum(pack_codes(array.values, array.bits, array.kind).nbytes * 8 for array in program.arrays)
        report = program_cost(program, GraphSize(1, 0))
        counted = sum(row.weight_bits for row in report.rows if row.what != "parameters")
        assert counted <= packed < counted + 8 * len(program.arrays)


def test_report_as_table_and_json() -> None:
    report = spec_cost(gcn(), CORA)
    table = report.table()
    assert list(table.columns)[:3] == ["layer", "what", "bits"]
    for column in ("weight_bits", "buffer_bits", "macs", "bops", "mixq_bitops"):
        assert table[column].sum() == getattr(report, column)
    content = json.loads(report.to_json())
    assert content["totals"] == report.totals()
    assert len(content["rows"]) == len(report.rows)


def test_cost_table() -> None:
    rng = np.random.default_rng(0)
    specs = [samples.random_spec(rng, 9, 4) for _ in range(20)]
    table = cost_table(specs, CORA)
    assert table.shape == (20, len(TOTALS))
    assert table.dtype == np.float64
    for spec, row in zip(specs, table, strict=True):
        assert row.tolist() == list(spec_cost(spec, CORA).totals().values())
    two = cost_table(specs, CORA, ("peak_bits", "weight_bits"))
    assert np.array_equal(two, table[:, [TOTALS.index("peak_bits"), TOTALS.index("weight_bits")]])
    assert cost_table([], CORA).shape == (0, len(TOTALS))
    with pytest.raises(UnknownName, match="Did you mean 'weight_bits'"):
        cost_table(specs, CORA, ("weight_bit",))


def test_every_operator_has_a_cost() -> None:
    assert set(AGGREGATION_COSTS) == set(AGGREGATIONS)
    assert set(SHORTCUT_COSTS) == set(SHORTCUTS)


def test_an_operator_without_a_cost_is_never_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AGGREGATIONS._entries, "new", Aggregation("new"))
    monkeypatch.setitem(ATTENTIONS._entries, "any", Attention("any", frozenset({"new"})))
    spec = gcn()
    new = replace(spec, layers=(replace(spec.layers[0], attention="any", aggregation="new"), spec.layers[1]))
    with pytest.raises(UnknownName, match="unknown cost of aggregation 'new'"):
        spec_cost(new, CORA)


def test_an_operation_without_a_cost_is_never_free() -> None:
    @dataclass(frozen=True)
    class Other(Lookup):
        """An operation that the cost model has not met."""

    program = samples.random_program(np.random.default_rng(0), 12, 5, 40)[1]
    other = Other(layer=0, input="x", output="y", table="t")
    with pytest.raises(ProgramError, match="Other has no cost"):
        program_cost(replace(program, operations=(other,)), CORA)


def test_wrong_arguments() -> None:
    with pytest.raises(SpecError, match="1 score fractions for 2 layers"):
        spec_cost(gcn(), CORA, (2,))
    for nodes, edges in ((0, 0), (1, -1)):
        with pytest.raises(GraphError, match="does not exist"):
            GraphSize(nodes, edges)
    with pytest.raises(GraphError, match="features with -1 non-zeros do not exist"):
        GraphSize(1, 0, -1)


def test_the_size_of_a_graph_knows_whether_its_features_are_sparse() -> None:
    graph = runs.small_graph()
    x, entries = sparse.csr_array(graph.x), graph.x.size
    assert GraphSize.of(graph) == GraphSize(runs.NODES, graph.num_edges, x.nnz, entries)
    assert GraphSize.of(replace(graph, x=x)) == GraphSize(runs.NODES, graph.num_edges, x.nnz)


@pytest.mark.parametrize(("bits", "share"), [(1, 0.4), (1, 0.6), (8, 0.1), (8, 0.2), (8, 0.0)])
def test_features_are_timed_in_the_form_that_the_executor_gives_them(bits: int, share: float) -> None:
    x = np.zeros((64, 50), dtype=np.float32)
    x.reshape(-1)[: int(share * x.size)] = 1.0
    x = np.random.default_rng(0).permutation(x.reshape(-1)).reshape(x.shape)
    codes = quantize_input(x, FixedPoint(bits, 0, signed=False), Rounding.HALF_EVEN)
    for features in (x, sparse.csr_array(x)):
        size = GraphSize.of(Graph("any", features, np.zeros((2, 0), dtype=np.int64)))
        kept = codes if features is x else quantize_input(features, FixedPoint(bits, 0, signed=False), Rounding.FLOOR)
        entries = len(kept.indices) if isinstance(kept, SparseCodes) else None
        assert size.sparse_entries(bits) == entries


def test_fast_enough_for_every_step_of_a_search() -> None:
    spec = gcn()
    best = min(repeat(lambda: spec_cost(spec, CORA).totals(), number=50, repeat=5)) / 50
    assert best < 1e-3  # about 60 microseconds; the rest is room for a busy machine
