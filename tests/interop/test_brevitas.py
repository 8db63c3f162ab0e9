"""Brevitas layers on PyG's message passing give the codes of the kernels, there and back, or are refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import numpy.typing as npt
import pytest
import samples
import torch
from brevitas.quant import Int8ActPerTensorFixedPoint, Int8ActPerTensorFloat, Int8WeightPerTensorFixedPoint
from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloat
from chain import ChainCase
from constant_cases import OPERATORS

from lpgnas.components import Component
from lpgnas.errors import DegreeError, InteropError, LoweringError
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors, input_fraction
from lpgnas.interop import brevitas as interop
from lpgnas.interop.brevitas import BrevitasBlock, BrevitasGnn, codes_quantizer, from_brevitas, to_brevitas
from lpgnas.kernels.executor import Executor
from lpgnas.layers import QuantizedModel
from lpgnas.lowering import lower
from lpgnas.number_formats import FixedPoint, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS
from lpgnas.spec import LayerSpec, ModelSpec

CASES = 40
PAIRS = (*OPERATORS, ("const", "max"))
MAX_DEGREE = 200


def graph() -> Graph:
    made = samples.random_graph(np.random.default_rng(3), 30, 70, 7)
    return Graph("random", made.x, made.edge_index)


def plain_layer(rng: np.random.Generator, layer: LayerSpec) -> LayerSpec:
    """The layer without a learned attention."""
    attention, aggregation = PAIRS[int(rng.integers(len(PAIRS)))]
    learned = (Component.ATTENTION_WEIGHT, Component.SCORE)
    formats = {component: choice for component, choice in layer.formats.items() if component not in learned}
    loops = layer.self_loops or attention == "self"
    return replace(layer, attention=attention, aggregation=aggregation, heads=1, self_loops=loops, formats=formats)


def calibrated(spec: ModelSpec, seed: int, on: Graph) -> ChainCase:
    """Random weights of a spec, their fractions observed on a graph, and the program."""
    torch.manual_seed(seed)
    kept = samples.random_words(seed, spec)
    fraction = input_fraction(on, spec.input_format.bits, signed=spec.input_signed)
    model = QuantizedModel(spec, fraction, None if kept is None else torch.from_numpy(kept)).double()
    for layer in model.layers:
        torch.nn.init.uniform_(layer.get_parameter("bias"), -0.3, 0.3)
    normalize = spec.row_normalize
    tensors = graph_tensors(on, model.input_format, spec.rounding, row_normalize=normalize, dtype=torch.float64)
    with torch.no_grad():
        model(tensors, observe=True)
    program = lower(spec, model.layer_codes(), input_fraction=fraction, max_degree=MAX_DEGREE, words=kept)
    return ChainCase(seed, model, program)


@cache
def case(index: int) -> ChainCase:
    rng = np.random.default_rng([8, index])
    while True:
        bare = samples.random_spec(rng, 7, 3)
        try:
            return calibrated(replace(bare, layers=tuple(plain_layer(rng, one) for one in bare.layers)), index, graph())
        except LoweringError:
            continue


def small_case(weights: str, rounding: Rounding = Rounding.HALF_EVEN) -> ChainCase:
    """Two layers of sums with one weight format, whose sums stay small."""
    layers = []
    for width, activation, out in ((8, "relu", Component.ACTIVATION), (3, "none", Component.OUTPUT)):
        formats = {Component.LINEAR_WEIGHT: FormatChoice.parse(weights), Component.MESSAGE: FormatChoice("fixed", 6)}
        formats[out] = FormatChoice("fixed", 6)
        layers.append(LayerSpec("const", "sum", activation, width, formats=formats))
    spec = ModelSpec(7, 3, tuple(layers), rounding, FormatChoice("fixed", 4), input_signed=True)
    return calibrated(spec, 5, graph())


def codes_of(module: BrevitasGnn, made: ChainCase, on: Graph) -> npt.NDArray[np.float64]:
    with torch.no_grad():
        logits = module(torch.from_numpy(np.asarray(on.x)), torch.from_numpy(on.edge_index))
    codes: npt.NDArray[np.float64] = np.ldexp(logits.double().numpy(), made.program.logits.fraction)
    return codes


def assert_same(module: BrevitasGnn, made: ChainCase) -> None:
    rng = np.random.default_rng(made.seed)
    awkward = [samples.random_graph(rng, 1, 0, 7), samples.random_graph(rng, 9, 40, 7)]
    extremes = (np.where(rng.random((6, 7)) < 0.5, 3e38, -3e38)).astype(np.float32)
    graphs = [graph(), *(Graph(one.name, one.x, one.edge_index) for one in awkward)]
    graphs.append(Graph("extremes", extremes, rng.integers(0, 6, (2, 11)).astype(np.int64)))
    executor = Executor(made.program)
    for one in graphs:
        np.testing.assert_array_equal(codes_of(module, made, one), executor.run(one.x, one.edge_index).codes)


@pytest.mark.parametrize(
    "index", [pytest.param(one, marks=() if one % 4 == 0 else pytest.mark.slow) for one in range(CASES)]
)
def test_random_models_there_and_back(index: int) -> None:
    made = case(index)
    module = to_brevitas(made.model)
    assert_same(module, made)
    model = made.model
    normalize, dtype = model.spec.row_normalize, torch.float64
    tensors = graph_tensors(graph(), model.input_format, model.spec.rounding, row_normalize=normalize, dtype=dtype)
    with torch.no_grad():
        fake = np.ldexp(model(tensors).numpy(), made.program.logits.fraction)
    np.testing.assert_array_equal(codes_of(module, made, graph()), fake)
    back = from_brevitas(module)
    assert back.spec == model.spec
    again = interop.lower_model(back, MAX_DEGREE)
    assert again == made.program
    for one, other in zip(again.arrays, made.program.arrays, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def test_all_that_brevitas_holds_came_up() -> None:
    specs = [case(index).model.spec for index in range(CASES)]
    layers = [layer for spec in specs for layer in spec.layers]
    assert {(layer.attention, layer.aggregation) for layer in layers} == set(PAIRS)
    assert {layer.activation for layer in layers} == set(ACTIVATIONS)
    assert {layer.shortcut for layer in layers} == {"none", "identity", "linear"}
    assert {str(layer.formats[Component.LINEAR_WEIGHT]) for layer in layers} >= {
        "binary",
        "ternary",
        "fixed2",
        "fixed8",
    }
    assert {spec.rounding for spec in specs} == set(Rounding)
    assert {spec.row_normalize for spec in specs} == {True, False}
    assert any(spec.input_words not in (None, 7) for spec in specs)
    assert any(len(layer.sources) > 1 for layer in layers)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("weights", ["binary", "ternary", "fixed2", "fixed4", "fixed8"])
def test_float32_where_it_is_proved(weights: str, rounding: Rounding) -> None:
    made = small_case(weights, rounding)
    module = to_brevitas(made.model.float(), dtype=torch.float32, max_degree=MAX_DEGREE)
    assert next(module.parameters()).dtype == torch.float32
    assert_same(module, made)


def test_float32_is_refused_without_a_proof() -> None:
    made = next(one for one in map(case, range(CASES)) if one.model.spec.layers[0].attention == "gcn")
    with pytest.raises(InteropError, match=r"layer \d \w+: its sums may reach \d+, beyond 2\^24"):
        to_brevitas(made.model, dtype=torch.float32, max_degree=MAX_DEGREE)
    with pytest.raises(InteropError, match="max_degree"):
        to_brevitas(made.model, dtype=torch.float32)
    with pytest.raises(InteropError, match="float16"):
        to_brevitas(made.model, dtype=torch.float16)


def test_a_learned_attention_is_refused() -> None:
    made = small_case("fixed4")
    layer = replace(made.model.spec.layers[0], attention="gat")
    score = {Component.ATTENTION_WEIGHT: FormatChoice("fixed", 4), Component.SCORE: FormatChoice("fixed", 8)}
    layer = replace(layer, formats=layer.formats | score)
    spec = replace(made.model.spec, layers=(layer, *made.model.spec.layers[1:]))
    with pytest.raises(InteropError, match="softmax of the attention gat"):
        to_brevitas(QuantizedModel(spec, 0))


def test_gradients_reach_every_parameter() -> None:
    module = to_brevitas(small_case("fixed4", Rounding.HALF_UP).model).train()
    module(torch.from_numpy(np.asarray(graph().x)), torch.from_numpy(graph().edge_index)).pow(2).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_half_up_is_that_of_the_semantics() -> None:
    near = np.nextafter(0.5, 0.0)
    values = torch.tensor([-1.5, -0.5, 0.5, 1.5, near, -near, -1e-300, 2.0**52 - 0.5], dtype=torch.float64)
    wanted = [-1.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 2.0**52]
    assert interop.HalfUp()(values).tolist() == wanted


# --- modules of other people ---


def own_module(**parts: object) -> BrevitasGnn:
    """A block of brevitas's own fixed-point quantisers, calibrated."""
    torch.manual_seed(1)
    codes = {"act_quant": Int8ActPerTensorFixedPoint}
    linear = qnn.QuantLinear(7, 3, bias=False, weight_quant=Int8WeightPerTensorFixedPoint)
    chosen = {"linear": linear, "message": qnn.QuantIdentity(**codes), "output": qnn.QuantIdentity(**codes)}
    chosen |= parts
    bias = codes_quantizer(FixedPoint(12, 8), Rounding.HALF_EVEN)
    layer = LayerSpec("gcn", "sum", "none", 3)
    block = BrevitasBlock(layer, [chosen["linear"]], chosen["message"], chosen["output"], torch.rand(3), bias)
    module = BrevitasGnn([block], chosen.get("input") or qnn.QuantIdentity(**codes), 7).double()
    module(torch.from_numpy(np.asarray(graph().x)), torch.from_numpy(graph().edge_index))  # calibrates
    return module.eval()


