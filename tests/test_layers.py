"""The fake-quantised model computes the integers of `tests/naive.py`, and its float reference is PyG's GCN."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import naive
import numpy as np
import pytest
import runs
import samples
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv

from lpgnas.components import Component
from lpgnas.dropout import Dropout
from lpgnas.errors import LoweringError
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors, input_fraction
from lpgnas.integer_program import IntegerProgram
from lpgnas.layers import QuantizedLayer, QuantizedModel
from lpgnas.lowering import lower
from lpgnas.manual_models import ModelShape, manual_spec
from lpgnas.number_formats import FLOAT32, Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS
from lpgnas.spec import LayerSpec, ModelSpec, required_components

COLUMNS, CLASSES, SPECS, LEAST = 9, 3, 450, 20


@dataclass(frozen=True)
class Drawn:
    """A random model in float64 with observed fractions, its program, and a graph."""

    model: QuantizedModel
    program: IntegerProgram
    graph: Graph


def drawn(seed: int) -> Drawn | None:
    """The model of a seed, or None where it has no exact integer form."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    spec = samples.random_spec(rng, COLUMNS, CLASSES)
    sample = samples.random_graph(rng, 8, 24, COLUMNS)
    graph = Graph("random", sample.x, sample.edge_index)
    fraction = input_fraction(graph, spec.input_format.bits, signed=spec.input_signed)
    words = samples.random_words(seed, spec)
    model = QuantizedModel(spec, fraction, None if words is None else torch.from_numpy(words)).double()
    with torch.no_grad():
        for layer in model.layers:
            layer.get_parameter("bias").uniform_(-0.3, 0.3)
    logits(model, graph, observe=True)
    try:
        lowered = lower(spec, model.layer_codes(), input_fraction=fraction, max_degree=5000, words=words)
        return Drawn(model, lowered, graph)
    except LoweringError:
        return None


def logits(model: QuantizedModel, graph: Graph, *, observe: bool = False) -> Tensor:
    spec = model.spec
    tensors = graph_tensors(
        graph, model.input_format, spec.rounding, row_normalize=spec.row_normalize, dtype=torch.float64
    )
    with torch.no_grad():
        result: Tensor = model(tensors, observe=observe)
    return result


def traits(spec: ModelSpec) -> set[str]:
    """Every operator and format of a spec, by name."""
    found = {f"rounding {spec.rounding}", f"input {spec.input_format}", f"row_normalize {spec.row_normalize}"}
    for layer in spec.layers:
        found |= {layer.attention, layer.aggregation, layer.activation, f"shortcut {layer.shortcut}"}
        found |= {f"heads {layer.heads}", f"self_loops {layer.self_loops}", f"{layer.attention}/{layer.aggregation}"}
        found |= {f"{component.value} {choice}" for component, choice in layer.formats.items()}
    return found


EXPECTED_TRAITS = {
    *ATTENTIONS.names(),
    *AGGREGATIONS,
    *ACTIVATIONS.names(),
    *(f"{one}/{other}" for one in ATTENTIONS for other in ATTENTIONS.get(one).aggregations),
    *(f"rounding {mode}" for mode in Rounding),
    *(f"row_normalize {flag}" for flag in (True, False)),
    *(f"self_loops {flag}" for flag in (True, False)),
    *(f"shortcut {name}" for name in ("none", "identity", "linear")),
    *(f"heads {count}" for count in (1, 2, 4)),
    *(f"input fixed{bits}" for bits in (1, 2, 4, 8)),
    *(f"linear_weight {name}" for name in samples.WEIGHT_FORMATS),
    *(f"message fixed{bits}" for bits in samples.CODE_BITS),
    *(f"score fixed{bits}" for bits in samples.CODE_BITS),
    *(f"aggregate fixed{bits}" for bits in samples.CODE_BITS),
    *(f"attention_weight {name}" for name in samples.WEIGHT_FORMATS),
}


def test_float64_codes_are_those_of_the_semantics() -> None:
    seen: Counter[str] = Counter()
    compared = varied = 0
    for seed in range(SPECS):
        one = drawn(seed)
        if one is None:
            continue
        codes = np.ldexp(logits(one.model, one.graph).numpy(), one.program.logits.fraction)
        expected = naive.run(one.program, one.graph.x, one.graph.edge_index)
        assert codes.tolist() == expected, (seed, one.model.spec)
        compared += 1
        varied += len({tuple(row) for row in expected}) > 2
        seen.update(traits(one.model.spec))
    assert compared >= 0.95 * SPECS
    assert varied >= 0.6 * SPECS
    rare = {trait: seen[trait] for trait in EXPECTED_TRAITS if seen[trait] < LEAST}
    assert rare == {}


