"""`model.qdq.onnx`: an integer program with QuantizeLinear and DequantizeLinear, for runtimes that fuse them.

The arithmetic is that of `real_values`; a tensor `t` of the program is `t/quantized` (codes) and `t` (the float32
values; `x/dequantized` for the input). QuantizeLinear rounds half-even; under the other roundings it only states the
format.

| codes of a tensor | stored as |
|---|---|
| up to 8 bits | INT8 or UINT8, behind a Clip where the format has fewer bits |
| 9 to 16 bits | INT16 or UINT16 |

Weights are initialisers of their bit-width (`packed_weights`) behind a DequantizeLinear. Both inputs of every MatMul
are dequantised codes: onnxruntime turns a MatMul with a dequantised weight alone into MatMulNBits, which quantises
the other input by itself. Where it fuses, it multiplies bytes, and on x86 without VNNI instructions its kernels for
signed weights add pairs of products in 16 bits, which may saturate. Weights whose products could are stored
as UINT8, and the signed tensors that they multiply as UINT8 with zero point 128: such kernels widen first. Signed
messages that scores read by head are stored so too: onnxruntime 1.31 moves a DequantizeLinear of INT8 behind the
Reshape into heads, and then refuses what it made of it. It also makes one rounding of two QuantizeLinear in a row, so
that a block that would do nothing between them rounds in float64.
No node belongs to a domain other than ONNX's own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lpgnas.export.graph_builder import LOGITS, GraphBuilder, to_bytes
from lpgnas.export.input_words import kept_columns
from lpgnas.export.message_passing import MessagePassing
from lpgnas.export.metadata import describe, file_metadata
from lpgnas.export.packed_weights import store_quantized
from lpgnas.export.real_values import Dialect, RealContext, emitters, quantize_input
from lpgnas.integer_program import INPUT_NAME, Array, IntegerProgram, Operation, Part, Score, Tensor, Transform
from lpgnas.number_formats import Rounding
from lpgnas.proofs import check_program

EMITTERS = emitters("onnx_qdq emitter of operation")
_INT16_MAX = (1 << 15) - 1


def export_onnx_qdq(program: IntegerProgram) -> bytes:
    """The bytes of `model.qdq.onnx`: inputs `x`, `edge_index`, output `logits` (see the module's page).

    Equal programs give equal bytes. The session raises on an edge index out of range, and on a node with more
    incoming edges than `max_degree`.

    Raises:
        ProgramError: a proof of the program does not hold.
        ExportError: a sum beyond 2^24, a value beyond float32, or a program without aggregation.
        UnknownName: an operation without emitter.
    """
    check_program(program)
    builder = GraphBuilder()
    builder.require(opset=19, ir_version=9)  # onnx.reference has no older DequantizeLinear
    context = RealContext(program, builder, MessagePassing(builder, program), QdqDialect(program))
    quantize_input(context)
    for operation in program.operations:
        emit_operation(context, operation)
    if context.values[program.output] != LOGITS:
        builder.add("Identity", LOGITS, context.values[program.output])
    model = builder.model(
        "lpgnas_qdq",
        context.graph.inputs(),
        [context.graph.output(program.num_classes)],
        doc=describe(program, "float32 tensors of real values between QuantizeLinear and DequantizeLinear"),
        metadata=file_metadata(program, "onnx_qdq"),
    )
    return to_bytes(model)


def emit_operation(context: RealContext, operation: Operation) -> None:
    """Add the nodes of one operation.

    Raises:
        UnknownName: no emitter is registered for its kind.
    """
    EMITTERS.get(type(operation).__name__)(context, operation)


def may_saturate(part: Part) -> bool:
    """Whether two products of an input and a signed byte weight may pass 16 bits together.

    A signed input is stored, or turned by the runtime, into unsigned bytes of up to 255.
    """
    if part.weight.kind != "fixed" or part.weight.bits > 8 or part.source.bits > 8:
        return False
    largest = 255 if part.source.signed else part.source.high
    return 2 * largest * int(np.abs(part.weight.values.astype(np.int64)).max(initial=0)) > _INT16_MAX


class QdqDialect(Dialect):
    """QuantizeLinear and DequantizeLinear."""

    roundings = frozenset({Rounding.HALF_EVEN})
    may_merge = True

    def __init__(self, program: IntegerProgram) -> None:
        transforms = [one for one in program.operations if isinstance(one, Transform)]
        unsigned = [part for one in transforms for part in program.parts(one) if may_saturate(part)]
        self._unsigned_weights = {part.weight.name for part in unsigned}
        scored = {one.input for one in program.operations if isinstance(one, Score)}
        self._unsigned_sources = scored | {part.source.name for part in unsigned}

    def _storage(self, tensor: Tensor) -> tuple[npt.DTypeLike, int]:
        """The type of a tensor's codes, and their zero point."""
        if tensor.bits > 8:
            return (np.int16 if tensor.signed else np.uint16), 0
        if tensor.signed and tensor.name in self._unsigned_sources:
            return np.uint8, 128
        return (np.int8 if tensor.signed else np.uint8), 0

    def _parameters(self, b: GraphBuilder, tensor: Tensor) -> tuple[str, str]:
        """Scale and zero point."""
        dtype, zero_point = self._storage(tensor)
        if tensor.bits > 8:
            b.require(opset=21, ir_version=10)
        return b.constant(2.0**-tensor.fraction, np.float32), b.constant(zero_point, dtype)

    def quantized(self, context: RealContext, tensor: Tensor, value: str, limits: tuple[int, int] | None) -> str:
        """QuantizeLinear, which saturates to its type, behind a `Clip` where that is not enough, and its inverse."""
        b, name = context.builder, tensor.name
        filled = (tensor.low, tensor.high) == limits and tensor.bits in (8, 16)
        # Features may be anything; before it saturates, onnx.reference converts to 32 bits, which would wrap.
        if limits is not None and (not filled or name == INPUT_NAME):
            bounds = (b.constant(code * 2.0**-tensor.fraction, np.float32) for code in limits)
            value = b.add("Clip", f"{name}/clipped", value, *bounds)
        parameters = self._parameters(b, tensor)
        codes = b.add("QuantizeLinear", f"{name}/quantized", value, *parameters)
        return b.add("DequantizeLinear", f"{name}/dequantized" if name == INPUT_NAME else name, codes, *parameters)

    def annotate(self, context: RealContext, value: str, tensor: Tensor) -> None:
        """Nothing: the nodes say it."""

    def columns_read(self, context: RealContext, part: Part) -> str:
        """The kept columns are taken from the codes, so that a DequantizeLinear stands before the MatMul."""
        b, source = context.builder, part.source
        if part.index is None:
            return context.values[source.name]
        codes = kept_columns(b, f"{source.name}/quantized", part.index)
        name = f"{codes}/dequantized"
        return name if name in b else b.add("DequantizeLinear", name, codes, *self._parameters(b, source))

    def weight(self, context: RealContext, array: Array, source: Tensor | None) -> str:
        """Dequantised codes; binary and ternary ones with their scale."""
        b, unsigned = context.builder, array.name in self._unsigned_weights
        codes, zero_point = store_quantized(b, array, transpose=source is not None, unsigned=unsigned)
        scale = b.constant(2.0**-array.fraction, np.float32)
        return b.add("DequantizeLinear", f"{array.name}/dequantized", codes, scale, zero_point)