def test_quantisers_of_brevitas_come_in() -> None:
    """Learned power-of-two scales and narrow weights: the program gives what the module gives."""
    module = own_module()
    model = from_brevitas(module)
    program = interop.lower_model(model, MAX_DEGREE)
    made = ChainCase(0, model, program)
    assert len(np.unique(codes_of(module, made, graph()))) > 3
    assert_same(module, made)


def float_scale() -> qnn.QuantIdentity:
    return qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat)


@pytest.mark.parametrize(
    ("part", "make", "message"),
    [
        ("message", float_scale, "block 0 message: its scale .* is not a power of two"),
        (
            "output",
            lambda: qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat),
            "block 0 output: it has the zero",
        ),
        ("input", lambda: qnn.QuantIdentity(act_quant=None), "the input: its activation quantiser is not one of integ"),
        ("output", qnn.QuantReLU, "block 0 output: round with a QuantIdentity"),
        (
            "message",
            lambda: qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, narrow_range=True),
            "block 0 message: its codes are narrow",
        ),
        (
            "message",
            lambda: qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, float_to_int_impl_type="ceil"),
            "block 0 message: its rounding CeilSte",
        ),
        ("message", lambda: codes_quantizer(FixedPoint(8, 4), Rounding.FLOOR), "one rounding"),
        ("message", lambda: codes_quantizer(FixedPoint(8, 4, False), Rounding.HALF_EVEN), "have to be signed"),
        ("linear", lambda: qnn.QuantLinear(7, 3, bias=True), "has no bias here"),
        ("linear", lambda: qnn.QuantLinear(7, 3, bias=False, weight_quant=None), "not one of integers"),
        ("linear", lambda: qnn.QuantLinear(7, 3, bias=False), "block 0 weight: its scale"),
        (
            "linear",
            lambda: qnn.QuantLinear(
                7, 3, bias=False, weight_quant=Int8WeightPerTensorFixedPoint, weight_scaling_per_output_channel=True
            ),
            "it has 3 scales",
        ),
    ],
)
def test_what_has_no_format_here_is_refused(part: str, make: Callable[[], object], message: str) -> None:
    module = own_module(**{part: make()})
    with pytest.raises(InteropError, match=message):
        from_brevitas(module)


