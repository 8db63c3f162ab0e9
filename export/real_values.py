"""Emitters for dialects whose tensors are float32 values that a quantiser rounds and decodes again: QONNX and QDQ.

A tensor `t` of the program is a float32 tensor of codes x 2^-fraction. Products and sums run in float32 and are exact
while their proved bound stays within 2^24; a program beyond that is refused. Epilogues with wider totals, and roundings
that a dialect's quantiser does not have, run in float64; the quantiser behind them then only states the format.
A `Dialect` says how formats are written; which operation becomes which arithmetic is said here, once for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import EdgeScore
from lpgnas.errors import ExportError
from lpgnas.export.edge_scores import OnnxScores
from lpgnas.export.graph_builder import GraphBuilder
from lpgnas.export.message_passing import EdgeSet, MessagePassing
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
from lpgnas.proofs import program_score_facts
from lpgnas.registry import Registry

FLOAT32_LIMIT = 1 << 24
"""float32 holds every integer up to this one."""
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -126, 127


class Dialect(ABC):
    """How a file states formats. One instance writes one file."""

    roundings: frozenset[Rounding]
    """Modes of its quantiser; under the others, the quantiser sees rounded values only."""
    may_merge: bool
    """Whether a runtime may make one rounding of two quantisers in a row; then something has to stand between them."""

    @abstractmethod
    def quantized(self, context: RealContext, tensor: Tensor, value: str, limits: tuple[int, int] | None) -> str:
        """`value` (float32, any shape) rounded into the format of `tensor` and decoded again.

        Args:
            context: the graph in the making.
            tensor: the format, and the name that the nodes start with.
            value: the real value.
            limits: the smallest and the largest code, to which the value is saturated; None for a value that the
                format holds already.
        """

    @abstractmethod
    def weight(self, context: RealContext, array: Array, source: Tensor | None) -> str:
        """A weight in float32 behind what states its format; see `scaled`.

        Args:
            context: the graph in the making.
            array: the weight [out, in].
            source: the tensor that a MatMul multiplies it with, as [in, out]; None where it stays as it is.
        """

    @abstractmethod
    def columns_read(self, context: RealContext, part: Part) -> str:
        """The real values [N, columns that are read] of an input that a transform multiplies, float32."""

    def scaled(self, context: RealContext, name: str, product: str, array: Array) -> str:
        """The real value of a product with what `weight` made of `array`."""
        return product

    @abstractmethod
    def annotate(self, context: RealContext, value: str, tensor: Tensor) -> None:
        """State the format of a value beside the graph, if the dialect does."""


@dataclass
class RealContext:
    """What emitters share."""

    program: IntegerProgram
    builder: GraphBuilder
    graph: MessagePassing
    dialect: Dialect
    values: dict[str, str] = field(default_factory=dict)
    """The float32 value of each tensor of the program."""


Emitter = Callable[[RealContext, Any], None]


def emitters(what: str) -> Registry[Emitter]:
    """A registry, called `what`, of the emitters of this module by the kind of operation."""
    registry: Registry[Emitter] = Registry(what)
    registry.add(Transform.__name__, _emit_transform)
    registry.add(Score.__name__, _emit_score)
    registry.add(Aggregate.__name__, _emit_aggregate)
    registry.add(Lookup.__name__, _emit_lookup)
    return registry


def _require_float32(where: str, what: str, bound: int, fraction: int) -> None:
    """Refuse sums of codes up to `bound`, times 2^-fraction, that float32 does not hold exactly."""
    if bound > FLOAT32_LIMIT:
        raise ExportError(
            f"{where}: its {what} may reach {bound}, beyond 2^24, which float32 does not hold exactly; "
            f"use the target onnx-int, fewer bits or a smaller max_degree"
        )
    if -fraction < _SMALLEST_EXPONENT or bound.bit_length() - fraction > _LARGEST_EXPONENT:
        raise ExportError(
            f"{where}: its {what} have {fraction} binary places, beyond the range of float32; use the target onnx-int"
        )


def _quantize(context: RealContext, tensor: Tensor, value: str, low: int, high: int, *, wide: bool) -> None:
    """Round the real `value` into `tensor`, saturated to the codes [low, high].

    Args:
        context: the graph in the making.
        tensor: the tensor of the program.
        value: float64 if `wide`, else float32.
        low: smallest code.
        high: largest code.
        wide: round explicitly in float64; otherwise the dialect's quantiser rounds.
    """
    b, name = context.builder, tensor.name
    if wide:
        codes = round_codes(b, tensor, value, context.program.rounding, low, high)
        decoded = b.add("Mul", f"{name}/decoded", codes, b.constant(2.0**-tensor.fraction, np.float64))
        value = b.cast(decoded, np.float32)
    _state_format(context, tensor, value, None if wide else (low, high))


def _state_format(context: RealContext, tensor: Tensor, value: str, limits: tuple[int, int] | None = None) -> None:
    quantized = context.dialect.quantized(context, tensor, value, limits)
    context.dialect.annotate(context, quantized, tensor)
    context.values[tensor.name] = quantized


def _rounds_in_quantizer(context: RealContext, bound: int) -> bool:
    """Whether a float32 total up to `bound` codes is exact and the dialect's quantiser knows the rounding."""
    return bound <= FLOAT32_LIMIT and context.program.rounding in context.dialect.roundings