def test_an_unseen_graph_has_the_same_codes() -> None:
    """Fractions were observed on one graph; the equality holds on any other, saturation included."""
    compared = 0
    for seed in range(12):
        one = drawn(seed)
        if one is None:
            continue
        for sample in samples.adversarial_graphs(COLUMNS, hub_edges=60):
            graph = Graph(sample.name, sample.x, sample.edge_index)
            codes = np.ldexp(logits(one.model, graph).numpy(), one.program.logits.fraction)
            assert codes.tolist() == naive.run(one.program, graph.x, graph.edge_index), (seed, graph.name)
            compared += 1
    assert compared > 80


def test_float32_differs_at_most_by_the_rounding_of_a_sum() -> None:
    graph = runs.small_graph()
    torch.manual_seed(0)
    model = QuantizedModel(runs.every_operation(), 0)
    tensors = graph_tensors(graph, model.input_format, model.spec.rounding, row_normalize=True)
    with torch.no_grad():
        model(tensors, observe=True)
        single = model(tensors).double()
    exact = logits(model.double(), graph)
    assert float((single != exact).double().mean()) < 0.05


def test_observing_changes_fractions_and_evaluating_does_not() -> None:
    torch.manual_seed(0)
    model = QuantizedModel(runs.every_operation(), 0).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits(model, runs.small_graph())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    logits(model, runs.small_graph(), observe=True)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"layers.0.weight_fraction", "layers.2.attention_fraction", "layers.3.output_fraction"} <= moved
    assert not any(name.endswith((".weight", ".bias")) for name in moved)


def test_dropout_is_off_unless_asked_for() -> None:
    torch.manual_seed(0)
    model = QuantizedModel(runs.every_operation(), 0)
    tensors = graph_tensors(runs.small_graph(), model.input_format, model.spec.rounding, row_normalize=True)
    with torch.no_grad():
        model(tensors, observe=True)
        plain = model(tensors)
        assert torch.equal(model(tensors), plain)
        assert torch.equal(model(tensors, dropout=Dropout(0.0, 1)), plain)
        results = [model(tensors, dropout=Dropout(0.5, seed)) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], plain)
    assert not torch.equal(results[0], results[2])


def test_sources_are_the_columns_of_one_weight() -> None:
    """Glorot of the whole, one fraction, and codes side by side; the name tells the source."""
    torch.manual_seed(0)
    model = QuantizedModel(runs.jumping_spec(), 0)
    last = model.blocks[2]
    names = [name for name, _ in last.named_parameters() if "weight" in name]
    assert names == ["weight_from_x", "weight_from_0", "weight"]
    assert [tuple(last.get_parameter(name).shape) for name in names] == [(3, 12), (3, 8), (3, 4)]
    bound = (6 / (12 + 8 + 4 + 3)) ** 0.5
    whole = last.whole("weight").detach()
    assert 0.8 * bound < float(whole.abs().max()) <= bound
    logits(model.double(), runs.small_graph(), observe=True)
    assert last.codes().weight.codes.shape == (3, 24)


def test_a_source_is_dropped_once_for_all_its_readers() -> None:
    torch.manual_seed(0)
    model = QuantizedModel(runs.jumping_spec(), 0)
    seen: dict[int, list[Tensor]] = {}

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        for source, one in zip(model.spec.sources(list(model.layers).index(module)), arguments[0], strict=True):
            seen.setdefault(source, []).append(one.product(torch.eye(model.spec.source_width(source))))

    for layer in model.layers:
        layer.register_forward_pre_hook(keep)
    tensors = graph_tensors(runs.small_graph(), model.input_format, model.spec.rounding, row_normalize=True)
    with torch.no_grad():
        model(tensors, observe=True, dropout=Dropout(0.5, 0))
    assert {source: len(values) for source, values in seen.items()} == {-1: 3, 0: 2, 1: 1}
    for values in seen.values():
        assert all(torch.equal(values[0], other) for other in values)
    assert tensors.row_factor is not None
    assert not torch.equal(seen[-1][0], tensors.features.dense() * tensors.row_factor)


