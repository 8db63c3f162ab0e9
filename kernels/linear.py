"""The transform `requantize(h W^T * row factor * degree factor)`, one row of accumulators at a time.

`weight` comes transposed, [F_in, width], so that the inner loop runs over contiguous outputs. `accumulator` [width] is
scratch in int32 or int64, as the program proved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.jit import jit
from lpgnas.requantize import AnyCodes, Rescale, requantize


@jit
def add_scaled(accumulator: npt.NDArray[Any], code: np.int64, row: AnyCodes) -> None:
    """`accumulator[c] += code * row[c]`."""
    for c in range(accumulator.size):
        accumulator[c] += code * np.int64(row[c])


@jit
def row_reciprocal(total: np.int64) -> np.int64:
    """`row24(total)`: floor((2^25 + t) / (2 t)), 0 for t = 0."""
    return ((np.int64(1) << 25) + total) // (2 * total) if total > 0 else np.int64(0)


@jit
def write_scaled(accumulator: npt.NDArray[Any], factor: np.int64, by: Rescale, out: AnyCodes) -> None:
    """`out[c] = requantize(accumulator[c] * factor)`."""
    for c in range(accumulator.size):
        out[c] = requantize(np.int64(accumulator[c]) * factor, by)


@jit
def transform_dense(
    codes: AnyCodes,
    weight: AnyCodes,
    row_factor: bool,
    degree_factor: npt.NDArray[np.int64],
    by: Rescale,
    accumulator: npt.NDArray[Any],
    out: AnyCodes,
) -> None:
    """Messages of dense codes.

    Args:
        codes: [N, F_in].
        weight: [F_in, width].
        row_factor: multiply by row24 of the row's sum.
        degree_factor: [N], or empty for none.
        by: the rounding.
        accumulator: [width], scratch.
        out: [N, width], written.
    """
    for n in range(codes.shape[0]):
        accumulator[:] = 0
        total = np.int64(0)
        for f in range(codes.shape[1]):
            code = np.int64(codes[n, f])
            if code != 0:  # activations and features are sparse enough for the branch to pay
                total += code
                add_scaled(accumulator, code, weight[f])
        factor = row_reciprocal(total) if row_factor else np.int64(1)
        if degree_factor.size:
            factor *= degree_factor[n]
        write_scaled(accumulator, factor, by, out[n])


@jit
def transform_sparse(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    codes: AnyCodes,
    weight: AnyCodes,
    row_factor: bool,
    degree_factor: npt.NDArray[np.int64],
    by: Rescale,
    accumulator: npt.NDArray[Any],
    out: AnyCodes,
) -> None:
    """Messages of sparse codes (`indptr` [N + 1], `indices` and `codes` [nnz]); the rest as `transform_dense`."""
    for n in range(out.shape[0]):
        accumulator[:] = 0
        total = np.int64(0)
        for entry in range(indptr[n], indptr[n + 1]):
            code = np.int64(codes[entry])
            total += code
            add_scaled(accumulator, code, weight[indices[entry]])
        factor = row_reciprocal(total) if row_factor else np.int64(1)
        if degree_factor.size:
            factor *= degree_factor[n]
        write_scaled(accumulator, factor, by, out[n])
