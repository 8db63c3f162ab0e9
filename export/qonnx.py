"""`model.qonnx.onnx`: an integer program as float32 tensors of real values with QONNX `Quant` nodes.

The arithmetic is that of `real_values`; a tensor `t` of the program is `t/quantized`. `Quant` does not have the
rounding half_up (its `HALF_UP` rounds halves away from zero). A file carries function bodies for its QONNX operators,
so that onnxruntime runs it like the qonnx executor does.

Datatype annotations (`finn_datatype`): INT, UINT or BINARY where the fraction is 0, FIXED for signed tensors with
1 or more binary places, and SCALEDINT for the rest, since QONNX has no unsigned FIXED and none without binary places.
Binary and ternary weights are annotated BIPOLAR and TERNARY; their scale is a `Mul` behind the product.
"""

from __future__ import annotations

import numpy as np
import onnx

from lpgnas.errors import ExportError
from lpgnas.export import local_functions
from lpgnas.export.graph_builder import LOGITS, GraphBuilder, to_bytes
from lpgnas.export.input_words import kept_columns
from lpgnas.export.message_passing import MessagePassing
from lpgnas.export.metadata import describe, file_metadata
from lpgnas.export.real_values import Dialect, RealContext, emitters, quantize_input
from lpgnas.integer_program import Array, IntegerProgram, Operation, Part, Tensor
from lpgnas.number_formats import Rounding
from lpgnas.proofs import check_program

EMITTERS = emitters("qonnx emitter of operation")


def export_qonnx(program: IntegerProgram, *, num_nodes: int | None = None, num_edges: int | None = None) -> bytes:
    """The bytes of `model.qonnx.onnx`: inputs `x`, `edge_index`, output `logits` (see the module's page).

    Args:
        program: what to export.
        num_nodes: rows of `x`; with `num_edges`, the file is static, as the qonnx executor needs it.
        num_edges: columns of `edge_index`.

    Raises:
        ProgramError: a proof of the program does not hold.
        ExportError: a sum beyond 2^24, a value beyond float32, or only one of the two sizes.
        UnknownName: an operation without emitter.
    """
    check_program(program)
    if (num_nodes is None) != (num_edges is None):
        raise ExportError("give both num_nodes and num_edges for a static file, or neither for a dynamic one")
    builder = GraphBuilder()
    graph = MessagePassing(builder, program, num_nodes, num_edges)
    context = RealContext(program, builder, graph, QonnxDialect(program.rounding))
    quantize_input(context)
    for operation in program.operations:
        emit_operation(context, operation)
    builder.add("Identity", LOGITS, context.values[program.output])
    model = builder.model(
        "lpgnas_qonnx",
        context.graph.inputs(),
        [context.graph.output(program.num_classes)],
        doc=describe(program, "float32 tensors of real values with QONNX Quant nodes"),
        metadata=file_metadata(program, "qonnx"),
    )
    if num_nodes is not None:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return to_bytes(model)


def emit_operation(context: RealContext, operation: Operation) -> None:
    """Add the nodes of one operation.

    Raises:
        UnknownName: no emitter is registered for its kind.
    """
    EMITTERS.get(type(operation).__name__)(context, operation)


def finn_datatype(bits: int, fraction: int, *, signed: bool) -> str:
    """The QONNX datatype of a tensor of real values; see the module's page."""
    if fraction == 0:
        return f"INT{bits}" if signed else "BINARY" if bits == 1 else f"UINT{bits}"
    if signed and fraction > 0:
        return f"FIXED<{bits},{bits - fraction}>"
    return f"SCALEDINT<{bits}>"


class QonnxDialect(Dialect):
    """`Quant` and `BipolarQuant` nodes with annotations."""

    roundings = frozenset({Rounding.HALF_EVEN, Rounding.FLOOR})
    may_merge = False

    def __init__(self, rounding: Rounding) -> None:
        self._mode = "FLOOR" if rounding is Rounding.FLOOR else "ROUND"

    def quantized(self, context: RealContext, tensor: Tensor, value: str, limits: tuple[int, int] | None) -> str:
        """A `Quant` node, behind a `Clip` where the limits are not those of the format."""
        b, name = context.builder, tensor.name
        if limits is not None and limits != (tensor.low, tensor.high):
            bounds = (b.constant(code * 2.0**-tensor.fraction, np.float32) for code in limits)
            value = b.add("Clip", f"{name}/clipped", value, *bounds)
        return self._quant(b, f"{name}/quantized", value, tensor.bits, tensor.fraction, signed=tensor.signed)

    def _quant(
        self, b: GraphBuilder, name: str, value: str, bits: int, fraction: int, *, signed: bool, narrow: bool = False
    ) -> str:
        """A `Quant` node: `value` clamped, rounded and decoded again."""
        parameters = (b.constant(number, np.float32) for number in (2.0**-fraction, 0.0, float(bits)))
        return b.call(
            local_functions.QUANT_BODIES[self._mode],
            name,
            value,
            *parameters,
            domain=local_functions.QONNX_DOMAIN,
            signed=int(signed),
            narrow=int(narrow),
            rounding_mode=self._mode,
        )

    def annotate(self, context: RealContext, value: str, tensor: Tensor) -> None:
        """The datatype of a tensor of the program."""
        context.builder.annotate(value, finn_datatype(tensor.bits, tensor.fraction, signed=tensor.signed))

    def columns_read(self, context: RealContext, part: Part) -> str:
        """The kept columns of the decoded values."""
        value = context.values[part.source.name]
        read = kept_columns(context.builder, value, part.index)
        if read != value:
            self.annotate(context, read, part.source)
        return read

    def weight(self, context: RealContext, array: Array, source: Tensor | None) -> str:
        """Fixed-point weights are real values. Binary and ternary ones are codes; `scaled` scales what they make."""
        b, name = context.builder, array.name
        codes = np.ascontiguousarray(array.values if source is None else array.values.T).astype(np.float32)
        if array.kind == "fixed":
            stored = b.initializer(name, codes * np.float32(2.0**-array.fraction))
            quantized = self._quant(
                b, f"{name}/quantized", stored, array.bits, array.fraction, signed=array.signed, narrow=False
            )
            b.annotate(quantized, finn_datatype(array.bits, array.fraction, signed=array.signed))
            return quantized
        stored = b.initializer(name, codes)
        if array.kind == "binary":
            one = b.constant(1.0, np.float32)
            domain = local_functions.QONNX_DOMAIN
            quantized = b.call(local_functions.BIPOLAR_QUANT, f"{name}/quantized", stored, one, domain=domain)
            b.annotate(quantized, "BIPOLAR")
        else:
            quantized = self._quant(b, f"{name}/quantized", stored, 2, 0, signed=True, narrow=True)
            b.annotate(quantized, "TERNARY")
        return quantized

    def scaled(self, context: RealContext, name: str, product: str, array: Array) -> str:
        """The scale of binary and ternary weights is a `Mul` of its own."""
        if array.kind == "fixed" or array.fraction == 0:
            return product
        return context.builder.add("Mul", name, product, context.builder.constant(2.0**-array.fraction, np.float32))
