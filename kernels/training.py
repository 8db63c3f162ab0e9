"""Float kernels of quantisation-aware training, forward and backward, each in one pass over its arrays.

torch would take five to ten passes for each. Arrays are C-contiguous, floats float32 or float64, and scalars of the
arrays' own type. No fast math: in float64 a forward pass gives the very values of `docs/integer_semantics.md`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpgnas.jit import jit
from lpgnas.kernels.sparse_products import add_columns, sum_columns
from lpgnas.number_formats import Rounding

Floats = Any
"""An array of float32 or float64."""
Integers = Any
"""An array of integers."""
Real = Any
"""A scalar of the floats' type."""

MODES = {Rounding.HALF_EVEN: 0, Rounding.HALF_UP: 1, Rounding.FLOOR: 2}
"""Numbers of the rounding modes."""
UNROUNDED = 3
"""Instead of one of them: clamp only."""


@jit
def drop(values: Floats, draws: Integers, threshold: int, scale: Real, out: Floats) -> None:
    """`values * scale` where the byte drawn for an entry reaches `threshold`, else 0; flat arrays of one length."""
    zero = values.dtype.type(0)
    for k in range(len(values)):
        out[k] = values[k] * scale if draws[k] >= threshold else zero


@jit
def adam_step(
    values: Floats, gradient: Floats, mean: Floats, square: Floats, rate: Real, decay: Real, step: int
) -> None:
    """One step of Adam (Kingma and Ba 2015) with betas 0.9 and 0.999 and epsilon 1e-8.

    Args:
        values: [n], moved.
        gradient: [n], to which `decay * values` is added.
        mean: [n], running mean of the gradient.
        square: [n], running mean of its square.
        rate: learning rate.
        decay: L2 penalty.
        step: 1, 2, ...
    """
    one = values.dtype.type(1)
    first, second, small = values.dtype.type(0.9), values.dtype.type(0.999), values.dtype.type(1e-8)
    length = values.dtype.type(rate / (1.0 - 0.9**step))
    root = values.dtype.type(1.0 / np.sqrt(1.0 - 0.999**step))
    for k in range(len(values)):
        slope = gradient[k] + decay * values[k]
        mean[k] = first * mean[k] + (one - first) * slope
        square[k] = second * square[k] + (one - second) * slope * slope
        values[k] -= length * mean[k] / (np.sqrt(square[k]) * root + small)


@jit
def _rounded(value: Real, mode: int, like: Floats) -> Real:
    """`value` rounded, of the type of `like` in every mode: a compiled kernel computes with the widest of them all."""
    if mode == 0:
        return np.rint(value)
    if mode == 1:
        return like.dtype.type(np.floor(np.float64(value) + 0.5))
    if mode == 2:
        return np.floor(value)
    return value


@jit
def round_rows(
    values: Floats, row: Floats, bias: Floats, scale: Real, low: Real, high: Real, mode: int, out: Floats
) -> None:
    """`clamp(round((values * row + bias) * scale)) / scale`.

    Args:
        values: [N, K].
        row: [N] or [1], factor of each row.
        bias: [K] or [1].
        scale: `2^fraction`.
        low: smallest code.
        high: largest code.
        mode: of `MODES`, or `UNROUNDED`.
        out: [N, K].
    """
    step = values.dtype.type(1) / scale
    row_stride, bias_stride = int(len(row) > 1), int(len(bias) > 1)
    for i in range(values.shape[0]):
        factor = row[i * row_stride]
        for k in range(values.shape[1]):
            code = _rounded((values[i, k] * factor + bias[k * bias_stride]) * scale, mode, values)
            if not code >= low and (mode != UNROUNDED or code < low):
                code = low  # NaN too where it is a code: codes are indices later
            out[i, k] = (high if code > high else code) * step


@jit
def squared_error(values: Floats, scale: Real, low: Real, high: Real, mode: int) -> float:
    """Sum of the squares of `clamp(round(values * scale)) / scale - values`, [n] float64; `mode` is of `MODES`."""
    total, step = 0.0, 1.0 / scale
    for k in range(len(values)):
        code = _rounded(values[k] * scale, mode, values)
        code = code if code >= low else low
        error = (high if code > high else code) * step - values[k]
        total += error * error
    return total


