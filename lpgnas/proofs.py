"""Proofs of an integer program: structure, accumulator widths and epilogue totals.

Every bound follows from the weights, the formats and `max_degree`. It is computed when a model is lowered and again
whenever a file is read, so that an executor can run unchecked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isqrt

import numpy as np

from lpgnas.attentions.bounds import Operand, ScoreFacts, score_facts
from lpgnas.attentions.score import Attention, EdgeScore
from lpgnas.errors import ProgramError
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    INT32_LIMIT,
    MAX_DEGREE_LIMIT,
    MAX_FRACTION,
    MAX_PROBABILITY,
    MAX_SCORE_FRACTION,
    MAX_SHIFT,
    MAX_TOTAL,
    RECIPROCAL_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    Array,
    Codes,
    IntegerProgram,
    Operation,
    Part,
    Score,
    Tensor,
    Transform,
    accumulator_bits,
    columns_read,
    writes,
)
from lpgnas.operators import AGGREGATIONS, ATTENTIONS


def transform_bounds(parts: Sequence[Part], *, degree_factor: bool, shift: int) -> tuple[int, int]:
    """Largest |accumulator| of a part and largest |epilogue total| of a transform with these parts."""
    bounds = [_part_bounds(part) for part in parts]
    total = sum(scaled << part.align for part, (_, scaled) in zip(parts, bounds, strict=True))
    if degree_factor:
        total <<= COEFFICIENT_BITS
    return max(accumulator for accumulator, _ in bounds), _shifted_total(total, shift)


def _part_bounds(part: Part) -> tuple[int, int]:
    """Largest |sum of products| of a part, and the largest with its row factor."""
    magnitudes = np.abs(part.weight.values.astype(np.int64))
    accumulator = int(magnitudes.sum(axis=1).max()) * part.source.magnitude
    if not part.row_factor:
        return accumulator, accumulator
    # |acc| <= max|w| * s and row24(t) <= 2^24 / t + 1/2, t the row's sum of codes and s <= t that of the columns read
    largest_sum = magnitudes.shape[1] * part.source.high
    return accumulator, int(magnitudes.max()) * ((1 << ROW_FACTOR_BITS) + (largest_sum + 1) // 2)


def part_places(part: Part) -> int:
    """Binary places of what a part adds to the accumulator, before its alignment."""
    return part.weight.fraction + (ROW_FACTOR_BITS if part.row_factor else part.source.fraction)


def score_bound(weights: Iterable[Codes], message: Tensor) -> int:
    """Largest |product| that a score stores by node; weights [heads, w]."""
    rows = [int(np.abs(weight.astype(np.int64)).sum(axis=1).max()) for weight in weights]
    return max(rows) * message.magnitude


def edge_score_facts(
    score: EdgeScore,
    heads: int,
    message: Tensor,
    nodes: Mapping[str, Operand],
    weights: Sequence[Array],
    table: Array | None,
) -> ScoreFacts:
    """What is proved of an attention's formula.

    Args:
        score: the attention's.
        heads: number of heads.
        message: the messages.
        nodes: bound and binary places of the products stored by node, by side.
        weights: the edge weights in their order.
        table: the score's table, None for none.

    Raises:
        ProgramError: the weights' fractions do not let the terms of the formula be added.
    """
    return score_facts(
        score,
        heads,
        message.columns // heads,
        message=Operand(message.magnitude, message.fraction),
        nodes=nodes,
        weights={
            name: Operand(np.abs(array.values.astype(np.int64)).astype(object), array.fraction)
            for name, array in zip(score.edge_weights, weights, strict=True)
        },
        entry=None if table is None else Operand(max(-table.low, table.high), table.fraction),
    )


def program_score_facts(program: IntegerProgram, operation: Aggregate, score: EdgeScore) -> ScoreFacts:
    """`edge_score_facts` of an aggregation of a program.

    Raises:
        ProgramError: a node score that no operation computes, or as `edge_score_facts`.
    """
    bounds = {
        out: one.accumulator_bound
        for one in program.operations
        if isinstance(one, Score)
        for _, out in one.products().values()
    }
    nodes = {}
    for side, name in operation.node_scores().items():
        if name not in bounds:
            raise ProgramError(f"layer {operation.layer} aggregate: {name!r} must have been computed as a score")
        nodes[side] = Operand(bounds[name], program.tensor(name).fraction)
    weights = [program.array(name) for name in operation.edge_weights]
    table = None if operation.argument_table is None else program.array(operation.argument_table)
    return edge_score_facts(score, operation.heads, program.tensor(operation.input), nodes, weights, table)


def term_places(message: Tensor, attention: Attention, aggregation: str) -> int:
    """Binary places of the aggregated messages times the target side's coefficients."""
    places = message.fraction + (RECIPROCAL_BITS if attention.learned else 0)
    return places + (COEFFICIENT_BITS if attention.degree_factors or aggregation == "mean" else 0)


