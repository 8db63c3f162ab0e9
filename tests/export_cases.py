"""Programs, graphs and expected logits that the tests of exports share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import naive
import numpy as np
import numpy.typing as npt
import onnx
import samples
from onnx import numpy_helper

from lpgnas.components import Component
from lpgnas.errors import LoweringError
from lpgnas.integer_program import Aggregate, IntegerProgram, Transform
from lpgnas.lowering import LayerCodes, Quantized, lower
from lpgnas.number_formats import FIXED1, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS
from lpgnas.spec import LayerSpec, ModelSpec

PROGRAMS = 60
FLOAT_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Case:
    """A program, graphs of several sizes, and the decoded logits of the naive reference on each."""

    spec: ModelSpec
    program: IntegerProgram
    graphs: tuple[samples.SampleGraph, ...]
    expected: tuple[npt.NDArray[np.float32], ...]


def expected_logits(program: IntegerProgram, graph: samples.SampleGraph) -> npt.NDArray[np.float32]:
    """Codes of `tests/naive.py` times the scale, float32 [N, C]."""
    codes = np.array(naive.run(program, graph.x, graph.edge_index), dtype=np.float64)
    return np.ldexp(codes, -program.logits.fraction).astype(np.float32)


@cache
def case(index: int) -> Case:
    """The case of this number: random, with at least 3 distinct rows of logits on its first graph."""
    for attempt in range(200):
        rng = np.random.default_rng([index, attempt])
        try:
            spec, program = samples.random_program(rng, int(rng.integers(3, 10)), 3, 200)
        except LoweringError:
            continue
        graphs = tuple(
            samples.random_graph(rng, nodes, edges, program.num_features) for nodes, edges in ((12, 40), (6, 9), (1, 0))
        )
        expected = tuple(expected_logits(program, graph) for graph in graphs)
        if len(np.unique(expected[0], axis=0)) >= 3:
            return Case(spec, program, graphs, expected)
    raise AssertionError(f"no lively program for case {index}")


def check_index(sample: Case, model: onnx.ModelProto) -> None:
    """Some words are one index of a bit a word, and a weight of the kept columns; all words are neither."""
    program, kinds = sample.program, [node.op_type for node in model.graph.node]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    listed = {one["name"]: one for one in json.loads(metadata["arrays"])}
    assert kinds.count("Compress") == (program.index is not None)  # all transforms of x read the same columns
    assert ("input_words" in listed) == (program.index is not None)
    if program.index is None:
        assert "input_words" not in {one.name for one in model.graph.initializer}
        return
    assert packed_index(model, program.num_features) == program.index.values.tolist()
    assert (listed["input_words"]["elements"], listed["input_words"]["bits"]) == (program.num_features, 1)
    first = next(one for one in program.operations if isinstance(one, Transform))
    assert listed[first.weight]["elements"] == program.tensor(first.output).columns * sample.spec.kept_words


def packed_index(model: onnx.ModelProto, words: int) -> list[int]:
    """The bits of the index that a file stores in ceil(words / 8) bytes, the one place where it stands."""
    (stored,) = (one for one in model.graph.initializer if one.name == "input_words")
    values = numpy_helper.to_array(stored)
    assert values.dtype == np.uint8
    assert values.size == -(-words // 8)
    assert not np.unpackbits(values.ravel(), bitorder="little")[words:].any()
    return [int(bit) for bit in np.unpackbits(values.ravel(), count=words, bitorder="little")]


def features_hit(specs: Iterable[ModelSpec]) -> set[str]:
    """Names of the operators, formats and choices that `specs` use."""
    hit: set[str] = set()
    for spec in specs:
        hit |= {str(spec.rounding), f"row_normalize={spec.row_normalize}", f"input_signed={spec.input_signed}"}
        for layer in spec.layers:
            hit |= {f"{layer.attention}/{layer.aggregation}", layer.activation, f"shortcut {layer.shortcut}"}
            hit |= {f"self_loops={layer.self_loops}", f"heads={layer.heads}"}
            hit |= {f"weight {layer.formats[Component.LINEAR_WEIGHT]}"}
    return hit


def all_features() -> set[str]:
    """Every name that `features_hit` can give for the sampled space."""
    operators = {f"{a}/{g}" for a in ATTENTIONS for g in AGGREGATIONS if g in ATTENTIONS.get(a).aggregations}
    flags = {
        f"{name}={value}" for name in ("row_normalize", "input_signed", "self_loops") for value in (True, False)
    } | {f"heads={heads}" for heads in (1, 2, 4)}
    shortcuts = {f"shortcut {kind}" for kind in ("none", "identity", "linear")}
    weights = {f"weight {name}" for name in samples.WEIGHT_FORMATS}
    return operators | flags | shortcuts | weights | set(ACTIVATIONS) | {str(mode) for mode in Rounding}


def adversarial_case(index: int, rounding: Rounding) -> Case:
    """A lively program lowered again for a hub of 5000 edges and another rounding, on the adversarial graphs."""
    program = case(index).program
    for attempt in range(200):
        rng = np.random.default_rng([77, index, attempt])
        spec = replace(samples.random_spec(rng, program.num_features, 3), rounding=rounding)
        fraction = int(rng.integers(0, spec.input_format.bits + 1))
        try:
            codes = samples.random_codes(rng, spec, fraction)
            words = samples.random_words(index, spec)
            lowered = lower(spec, codes, input_fraction=fraction, max_degree=5000, words=words)
        except LoweringError:
            continue
        graphs = tuple(samples.adversarial_graphs(lowered.num_features))
        expected = tuple(expected_logits(lowered, graph) for graph in graphs)
        if max(len(np.unique(rows, axis=0)) for rows in expected) >= 3:
            return Case(spec, lowered, graphs, expected)
    raise AssertionError(f"no lively program for adversarial case {index}")


def extreme_program(
    columns: int, *, input_bits: int, weight_bits: int, attention: str = "const", max_degree: int = 50
) -> IntegerProgram:
    """One layer whose weights are the largest and the smallest code; wide inputs give 64-bit accumulators."""
    low, high = -(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1
    weight = np.where(np.arange(3)[:, None] == 1, low, high) * np.ones((3, columns), dtype=np.int64)
    layer = LayerSpec(attention, "sum", "none", 3, 1, "none", True)
    formats = {
        Component.LINEAR_WEIGHT: FormatChoice("fixed", weight_bits),
        Component.MESSAGE: FormatChoice("fixed", 16),
        Component.OUTPUT: FormatChoice("fixed", 16),
    }
    spec = ModelSpec(
        num_features=columns,
        num_classes=3,
        layers=(replace(layer, formats=formats),),
        rounding=Rounding.HALF_EVEN,
        input_format=FormatChoice("fixed", input_bits),
        input_signed=False,
        row_normalize=False,
    )
    bias = Quantized(np.array([5, -7, 11]), 4)
    growth = (columns - 1).bit_length() + input_bits + weight_bits
    codes = LayerCodes(Quantized(weight, 0), bias, message_fraction=16 - growth, output_fraction=16 - growth - 3)
    return lower(spec, (codes,), input_fraction=0, max_degree=max_degree)


def cora_program(weights: str, max_degree: int) -> IntegerProgram:
    """GCN-16 with random weights of one format on row-normalised binary words as many as Cora's."""
    choice, codes = FormatChoice.parse(weights), FormatChoice("fixed", 8)
    common = {Component.LINEAR_WEIGHT: choice, Component.MESSAGE: codes}
    layers = (
        LayerSpec("gcn", "sum", "relu", 16, 1, "none", True, formats={**common, Component.ACTIVATION: codes}),
        LayerSpec("gcn", "sum", "none", 7, 1, "none", True, formats={**common, Component.OUTPUT: codes}),
    )
    spec = ModelSpec(
        num_features=1433,
        num_classes=7,
        layers=layers,
        rounding=Rounding.HALF_EVEN,
        input_format=FIXED1,
        input_signed=False,
        row_normalize=True,
    )
    made = samples.random_codes(np.random.default_rng(7), spec, 0)
    return lower(spec, made, input_fraction=0, max_degree=max_degree)