@jit
def round_rows_backward(
    gradient: Floats,
    values: Floats,
    row: Floats,
    bias: Floats,
    scale: Real,
    low: Real,
    high: Real,
    mode: int,
    to_values: Floats,
    to_bias: Floats,
) -> None:
    """Straight-through gradients of `round_rows`: none where a code saturates.

    `to_bias` [K] is added to, where it is asked for; else it is [0].
    """
    zero = values.dtype.type(0)
    row_stride, bias_stride = int(len(row) > 1), int(len(bias) > 1)
    for i in range(values.shape[0]):
        factor = row[i * row_stride]
        for k in range(values.shape[1]):
            code = _rounded((values[i, k] * factor + bias[k * bias_stride]) * scale, mode, values)
            slope = gradient[i, k]  # read in any case: a branch on random codes would be guessed wrong
            passed = slope if (code >= low) & (code <= high) else zero
            to_values[i, k] = passed * factor
            if len(to_bias) > 0:
                to_bias[k] += passed


@jit
def look_up(values: Floats, scale: Real, low: int, table: Floats, out: Floats) -> None:
    """`out = table[values * scale - low]`, entry by entry; `values * scale` are integers from `low` on."""
    for k in range(len(values)):
        out[k] = table[int(values[k] * scale) - low]


@jit
def below_largest(logits: Floats, temperature: Real, out: Floats) -> None:
    """`(logits - largest of the row) / temperature`, [N, C]."""
    for i in range(logits.shape[0]):
        largest = _largest(logits, i)
        for c in range(logits.shape[1]):
            out[i, c] = (logits[i, c] - largest) / temperature


@jit
def _largest(logits: Floats, i: int) -> Real:
    """Of row `i`. Rows are no arguments here: making a view of each costs more than its sums."""
    largest = logits[i, 0]
    for c in range(1, logits.shape[1]):
        largest = max(largest, logits[i, c])
    return largest


@jit
def mixed_cross_entropy(
    logits: Floats,
    labels: Integers,
    labelled: Integers,
    label_weight: Real,
    soft: Floats,
    soft_weight: Real,
    temperature: Real,
    powers: Floats,
    gradient: Floats,
) -> float:
    """A weighted sum of cross-entropies with labels and with soft labels, and its gradient, in one pass.

    Args:
        logits: [N, C].
        labels: [N] classes.
        labelled: [N] bool, whose labels count.
        label_weight: of each of these nodes.
        soft: [N, C] probabilities, or [0, C] for none.
        soft_weight: of each node.
        temperature: that logits are divided by for the soft labels.
        powers: [N, C], exponentials of `below_largest`; written over where the temperature is not 1.
        gradient: [N, C], written.

    Returns:
        The sum, added up in float64.
    """
    total, one = 0.0, logits.dtype.type(1)
    classes = logits.shape[1]
    for i in range(logits.shape[0]):
        largest, power_sum, mass = _largest(logits, i), logits.dtype.type(0), logits.dtype.type(0)
        for c in range(classes):
            power_sum += powers[i, c]
            gradient[i, c] = 0
        if len(soft):
            for c in range(classes):
                mass += soft[i, c]
                total -= soft_weight * soft[i, c] * logits[i, c] / temperature
                gradient[i, c] -= soft_weight / temperature * soft[i, c]
            total += soft_weight * mass * (largest / temperature + np.log(power_sum))
            share = soft_weight / temperature * mass / power_sum
            for c in range(classes):
                gradient[i, c] += share * powers[i, c]
        if labelled[i]:
            if temperature != one:
                power_sum = logits.dtype.type(0)
                for c in range(classes):
                    powers[i, c] = np.exp(logits[i, c] - largest)
                    power_sum += powers[i, c]
            total += label_weight * (largest + np.log(power_sum) - logits[i, labels[i]])
            for c in range(classes):
                gradient[i, c] += label_weight / power_sum * powers[i, c]
            gradient[i, labels[i]] -= label_weight
    return total