def quantize_input(context: RealContext) -> None:
    """Quantise the features.

    Raises:
        ExportError: codes that float32 does not hold.
    """
    tensor = context.program.input
    # Scaling by 2^f >= 1 is exact in float32 or saturates; a smaller scale could lose the sign of a denormal.
    wide = context.program.rounding not in context.dialect.roundings or tensor.fraction < 0
    value = context.builder.cast(tensor.name, np.float64) if wide else tensor.name
    _require_float32("the input", "values", max(-tensor.low, tensor.high), tensor.fraction)
    _quantize(context, tensor, value, tensor.low, tensor.high, wide=wide)


def _reciprocal(context: RealContext, name: str, denominator: str, bits: int, *, positive: bool = False) -> str:
    """`floor((2^(bits+1) + d) / (2 d))`, 0 for d = 0, of a float64 integer d, maybe known to be `positive`; float64.

    The quotient is never so close to an integer that the correctly rounded division could reach it.
    """
    b = context.builder
    divisor = denominator if positive else _at_least_one(b, name, denominator)
    raised = b.add("Add", f"{name}/raised", divisor, b.constant(2.0 ** (bits + 1), np.float64))
    doubled = b.add("Mul", f"{name}/doubled", divisor, b.constant(2, np.float64))
    quotient = b.add("Div", f"{name}/quotient", raised, doubled)
    return _floored(b, name, quotient, None if positive else denominator)


def _inverse_sqrt(context: RealContext, name: str, degree: str, *, positive: bool) -> str:
    """`floor((1 + sqrt(2^32 / d)) / 2)`, 0 for d = 0, of a float64 integer d, maybe known to be `positive`; float64."""
    b = context.builder
    divisor = degree if positive else _at_least_one(b, name, degree)
    ratio = b.add("Div", f"{name}/ratio", b.constant(2.0**32, np.float64), divisor)
    raised = b.add("Add", f"{name}/raised", b.add("Sqrt", f"{name}/sqrt", ratio), b.constant(1, np.float64))
    halved = b.add("Mul", f"{name}/halved", raised, b.constant(0.5, np.float64))
    return _floored(b, name, halved, None if positive else degree)


def _at_least_one(b: GraphBuilder, name: str, value: str) -> str:
    return b.add("Max", f"{name}/positive", value, b.constant(1, np.float64))


