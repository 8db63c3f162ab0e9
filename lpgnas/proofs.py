"""Proofs of an integer program: structure, accumulator widths and epilogue totals.

Every bound follows from the weights, the formats and `max_degree`. It is computed when a model is lowered and again
whenever a file is read, so that an executor can run unchecked.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from lpgnas.errors import ProgramError
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    INT32_LIMIT,
    LEAKY_SLOPE_BITS,
    MAX_DEGREE_LIMIT,
    MAX_FRACTION,
    MAX_PROBABILITY,
    MAX_SHIFT,
    MAX_TOTAL,
    RECIPROCAL_BITS,
    ROW_FACTOR_BITS,
    Aggregate,
    Array,
    Codes,
    IntegerProgram,
    Operation,
    Score,
    Tensor,
    Transform,
    accumulator_bits,
    writes,
)


def transform_bounds(
    weight: Codes, source: Tensor, *, row_factor: bool, degree_factor: bool, shift: int
) -> tuple[int, int]:
    """Largest |accumulator| and |epilogue total| of a transform with codes `weight` [out, in]."""
    magnitudes = np.abs(weight.astype(np.int64))
    accumulator = int(magnitudes.sum(axis=1).max()) * source.magnitude
    total = accumulator
    if row_factor:  # |acc| <= max|w| * t and row24(t) <= 2^24 / t + 1/2, t the row's sum of codes
        largest_sum = int(weight.shape[1]) * source.high
        total = int(magnitudes.max()) * ((1 << ROW_FACTOR_BITS) + (largest_sum + 1) // 2)
    if degree_factor:
        total <<= COEFFICIENT_BITS
    return accumulator, _shifted_total(total, shift)


def score_bound(source_weight: Codes, target_weight: Codes, message: Tensor) -> int:
    """Largest |u| or |v| of a score; weights [heads, w]."""
    rows = [int(np.abs(weight.astype(np.int64)).sum(axis=1).max()) for weight in (source_weight, target_weight)]
    return max(rows) * message.magnitude


def aggregate_bounds(
    operation: Aggregate, message: Tensor, shortcut: Tensor | None, bias: Codes | None, max_degree: int
) -> tuple[int, int]:
    """Largest |accumulator| and |epilogue total| of an aggregation for in-degrees up to `max_degree`."""
    edges = max_degree + (1 if operation.self_loops else 0)
    learned = operation.attention == "gat"
    weighted = message.magnitude * (MAX_PROBABILITY if learned else 1)
    accumulator = weighted if operation.aggregation == "max" else weighted * edges
    term = accumulator
    if learned:  # |sum p m| <= P max|m| and R <= 2^26 / P + 1/2
        term = message.magnitude * ((1 << RECIPROCAL_BITS) + (MAX_PROBABILITY * edges + 1) // 2)
        if operation.aggregation == "mean":
            term <<= COEFFICIENT_BITS
    elif operation.attention == "gcn":  # d * rsqrt15(d) <= 2^15 sqrt(d) + d / 2
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
    source = _known(where, operation.input, known)
    if isinstance(operation, Transform):
        _check_transform(where, program, operation, source)
    elif isinstance(operation, Score):
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


def _check_transform(where: str, program: IntegerProgram, operation: Transform, source: Tensor) -> None:
    weight, out = program.array(operation.weight).values, program.tensor(operation.output)
    if weight.shape != (out.columns, source.columns):
        raise ProgramError(f"{where}: weight has shape {weight.shape}, expected ({out.columns}, {source.columns})")
    if operation.row_factor != (program.row_normalize and source.name == program.input.name):
        raise ProgramError(f"{where}: row_factor is {operation.row_factor}, which row_normalize contradicts")
    if source.bits > 16 or out.bits > 16:
        raise ProgramError(f"{where}: its tensors have more than 16 bits")
    places = program.array(operation.weight).fraction + (ROW_FACTOR_BITS if operation.row_factor else source.fraction)
    places += COEFFICIENT_BITS if operation.degree_factor else 0
    _check_scale(where, "shift", operation.shift, places - out.fraction)
    bounds = transform_bounds(
        weight,
        source,
        row_factor=operation.row_factor,
        degree_factor=operation.degree_factor,
        shift=_checked_shift(where, operation.shift),
    )
    _check_bounds(where, operation.accumulator_bits, operation.accumulator_bound, operation.total_bound, bounds)


def _check_scale(where: str, what: str, stated: int, follows: int) -> None:
    """Shifts are data of their own: a wrong one would give wrong values that only look like a saturated model."""
    if stated != follows:
        raise ProgramError(f"{where}: the {what} is {stated}, but the fractions of its tensors make it {follows}")


def _check_score(where: str, program: IntegerProgram, operation: Score, source: Tensor) -> None:
    weights = [program.array(name).values for name in (operation.source_weight, operation.target_weight)]
    outputs = [program.tensor(name) for name in (operation.source_output, operation.target_output)]
    heads = operation.heads
    if heads < 1 or source.columns % heads:
        raise ProgramError(f"{where}: {source.columns} columns do not divide into {heads} heads")
    if any(weight.shape != (heads, source.columns // heads) for weight in weights):
        raise ProgramError(f"{where}: attention weights must have shape ({heads}, {source.columns // heads})")
    if any(out.columns != heads or out.bits != 32 or not out.signed for out in outputs):
        raise ProgramError(f"{where}: its outputs must be {heads} signed 32-bit columns")
    if source.bits > 16:
        raise ProgramError(f"{where}: its input {source.name!r} has more than 16 bits")
    bound = score_bound(weights[0], weights[1], source)
    if bound != operation.accumulator_bound or 8 * bound >= INT32_LIMIT:
        raise ProgramError(f"{where}: proved |accumulator| is {bound}, stated {operation.accumulator_bound}")


def _check_aggregate(where: str, program: IntegerProgram, operation: Aggregate, known: dict[str, Tensor]) -> None:
    source, out = known[operation.input], program.tensor(operation.output)
    if source.columns != out.columns or source.bits > 16 or out.bits > 16:
        raise ProgramError(f"{where}: input and output differ in columns, or have more than 16 bits")
    if operation.attention not in ("const", "gcn", "gat") or operation.aggregation not in ("sum", "mean", "max"):
        raise ProgramError(f"{where}: unknown operator {operation.attention}/{operation.aggregation}")
    if operation.attention == "gcn" and operation.aggregation != "sum":
        raise ProgramError(f"{where}: gcn goes with sum, not {operation.aggregation}")
    if not out.low <= operation.clamp_low <= operation.clamp_high <= out.high:
        raise ProgramError(f"{where}: the clamp [{operation.clamp_low}, {operation.clamp_high}] leaves its format")
    for shift in (operation.term_shift, operation.bias_shift, operation.shortcut_shift):
        if not 0 <= shift <= MAX_SHIFT:
            raise ProgramError(f"{where}: an alignment shift of {shift} is not in 0 to {MAX_SHIFT}")
    _checked_shift(where, operation.shift)
    _check_softmax(where, program, operation, known)
    bias = None if operation.bias is None else program.array(operation.bias).values
    if bias is not None and bias.shape != (out.columns,):
        raise ProgramError(f"{where}: the bias has shape {bias.shape}, expected ({out.columns},)")
    shortcut = None if operation.shortcut is None else _known(where, operation.shortcut, known)
    if shortcut is not None and (shortcut.columns != out.columns or shortcut.bits > 16):
        raise ProgramError(f"{where}: the shortcut {shortcut.name!r} has {shortcut.columns} columns, not {out.columns}")
    _check_alignment(where, program, operation, shortcut)
    bounds = aggregate_bounds(operation, source, shortcut, bias, program.max_degree)
    _check_bounds(where, operation.accumulator_bits, operation.accumulator_bound, operation.total_bound, bounds)


def _check_alignment(where: str, program: IntegerProgram, operation: Aggregate, shortcut: Tensor | None) -> None:
    """Every term of the total must have the same number of binary places."""
    term = program.tensor(operation.input).fraction
    term += RECIPROCAL_BITS if operation.attention == "gat" else 0
    term += COEFFICIENT_BITS if operation.attention == "gcn" or operation.aggregation == "mean" else 0
    places = operation.shift + program.tensor(operation.output).fraction
    _check_scale(where, "term shift", operation.term_shift, places - term)
    if operation.bias is not None:
        _check_scale(where, "bias shift", operation.bias_shift, places - program.array(operation.bias).fraction)
    if shortcut is not None:
        _check_scale(where, "shortcut shift", operation.shortcut_shift, places - shortcut.fraction)
    if operation.source_scores is not None and operation.table is not None:
        entries = int(program.array(operation.table).values.size)
        fraction = (entries // 8).bit_length() - 1
        if entries != 8 << max(fraction, 0):
            raise ProgramError(f"{where}: a softmax table has 8, 16, 32, 64 or 128 entries, not {entries}")
        scores = program.tensor(operation.source_scores).fraction + LEAKY_SLOPE_BITS
        _check_scale(where, "score shift", operation.score_shift, scores - fraction)


def _check_softmax(where: str, program: IntegerProgram, operation: Aggregate, known: dict[str, Tensor]) -> None:
    if operation.attention != "gat":
        if (operation.table, operation.source_scores, operation.target_scores, operation.heads) != (
            None,
            None,
            None,
            1,
        ):
            raise ProgramError(f"{where}: attention {operation.attention} has no scores and one head")
        return
    if operation.table is None or operation.source_scores is None or operation.target_scores is None:
        raise ProgramError(f"{where}: gat lacks its scores or its table")
    if operation.heads < 1 or program.tensor(operation.output).columns % operation.heads:
        raise ProgramError(f"{where}: the width does not divide into {operation.heads} heads")
    for name in (operation.source_scores, operation.target_scores):
        if _known(where, name, known).columns != operation.heads:
            raise ProgramError(f"{where}: scores {name!r} must have {operation.heads} columns")
    table = program.array(operation.table)
    if table.values.ndim != 1 or table.low < 0 or table.high > MAX_PROBABILITY or table.values[0] != MAX_PROBABILITY:
        raise ProgramError(f"{where}: the softmax table must hold codes 0 to {MAX_PROBABILITY} and start with the last")
    if not -128 <= operation.score_low < operation.score_high <= 127:
        raise ProgramError(f"{where}: scores in [{operation.score_low}, {operation.score_high}] are not 8-bit codes")
    # |4 (u + v)| stays below 2^31, so this bounds what the rounding of a score adds up or shifts left.
    score_total = _shifted_total(INT32_LIMIT, _checked_shift(where, operation.score_shift))
    if score_total >= MAX_TOTAL:
        raise ProgramError(f"{where}: a score shift of {operation.score_shift} may pass 2^53; use a finer message")


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