def pubmed_program(weights: str, *, bits: int = 8) -> IntegerProgram:
    """A GCN of PubMed's shape, 500-64-3, with weights of one format and codes of `bits`."""

    def layer(width: int, out: Component, activation: str) -> LayerSpec:
        chosen = {Component.LINEAR_WEIGHT: FormatChoice.parse(weights)}
        chosen |= {component: FormatChoice("fixed", bits) for component in (Component.MESSAGE, out)}
        return replace(LayerSpec("gcn", "sum", activation, width), formats=chosen)

    spec = ModelSpec(
        num_features=500,
        num_classes=3,
        layers=(layer(64, Component.ACTIVATION, "relu"), layer(3, Component.OUTPUT, "none")),
        input_format=FormatChoice("fixed", bits),
        row_normalize=True,
    )
    codes = samples.random_codes(np.random.default_rng(0), spec, bits - 1)
    return lower(spec, codes, input_fraction=bits - 1, max_degree=171)


def twice_rounded_program(message_bits: int, output_bits: int) -> IntegerProgram:
    """A block over edges, and one that rounds its own message again without bias: nothing is between both roundings."""

    def layer(attention: str, width: int, **bits: int) -> LayerSpec:
        bare = LayerSpec(attention, "sum", "none", width, 1, "none", True)
        chosen = {Component[name.upper()]: FormatChoice("fixed", count) for name, count in bits.items()}
        return replace(bare, formats={Component.LINEAR_WEIGHT: FormatChoice("fixed", 4), **chosen})

    spec = ModelSpec(
        num_features=8,
        num_classes=3,
        layers=(layer("const", 4, message=8, activation=8), layer("self", 3, message=message_bits, output=output_bits)),
        input_format=FormatChoice("fixed", 4),
        input_signed=False,
        row_normalize=False,
    )
    rng = np.random.default_rng(0)
    first, second = (Quantized(rng.integers(-8, 8, shape), 0) for shape in ((4, 8), (3, 4)))
    codes = (
        LayerCodes(first, Quantized(np.zeros(4, dtype=np.int64), -4), message_fraction=-2, output_fraction=-3),
        LayerCodes(second, Quantized(np.zeros(3, dtype=np.int64), -6), message_fraction=-5, output_fraction=-7),
    )
    program = lower(spec, codes, input_fraction=0, max_degree=50)
    return replace(
        program,
        operations=tuple(
            replace(one, bias=None, bias_shift=0) if isinstance(one, Aggregate) else one for one in program.operations
        ),
        arrays=tuple(array for array in program.arrays if array.role != "bias"),
    )


def operators(model: onnx.ModelProto) -> set[str]:
    """Operator types of a model, its functions and all subgraphs."""
    found: set[str] = set()

    def walk(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            found.add(node.op_type)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g.node)

    walk(model.graph.node)
    for function in model.functions:
        walk(function.node)
    return found
