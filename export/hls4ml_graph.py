"""`hls4ml/model.onnx`: a program on a constant graph as static 1x1 convolutions, in the QONNX form that hls4ml reads.

Tensors are float64 values (code * 2^-fraction) of shape [1, nodes, columns], channels last. A transform is a 1x1 `Conv`
with the columns as channels. An aggregation is one with the nodes as channels, between two `Transpose`: its weights
are the numbers of edges. Coefficients of nodes are a `Mul`, biases and shortcuts an `Add`, and the one rounding is a
`Quant`. Convolutions belong to the domain `qonnx.custom_op.channels_last`; the file carries function bodies for
them and for `Quant`, so that onnxruntime runs it too, in float64, which holds every total exactly.

    half_even, floor    `Quant` with ROUND or FLOOR
    half_up             half a unit is added, then FLOOR: hls4ml has no such mode
    a clamp below the largest code (relu6)    C - Relu(C - total) in front of the `Quant`

Beside the file stands the type of every result and accumulator: fixed point that holds the proved bounds of this
graph, so that nothing inside a layer rounds or wraps. Tables (activations that are no clamp) are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from lpgnas.errors import ExportError
from lpgnas.export import local_functions
from lpgnas.export.constant_graph import (
    AggregateStep,
    ConstantProgram,
    IntArray,
    LookupStep,
    Term,
    TransformStep,
    constant_program,
)
from lpgnas.export.graph_builder import LOGITS, GraphBuilder, to_bytes
from lpgnas.export.metadata import describe, file_metadata
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    INPUT_NAME,
    MAX_TOTAL,
    Aggregate,
    IntegerProgram,
    Tensor,
    Transform,
)
from lpgnas.kernels.csr import CsrGraph
from lpgnas.number_formats import Rounding
from lpgnas.registry import Registry

CHANNELS_LAST = "qonnx.custom_op.channels_last"
POINTWISE_CONV = """
Conv <strides, pads, dilations, kernel_shape, group> (x, w) => (y) {
  taps = Constant <value_ints = [1]> ()
  matrix = Squeeze (w, taps)
  columns = Transpose <perm = [1, 0]> (matrix)
  y = MatMul (x, columns)
}"""
"""A convolution of one tap: x [1, positions, channels], w [filters, 1, channels]."""
ZERO, ONE = "ufixed<1,1>", "ufixed<1,1>"
"""Types of constants that are 0 and 1."""


@dataclass(frozen=True, eq=False)
class Hls4mlFile:
    """What hls4ml is given.

    Attributes:
        model: the bytes of `model.onnx`.
        precisions: fixed-point types by node and by what they are of (`result`, `accum`, `weight`, ...).
        constant: the program on its graph, which makes the input.
    """

    model: bytes
    precisions: Mapping[str, Mapping[str, str]]
    constant: ConstantProgram


@dataclass(frozen=True)
class Value:
    """A tensor of the file: real values `integer * 2^-places`.

    Attributes:
        name: of the node that makes it.
        shape: [1, positions, channels].
        bound: most of |integer|.
        places: binary places.
    """

    name: str
    shape: tuple[int, int, int]
    bound: int
    places: int


@dataclass
class _Graph:
    """The file in the making."""

    constant: ConstantProgram
    builder: GraphBuilder = field(default_factory=partial(GraphBuilder, all_named=True))
    values: dict[str, Value] = field(default_factory=dict)
    precisions: dict[str, dict[str, str]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def node(self, op_type: str, value: Value, *inputs: str) -> Value:
        """Add a node of ONNX's own domain; its result holds the bound of `value`."""
        self.builder.add(op_type, value.name, *inputs)
        return self.made(value)

    def made(self, value: Value, **precisions: str) -> Value:
        self.shapes[value.name] = value.shape
        self.precisions[value.name] = {"result": fixed(value.bound, value.places), **precisions}
        return value

    def stored(self, name: str, numbers: npt.NDArray[np.float64]) -> str:
        self.shapes[name] = numbers.shape
        return self.builder.initializer(name, numbers)


def fixed(bound: int, places: int) -> str:
    """The narrowest signed type that holds every integer up to ±`bound`, times 2^-places."""
    bits = bound.bit_length() + 1
    return f"fixed<{bits},{bits - places}>"