@jit
def weighted_max(
    indptr: Integers, source: Integers, weight: Floats, values: Floats, out: Floats, winner: Integers
) -> None:
    """Largest of `weight[e, h] * values[source[e], h]` over the incoming edges, column by column.

    Args:
        indptr: [N + 1] edges of each target.
        source: [E].
        weight: [E, H], or [1, H] where all edges weigh alike.
        values: [M, H, K].
        out: [N, H, K]; 0 where there is no edge.
        winner: [N, H, K], the edge that brought the largest product (the first of equals), -1 where there is none.
    """
    heads, width = values.shape[1], values.shape[2]
    stride = int(len(weight) > 1)
    for i in range(len(indptr) - 1):
        out[i] = 0
        winner[i] = -1
        for e in range(indptr[i], indptr[i + 1]):
            j, first = source[e], e == indptr[i]
            for h in range(heads):
                w = weight[e * stride, h]
                for k in range(width):
                    product = w * values[j, h, k]
                    if first or product > out[i, h, k]:
                        out[i, h, k] = product
                        winner[i, h, k] = e


@jit
def weighted_max_backward(
    winner: Integers,
    source: Integers,
    weight: Floats,
    values: Floats,
    gradient: Floats,
    to_weight: Floats,
    to_values: Floats,
) -> None:
    """Gradients of `weighted_max`, to the edges and rows that won.

    Both are added to; `to_weight` has the shape of `weight`.
    """
    stride = int(len(weight) > 1)
    for i in range(gradient.shape[0]):
        for h in range(gradient.shape[1]):
            for k in range(gradient.shape[2]):
                e = winner[i, h, k]
                if e >= 0:
                    to_weight[e * stride, h] += gradient[i, h, k] * values[source[e], h, k]
                    to_values[source[e], h, k] += gradient[i, h, k] * weight[e * stride, h]


@jit
def weighted_sum(indptr: Integers, source: Integers, weight: Floats, values: Floats, out: Floats) -> None:
    """`out[i, h] = sum of weight[e, h] * values[source[e], h]` over the incoming edges.

    Each head is a product of a sparse matrix of its own with its columns.

    Args:
        indptr: [N + 1] edges of each target.
        source: [E].
        weight: [E, H].
        values: [M, H, K].
        out: [N, H, K].
    """
    heads, width = values.shape[1], values.shape[2]
    rows, sums = values.reshape(len(values), heads * width), out.reshape(len(out), heads * width)
    by_head = np.ascontiguousarray(weight.T)
    for h in range(heads):
        sum_columns(indptr, source, by_head[h], rows, sums, h * width, (h + 1) * width)


@jit
def weighted_sum_backward(
    indptr: Integers,
    source: Integers,
    weight: Floats,
    values: Floats,
    gradient: Floats,
    to_weight: Floats,
    to_values: Floats,
) -> None:
    """Gradients of `weighted_sum`: `to_weight` [E, H] is written, `to_values` [M, H, K] added to."""
    heads, width = values.shape[1], values.shape[2]
    slopes, to_rows = gradient.reshape(len(gradient), heads * width), to_values.reshape(len(values), heads * width)
    by_head = np.ascontiguousarray(weight.T)
    for h in range(heads):
        add_columns(indptr, source, by_head[h], slopes, to_rows, h * width, (h + 1) * width)
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j = source[e]
            for h in range(heads):
                dot = values.dtype.type(0)
                for k in range(width):
                    dot += gradient[i, h, k] * values[j, h, k]
                to_weight[e, h] = dot


@jit
def add_at(index: Integers, rows: Floats, out: Floats) -> None:
    """`out[index[e]] += rows[e]` for rows [E, K] in their order, into out [N, K]."""
    for e in range(len(index)):
        for k in range(rows.shape[1]):
            out[index[e], k] += rows[e, k]


@jit
def leaky(values: Floats, slope: Real, out: Floats) -> None:
    """`values`, those below 0 times `slope`; flat arrays."""
    for k in range(len(values)):
        out[k] = values[k] if values[k] >= 0 else values[k] * slope