def test_parameters_that_do_not_fit_are_refused() -> None:
    module = own_module()
    module.blocks[0].bias.data[1] = float("nan")
    with pytest.raises(InteropError, match="block 0 bias: it has values that are not finite"):
        from_brevitas(module)
    module = own_module()
    module.num_features = 8
    with pytest.raises(InteropError, match=r"block 0 weight: it has the shape \[3, 7\], but needs \[3, 8\]"):
        from_brevitas(module)
    module = own_module()
    module.words = torch.tensor([3, 1])
    with pytest.raises(InteropError, match="the words of this module"):
        from_brevitas(module)
    with pytest.raises(InteropError, match="at least one block"):
        BrevitasGnn([], module.input_quant, 7)


def test_float32_refuses_a_node_of_a_higher_degree() -> None:
    made = small_case("binary", Rounding.HALF_EVEN)
    module = to_brevitas(made.model.float(), dtype=torch.float32, max_degree=MAX_DEGREE)
    edges = torch.zeros(2, MAX_DEGREE + 1, dtype=torch.int64)
    x = torch.from_numpy(np.asarray(graph().x))
    with pytest.raises(DegreeError, match=f"node 0 has {MAX_DEGREE + 1} incoming edges"):
        module(x, edges)
    module(x, edges[:, 1:])


def test_blocks_with_missing_parts_are_refused() -> None:
    quant = codes_quantizer(FixedPoint(8, 4), Rounding.HALF_EVEN)
    linear = qnn.QuantLinear(7, 3, bias=False)
    for layer, message in (
        (LayerSpec("const", "sum", "none", 3, shortcut="linear"), "shortcut linear got 1 linear"),
        (LayerSpec("const", "sum", "tanh", 3), "activation tanh: an aggregate format"),
        (LayerSpec("gat", "sum", "none", 3), "softmax of the attention gat"),
    ):
        with pytest.raises(InteropError, match=message):
            BrevitasBlock(layer, [linear], quant, quant, torch.zeros(3), quant)


@pytest.mark.slow
def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/brevitas.md").read_text(encoding="utf-8")
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(example.replace("runs/cora", str(tmp_path / "run")), "docs/brevitas.md", "exec"), {})
    assert "0 codes differ" in capsys.readouterr().out