def export_hls4ml(program: IntegerProgram, graph: CsrGraph) -> Hls4mlFile:
    """The file of a program on a graph, and the types of its layers; equal arguments give equal bytes.

    Raises:
        ProgramError: a proof of the program does not hold.
        DegreeError: a node beyond `max_degree`.
        ExportError: an operation that is no product with a constant matrix, or an activation by table.
    """
    constant = constant_program(program, graph)
    for step in constant.steps:
        if isinstance(step, LookupStep):
            raise ExportError(
                f"layer {step.operation.layer} lookup: hls4ml's QONNX reader has no layer for a table of codes; use "
                f"the activation none, relu or relu6, or the target onnx-int or c"
            )
    made = _Graph(constant)
    _emit_input(made)
    for step in constant.steps:
        EMITTERS.get(type(step.operation).__name__)(made, step)
    return Hls4mlFile(_model(made), made.precisions, constant)


def _identifier(name: str) -> str:
    """A name that C++ takes."""
    return re.sub(r"\W", "_", name)


def _emit_input(made: _Graph) -> None:
    tensor = made.constant.input
    shape = (1, made.constant.num_nodes, tensor.columns)
    made.shapes[INPUT_NAME] = shape
    made.precisions[INPUT_NAME] = {"result": _format(tensor)}
    made.values[INPUT_NAME] = Value(INPUT_NAME, shape, tensor.magnitude, tensor.fraction)


def _format(tensor: Tensor) -> str:
    """The type of a tensor's codes."""
    return f"{'' if tensor.signed else 'u'}fixed<{tensor.bits},{tensor.bits - tensor.fraction}>"


def _emit_transform(made: _Graph, step: TransformStep) -> None:
    name = _name(made, step.output)
    several = len(step.terms) > 1
    total: Value | None = None
    for term in step.terms:
        own = f"{name}_product_of_{_identifier(term.source)}" if several else f"{name}_product"
        product = _product(made, own, term)
        total = product if total is None else _added(made, f"{own}_added", total, product)
    if total is None:
        raise ExportError(f"layer {step.operation.layer} transform: it reads nothing")
    if step.factor is not None:
        total = _scaled(made, f"{name}_scaled", total, step.factor)
    _emit_rounding(made, name, total, step)


def _emit_aggregate(made: _Graph, step: AggregateStep) -> None:
    name, message = _name(made, step.output), made.values[step.source]
    total = message if step.operation.attention == "self" else _aggregated(made, name, message, step)
    if step.factor is not None:
        total = _scaled(made, f"{name}_scaled", total, step.factor)
    if step.shortcut is not None:
        total = _added(made, f"{name}_with_shortcut", total, made.values[step.shortcut])
    _emit_rounding(made, name, total, step)


def _name(made: _Graph, tensor: Tensor) -> str:
    """What the node that makes a tensor of the program is called."""
    return LOGITS if tensor.name == made.constant.program.output else _identifier(tensor.name)


def _product(made: _Graph, name: str, term: Term) -> Value:
    """What a transform multiplies of one input."""
    source, array = made.values[term.source], term.array
    bits = 2 if array.kind == "binary" else array.bits
    weight = _constant(
        made, f"{name}_weight", term.weight[:, None, :], array.fraction, bits, signed=True, narrow=array.kind != "fixed"
    )
    shape = (1, source.shape[1], int(term.weight.shape[0]))
    return _conv(made, Value(name, shape, term.bound, source.places + array.fraction), source, weight)


def _aggregated(made: _Graph, name: str, message: Value, step: AggregateStep) -> Value:
    """The sums over edges: nodes are the channels of the convolution."""
    turned = _transposed(made, f"{name}_by_column", message)
    bits = max(int(step.counts.max()).bit_length(), 1)
    counts = _constant(made, f"{name}_edges", step.counts[:, None, :], 0, bits, signed=False)
    sums = _conv(made, Value(f"{name}_sums", turned.shape, step.sum_bound, message.places), turned, counts)
    return _transposed(made, f"{name}_by_node", sums)


def _transposed(made: _Graph, name: str, value: Value) -> Value:
    """Positions and channels exchanged; hls4ml gives a transposition the type of what it reads."""
    one, positions, channels = value.shape
    made.builder.add("Transpose", name, value.name, perm=[0, 2, 1])
    turned = Value(name, (one, channels, positions), value.bound, value.places)
    made.shapes[name], made.precisions[name] = turned.shape, {"result": made.precisions[value.name]["result"]}
    return turned