def _floored(b: GraphBuilder, name: str, value: str, zero_with: str | None) -> str:
    """`value` rounded down; 0 where the integers `zero_with` are."""
    if zero_with is None:
        return b.add("Floor", name, value)
    present = b.add("Min", f"{name}/present", zero_with, b.constant(1, np.float64))
    return b.add("Mul", name, b.add("Floor", f"{name}/floored", value), present)


def _degree_factor(context: RealContext, edges: EdgeSet, kind: str) -> str:
    """`rsqrt15` or `recip15` of the in-degrees as real float64 [N, 1]."""
    b, name = context.builder, f"{edges.name}/{kind}"
    if name in b:
        return name
    degree = b.cast(edges.degree, np.float64)
    if kind == "rsqrt15":
        code = _inverse_sqrt(context, f"{name}/code", degree, positive=edges.has_loops)
    else:
        code = _reciprocal(context, f"{name}/code", degree, COEFFICIENT_BITS, positive=edges.has_loops)
    return b.add("Mul", name, code, b.constant(2.0**-COEFFICIENT_BITS, np.float64))


def _row_factor(context: RealContext, source: Tensor) -> str:
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


def _emit_transform(context: RealContext, operation: Transform) -> None:
    b, program, name = context.builder, context.program, operation.output
    out, parts = program.tensor(name), program.parts(operation)
    _require_float32(_where(operation), "codes", out.magnitude, out.fraction)
    factors = operation.row_factor or operation.degree_factor
    wide = factors or not _rounds_in_quantizer(context, operation.total_bound)
    total = ""
    for number, part in enumerate(parts):
        prefix = f"{name}/accumulator" if len(parts) == 1 else f"{name}/accumulator_of_{part.source.name}"
        added = _emit_part(context, operation, prefix, part, wide=wide)
        total = b.add("Add", f"{name}/sum_{number}", total, added) if number else added
    if operation.degree_factor:
        edges = context.graph.edges(self_loops=operation.self_loops)
        total = b.add("Mul", f"{name}/times_rsqrt15", total, _degree_factor(context, edges, "rsqrt15"))
    _quantize(context, out, total, out.low, out.high, wide=wide)


def _emit_part(context: RealContext, operation: Transform, prefix: str, part: Part, *, wide: bool) -> str:
    """The real value that one input adds to the total, float64 if `wide`."""
    b, source, array = context.builder, part.source, part.weight
    _require_float32(_where(operation), "sums", operation.accumulator_bound, source.fraction + array.fraction)
    dialect = context.dialect
    product = b.add("MatMul", prefix, dialect.columns_read(context, part), dialect.weight(context, array, source))
    value = dialect.scaled(context, f"{prefix}/scaled", product, array)
    value = b.cast(value, np.float64) if wide else value
    if part.row_factor:
        value = b.add("Mul", f"{prefix}/times_row24", value, _row_factor(context, source))
    return value


def _emit_score(context: RealContext, operation: Score) -> None:
    source = context.program.tensor(operation.input)
    for array_name, output in operation.products().values():
        fraction = context.program.tensor(output).fraction
        _require_float32(_where(operation), "sums", operation.accumulator_bound, fraction)
        array = context.program.array(array_name)
        weight = context.dialect.weight(context, array, None)
        product = context.graph.head_scores(
            f"{output}/values", context.values[source.name], weight, operation.heads, source.columns
        )
        context.values[output] = context.dialect.scaled(context, f"{output}/scaled_values", product, array)


def _coded(context: RealContext, value: str, tensor: Tensor) -> str:
    """`value` (real, float32, any shape) rounded into the format of `tensor`, which is also its name; real, float32."""
    b, rounding, limits = context.builder, context.program.rounding, (tensor.low, tensor.high)
    if rounding in context.dialect.roundings:
        return context.dialect.quantized(context, tensor, value, limits)
    codes = round_codes(b, tensor, b.cast(value, np.float64), rounding, *limits)
    decoded = b.add("Mul", f"{tensor.name}/decoded", codes, b.constant(2.0**-tensor.fraction, np.float64))
    return context.dialect.quantized(context, tensor, b.cast(decoded, np.float32), None)


