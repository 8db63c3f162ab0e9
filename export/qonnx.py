"""`model.qonnx.onnx`: an integer program as float32 tensors of real values with QONNX `Quant` nodes.

A tensor `t` of the program is `t/quantized`, which holds codes x 2^-fraction. Products and sums run in float32 and are
exact while their proved bound stays within 2^24; a program beyond that is refused. Epilogues with wider totals, and the
rounding half_up, which QONNX does not have (its `HALF_UP` rounds halves away from zero), run in float64; the `Quant`
node behind them then only states the format. A file carries function bodies for its QONNX operators, so that
onnxruntime runs it like the qonnx executor does.

Datatype annotations (`finn_datatype`): INT, UINT or BINARY where the fraction is 0, FIXED for signed tensors with
1 or more binary places, and SCALEDINT for the rest, since QONNX has no unsigned FIXED and none without binary places.
Binary and ternary weights are annotated BIPOLAR and TERNARY; their scale is a `Mul` behind the product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lpgnas.attentions.score import EdgeScore
from lpgnas.errors import ExportError
from lpgnas.export import local_functions
from lpgnas.export.edge_scores import OnnxScores
from lpgnas.export.graph_builder import GraphBuilder, to_bytes
from lpgnas.export.input_words import kept_columns
from lpgnas.export.message_passing import EdgeSet, MessagePassing
from lpgnas.export.metadata import describe, file_metadata
from lpgnas.export.rounding import round_codes
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    MAX_PROBABILITY,
    RECIPROCAL_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    Array,
    IntegerProgram,
    Lookup,
    Operation,
    Part,
    Score,
    Tensor,
    Transform,
)
from lpgnas.number_formats import Rounding
from lpgnas.operators import ATTENTIONS, LEAKY_SLOPE
from lpgnas.proofs import check_program, program_score_facts
from lpgnas.registry import Registry

FLOAT32_LIMIT = 1 << 24
"""float32 holds every integer up to this one."""
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -126, 127


@dataclass
class _Context:
    """What emitters share."""

    program: IntegerProgram
    builder: GraphBuilder
    graph: MessagePassing
    values: dict[str, str] = field(default_factory=dict)
    """The float32 value of each tensor of the program."""

    @property
    def rounding_mode(self) -> str:
        """The mode of every `Quant`; under half_up they see rounded values only."""
        return "FLOOR" if self.program.rounding is Rounding.FLOOR else "ROUND"


Emitter = Callable[[_Context, Any], None]
EMITTERS: Registry[Emitter] = Registry("qonnx emitter of operation")


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
    context = _Context(program, builder, MessagePassing(builder, program, num_nodes, num_edges))
    _quantize_input(context)
    for operation in program.operations:
        emit_operation(context, operation)
    builder.add("Identity", "logits", context.values[program.output])
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


def emit_operation(context: _Context, operation: Operation) -> None:
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


def _require_float32(where: str, what: str, bound: int, fraction: int) -> None:
    """Refuse sums of codes up to `bound`, times 2^-fraction, that float32 does not hold exactly."""
    if bound > FLOAT32_LIMIT:
        raise ExportError(
            f"{where}: its {what} may reach {bound}, beyond 2^24, which float32 does not hold exactly; "
            f"use the target onnx_int, fewer bits or a smaller max_degree"
        )
    if -fraction < _SMALLEST_EXPONENT or bound.bit_length() - fraction > _LARGEST_EXPONENT:
        raise ExportError(
            f"{where}: its {what} have {fraction} binary places, beyond the range of float32; use the target onnx_int"
        )


def _quant(context: _Context, name: str, value: str, bits: int, fraction: int, *, signed: bool, narrow: bool) -> str:
    """A `Quant` node: `value` clamped, rounded and decoded again."""
    b, mode = context.builder, context.rounding_mode
    parameters = (b.constant(number, np.float32) for number in (2.0**-fraction, 0.0, float(bits)))
    return b.call(
        local_functions.QUANT_BODIES[mode],
        name,
        value,
        *parameters,
        domain=local_functions.QONNX_DOMAIN,
        signed=int(signed),
        narrow=int(narrow),
        rounding_mode=mode,
    )


def _quantize(context: _Context, tensor: Tensor, value: str, low: int, high: int, *, wide: bool) -> None:
    """Round the real `value` into `tensor`, saturated to the codes [low, high].

    Args:
        context: the graph in the making.
        tensor: the tensor of the program.
        value: float64 if `wide`, else float32.
        low: smallest code.
        high: largest code.
        wide: round explicitly in float64; otherwise the `Quant` node rounds.
    """
    b, name = context.builder, tensor.name
    if wide:
        codes = round_codes(b, tensor, value, context.program.rounding, low, high)
        decoded = b.add("Mul", f"{name}/decoded", codes, b.constant(2.0**-tensor.fraction, np.float64))
        value = b.cast(decoded, np.float32)
    elif (low, high) != (tensor.low, tensor.high):
        limits = (b.constant(code * 2.0**-tensor.fraction, np.float32) for code in (low, high))
        value = b.add("Clip", f"{name}/clipped", value, *limits)
    _state_format(context, tensor, value)


def _state_format(context: _Context, tensor: Tensor, value: str) -> None:
    quantized = _quant(
        context,
        f"{tensor.name}/quantized",
        value,
        tensor.bits,
        tensor.fraction,
        signed=tensor.signed,
        narrow=False,
    )
    context.builder.annotate(quantized, finn_datatype(tensor.bits, tensor.fraction, signed=tensor.signed))
    context.values[tensor.name] = quantized


def _rounds_in_quant(context: _Context, bound: int) -> bool:
    """Whether a float32 total up to `bound` codes is exact and `Quant` knows the rounding."""
    return bound <= FLOAT32_LIMIT and context.program.rounding is not Rounding.HALF_UP


def _quantize_input(context: _Context) -> None:
    tensor = context.program.input
    # Scaling by 2^f >= 1 is exact in float32 or saturates; a smaller scale could lose the sign of a denormal.
    wide = context.program.rounding is Rounding.HALF_UP or tensor.fraction < 0
    value = context.builder.cast(tensor.name, np.float64) if wide else tensor.name
    _require_float32("the input", "values", max(-tensor.low, tensor.high), tensor.fraction)
    _quantize(context, tensor, value, tensor.low, tensor.high, wide=wide)


def _weight(context: _Context, array: Array, *, transpose: bool) -> str:
    """A weight, [in, out] if `transpose`, behind the node that states its format.

    Fixed-point weights are real values. Binary and ternary ones are codes; `_scale_product` scales what they make.
    """
    b, name = context.builder, array.name
    codes = np.ascontiguousarray(array.values.T if transpose else array.values).astype(np.float32)
    if array.kind == "fixed":
        stored = b.initializer(name, codes * np.float32(2.0**-array.fraction))
        quantized = _quant(
            context, f"{name}/quantized", stored, array.bits, array.fraction, signed=array.signed, narrow=False
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
        quantized = _quant(context, f"{name}/quantized", stored, 2, 0, signed=True, narrow=True)
        b.annotate(quantized, "TERNARY")
    return quantized


def _scale_product(context: _Context, name: str, product: str, array: Array) -> str:
    """The real value of a product with weights that `_weight` left as codes."""
    if array.kind == "fixed" or array.fraction == 0:
        return product
    b = context.builder
    return b.add("Mul", name, product, b.constant(2.0**-array.fraction, np.float32))


def _reciprocal(context: _Context, name: str, denominator: str, bits: int) -> str:
    """`floor((2^(bits+1) + d) / (2 d))`, 0 for d = 0, of a float64 integer d; float64.

    The quotient is never so close to an integer that the correctly rounded division could reach it.
    """
    b = context.builder
    one, two = (b.constant(number, np.float64) for number in (1.0, 2.0))
    positive = b.add("Max", f"{name}/positive", denominator, one)
    raised = b.add("Add", f"{name}/raised", positive, b.constant(2.0 ** (bits + 1), np.float64))
    quotient = b.add("Div", f"{name}/quotient", raised, b.add("Mul", f"{name}/doubled", positive, two))
    floored = b.add("Floor", f"{name}/floored", quotient)
    return b.add("Mul", name, floored, b.add("Min", f"{name}/present", denominator, one))


def _inverse_sqrt(context: _Context, name: str, degree: str) -> str:
    """`floor((1 + sqrt(2^32 / d)) / 2)`, 0 for d = 0, of a float64 integer d; float64."""
    b = context.builder
    one, half = (b.constant(number, np.float64) for number in (1.0, 0.5))
    positive = b.add("Max", f"{name}/positive", degree, one)
    ratio = b.add("Div", f"{name}/ratio", b.constant(2.0**32, np.float64), positive)
    raised = b.add("Add", f"{name}/raised", b.add("Sqrt", f"{name}/sqrt", ratio), one)
    floored = b.add("Floor", f"{name}/floored", b.add("Mul", f"{name}/halved", raised, half))
    return b.add("Mul", name, floored, b.add("Min", f"{name}/present", degree, one))


def _degree_factor(context: _Context, edges: EdgeSet, kind: str) -> str:
    """`rsqrt15` or `recip15` of the in-degrees as real float64 [N, 1]."""
    b, name = context.builder, f"{edges.name}/{kind}"
    if name in b:
        return name
    degree = b.cast(edges.degree, np.float64)
    if kind == "rsqrt15":
        code = _inverse_sqrt(context, f"{name}/code", degree)
    else:
        code = _reciprocal(context, f"{name}/code", degree, COEFFICIENT_BITS)
    return b.add("Mul", name, code, b.constant(2.0**-COEFFICIENT_BITS, np.float64))


def _row_factor(context: _Context, source: Tensor) -> str:
    """`row24` of the input rows as the real float64 factor of a product of real values, [N, 1]."""
    b, name = context.builder, f"{source.name}/row24"
    if name in b:
        return name
    values = b.cast(context.values[source.name], np.float64)
    total = b.add("ReduceSum", f"{name}/sum", values, b.constant([1], np.int64), keepdims=1)
    codes = b.add("Mul", f"{name}/sum_of_codes", total, b.constant(2.0**source.fraction, np.float64))
    code = _reciprocal(context, f"{name}/code", codes, ROW_FACTOR_BITS)
    return b.add("Mul", name, code, b.constant(2.0 ** (source.fraction - ROW_FACTOR_BITS), np.float64))


def _where(operation: Operation) -> str:
    return f"layer {operation.layer} {type(operation).__name__.lower()}"


def _emit_transform(context: _Context, operation: Transform) -> None:
    b, program, name = context.builder, context.program, operation.output
    out, parts = program.tensor(name), program.parts(operation)
    _require_float32(_where(operation), "codes", out.magnitude, out.fraction)
    factors = operation.row_factor or operation.degree_factor
    wide = factors or not _rounds_in_quant(context, operation.total_bound)
    total = ""
    for number, part in enumerate(parts):
        prefix = f"{name}/accumulator" if len(parts) == 1 else f"{name}/accumulator_of_{part.source.name}"
        added = _emit_part(context, operation, prefix, part, wide=wide)
        total = b.add("Add", f"{name}/sum_{number}", total, added) if number else added
    if operation.degree_factor:
        edges = context.graph.edges(self_loops=operation.self_loops)
        total = b.add("Mul", f"{name}/times_rsqrt15", total, _degree_factor(context, edges, "rsqrt15"))
    _quantize(context, out, total, out.low, out.high, wide=wide)


def _emit_part(context: _Context, operation: Transform, prefix: str, part: Part, *, wide: bool) -> str:
    """The real value that one input adds to the total, float64 if `wide`."""
    b, source, array = context.builder, part.source, part.weight
    _require_float32(_where(operation), "sums", operation.accumulator_bound, source.fraction + array.fraction)
    product = b.add("MatMul", prefix, _columns_read(context, part), _weight(context, array, transpose=True))
    value = _scale_product(context, f"{prefix}/scaled", product, array)
    value = b.cast(value, np.float64) if wide else value
    if part.row_factor:
        value = b.add("Mul", f"{prefix}/times_row24", value, _row_factor(context, source))
    return value


def _columns_read(context: _Context, part: Part) -> str:
    """The real values of an input that a transform multiplies, float32."""
    value, source = context.values[part.source.name], part.source
    read = kept_columns(context.builder, value, part.index)
    if read != value:
        context.builder.annotate(read, finn_datatype(source.bits, source.fraction, signed=source.signed))
    return read


def _emit_score(context: _Context, operation: Score) -> None:
    source = context.program.tensor(operation.input)
    for array_name, output in operation.products().values():
        fraction = context.program.tensor(output).fraction
        _require_float32(_where(operation), "sums", operation.accumulator_bound, fraction)
        array = context.program.array(array_name)
        weight = _weight(context, array, transpose=False)
        product = context.graph.head_scores(
            f"{output}/values", context.values[source.name], weight, operation.heads, source.columns
        )
        context.values[output] = _scale_product(context, f"{output}/scaled_values", product, array)


def _coded(context: _Context, value: str, tensor: Tensor) -> str:
    """`value` (real, float32, any shape) rounded into the format of `tensor`, which is also its name; real, float32."""
    b, rounding = context.builder, context.program.rounding
    if rounding is Rounding.HALF_UP:
        codes = round_codes(b, tensor, b.cast(value, np.float64), rounding, tensor.low, tensor.high)
        decoded = b.add("Mul", f"{tensor.name}/decoded", codes, b.constant(2.0**-tensor.fraction, np.float64))
        value = b.cast(decoded, np.float32)
    return _quant(context, f"{tensor.name}/quantized", value, tensor.bits, tensor.fraction, signed=True, narrow=False)


class _Scores(OnnxScores):
    """`ScoreAlgebra` on real values, whose codes float32 holds as proved."""

    def __init__(self, context: _Context, operation: Aggregate, score: EdgeScore, edges: EdgeSet) -> None:
        super().__init__(context.graph, context.builder, context.program, operation, score, edges, context.values)
        self._context = context

    def weight(self, name: str) -> str:
        array = self._array(name)
        stored = _weight(self._context, array, transpose=False)
        return _scale_product(self._context, f"{array.name}/scaled", stored, array)

    def leaky(self, value: str) -> str:
        return self._builder.add("LeakyRelu", self._name("leaky_score"), value, alpha=LEAKY_SLOPE)

    def look_up(self, value: str) -> str:
        operation = self._operation
        array = self._program.array(str(operation.argument_table))
        bits, fraction = operation.score_high.bit_length() + 1, operation.argument_fraction
        argument = Tensor(self._name("argument"), operation.heads, bits, fraction, True, operation.layer, None)
        codes = _coded(self._context, value, argument)
        return _table_entries(self._context, argument.name, codes, argument, array)


def _table_entries(context: _Context, name: str, value: str, source: Tensor, array: Array) -> str:
    """The entries of a table at the real `value` in the format of `source`, real float32."""
    b = context.builder
    table = b.initializer(array.name, array.values.astype(np.float32) * np.float32(2.0**-array.fraction))
    codes = b.add("Mul", f"{name}/input_code", value, b.constant(2.0**source.fraction, np.float32))
    index = b.add("Sub", f"{name}/table_index", b.cast(codes, np.int64), b.constant(source.low, np.int64))
    return b.add("Gather", f"{name}/entry", table, index, axis=0)


def _edge_scores(context: _Context, operation: Aggregate, rule: EdgeScore, edges: EdgeSet) -> tuple[str, Tensor]:
    """Quantised scores of the edges, float32 [E', heads], and their format.

    Raises:
        ExportError: an intermediate of the formula that float32 does not hold exactly.
    """
    facts = program_score_facts(context.program, operation, rule)
    for bound, places in facts.steps:
        _require_float32(_where(operation), "edge scores", bound, places)
    name, bits = f"{operation.output}/score", operation.score_high.bit_length() + 1
    format_ = Tensor(name, operation.heads, bits, facts.places - operation.score_shift, True, operation.layer, None)
    if (operation.score_low, operation.score_high) != (format_.low, format_.high):
        raise ExportError(
            f"{_where(operation)}: scores in [{operation.score_low}, {operation.score_high}] fill no format"
        )
    raw = rule.formula(_Scores(context, operation, rule, edges))
    return _coded(context, raw, format_), format_


def _probabilities(context: _Context, operation: Aggregate, rule: EdgeScore, edges: EdgeSet) -> str:
    """Codes `p_e` of the softmax over the edges into each node, float32 [E', heads]."""
    b, graph, name, heads = context.builder, context.graph, operation.output, operation.heads
    if operation.table is None:
        raise ExportError(f"{_where(operation)}: attention {operation.attention} lacks its table")
    score, format_ = _edge_scores(context, operation, rule, edges)
    lowest = format_.low * 2.0**-format_.fraction
    largest = graph.scatter(f"{name}/largest_score", score, edges, heads, "max", np.float32, lowest)
    at_target = graph.gather(f"{name}/largest_at_target", largest, edges, side="target")
    distance = b.add("Sub", f"{name}/score_distance", at_target, score)
    codes = b.add("Mul", f"{name}/distance_code", distance, b.constant(2.0**format_.fraction, np.float32))
    table = context.program.array(operation.table)
    entries = np.append(table.values, 0).astype(np.float32)  # the last entry stands for all distances beyond the table
    last = b.constant(len(entries) - 1, np.int64)
    index = b.add("Min", f"{name}/table_index", b.cast(codes, np.int64), last)
    return b.add("Gather", f"{name}/probability", b.initializer(table.name, entries), index, axis=0)


def _check_aggregate(context: _Context, operation: Aggregate, message: Tensor, out: Tensor) -> None:
    where = _where(operation)
    _require_float32(where, "sums", operation.accumulator_bound, message.fraction)
    _require_float32(where, "codes", out.magnitude, out.fraction)
    if ATTENTIONS.get(operation.attention).learned:
        edges = context.program.max_degree + (1 if operation.self_loops else 0)
        _require_float32(where, "sums of probabilities", MAX_PROBABILITY * edges, 0)


def _emit_aggregate(context: _Context, operation: Aggregate) -> None:
    b, graph, program, name = context.builder, context.graph, context.program, operation.output
    message, out, heads = program.tensor(operation.input), program.tensor(name), operation.heads
    _check_aggregate(context, operation, message, out)
    if not ATTENTIONS.get(operation.attention).neighbours:
        wide = not _rounds_in_quant(context, operation.total_bound)
        own = graph.own(context.values[message.name])
        own = b.cast(own, np.float64) if wide else own
        own = _with_bias_and_shortcut(context, operation, own, np.float64 if wide else np.float32)
        _quantize(context, out, own, operation.clamp_low, operation.clamp_high, wide=wide)
        return
    edges = graph.edges(self_loops=operation.self_loops)
    terms = graph.gather(f"{name}/message", context.values[message.name], edges)
    attention, probabilities = ATTENTIONS.get(operation.attention), None
    if attention.score is not None:
        probabilities = _probabilities(context, operation, attention.score, edges)
        terms = graph.per_head(f"{name}/weighted_message", terms, probabilities, heads, out.columns)
    if operation.aggregation == "max":
        lowest = -float(max(operation.accumulator_bound, 1)) * 2.0**-message.fraction
        total = graph.scatter_max_or_zero(f"{name}/max", terms, edges, out.columns, np.float32, lowest)
    else:
        total = graph.scatter(f"{name}/sum", terms, edges, out.columns, "add", np.float32)
    factors = attention.learned or attention.degree_factors or operation.aggregation == "mean"
    wide = factors or not _rounds_in_quant(context, operation.total_bound)
    total = b.cast(total, np.float64) if wide else total
    if probabilities is not None:
        denominator = graph.scatter(f"{name}/probability_sum", probabilities, edges, heads, "add", np.float32)
        code = _reciprocal(context, f"{name}/recip26/code", b.cast(denominator, np.float64), RECIPROCAL_BITS)
        factor = b.add("Mul", f"{name}/recip26", code, b.constant(2.0**-RECIPROCAL_BITS, np.float64))
        total = graph.per_head(f"{name}/normalized", total, factor, heads, out.columns)
    if attention.degree_factors:
        total = b.add("Mul", f"{name}/times_rsqrt15", total, _degree_factor(context, edges, "rsqrt15"))
    if operation.aggregation == "mean":
        total = b.add("Mul", f"{name}/times_recip15", total, _degree_factor(context, edges, "recip15"))
    total = _with_bias_and_shortcut(context, operation, total, np.float64 if wide else np.float32)
    _quantize(context, out, total, operation.clamp_low, operation.clamp_high, wide=wide)


def _with_bias_and_shortcut(context: _Context, operation: Aggregate, term: str, dtype: npt.DTypeLike) -> str:
    """The real total in the epilogue's type."""
    b, name, wide = context.builder, operation.output, dtype is np.float64
    total = term
    if operation.bias is not None:
        array = context.program.array(operation.bias)
        stored = b.initializer(array.name, array.values.astype(np.float32) * np.float32(2.0**-array.fraction))
        total = b.add("Add", f"{name}/with_bias", total, b.cast(stored, dtype) if wide else stored)
    if operation.shortcut is not None:
        value = context.values[operation.shortcut]
        total = b.add("Add", f"{name}/with_shortcut", total, b.cast(value, dtype) if wide else value)
    return total


def _emit_lookup(context: _Context, operation: Lookup) -> None:
    source, out = context.program.tensor(operation.input), context.program.tensor(operation.output)
    _require_float32(_where(operation), "codes", out.magnitude, out.fraction)
    table = context.program.array(operation.table)
    _state_format(context, out, _table_entries(context, out.name, context.values[source.name], source, table))


EMITTERS.add(Transform.__name__, _emit_transform)
EMITTERS.add(Score.__name__, _emit_score)
EMITTERS.add(Aggregate.__name__, _emit_aggregate)
EMITTERS.add(Lookup.__name__, _emit_lookup)