def _constant(
    made: _Graph, name: str, codes: IntArray, fraction: int, bits: int, *, signed: bool, narrow: bool = False
) -> tuple[str, str]:
    """Codes as real values behind a `Quant` that states their format: its name, and the type in hls4ml."""
    stored = made.stored(f"{name}_values", np.ldexp(codes.astype(np.float64), -fraction))
    quantized = _quant(made, name, stored, bits, fraction, signed=signed, narrow=narrow)
    made.shapes[quantized] = codes.shape
    return quantized, f"{'' if signed else 'u'}fixed<{bits},{bits - fraction}>"


def _quant(made: _Graph, name: str, value: str, bits: int, fraction: int, *, signed: bool, narrow: bool = False) -> str:
    mode = "ROUND" if made.constant.rounding is Rounding.HALF_EVEN else "FLOOR"
    numbers = {"scale": 2.0**-fraction, "zero_point": 0.0, "bits": float(bits)}
    inputs = [made.stored(f"{name}_{what}", np.array(number)) for what, number in numbers.items()]
    return made.builder.call(
        local_functions.QUANT_BODIES[mode],
        name,
        value,
        *inputs,
        domain=local_functions.QONNX_DOMAIN,
        signed=int(signed),
        narrow=int(narrow),
        rounding_mode=mode,
    )


def _conv(made: _Graph, value: Value, source: Value, weight: tuple[str, str]) -> Value:
    """A convolution of one tap, whose accumulator has the type of its result."""
    name, weight_type = weight
    window = {"kernel_shape": [1], "strides": [1], "pads": [0, 0], "dilations": [1], "group": 1}
    made.builder.call(POINTWISE_CONV, value.name, source.name, name, domain=CHANNELS_LAST, **window)
    return made.made(value, accum=fixed(value.bound, value.places), weight=weight_type, bias=ZERO)


def _scaled(made: _Graph, name: str, value: Value, factor: IntArray) -> Value:
    """Rows times the coefficients of their nodes."""
    if (factor == 1 << COEFFICIENT_BITS).all():  # hls4ml leaves out a product with ones
        return value
    if not factor.any():  # hls4ml breaks on zeros alone; without edges, sums are 0 without it
        if made.constant.graph.sources.size:
            raise ExportError(
                f"{name}: the coefficient of every node rounds to 0, which hls4ml does not take; use onnx-int or c"
            )
        return value
    stored = made.stored(f"{name}_factor", np.ldexp(factor.astype(np.float64), -COEFFICIENT_BITS)[:, None])
    largest = int(factor.max())
    scaled = Value(name, value.shape, value.bound * largest, value.places + COEFFICIENT_BITS)
    made.node("Mul", scaled, value.name, stored)
    bits = max(largest.bit_length(), 1)
    return made.made(scaled, scale=f"ufixed<{bits},{bits - COEFFICIENT_BITS}>", bias=ZERO)


def _added(made: _Graph, name: str, left: Value, right: Value) -> Value:
    places = max(left.places, right.places)
    bound = sum(one.bound << (places - one.places) for one in (left, right))
    return made.node("Add", Value(name, left.shape, bound, places), left.name, right.name)


def _emit_rounding(made: _Graph, name: str, total: Value, step: TransformStep | AggregateStep) -> None:
    """Bias, what half_up and the clamp need, and the `Quant` that makes the tensor."""
    out, places = step.output, step.shift + step.output.fraction
    offset = np.zeros(out.columns, dtype=np.int64)
    if isinstance(step, AggregateStep) and step.bias is not None:
        offset = offset + step.bias
    if made.constant.rounding is Rounding.HALF_UP and step.shift > 0:
        offset = offset + (1 << (step.shift - 1))
    if offset.any():
        total = _offset(made, f"{name}_total", total, offset, places)
    total = _clamped(made, name, total, step)
    _quant(made, name, total.name, out.bits, out.fraction, signed=out.signed)
    mode = "RND_CONV" if made.constant.rounding is Rounding.HALF_EVEN else "TRN"
    made.shapes[name] = total.shape
    made.precisions[name] = {"result": _format(out).replace(">", f",{mode},SAT>")}
    made.values[out.name] = Value(name, total.shape, out.magnitude, out.fraction)