class _Scores(OnnxScores):
    """`ScoreAlgebra` on real values, whose codes float32 holds as proved."""

    def __init__(self, context: RealContext, operation: Aggregate, score: EdgeScore, edges: EdgeSet) -> None:
        super().__init__(context.graph, context.builder, context.program, operation, score, edges, context.values)
        self._context = context

    def weight(self, name: str) -> str:
        array = self._array(name)
        stored = self._context.dialect.weight(self._context, array, None)
        return self._context.dialect.scaled(self._context, f"{array.name}/scaled", stored, array)

    def leaky(self, value: str) -> str:
        return self._builder.add("LeakyRelu", self._name("leaky_score"), value, alpha=LEAKY_SLOPE)

    def look_up(self, value: str) -> str:
        operation = self._operation
        array = self._program.array(str(operation.argument_table))
        bits, fraction = operation.score_high.bit_length() + 1, operation.argument_fraction
        argument = Tensor(self._name("argument"), operation.heads, bits, fraction, True, operation.layer, None)
        codes = _coded(self._context, value, argument)
        return _table_entries(self._context, argument.name, codes, argument, array)


def _table_entries(context: RealContext, name: str, value: str, source: Tensor, array: Array) -> str:
    """The entries of a table at the real `value` in the format of `source`, real float32."""
    b = context.builder
    table = b.initializer(array.name, array.values.astype(np.float32) * np.float32(2.0**-array.fraction))
    codes = b.add("Mul", f"{name}/input_code", value, b.constant(2.0**source.fraction, np.float32))
    index = b.add("Sub", f"{name}/table_index", b.cast(codes, np.int64), b.constant(source.low, np.int64))
    return b.add("Gather", f"{name}/entry", table, index, axis=0)


def _edge_scores(context: RealContext, operation: Aggregate, rule: EdgeScore, edges: EdgeSet) -> tuple[str, Tensor]:
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


def _probabilities(context: RealContext, operation: Aggregate, rule: EdgeScore, edges: EdgeSet) -> str:
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


def _check_aggregate(context: RealContext, operation: Aggregate, message: Tensor, out: Tensor) -> None:
    where = _where(operation)
    _require_float32(where, "sums", operation.accumulator_bound, message.fraction)
    _require_float32(where, "codes", out.magnitude, out.fraction)
    if ATTENTIONS.get(operation.attention).learned:
        edges = context.program.max_degree + (1 if operation.self_loops else 0)
        _require_float32(where, "sums of probabilities", MAX_PROBABILITY * edges, 0)


def _emit_aggregate(context: RealContext, operation: Aggregate) -> None:
    b, graph, program, name = context.builder, context.graph, context.program, operation.output
    message, out, heads = program.tensor(operation.input), program.tensor(name), operation.heads
    _check_aggregate(context, operation, message, out)
    if not ATTENTIONS.get(operation.attention).neighbours:
        wide = not _rounds_in_quantizer(context, operation.total_bound)
        wide = wide or (context.dialect.may_merge and not _adds_something(context, operation))
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
    wide = factors or not _rounds_in_quantizer(context, operation.total_bound)
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


def _adds_something(context: RealContext, operation: Aggregate) -> bool:
    """Whether a bias or a shortcut stands before the rounding that no runtime can drop."""
    bias = operation.bias
    return operation.shortcut is not None or (bias is not None and bool(context.program.array(bias).values.any()))


def _with_bias_and_shortcut(context: RealContext, operation: Aggregate, term: str, dtype: npt.DTypeLike) -> str:
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


def _emit_lookup(context: RealContext, operation: Lookup) -> None:
    source, out = context.program.tensor(operation.input), context.program.tensor(operation.output)
    _require_float32(_where(operation), "codes", out.magnitude, out.fraction)
    table = context.program.array(operation.table)
    _state_format(context, out, _table_entries(context, out.name, context.values[source.name], source, table))
