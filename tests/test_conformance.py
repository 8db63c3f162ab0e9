"""The one suite that every registered operator passes: quantise, cost, lower, reference, kernel, emit.

An operator that is added to a registry is tested here without a further line; one that lacks a facet fails by name.
"""

from __future__ import annotations

from collections.abc import Iterator

import chain
import naive
import numpy as np
import numpy.typing as npt
import pytest
import torch

from lpgnas.attentions import cos
from lpgnas.attentions.score import ANY_AGGREGATION, Attention, EdgeScore, ScoreAlgebra, ScoreInputs, Value
from lpgnas.components import WEIGHTS, Component
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import LpgnasError, SpecError
from lpgnas.export.files import export_files
from lpgnas.export.targets import ONNX_INT, ONNX_QDQ, QONNX
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors, input_fraction
from lpgnas.jit import jit
from lpgnas.layers import QuantizedModel
from lpgnas.lowering import lower
from lpgnas.number_formats import FormatChoice
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, SHORTCUTS, Activation
from lpgnas.pipeline import fake_quant_form
from lpgnas.spec import LayerSpec, ModelSpec, required_components
from lpgnas.verification import forms_of, verify_forms

COLUMNS, WIDTH, CLASSES = 6, 6, 3


def operators() -> Iterator[tuple[str, str, str, str]]:
    """Every attention with each of its aggregations and every activation, and each of these with every shortcut.

    Activations and shortcuts take turns, so that a pair of operators is drawn but not every triple.
    """
    pairs = [(a, g) for a in ATTENTIONS for g in AGGREGATIONS if g in ATTENTIONS.get(a).aggregations]
    for place, (attention, aggregation) in enumerate(pairs):
        for turn, activation in enumerate(ACTIVATIONS):
            yield attention, aggregation, activation, SHORTCUTS[(place + turn) % len(SHORTCUTS)]


def spec_of(attention: str, aggregation: str, activation: str, shortcut: str) -> ModelSpec:
    """Two blocks, the first with the operators in question."""
    heads = 2 if ATTENTIONS.get(attention).learned else 1
    layers = []
    for bare, last in (
        (LayerSpec(attention, aggregation, activation, WIDTH, heads, shortcut), False),
        (LayerSpec("const", "mean", "none", CLASSES), True),
    ):
        formats = {
            component: FormatChoice("fixed", 4 if component in WEIGHTS else 8)
            for component in Component
            if component in required_components(bare, last=last)
        }
        layers.append(LayerSpec(**{**bare.__dict__, "formats": formats}))
    return ModelSpec(
        COLUMNS, CLASSES, tuple(layers), input_format=FormatChoice("fixed", 8), input_signed=True, row_normalize=False
    )


def random_graph() -> Graph:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, COLUMNS)).astype(np.float32)
    return Graph("random", x, rng.integers(0, 20, (2, 50)).astype(np.int64))


def built(spec: ModelSpec, graph: Graph) -> chain.ChainCase:
    torch.manual_seed(0)
    model = QuantizedModel(spec, input_fraction(graph, 8, signed=True)).double()
    tensors = graph_tensors(graph, model.input_format, spec.rounding, row_normalize=False, dtype=torch.float64)
    model(tensors, observe=True).square().sum().backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not dead, f"no gradient reaches {dead}"
    codes = model.layer_codes()
    return chain.ChainCase(0, model, lower(spec, codes, input_fraction=model.input_fraction, max_degree=100))


def conforms(attention: str, aggregation: str, activation: str, shortcut: str) -> None:
    """The suite."""
    graph, spec = random_graph(), spec_of(attention, aggregation, activation, shortcut)
    case = built(spec, graph)
    size = GraphSize(graph.num_nodes, graph.num_edges)
    fractions = tuple(codes.score_fraction for codes in case.model.layer_codes())
    assert spec_cost(spec, size, fractions).totals() == program_cost(case.program, size).totals()
    expected = np.array(naive.run(case.program, graph.x, graph.edge_index))
    assert len(np.unique(expected, axis=0)) > 2, "the logits are constant: the test would prove nothing"
    made = export_files(case.program)
    assert not made.refused, made.refused
    forms = forms_of(
        case.program,
        fake_quant=fake_quant_form(case.model, case.program),
        onnx_int=made.files[ONNX_INT],
        onnx_qdq=made.files[ONNX_QDQ],
        qonnx=made.files[QONNX],
    )
    assert np.array_equal(forms["fake-quant"](graph), expected)
    failed = [result for result in verify_forms(case.program, forms, [graph]) if result.failed]
    assert not failed, failed


