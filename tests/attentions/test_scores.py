"""Edge scores: GraphNAS's formulas in float, bounds that hold and are reached, blocks, and sums beyond 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import naive
import numpy as np
import numpy.typing as npt
import pytest
import runs
import torch

from lpgnas.attentions.bounds import Operand, ScoreFacts
from lpgnas.attentions.score import Attention
from lpgnas.components import WEIGHTS, Component
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ExportError, LoweringError
from lpgnas.export.feeding import run_onnx_reference, run_onnxruntime
from lpgnas.export.onnx_int import export_onnx_int
from lpgnas.export.qonnx import export_qonnx
from lpgnas.graph_tensors import graph_tensors
from lpgnas.integer_program import Aggregate, Array, IntegerProgram, Tensor
from lpgnas.kernels.attention import node_blocks
from lpgnas.kernels.executor import BLOCK_EDGES, Executor
from lpgnas.kernels.reference import run_reference
from lpgnas.layers import QuantizedModel, Source
from lpgnas.lowering import LayerCodes, Quantized, lower
from lpgnas.number_formats import FLOAT32, FormatChoice
from lpgnas.operators import ATTENTIONS
from lpgnas.proofs import edge_score_facts, program_score_facts
from lpgnas.spec import LayerSpec, ModelSpec, required_components

Vector = npt.NDArray[np.float64]
LEARNED = [name for name in ATTENTIONS if ATTENTIONS.get(name).learned]


def leaky(value: float) -> float:
    return value if value >= 0 else value / 4


def gat_score(w: dict[str, Vector], here: Vector, there: Vector) -> float:
    return leaky(float(w["source"] @ there + w["target"] @ here))


GRAPHNAS: dict[str, Callable[[dict[str, Vector], Vector, Vector], float]] = {
    "gat": gat_score,
    "sym-gat": lambda w, here, there: gat_score(w, here, there) + gat_score(w, there, here),
    "cos": lambda w, here, there: float((w["channel"] * here) @ there),
    "linear": lambda w, here, there: float(np.tanh(w["source"] @ there) / np.log(2.0)),
    "gene-linear": lambda w, here, there: float(w["gate"] @ np.tanh(w["source"] * there + w["target"] * here)),
}
"""Scores of the edge there -> here before a softmax of base 2; only linear has no weight that could hold log2(e)."""


def test_every_learned_attention_has_a_formula() -> None:
    assert set(GRAPHNAS) == set(LEARNED) == set(naive.SCORES)


@pytest.mark.parametrize("aggregation", ["sum", "mean", "max"])
@pytest.mark.parametrize("name", LEARNED)
def test_the_float_model_is_graphnas(name: str, aggregation: str) -> None:
    graph, heads, width = runs.small_graph(), 2, 6
    formats = dict.fromkeys(
        required_components(LayerSpec(name, aggregation, "none", width, heads), last=False), FLOAT32
    )
    out = dict.fromkeys(required_components(LayerSpec("const", "sum", "none", width), last=True), FLOAT32)
    layers = (
        LayerSpec(name, aggregation, "none", width, heads, formats=formats),
        LayerSpec("const", "sum", "none", width, self_loops=False, formats=out),
    )
    spec = ModelSpec(runs.FEATURES, width, layers, input_format=FLOAT32)
    torch.manual_seed(3)
    model = QuantizedModel(spec, 0).double()
    first = model.blocks[0]
    tensors = graph_tensors(graph, None, spec.rounding, row_normalize=False, dtype=torch.float64)
    with torch.no_grad():
        x = Source(tensors.features.product, tensors.features.dense)
        made = first([x], tensors, observe=False).numpy()
    messages = np.asarray(graph.x, dtype=np.float64) @ first.whole("weight").detach().numpy().T
    score = ATTENTIONS.get(name).score
    assert score is not None
    weights = {part: first.attention_weight(part).detach().numpy() for part in score.weights}
    for node in range(graph.num_nodes):
        sources = [*graph.edge_index[0][graph.edge_index[1] == node], node]
        for head in range(heads):
            columns = slice(head * 3, head * 3 + 3)
            own = {part: weight[head] for part, weight in weights.items()}
            scores = np.array([GRAPHNAS[name](own, messages[node, columns], messages[j, columns]) for j in sources])
            share = np.exp2(scores - scores.max())
            terms = (share / share.sum())[:, None] * messages[sources, columns]
            expected = terms.max(axis=0) if aggregation == "max" else terms.sum(axis=0)
            expected = expected / len(sources) if aggregation == "mean" else expected
            np.testing.assert_allclose(made[node, columns], expected, rtol=3e-4, atol=1e-6)


# --- bounds ---


def facts_of(
    attention: Attention, heads: int, message: Tensor, weights: dict[str, npt.NDArray[np.int64]], bits: int
) -> ScoreFacts:
    """What is proved of the attention with these weights, at fraction 0."""
    score = attention.score
    assert score is not None
    nodes = {
        side: Operand(int(np.abs(weights[side]).sum(axis=1).max()) * message.magnitude, 0)
        for side in score.node_weights
    }
    arrays = [
        Array(name, "weight", "fixed", 4, 0, True, 0, None, weights[name].astype(np.int8))
        for name in score.edge_weights
    ]
    table = Array("t", "table", "fixed", bits, 0, True, 0, None, np.zeros(1 << bits, dtype=np.int8))
    return edge_score_facts(score, heads, message, nodes, arrays, None if score.table is None else table)


class Edge:
    """An edge of `tests/naive.py` with given codes; the entries of its table are extreme and follow the sign."""

    def __init__(self, m_j: list[int], m_i: list[int], w: dict[str, list[int]], edge_weights: tuple[str, ...]) -> None:
        def dot(name: str, codes: list[int]) -> int:
            return sum(a * c for a, c in zip(w.get(name, [0] * len(codes)), codes, strict=True))

        self.m_j, self.m_i, self.weights = m_j, m_i, [w[name] for name in edge_weights]
        self.u_j, self.u_i = dot("source", m_j), dot("source", m_i)
        self.v_j, self.v_i = dot("target", m_j), dot("target", m_i)
        self.arguments: list[int] = []

    def look_up(self, value: int) -> int:
        self.arguments.append(abs(value))
        return -8 if value < 0 else 7


def extreme_edges(columns: int) -> Iterator[tuple[list[int], list[int]]]:
    for codes in product((-8, 7), repeat=2 * columns):
        yield list(codes[:columns]), list(codes[columns:])


@pytest.mark.parametrize("name", LEARNED)
def test_bounds_hold_for_all_extreme_codes_and_are_nearly_reached(name: str) -> None:
    attention, width = ATTENTIONS.get(name), 3
    score = attention.score
    assert score is not None
    message = Tensor("m", width, 4, 0, True, 0, None)
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights = {part: rng.integers(-8, 8, (1, width)) for part in score.weights}
        facts = facts_of(attention, 1, message, weights, bits=4)
        rows = {part: [int(code) for code in weight[0]] for part, weight in weights.items()}
        reached = argument = 0
        for m_j, m_i in extreme_edges(width):
            edge = Edge(m_j, m_i, rows, score.edge_weights)
            reached = max(reached, abs(naive.SCORES[name](edge)))
            argument = max(argument, *edge.arguments, 0)
        assert reached <= facts.raw <= facts.largest
        assert argument <= facts.argument
        assert reached > 0.6 * facts.raw or name == "sym-gat"  # its two parts are not extreme together
        assert argument >= 0.8 * facts.argument


# --- programs ---


def scored_program(
    name: str, *, message_bits: int = 8, weight_bits: int = 8, width: int = 8, max_degree: int = 6000
) -> IntegerProgram:
    """One layer whose messages are wide and whose attention weights are extreme; scores still spread."""
    attention, rng = ATTENTIONS.get(name), np.random.default_rng(5)
    score = attention.score
    assert score is not None
    bare = LayerSpec(name, "sum", "none", width)
    formats = {component: FormatChoice("fixed", 8) for component in required_components(bare, last=True)}
    formats |= {Component.MESSAGE: FormatChoice("fixed", message_bits), Component.OUTPUT: FormatChoice("fixed", 16)}
    formats |= {component: FormatChoice("fixed", weight_bits) for component in formats if component in WEIGHTS}
    layer = replace(bare, formats=formats)
    spec = ModelSpec(6, width, (layer,), input_format=FormatChoice("fixed", 8), input_signed=True)
    top = (1 << (weight_bits - 1)) - 1
    fraction = message_bits - 1
    growth = {"cos": 2 * message_bits + weight_bits + 1, "gene-linear": weight_bits + 6}.get(name, message_bits + 7)
    codes = LayerCodes(
        weight=Quantized(rng.integers(-top, top + 1, (width, 6)), 10 + weight_bits - message_bits),
        bias=Quantized(rng.integers(-9, 9, width), 4),
        message_fraction=fraction,
        output_fraction=12,
        attention=tuple(
            Quantized(rng.choice([-top - 1, top], (1, width)), growth - 2 * fraction if name == "cos" else 9)
            for _ in score.weights
        ),
        score_fraction=2,
        argument_fraction=5,
    )
    return lower(spec, (codes,), input_fraction=4, max_degree=max_degree)


def inputs(edges: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Features of 30 nodes and edges of which most lead to one hub."""
    rng = np.random.default_rng(1)
    index = rng.integers(0, 30, (2, edges))
    index[1, : edges * 9 // 10] = 7
    return (rng.normal(size=(30, 6)) * 5).astype(np.float32), index


@pytest.mark.parametrize("name", LEARNED)
def test_a_hub_larger_than_a_block(name: str) -> None:
    x, edges = inputs(BLOCK_EDGES + 1500)
    program = scored_program(name)
    expected = naive.run(program, x, edges)
    assert len({tuple(row) for row in expected}) > 20
    assert Executor(program).run(x, edges).codes.tolist() == expected
    assert run_reference(program, x, edges).tolist() == expected


def test_blocks_cover_all_nodes_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        degrees = rng.integers(0, 9, rng.integers(1, 40)) * rng.integers(0, 2)
        indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
        blocks = list(node_blocks(indptr, 10))
        assert [first for first, _ in blocks] == [0, *(last for _, last in blocks[:-1])]
        assert blocks[-1][1] == degrees.size
        for first, last in blocks:
            assert last == first + 1 or indptr[last] - indptr[first] <= 10


@pytest.mark.parametrize(("name", "width"), [("cos", 8), ("gat", 128), ("sym-gat", 128)])
def test_scores_beyond_32_bits_are_exact_and_refused_in_float32(name: str, width: int) -> None:
    program = scored_program(name, message_bits=16, width=width)
    score, last = ATTENTIONS.get(name).score, program.operations[-1]
    assert score is not None
    assert isinstance(last, Aggregate)
    assert program_score_facts(program, last, score).largest >= 1 << 31
    x, edges = inputs(60)
    expected = naive.run(program, x, edges)
    assert len({tuple(row) for row in expected}) > 20
    assert Executor(program).run(x, edges).codes.tolist() == expected
    assert run_reference(program, x, edges).tolist() == expected
    content = export_onnx_int(program)
    scale = 2.0**program.logits.fraction
    for run in (run_onnxruntime, run_onnx_reference):
        assert (run(content, x, edges) * scale).tolist() == expected
    with pytest.raises(ExportError, match=r"layer 0 (score|aggregate): its sums may reach .*, beyond 2\^24"):
        export_qonnx(program)


def test_float32_may_just_hold_the_products() -> None:
    """8-bit messages: 128 * 128 * 127 passes 2^24 from 9 channels on."""
    export_qonnx(scored_program("cos", width=7, max_degree=20))
    with pytest.raises(ExportError, match=r"layer 0 aggregate: its edge scores may reach .*, beyond 2\^24"):
        export_qonnx(scored_program("cos", width=9, max_degree=20))


@pytest.mark.parametrize("name", LEARNED)
def test_missing_weights_are_refused_by_name(name: str) -> None:
    bare = LayerSpec(name, "sum", "none", 8)
    formats = dict.fromkeys(required_components(bare, last=True), FormatChoice("fixed", 8))
    spec = ModelSpec(6, 8, (replace(bare, formats=formats),), input_format=FormatChoice("fixed", 8))
    codes = LayerCodes(Quantized(np.ones((8, 6), int), 0), Quantized(np.zeros(8, int), 0), 0, 0)
    with pytest.raises(LoweringError, match=f"attention {name} without attention weights"):
        lower(spec, (codes,), input_fraction=0, max_degree=3)


# --- costs by hand ---


def test_costs_by_hand() -> None:
    size = GraphSize(10, 30)
    nodes, edges, width = 10, 40, 8
    for name, weights, products, stored, entries in (
        ("gat", 2, (), 2, 0),
        ("sym-gat", 2, (), 2, 0),
        ("cos", 1, (8 * 6, (8 + 6) * 8), 0, 0),
        ("linear", 1, (), 1, 256),
        ("gene-linear", 3, (8 * 6, 8 * 6, 8 * 6), 0, 256),
    ):
        program = scored_program(name, weight_bits=6)
        report = program_cost(program, size)
        shifts = 4 + 1 + (1 if entries else 0)
        parameters = shifts * 8 + 16 + 2 * 8
        tables = 32 * 7 + entries * 8
        assert report.weight_bits == 6 * 8 * 6 + weights * width * 6 + tables + width * 16 + parameters, name
        assert report.buffer_bits == nodes * (width * 8 + stored * 32), name
        assert report.macs == nodes * width * (6 + stored) + edges * width * (1 + len(products)), name
        first = nodes * width * (6 * 6 * 8 + stored * 6 * 8)
        assert report.bops == first + edges * width * (7 * 8 + sum(products)), name


def test_the_spec_tells_the_same_cost() -> None:
    for name in LEARNED:
        bare = LayerSpec(name, "max", "relu", 8, 2)
        formats = {
            component: FormatChoice("fixed", bits)
            for component, bits in zip(
                sorted(required_components(bare, last=False)), (5, 4, 3, 6, 7, 2, 8), strict=False
            )
        }
        last = LayerSpec("const", "sum", "none", 3)
        ending = dict.fromkeys(required_components(last, last=True), FormatChoice("fixed", 4))
        spec = ModelSpec(6, 3, (replace(bare, formats=formats), replace(last, formats=ending)), input_signed=False)
        model = QuantizedModel(spec, 0).double()
        codes = model.layer_codes()
        program = lower(spec, codes, input_fraction=0, max_degree=9)
        size = GraphSize(11, 23)
        assert spec_cost(spec, size, (codes[0].score_fraction, 0)).totals() == program_cost(program, size).totals()