def _offset(made: _Graph, name: str, value: Value, offset: IntArray, places: int) -> Value:
    """`value + offset * 2^-places`, offset [columns]."""
    stored = made.stored(f"{name}_bias", np.ldexp(offset.astype(np.float64), -places))
    largest, finest = int(np.abs(offset).max()), max(value.places, places)
    bound = (value.bound << (finest - value.places)) + (largest << (finest - places))
    raised = Value(name, value.shape, bound, finest)
    made.node("Add", raised, value.name, stored)
    return made.made(raised, scale=ONE, bias=fixed(largest, places))


def _clamped(made: _Graph, name: str, value: Value, step: TransformStep | AggregateStep) -> Value:
    """The value clamped where the format of the output alone would not do it.

    Raises:
        ExportError: a lower clamp that is neither 0 nor the smallest code, or a difference that float64 may round.
    """
    out, rest = step.output, value
    if step.low not in (0, out.low):
        raise ExportError(
            f"layer {step.operation.layer}: a clamp from {step.low} on is neither 0 nor its smallest code"
        )
    if step.low != out.low:
        rest = made.node("Relu", Value(f"{name}_positive", value.shape, value.bound, value.places), value.name)
    if step.high == out.high:
        return rest
    places = max(rest.places, out.fraction)
    top = step.high << (places - out.fraction)
    if rest.bound << (places - rest.places) <= top:  # it never gets there
        return rest
    bound = (rest.bound << (places - rest.places)) + top
    if bound >= MAX_TOTAL:
        raise ExportError(
            f"layer {step.operation.layer}: its clamp at {step.high} takes a difference beyond 2^53, which float64 "
            f"does not hold exactly; use the activation relu, or the target onnx-int or c"
        )
    limit = made.stored(f"{name}_limit", np.array(step.high * 2.0**-out.fraction))
    again = made.stored(f"{name}_limit_again", np.array(step.high * 2.0**-out.fraction))
    types = {"scale": "fixed<2,2>", "bias": fixed(step.high, out.fraction)}
    left = Value(f"{name}_room", rest.shape, bound, places)
    made.node("Sub", left, limit, rest.name)
    made.made(left, **types)
    kept = made.node("Relu", Value(f"{name}_room_left", rest.shape, bound, places), left.name)
    under = Value(f"{name}_limited", rest.shape, bound, places)
    made.node("Sub", under, again, kept.name)
    return made.made(under, **types)


def _model(made: _Graph) -> bytes:
    constant, program = made.constant, made.constant.program
    nodes = constant.num_nodes
    shape = made.shapes.pop(INPUT_NAME)
    x = helper.make_tensor_value_info(INPUT_NAME, TensorProto.DOUBLE, shape)
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.DOUBLE, made.shapes.pop(LOGITS))
    made.builder.require(opset=18, ir_version=8)
    model = made.builder.model(
        "lpgnas_hls4ml",
        [x],
        [logits],
        doc=describe(program, f"static 1x1 convolutions on a constant graph of {nodes} nodes"),
        metadata={**file_metadata(program, "hls4ml"), **constant_metadata(constant)},
    )
    others = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, one) for name, one in made.shapes.items()]
    model.graph.value_info.extend(others)
    return to_bytes(model)


EMITTERS: Registry[Callable[[_Graph, Any], None]] = Registry("hls4ml emitter of operation")
EMITTERS.add(Transform.__name__, _emit_transform)
EMITTERS.add(Aggregate.__name__, _emit_aggregate)


def constant_metadata(constant: ConstantProgram) -> dict[str, str]:
    """What a file says of the graph that is compiled in, and of the input that it reads."""
    x = constant.input
    return {
        "num_nodes": str(constant.num_nodes),
        "num_edges": str(constant.graph.sources.size),
        "graph_sha256": graph_digest(constant.graph),
        "input": json.dumps({"columns": x.columns, "bits": x.bits, "fraction": x.fraction, "signed": x.signed}),
    }


def graph_digest(graph: CsrGraph) -> str:
    """SHA-256 of the edges by target."""
    numbers = (graph.indptr, graph.sources)
    return hashlib.sha256(b"".join(np.asarray(one, dtype="<i8").tobytes() for one in numbers)).hexdigest()