@pytest.mark.parametrize(("attention", "aggregation", "activation", "shortcut"), list(operators()))
def test_operator_conforms(attention: str, aggregation: str, activation: str, shortcut: str) -> None:
    conforms(attention, aggregation, activation, shortcut)


def test_an_activation_needs_nothing_but_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    swish = Activation("swish", signed=True, function=lambda x: x / (1.0 + np.exp(-x)))
    monkeypatch.setitem(ACTIVATIONS._entries, "swish", swish)
    conforms("gcn", "sum", "swish", "none")


def _dot(of: ScoreAlgebra[Value]) -> Value:
    return of.over_channels(of.multiply(of.multiply(of.message("source"), of.message("target")), of.weight("source")))


@jit
def _dot_kernel(inputs: ScoreInputs, first: int, last: int, raw: npt.NDArray[np.int64]) -> None:
    begin, weight = inputs.indptr[first], inputs.weights[0]
    heads, width = weight.shape
    for node in range(first, last):
        for edge in range(inputs.indptr[node], inputs.indptr[node + 1]):
            for head in range(heads):
                raw[edge - begin, head] = 0
                for c in range(head * width, (head + 1) * width):
                    product = np.int64(inputs.message[node, c]) * np.int64(inputs.message[inputs.sources[edge], c])
                    raw[edge - begin, head] += product * weight[head, c - head * width]


@pytest.mark.parametrize("shortcut", ["none", "identity"])
def test_an_attention_needs_nothing_but_its_formula_and_kernel(monkeypatch: pytest.MonkeyPatch, shortcut: str) -> None:
    """An attention that nobody knows passes the suite; only the naive reference has to be told."""
    score = EdgeScore(_dot, _dot_kernel, edge_weights=("source",))
    monkeypatch.setitem(ATTENTIONS._entries, "dot", Attention("dot", ANY_AGGREGATION, score=score))
    monkeypatch.setitem(naive.SCORES, "dot", naive.SCORES["cos"])
    conforms("dot", "sum", "relu", shortcut)


def test_an_attention_without_a_facet_is_refused_by_its_name() -> None:
    for missing in ("formula", "kernel"):
        facets = {"formula": _dot, "kernel": _dot_kernel, "edge_weights": ("source",)}
        del facets[missing]
        with pytest.raises(TypeError, match=missing):
            EdgeScore(**facets)  # type: ignore[arg-type]
    for weights in ({}, {"node_weights": ("gate",)}, {"node_weights": ("source",), "edge_weights": ("source",)}):
        with pytest.raises(SpecError, match="weights of different names"):
            EdgeScore(_dot, _dot_kernel, **weights)  # type: ignore[arg-type]


@jit
def _deaf_kernel(inputs: ScoreInputs, first: int, last: int, raw: npt.NDArray[np.int64]) -> None:
    raw[: inputs.indptr[last] - inputs.indptr[first]] = 0


def test_a_kernel_that_differs_from_its_formula_fails_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = EdgeScore(cos.formula, _deaf_kernel, edge_weights=("channel",))
    monkeypatch.setitem(ATTENTIONS._entries, "cos", Attention("cos", ANY_AGGREGATION, score=wrong))
    with pytest.raises(AssertionError, match=r"mismatches=[1-9]"):
        conforms("cos", "sum", "none", "none")


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if ATTENTIONS.get(name).learned])
def test_a_formula_that_differs_from_the_semantics_fails_the_suite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    score = naive.SCORES[name]
    monkeypatch.setitem(naive.SCORES, name, lambda edge: -score(edge))
    with pytest.raises(AssertionError):
        conforms(name, "sum", "none", "none")


def test_an_unknown_attention_is_refused_by_name() -> None:
    with pytest.raises(LpgnasError, match="bare"):
        spec_of("bare", "sum", "relu", "none")
