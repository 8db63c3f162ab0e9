"""`model.int.onnx`: an integer program in standard ONNX operators, integers from the features' codes to the logits'.

One emitter a kind of operation. Tensors carry codes, each in the narrowest type that holds them. Between the
quantisation of `x` (in float64) and the final scale of the logits no operator is a float one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import EdgeScore
from lpgnas.errors import ExportError
from lpgnas.export import local_functions
from lpgnas.export.edge_scores import OnnxScores
from lpgnas.export.graph_builder import LOGITS, GraphBuilder, tensor_type, to_bytes
from lpgnas.export.input_words import kept_columns
from lpgnas.export.message_passing import EdgeSet, MessagePassing
from lpgnas.export.metadata import describe, file_metadata
from lpgnas.export.packed_weights import PackedWeight, store_weight
from lpgnas.export.rounding import round_codes
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    INT32_LIMIT,
    LEAKY_SLOPE_BITS,
    RECIPROCAL_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    IntegerProgram,
    Lookup,
    Operation,
    Part,
    Score,
    Tensor,
    Transform,
)
from lpgnas.operators import ATTENTIONS
from lpgnas.proofs import check_program, program_score_facts
from lpgnas.registry import Registry

_LARGEST_BYTE_PRODUCT = 255 * 255


@dataclass
class _Context:
    """What emitters share."""

    program: IntegerProgram
    builder: GraphBuilder
    graph: MessagePassing
    codes: dict[str, str] = field(default_factory=dict)
    """The value that holds the codes of each tensor of the program."""


Emitter = Callable[[_Context, Any], None]
EMITTERS: Registry[Emitter] = Registry("onnx_int emitter of operation")


def export_onnx_int(program: IntegerProgram) -> bytes:
    """The bytes of `model.int.onnx`: inputs `x`, `edge_index`, output `logits` (see the module's page).

    Equal programs give equal bytes. The session raises on an edge index out of range, and on a node with more
    incoming edges than `max_degree`.

    Raises:
        ProgramError: a proof of the program does not hold.
        ExportError: a program without aggregation.
        UnknownName: an operation without emitter.
    """
    check_program(program)
    builder = GraphBuilder()
    context = _Context(program, builder, MessagePassing(builder, program, local_functions=True))
    _quantize_input(context)
    for operation in program.operations:
        emit_operation(context, operation)
    _scale_logits(context)
    model = builder.model(
        "lpgnas_int",
        context.graph.inputs(),
        [context.graph.output(program.num_classes)],
        doc=describe(program, "integer arithmetic only between the quantisation of x and the scale of the logits"),
        metadata=file_metadata(program, "onnx_int"),
    )
    return to_bytes(model)


def emit_operation(context: _Context, operation: Operation) -> None:
    """Add the nodes of one operation.

    Raises:
        UnknownName: no emitter is registered for its kind.
    """
    EMITTERS.get(type(operation).__name__)(context, operation)


def storage_type(tensor: Tensor) -> type[np.integer[Any]]:
    """The narrowest NumPy type that holds a tensor's codes."""
    if tensor.bits > 16:
        return np.int32
    if tensor.bits > 8:
        return np.int16 if tensor.signed else np.uint16
    return np.int8 if tensor.signed else np.uint8


def _quantize_input(context: _Context) -> None:
    tensor = context.program.input
    b = context.builder
    value = b.cast(tensor.name, np.float64)
    codes = round_codes(b, tensor, value, context.program.rounding, tensor.low, tensor.high)
    context.codes[tensor.name] = b.cast(codes, storage_type(tensor))


def _scale_logits(context: _Context) -> None:
    b, logits = context.builder, context.program.logits
    decoded = b.cast(context.codes[logits.name], np.float32)
    b.add("Mul", LOGITS, decoded, b.constant(2.0**-logits.fraction, np.float32))


def _requantize(context: _Context, tensor: Tensor, total: str, shift: int, low: int, high: int) -> None:
    """Round an int64 `total` into `tensor`, saturated to [low, high]."""
    name, dtype = f"{tensor.name}/codes", storage_type(tensor)
    context.codes[tensor.name] = _shift_right(context, name, total, shift, low, high, dtype)


def _shift_right(
    context: _Context, name: str, total: str, shift: int, low: int, high: int, dtype: npt.DTypeLike
) -> str:
    """`requantize` of an int64 `total`, as `dtype`."""
    b = context.builder
    bounds = (b.constant(low, np.int64), b.constant(high, np.int64))
    if shift <= 0:
        clipped = b.add("Clip", f"{name}/clipped", _shift_left(context, f"{name}/shifted", total, -shift), *bounds)
        return b.add("Cast", name, clipped, to=tensor_type(dtype))
    function = local_functions.SHIFTS[context.program.rounding]
    return b.call(function, name, total, b.constant(1 << shift, np.int64), *bounds, to=tensor_type(dtype))


def _shift_left(context: _Context, name: str, value: str, shift: int) -> str:
    """`value << shift` in int64; `value` itself for a shift of 0."""
    b = context.builder
    return value if shift == 0 else b.add("Mul", name, value, b.constant(1 << shift, np.int64))


def _reciprocal(context: _Context, name: str, denominator: str, bits: int) -> str:
    b = context.builder
    return b.call(local_functions.RECIPROCAL, name, denominator, b.constant(1 << (bits + 1), np.int64))


def _degree_coefficient(context: _Context, edges: EdgeSet, kind: str) -> str:
    """`rsqrt15` or `recip15` of the in-degrees, int64 [N, 1]."""
    name = f"{edges.name}/{kind}"
    if name in context.builder:
        return name
    if kind == "recip15":
        return _reciprocal(context, name, edges.degree, COEFFICIENT_BITS)
    return context.builder.call(local_functions.INVERSE_SQRT, name, edges.degree)


def _row_factor(context: _Context, source: Tensor) -> str:
    """`row24` of the rows of the input codes, int64 [N, 1]."""
    b, name = context.builder, f"{source.name}/row24"
    if name in b:
        return name
    exact_type = np.int32 if source.columns * source.high < INT32_LIMIT else np.int64
    codes = b.cast(context.codes[source.name], exact_type)
    total = b.add("ReduceSum", f"{source.name}/row_sum", codes, b.constant([1], np.int64), keepdims=1)
    return _reciprocal(context, name, b.cast(total, np.int64) if exact_type is np.int32 else total, ROW_FACTOR_BITS)


def _signed_weight(context: _Context, name: str, weight: PackedWeight, dtype: npt.DTypeLike) -> str:
    """The codes of a weight in a signed type."""
    b = context.builder
    codes = b.cast(weight.tensor, dtype)
    return codes if weight.wide else b.add("Sub", f"{name}/codes", codes, b.constant(weight.zero_point, dtype))


def _matrix_product(context: _Context, name: str, part: Part, accumulator_bits: int) -> str:
    """`source @ weight.T` [N, out] of one input of a transform, in the proved width."""
    b, source = context.builder, part.source
    weight = store_weight(b, part.weight, transpose=True)
    codes = kept_columns(b, context.codes[source.name], part.index)
    # Sums of unsigned bytes before the zero points are taken out must fit as well.
    if source.bits <= 8 and not weight.wide and _LARGEST_BYTE_PRODUCT * part.weight.values.shape[1] < INT32_LIMIT:
        zero_points = (128 if source.signed else 0, weight.zero_point)
        points = [b.constant(point, np.uint8) for point in zero_points]
        unsigned = _as_unsigned(context, codes) if source.signed else codes
        return b.add("MatMulInteger", name, unsigned, weight.tensor, *points)
    dtype = np.int32 if accumulator_bits == 32 else np.int64
    return b.add("MatMul", name, b.cast(codes, dtype), _signed_weight(context, part.weight.name, weight, dtype))


def _as_unsigned(context: _Context, codes: str) -> str:
    """int8 codes plus 128 as uint8; see `packed_weights` for the reason."""
    b, name = context.builder, f"{codes}/plus_128"
    if name not in b:
        b.add("Add", name, b.cast(codes, np.int32), b.constant(128, np.int32))
    return b.cast(name, np.uint8)


def _within_proof(context: _Context, operation: Transform, accumulator: str) -> str:
    """`accumulator` clipped to its proved bound, which changes nothing.

    onnxruntime fuses `Mul(Cast(MatMulInteger), Mul(..))` into a float operator without looking at the type of the
    cast (and then refuses its own graph); a node between them keeps it from that. Coefficients end in such a `Mul`.
    """
    dtype = np.int32 if operation.accumulator_bits == 32 else np.int64
    limits = (context.builder.constant(sign * operation.accumulator_bound, dtype) for sign in (-1, 1))
    return context.builder.add("Clip", f"{accumulator}_within_proof", accumulator, *limits)


def _emit_transform(context: _Context, operation: Transform) -> None:
    b, program, name = context.builder, context.program, operation.output
    out, parts = program.tensor(name), program.parts(operation)
    total = ""
    for number, part in enumerate(parts):
        prefix = f"{name}/accumulator" if len(parts) == 1 else f"{name}/accumulator_of_{part.source.name}"
        added = _emit_part(context, operation, prefix, part)
        total = b.add("Add", f"{name}/sum_{number}", total, added) if number else added
    if operation.degree_factor:
        edges = context.graph.edges(self_loops=operation.self_loops)
        total = b.add("Mul", f"{name}/times_rsqrt15", total, _degree_coefficient(context, edges, "rsqrt15"))
    _requantize(context, out, total, operation.shift, out.low, out.high)


def _emit_part(context: _Context, operation: Transform, prefix: str, part: Part) -> str:
    """What one input adds to the int64 total, aligned."""
    b = context.builder
    accumulator = _matrix_product(context, prefix, part, operation.accumulator_bits)
    if part.row_factor or part.align or operation.degree_factor:
        accumulator = _within_proof(context, operation, accumulator)
    value = b.cast(accumulator, np.int64)
    if part.row_factor:
        value = b.add("Mul", f"{prefix}/times_row24", value, _row_factor(context, part.source))
    return _shift_left(context, f"{prefix}/aligned", value, part.align)


def _emit_score(context: _Context, operation: Score) -> None:
    columns = context.program.tensor(operation.input).columns
    messages = context.builder.cast(context.codes[operation.input], np.int32)
    for array_name, output in operation.products().values():
        stored = store_weight(context.builder, context.program.array(array_name), transpose=False)
        weight = _signed_weight(context, array_name, stored, np.int32)
        context.codes[output] = context.graph.head_scores(f"{output}/codes", messages, weight, operation.heads, columns)


class _Scores(OnnxScores):
    """`ScoreAlgebra` on integer codes, in int32 where the proof allows it."""

    def __init__(self, context: _Context, operation: Aggregate, score: EdgeScore, edges: EdgeSet) -> None:
        super().__init__(context.graph, context.builder, context.program, operation, score, edges, context.codes)
        facts = program_score_facts(context.program, operation, score)
        self._context = context
        self._dtype: npt.DTypeLike = np.int32 if facts.largest < INT32_LIMIT else np.int64

    def _typed(self, value: str) -> str:
        return self._builder.cast(value, self._dtype)

    def weight(self, name: str) -> str:
        array = self._array(name)
        stored = store_weight(self._builder, array, transpose=False)
        return _signed_weight(self._context, array.name, stored, self._dtype)

    def leaky(self, value: str) -> str:
        four = self._builder.constant(1 << LEAKY_SLOPE_BITS, self._dtype)
        steep = self._builder.add("Mul", self._name("raw_score_times_4"), value, four)
        return self._builder.add("Max", self._name("leaky_score"), steep, value)

    def look_up(self, value: str) -> str:
        operation, b, name = self._operation, self._builder, self._name("argument")
        low, high = operation.score_low, operation.score_high
        wide = b.cast(value, np.int64)
        codes = _shift_right(self._context, name, wide, operation.argument_shift, low, high, np.int64)
        array = self._program.array(str(operation.argument_table))
        table = b.initializer(array.name, array.values)
        index = b.add("Sub", f"{name}/table_index", codes, b.constant(low, np.int64))
        return self._typed(b.add("Gather", f"{name}/entry", table, index, axis=0))


def _probabilities(context: _Context, operation: Aggregate, rule: EdgeScore, edges: EdgeSet) -> str:
    """Codes `p_e` of the softmax over the edges into each node, int64 [E', heads]."""
    b, graph, name, heads = context.builder, context.graph, operation.output, operation.heads
    if operation.table is None:
        raise ExportError(f"{name}: attention {operation.attention} lacks its table")
    raw = b.cast(rule.formula(_Scores(context, operation, rule, edges)), np.int64)
    score = _shift_right(
        context, f"{name}/score", raw, operation.score_shift, operation.score_low, operation.score_high, np.int64
    )
    largest = graph.scatter(f"{name}/largest_score", score, edges, heads, "max", np.int64, operation.score_low)
    at_target = graph.gather(f"{name}/largest_at_target", largest, edges, side="target")
    distance = b.add("Sub", f"{name}/score_distance", at_target, score)
    table = context.program.array(operation.table)
    entries = np.append(table.values, 0).astype(np.uint8)  # the last entry stands for all distances beyond the table
    index = b.add("Min", f"{name}/table_index", distance, b.constant(len(entries) - 1, np.int64))
    looked_up = b.add("Gather", f"{name}/probability", b.initializer(table.name, entries), index, axis=0)
    return b.cast(looked_up, np.int64)


def _emit_aggregate(context: _Context, operation: Aggregate) -> None:
    b, graph, program, name = context.builder, context.graph, context.program, operation.output
    out, heads = program.tensor(name), operation.heads
    if not ATTENTIONS.get(operation.attention).neighbours:
        own = b.cast(graph.own(context.codes[operation.input]), np.int64)
        total = _with_bias_and_shortcut(context, operation, own)
        _requantize(context, out, total, operation.shift, operation.clamp_low, operation.clamp_high)
        return
    edges = graph.edges(self_loops=operation.self_loops)
    dtype: npt.DTypeLike = np.int32 if operation.accumulator_bits == 32 else np.int64
    terms = b.cast(graph.gather(f"{name}/message", context.codes[operation.input], edges), dtype)
    attention, probabilities = ATTENTIONS.get(operation.attention), None
    if attention.score is not None:
        probabilities = _probabilities(context, operation, attention.score, edges)
        narrowed = probabilities if dtype is np.int64 else b.cast(probabilities, dtype)
        terms = graph.per_head(f"{name}/weighted_message", terms, narrowed, heads, out.columns)
    if operation.aggregation == "max":
        lowest = int(np.iinfo(np.dtype(dtype)).min)
        term = graph.scatter_max_or_zero(f"{name}/max", terms, edges, out.columns, dtype, lowest)
    else:
        term = graph.scatter(f"{name}/sum", terms, edges, out.columns, "add", dtype)
    term = term if dtype is np.int64 else b.cast(term, np.int64)
    if probabilities is not None:
        denominator = graph.scatter(f"{name}/probability_sum", probabilities, edges, heads, "add", np.int64)
        factor = _reciprocal(context, f"{name}/recip26", denominator, RECIPROCAL_BITS)
        term = graph.per_head(f"{name}/normalized", term, factor, heads, out.columns)
    if attention.degree_factors:
        term = b.add("Mul", f"{name}/times_rsqrt15", term, _degree_coefficient(context, edges, "rsqrt15"))
    if operation.aggregation == "mean":
        term = b.add("Mul", f"{name}/times_recip15", term, _degree_coefficient(context, edges, "recip15"))
    total = _with_bias_and_shortcut(context, operation, term)
    _requantize(context, out, total, operation.shift, operation.clamp_low, operation.clamp_high)


def _with_bias_and_shortcut(context: _Context, operation: Aggregate, term: str) -> str:
    """The int64 total: every term aligned to the finest fraction."""
    b, name = context.builder, operation.output
    total = _shift_left(context, f"{name}/aligned", term, operation.term_shift)
    if operation.bias is not None:
        stored = b.initializer(operation.bias, context.program.array(operation.bias).values)
        bias = _shift_left(context, f"{name}/aligned_bias", b.cast(stored, np.int64), operation.bias_shift)
        total = b.add("Add", f"{name}/with_bias", total, bias)
    if operation.shortcut is not None:
        codes = b.cast(context.codes[operation.shortcut], np.int64)
        shortcut = _shift_left(context, f"{name}/aligned_shortcut", codes, operation.shortcut_shift)
        total = b.add("Add", f"{name}/with_shortcut", total, shortcut)
    return total


def _emit_lookup(context: _Context, operation: Lookup) -> None:
    b, source, out = context.builder, context.program.tensor(operation.input), context.program.tensor(operation.output)
    entries = context.program.array(operation.table).values.astype(storage_type(out))  # unsigned codes may fit int8
    table = b.initializer(operation.table, entries)
    codes = b.cast(context.codes[source.name], np.int64)
    index = b.add("Sub", f"{operation.output}/table_index", codes, b.constant(source.low, np.int64))
    context.codes[operation.output] = b.add("Gather", f"{operation.output}/codes", table, index, axis=0)


EMITTERS.add(Transform.__name__, _emit_transform)
EMITTERS.add(Score.__name__, _emit_score)
EMITTERS.add(Aggregate.__name__, _emit_aggregate)
EMITTERS.add(Lookup.__name__, _emit_lookup)