@pytest.mark.parametrize("spec", [runs.every_operation(), runs.jumping_spec()], ids=["chain", "jumping"])
def test_gradients_reach_every_parameter(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    graph = runs.small_graph()
    model = QuantizedModel(spec, 0)
    tensors = graph_tensors(graph, model.input_format, model.spec.rounding, row_normalize=True)
    with torch.no_grad():
        model(tensors, observe=True)
    labels = torch.from_numpy(graph.y)
    torch.nn.functional.cross_entropy(model(tensors), labels).backward()  # type: ignore[no-untyped-call]
    silent = [name for name, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert silent == []


@pytest.mark.parametrize("spec", [runs.every_operation(), runs.jumping_spec()], ids=["chain", "jumping"])
def test_a_gain_is_folded_into_the_weights_of_the_features(spec: ModelSpec) -> None:
    """To the bit, in blocks that read other blocks beside the features too."""
    torch.manual_seed(0)
    gained, graph = QuantizedModel(spec, 0, gain=8.0).double(), runs.small_graph()
    before, latent = logits(gained, graph, observe=True), {name: one.clone() for name, one in gained.named_parameters()}
    codes = gained.layer_codes()
    gained.fold_gain()
    assert torch.equal(logits(gained, graph), before)
    plain = QuantizedModel(spec, 0).double()
    plain.load_state_dict(gained.state_dict())
    assert torch.equal(logits(plain, graph), before)
    for block, old in zip(plain.layer_codes(), codes, strict=True):
        np.testing.assert_array_equal(block.weight.codes, old.weight.codes)
    read = {f"layers.{index}.{name}" for index, layer in enumerate(gained.blocks) for name in layer.input_parts()}
    assert read
    for name, value in gained.named_parameters():
        assert torch.equal(value, latent[name] * (8.0 if name in read else 1.0))


# --- the full-precision reference ---


def parameter(model: QuantizedModel, layer: int, name: str) -> Tensor:
    block = model.layers[layer]
    assert isinstance(block, QuantizedLayer)
    return block.get_parameter(name)


@pytest.mark.parametrize("row_normalize", [False, True])
def test_the_reference_is_pyg_gcn(row_normalize: bool) -> None:
    graph = runs.small_graph()
    torch.manual_seed(1)
    shape = ModelShape(runs.FEATURES, runs.CLASSES, row_normalize=row_normalize)
    model = QuantizedModel(manual_spec("gcn", shape, 16), 0).double()
    convolutions = [GCNConv(runs.FEATURES, 16).double(), GCNConv(16, runs.CLASSES).double()]
    with torch.no_grad():
        for index, convolution in enumerate(convolutions):
            parameter(model, index, "bias").uniform_(-1, 1)
            convolution.lin.weight.copy_(parameter(model, index, "weight"))
            convolution.bias.copy_(parameter(model, index, "bias"))
        x, edges = torch.from_numpy(graph.x).double(), torch.from_numpy(graph.edge_index)
        x = x / x.sum(dim=1, keepdim=True).clamp(min=1) if row_normalize else x
        expected = convolutions[1](convolutions[0](x, edges).relu(), edges)
    # node coefficients have 15 binary places in the reference too
    torch.testing.assert_close(logits(model, graph), expected, rtol=3e-4, atol=3e-4)
    assert float(expected.std()) > 0.1


def test_the_float_attention_is_pyg_gat_in_base_2() -> None:
    """PyG's softmax has base e, so its attention vectors are those of the block times log 2."""
    graph = runs.small_graph()
    bare = LayerSpec("gat", "sum", "none", runs.CLASSES)
    formats = dict.fromkeys(required_components(bare, last=True), FLOAT32)
    layer = LayerSpec("gat", "sum", "none", runs.CLASSES, formats=formats)
    spec = ModelSpec(num_features=runs.FEATURES, num_classes=runs.CLASSES, layers=(layer,), input_format=FLOAT32)
    torch.manual_seed(2)
    model = QuantizedModel(spec, 0).double()
    convolution = GATConv(runs.FEATURES, runs.CLASSES, negative_slope=0.25).double()
    with torch.no_grad():
        nn.init.uniform_(parameter(model, 0, "bias"))
        convolution.lin.weight.copy_(parameter(model, 0, "weight"))
        convolution.att_src.copy_(parameter(model, 0, "source_attention")[None] * np.log(2))
        convolution.att_dst.copy_(parameter(model, 0, "target_attention")[None] * np.log(2))
        convolution.bias.copy_(parameter(model, 0, "bias"))
        expected = convolution(torch.from_numpy(graph.x).double(), torch.from_numpy(graph.edge_index))
    torch.testing.assert_close(logits(model, graph), expected, rtol=1e-9, atol=1e-9)


def test_parameters_start_as_in_pyg() -> None:
    """Glorot-uniform weights, zero biases; and every float format is left as it is."""
    torch.manual_seed(0)
    model = QuantizedModel(manual_spec("gcn", ModelShape(400, 7), 64), 0)
    weight = parameter(model, 0, "weight").detach()
    bound = (6 / (400 + 64)) ** 0.5
    assert weight.shape == (64, 400)
    assert 0.95 * bound < float(weight.abs().max()) <= bound
    assert not bool(parameter(model, 0, "bias").any())
    assert model.input_format is None
    assert Component.AGGREGATE not in model.spec.layers[0].formats