def aggregate_bounds(
    operation: Aggregate, message: Tensor, shortcut: Tensor | None, bias: Codes | None, max_degree: int
) -> tuple[int, int]:
    """Largest |accumulator| and |epilogue total| of an aggregation for in-degrees up to `max_degree`."""
    attention = ATTENTIONS.get(operation.attention)
    edges = max_degree + (1 if operation.self_loops else 0) if attention.neighbours else 1
    weighted = message.magnitude * (MAX_PROBABILITY if attention.learned else 1)
    accumulator = weighted if operation.aggregation == "max" else weighted * edges
    term = accumulator
    if attention.learned:  # |sum p m| <= P max|m| and R <= 2^26 / P + 1/2
        term = message.magnitude * ((1 << RECIPROCAL_BITS) + (MAX_PROBABILITY * edges + 1) // 2)
        if operation.aggregation == "mean":
            term <<= COEFFICIENT_BITS
    elif attention.degree_factors:  # d * rsqrt15(d) <= 2^15 sqrt(d) + d / 2
        term = message.magnitude * (isqrt((1 << 30) * edges) + 1 + edges)
    elif operation.aggregation == "mean":
        term = message.magnitude * ((1 << COEFFICIENT_BITS) + edges)
    total = term << operation.term_shift
    if bias is not None:
        total += int(np.abs(bias.astype(np.int64)).max()) << operation.bias_shift
    if shortcut is not None:
        total += shortcut.magnitude << operation.shortcut_shift
    return accumulator, _shifted_total(total, operation.shift)


def _shifted_total(total: int, shift: int) -> int:
    """The total with the addend of the rounding, or after a left shift."""
    return total << -shift if shift < 0 else total + (1 << shift >> 1)


def check_program(program: IntegerProgram) -> None:
    """Check a program's structure and recompute every proof.

    Raises:
        ProgramError: a name, shape, code, shift or bound that does not hold; the message names it.
    """
    _check_header(program)
    known = {program.input.name: program.input}
    for operation in program.operations:
        where = f"layer {operation.layer} {type(operation).__name__.lower()}"
        for name in writes(operation):
            if name in known:
                raise ProgramError(f"{where}: tensor {name!r} is written twice")
        _check_operation(where, program, operation, known)
        for name in writes(operation):
            known[name] = program.tensor(name)
    computed = program.output in known and program.output != program.input.name
    if not computed or program.logits.columns != program.num_classes:
        raise ProgramError(f"the output {program.output!r} is not a computed tensor of {program.num_classes} columns")
    if program.logits.bits > 16:
        raise ProgramError(f"the output {program.output!r} has {program.logits.bits} bits, more than 16")
    unused = {tensor.name for tensor in program.tensors} - set(known)
    if unused:
        raise ProgramError(f"tensors that no operation computes: {', '.join(sorted(unused))}")


def _check_header(program: IntegerProgram) -> None:
    if not 0 <= program.max_degree <= MAX_DEGREE_LIMIT:
        raise ProgramError(f"max_degree {program.max_degree} is not in 0 to {MAX_DEGREE_LIMIT}")
    source = program.input
    if source.name != "x" or source.columns != program.num_features:
        raise ProgramError(f"the input is {source.name!r} [{source.columns}], expected 'x' [{program.num_features}]")
    if program.row_normalize and source.signed:
        raise ProgramError("row_normalize needs an unsigned input")
    for what, names in (
        ("tensor", [tensor.name for tensor in (source, *program.tensors)]),
        ("array", [array.name for array in program.arrays]),
    ):
        if len(set(names)) != len(names):
            raise ProgramError(f"two {what}s share a name: {', '.join(names)}")
    for tensor in (source, *program.tensors):
        least = 2 if tensor.signed else 1
        if tensor.columns < 1 or not least <= tensor.bits <= 32 or abs(tensor.fraction) > MAX_FRACTION:
            raise ProgramError(f"tensor {tensor.name!r} has an impossible shape or format: {tensor}")
    if source.bits > 16:
        raise ProgramError(f"the input has {source.bits} bits, more than 16")
    for array in program.arrays:
        _check_array(array)
    _check_index(program)


def _check_index(program: IntegerProgram) -> None:
    indices = [array for array in program.arrays if array.role == "index"]
    if len(indices) > 1:
        raise ProgramError(f"two indices of kept words: {', '.join(array.name for array in indices)}; one serves all")
    for index in indices:
        words, kept = program.num_features, int(np.count_nonzero(index.values))
        if (index.kind, index.bits, index.signed) != ("fixed", 1, False) or index.values.shape != (words,):
            raise ProgramError(
                f"index {index.name!r} must have one unsigned bit for each of {words} words, "
                f"not {index.bits} of shape {index.values.shape}"
            )
        if not 1 <= kept < words:
            raise ProgramError(f"index {index.name!r} keeps {kept} of {words} words; where all are kept, leave it out")


def _check_array(array: Array) -> None:
    stored = {"binary": 1, "ternary": 2}.get(array.kind, array.bits)
    least = 2 if array.kind == "fixed" and array.signed else 1
    if array.bits != stored or not least <= array.bits <= 16:
        raise ProgramError(f"array {array.name!r} is {array.kind} but has {array.bits} bits")
    if abs(array.fraction) > MAX_FRACTION:
        raise ProgramError(f"array {array.name!r} has a fraction of {array.fraction}, beyond ±{MAX_FRACTION}")
    values = array.values.astype(np.int64)
    if not values.size:
        raise ProgramError(f"array {array.name!r} is empty")
    if int(values.min()) < array.low or int(values.max()) > array.high:
        raise ProgramError(f"array {array.name!r} holds codes outside [{array.low}, {array.high}] of its format")
    if array.kind == "binary" and bool((values == 0).any()):
        raise ProgramError(f"array {array.name!r} is binary but holds a 0")


def _check_operation(where: str, program: IntegerProgram, operation: Operation, known: dict[str, Tensor]) -> None:
    if isinstance(operation, Transform):
        _check_transform(where, program, operation, known)
        return
    source = _known(where, operation.input, known)
    if isinstance(operation, Score):
        _check_score(where, program, operation, source)
    elif isinstance(operation, Aggregate):
        _check_aggregate(where, program, operation, known)
    else:
        table = program.array(operation.table)
        out = program.tensor(operation.output)
        if source.bits > 8 or table.values.shape != (1 << source.bits,) or out.columns != source.columns:
            raise ProgramError(f"{where}: table {table.name!r} does not have one entry a code of {source.name!r}")
        if out.bits > 16:
            raise ProgramError(f"{where}: its output {out.name!r} has more than 16 bits")
        if table.low < out.low or table.high > out.high:
            raise ProgramError(f"{where}: table {table.name!r} holds codes that {out.name!r} cannot")


def _known(where: str, name: str, known: dict[str, Tensor]) -> Tensor:
    if name not in known:
        raise ProgramError(f"{where} reads {name!r} before any operation computes it")
    return known[name]


def _check_transform(where: str, program: IntegerProgram, operation: Transform, known: dict[str, Tensor]) -> None:
    names, out = operation.inputs, program.tensor(operation.output)
    sources = [_known(where, name, known) for name in names]
    if not names or len(set(names)) != len(names) or len(operation.aligns) != len(names):
        raise ProgramError(f"{where}: it must have different inputs, each with an alignment, not {names}")
    weight, index = program.array(operation.weight).values, program.index
    columns = sum(columns_read(source, index) for source in sources)
    if weight.shape != (out.columns, columns):
        of_words = "" if index is None else f"; the index keeps {int(index.values.sum())} of {len(index.values)} words"
        raise ProgramError(f"{where}: weight has shape {weight.shape}, expected ({out.columns}, {columns}){of_words}")
    if operation.row_factor != (program.row_normalize and program.input.name in names):
        raise ProgramError(f"{where}: row_factor is {operation.row_factor}, which row_normalize contradicts")
    if max(source.bits for source in sources) > 16 or out.bits > 16:
        raise ProgramError(f"{where}: its tensors have more than 16 bits")
    parts = program.parts(operation)
    places = max(part_places(part) for part in parts)
    for part in parts:
        if not 0 <= part.align <= MAX_SHIFT:
            raise ProgramError(f"{where}: an alignment shift of {part.align} is not in 0 to {MAX_SHIFT}")
        _check_scale(where, f"alignment of {part.source.name!r}", part.align, places - part_places(part))
    places += COEFFICIENT_BITS if operation.degree_factor else 0
    _check_scale(where, "shift", operation.shift, places - out.fraction)
    shift = _checked_shift(where, operation.shift)
    bounds = transform_bounds(parts, degree_factor=operation.degree_factor, shift=shift)
    _check_bounds(where, operation.accumulator_bits, operation.accumulator_bound, operation.total_bound, bounds)


def _check_scale(where: str, what: str, stated: int, follows: int) -> None:
    """Shifts are data of their own: a wrong one would give wrong values that only look like a saturated model."""
    if stated != follows:
        raise ProgramError(f"{where}: the {what} is {stated}, but the fractions of its tensors make it {follows}")


def _check_score(where: str, program: IntegerProgram, operation: Score, source: Tensor) -> None:
    products, heads = operation.products().values(), operation.heads
    if not products:
        raise ProgramError(f"{where}: it has neither a source nor a target")
    weights = [program.array(name).values for name, _ in products]
    outputs = [program.tensor(name) for _, name in products]
    if heads < 1 or source.columns % heads:
        raise ProgramError(f"{where}: {source.columns} columns do not divide into {heads} heads")
    if any(weight.shape != (heads, source.columns // heads) for weight in weights):
        raise ProgramError(f"{where}: attention weights must have shape ({heads}, {source.columns // heads})")
    if any(out.columns != heads or out.bits != 32 or not out.signed for out in outputs):
        raise ProgramError(f"{where}: its outputs must be {heads} signed 32-bit columns")
    if source.bits > 16:
        raise ProgramError(f"{where}: its input {source.name!r} has more than 16 bits")
    bound = score_bound(weights, source)
    if bound != operation.accumulator_bound or bound >= INT32_LIMIT:
        raise ProgramError(f"{where}: proved |accumulator| is {bound}, stated {operation.accumulator_bound}")
    for (name, _), out in zip(products, outputs, strict=True):
        _check_scale(where, "fraction", out.fraction, source.fraction + program.array(name).fraction)


def _check_aggregate(where: str, program: IntegerProgram, operation: Aggregate, known: dict[str, Tensor]) -> None:
    source, out = known[operation.input], program.tensor(operation.output)
    if source.columns != out.columns or source.bits > 16 or out.bits > 16:
        raise ProgramError(f"{where}: input and output differ in columns, or have more than 16 bits")
    attention = _checked_attention(where, operation)
    if not out.low <= operation.clamp_low <= operation.clamp_high <= out.high:
        raise ProgramError(f"{where}: the clamp [{operation.clamp_low}, {operation.clamp_high}] leaves its format")
    for shift in (operation.term_shift, operation.bias_shift, operation.shortcut_shift):
        if not 0 <= shift <= MAX_SHIFT:
            raise ProgramError(f"{where}: an alignment shift of {shift} is not in 0 to {MAX_SHIFT}")
    _checked_shift(where, operation.shift)
    if attention.score is None:
        _check_unscored(where, operation)
    else:
        _check_scored(where, program, operation, attention.score, known)
    bias = None if operation.bias is None else program.array(operation.bias).values
    if bias is not None and bias.shape != (out.columns,):
        raise ProgramError(f"{where}: the bias has shape {bias.shape}, expected ({out.columns},)")
    shortcut = None if operation.shortcut is None else _known(where, operation.shortcut, known)
    if shortcut is not None and (shortcut.columns != out.columns or shortcut.bits > 16):
        raise ProgramError(f"{where}: the shortcut {shortcut.name!r} has {shortcut.columns} columns, not {out.columns}")
    _check_alignment(where, program, operation, shortcut)
    bounds = aggregate_bounds(operation, source, shortcut, bias, program.max_degree)
    _check_bounds(where, operation.accumulator_bits, operation.accumulator_bound, operation.total_bound, bounds)


def _checked_attention(where: str, operation: Aggregate) -> Attention:
    """The attention, if it goes with the operation's aggregation and loops."""
    if operation.attention not in ATTENTIONS or operation.aggregation not in AGGREGATIONS:
        raise ProgramError(f"{where}: unknown operator {operation.attention}/{operation.aggregation}")
    attention = ATTENTIONS.get(operation.attention)
    if operation.aggregation not in attention.aggregations:
        allowed = ", ".join(sorted(attention.aggregations))
        raise ProgramError(f"{where}: {attention.name} goes with {allowed}, not {operation.aggregation}")
    if not attention.neighbours and not operation.self_loops:
        raise ProgramError(f"{where}: {attention.name} reads a node's own message alone, but its loops are off")
    return attention


def _check_alignment(where: str, program: IntegerProgram, operation: Aggregate, shortcut: Tensor | None) -> None:
    """Every term of the total must have the same number of binary places."""
    term = term_places(program.tensor(operation.input), ATTENTIONS.get(operation.attention), operation.aggregation)
    places = operation.shift + program.tensor(operation.output).fraction
    _check_scale(where, "term shift", operation.term_shift, places - term)
    if operation.bias is not None:
        _check_scale(where, "bias shift", operation.bias_shift, places - program.array(operation.bias).fraction)
    if shortcut is not None:
        _check_scale(where, "shortcut shift", operation.shortcut_shift, places - shortcut.fraction)


def _check_unscored(where: str, operation: Aggregate) -> None:
    tables = (operation.table, operation.argument_table)
    if any(tables) or operation.node_scores() or operation.edge_weights or operation.heads != 1:
        raise ProgramError(f"{where}: attention {operation.attention} has no scores and one head")


def _check_scored(
    where: str, program: IntegerProgram, operation: Aggregate, score: EdgeScore, known: dict[str, Tensor]
) -> None:
    """That an edge score has its parts, and that no step of its formula leaves its proof."""
    parts = (set(operation.node_scores()), len(operation.edge_weights), operation.argument_table is None)
    if operation.table is None or parts != (set(score.node_weights), len(score.edge_weights), score.table is None):
        raise ProgramError(f"{where}: {operation.attention} lacks its scores, its weights or a table")
    _check_score_parts(where, program, operation, known)
    fraction = _softmax_fraction(where, program.array(operation.table))
    facts = program_score_facts(program, operation, score)
    for what, bound, shift, places in (
        ("score", facts.raw, operation.score_shift, facts.places - fraction),
        ("argument", facts.argument, operation.argument_shift, facts.argument_places - operation.argument_fraction),
    ):
        if max(facts.largest, _shifted_total(bound, _checked_shift(where, shift))) >= MAX_TOTAL:
            raise ProgramError(f"{where}: the {what} shift {shift} may pass 2^53; use a finer message")
        _check_scale(where, f"{what} shift", shift, places)


def _check_score_parts(where: str, program: IntegerProgram, operation: Aggregate, known: dict[str, Tensor]) -> None:
    """Shapes and formats of what a score's formula reads."""
    heads, columns = operation.heads, known[operation.input].columns
    if heads < 1 or columns % heads:
        raise ProgramError(f"{where}: the width does not divide into {heads} heads")
    _check_score_shapes(where, program, operation, columns // heads, known)
    if not -128 <= operation.score_low < operation.score_high <= 127:
        raise ProgramError(f"{where}: scores in [{operation.score_low}, {operation.score_high}] are not 8-bit codes")
    if operation.argument_table is not None:
        entries = program.array(operation.argument_table)
        codes = operation.score_high - operation.score_low + 1
        if entries.values.shape != (codes,) or entries.bits > 8 or not entries.signed:
            raise ProgramError(f"{where}: table {entries.name!r} does not have one signed entry a code of the score")


def _check_score_shapes(
    where: str, program: IntegerProgram, operation: Aggregate, width: int, known: dict[str, Tensor]
) -> None:
    for name in operation.node_scores().values():
        if _known(where, name, known).columns != operation.heads:
            raise ProgramError(f"{where}: scores {name!r} must have {operation.heads} columns")
    for name in operation.edge_weights:
        if program.array(name).values.shape != (operation.heads, width):
            raise ProgramError(f"{where}: the edge weight {name!r} must have shape ({operation.heads}, {width})")


def _softmax_fraction(where: str, table: Array) -> int:
    """Binary places of the scores, which the number of entries tells."""
    if table.values.ndim != 1 or table.low < 0 or table.high > MAX_PROBABILITY or table.values[0] != MAX_PROBABILITY:
        raise ProgramError(f"{where}: the softmax table must hold codes 0 to {MAX_PROBABILITY} and start with the last")
    entries = int(table.values.size)
    fraction = max((entries // 8).bit_length() - 1, 0)
    if entries != 8 << fraction or fraction > MAX_SCORE_FRACTION:
        raise ProgramError(f"{where}: a softmax table has 8, 16, 32, 64 or 128 entries, not {entries}")
    return fraction


def _checked_shift(where: str, shift: int) -> int:
    if not -MAX_SHIFT <= shift <= MAX_SHIFT:
        raise ProgramError(f"{where}: a shift of {shift} is not in -{MAX_SHIFT} to {MAX_SHIFT}")
    return shift


def _check_bounds(where: str, bits: int, accumulator: int, total: int, proved: tuple[int, int]) -> None:
    if (accumulator, total) != proved:
        raise ProgramError(f"{where}: stated bounds ({accumulator}, {total}) are not the proved ones {proved}")
    if bits != accumulator_bits(accumulator):
        raise ProgramError(f"{where}: {bits}-bit accumulators, but the bound {accumulator} needs another width")
    if max(accumulator, total) >= MAX_TOTAL:
        largest = max(accumulator, total)
        raise ProgramError(
            f"{where}: the epilogue may reach {largest}, beyond 2^53; use fewer bits or a smaller max_degree"
        )
