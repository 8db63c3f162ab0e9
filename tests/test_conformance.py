"""The one suite that every registered operator passes: quantise, cost, lower, reference, kernel, emit.

An operator that is added to a registry is tested here without a further line; one that lacks a facet fails by name.
"""

from __future__ import annotations

from collections.abc import Iterator

import chain
import naive
import numpy as np
import pytest
import torch

from lpgnas.components import WEIGHTS, Component
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import LpgnasError
from lpgnas.export.files import export_files
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors, input_fraction
from lpgnas.layers import QuantizedModel
from lpgnas.lowering import lower
from lpgnas.number_formats import FormatChoice
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, SHORTCUTS, Activation, Attention
from lpgnas.pipeline import fake_quant_form
from lpgnas.spec import LayerSpec, ModelSpec, required_components
from lpgnas.verification import forms_of, verify_forms

COLUMNS, WIDTH, CLASSES = 6, 6, 3


def operators() -> Iterator[tuple[str, str, str, str]]:
    """Every attention with each of its aggregations, each activation and each shortcut."""
    for attention in ATTENTIONS:
        for aggregation in AGGREGATIONS:
            if aggregation in ATTENTIONS.get(attention).aggregations:
                for activation in ACTIVATIONS:
                    for shortcut in SHORTCUTS:
                        yield attention, aggregation, activation, shortcut


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
    files = export_files(case.program)
    assert files.qonnx is not None, files.qonnx_refused
    forms = forms_of(
        case.program,
        fake_quant=fake_quant_form(case.model, case.program),
        onnx_int=files.onnx_int,
        qonnx=files.qonnx,
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


def test_an_attention_without_its_facets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTENTIONS._entries, "bare", Attention("bare", frozenset({"sum"})))
    spec = spec_of("bare", "sum", "relu", "none")
    with pytest.raises(LpgnasError, match="bare"):
        spec_cost(spec, GraphSize(20, 50))
    with pytest.raises(LpgnasError, match="bare"):
        built(spec, random_graph())