@jit
def leaky_backward(values: Floats, slope: Real, gradient: Floats, out: Floats) -> None:
    """The gradient of `leaky`: 1 at 0."""
    for k in range(len(values)):
        out[k] = gradient[k] if values[k] >= 0 else gradient[k] * slope


@jit
def below_target_largest(indptr: Integers, score: Floats, out: Floats) -> None:
    """`score` minus the largest over the edges of its target, [E, H]."""
    largest = np.empty(score.shape[1], score.dtype)
    for i in range(len(indptr) - 1):
        largest[:] = -np.inf
        for e in range(indptr[i], indptr[i + 1]):
            for h in range(score.shape[1]):
                largest[h] = max(largest[h], score[e, h])
        for e in range(indptr[i], indptr[i + 1]):
            for h in range(score.shape[1]):
                out[e, h] = score[e, h] - largest[h]


@jit
def real_numerators(indptr: Integers, power: Floats, peak: Real, out: Floats, denominator: Floats) -> None:
    """`peak * power` [E, H], and its sums [N, H] over the edges of a target."""
    for i in range(len(indptr) - 1):
        denominator[i] = 0
        for e in range(indptr[i], indptr[i + 1]):
            for h in range(power.shape[1]):
                out[e, h] = peak * power[e, h]
                denominator[i, h] += out[e, h]


@jit
def real_numerators_backward(
    indptr: Integers, power: Floats, peak: Real, to_numerator: Floats, to_denominator: Floats, to_score: Floats
) -> None:
    """Gradient of `peak * 2^(score - largest)` and its sums, the largest held fixed; `to_score` [E, H] is written."""
    rise = power.dtype.type(np.log(2.0))
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            for h in range(power.shape[1]):
                to_score[e, h] = (to_numerator[e, h] + to_denominator[i, h]) * peak * power[e, h] * rise


@jit
def softmax_numerators(
    indptr: Integers, score: Floats, scale: Real, table: Floats, out: Floats, denominator: Floats
) -> None:
    """`table[(largest - score) * scale]` for each edge, the largest over the edges of its target.

    Args:
        indptr: [N + 1] edges of each target.
        score: [E, H], on the grid `1 / scale`.
        scale: `2^fraction`.
        table: of the numerators; beyond its end they are 0.
        out: [E, H].
        denominator: [N, H], their sums over the edges of a target.
    """
    zero = score.dtype.type(0)
    for i in range(len(indptr) - 1):
        for h in range(score.shape[1]):
            largest, total = zero, zero
            for e in range(indptr[i], indptr[i + 1]):
                if e == indptr[i] or score[e, h] > largest:
                    largest = score[e, h]
            for e in range(indptr[i], indptr[i + 1]):
                step = int((largest - score[e, h]) * scale)
                out[e, h] = table[step] if step < len(table) else zero
                total += out[e, h]
            denominator[i, h] = total


@jit
def softmax_backward(
    indptr: Integers,
    score: Floats,
    scale: Real,
    peak: Real,
    numerators: int,
    to_numerator: Floats,
    to_denominator: Floats,
    to_score: Floats,
) -> None:
    """Straight-through gradient of `softmax_numerators`: that of `peak * 2^(score - largest)`, the largest held fixed.

    Entries beyond the table's length `numerators` are 0 and get none. `to_score` [E, H] is written.
    """
    slope = peak * score.dtype.type(np.log(2.0))
    zero = score.dtype.type(0)
    for i in range(len(indptr) - 1):
        for h in range(score.shape[1]):
            largest = zero
            for e in range(indptr[i], indptr[i + 1]):
                if e == indptr[i] or score[e, h] > largest:
                    largest = score[e, h]
            for e in range(indptr[i], indptr[i + 1]):
                below = largest - score[e, h]
                rise = slope * np.exp2(-below) if int(below * scale) < numerators else zero
                to_score[e, h] = (to_numerator[e, h] + to_denominator[i, h]) * rise
