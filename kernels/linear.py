"""The transform `requantize(h W^T * row factor * degree factor)`, one row of accumulators at a time.

One input is transformed in a single pass. Of several inputs, each adds its aligned products to a block of totals
(`add_dense`, `add_sparse`), which `write_totals` then rounds. `weight` comes transposed, [F_in, width], so that the
inner loop runs over contiguous outputs. `accumulator` [width] is scratch in int32 or int64, as the program proved.

These loops take any codes. Where codes and weights have at most 8 bits and 32-bit accumulators are proved, the tiles of
`lpgnas.kernels.transform_tiles` give the same numbers faster.
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
def multiply_dense(codes: AnyCodes, weight: AnyCodes, accumulator: npt.NDArray[Any]) -> np.int64:
    """`accumulator = codes @ weight` of one row `codes` [F_in]; returns the sum of its codes."""
    accumulator[:] = 0
    total = np.int64(0)
    for f in range(codes.size):
        code = np.int64(codes[f])
        if code != 0:  # activations and features are sparse enough for the branch to pay
            total += code
            add_scaled(accumulator, code, weight[f])
    return total


@jit
def multiply_sparse(
    indices: npt.NDArray[np.int32],
    codes: AnyCodes,
    first: np.int64,
    last: np.int64,
    weight: AnyCodes,
    accumulator: npt.NDArray[Any],
) -> np.int64:
    """`multiply_dense` of the sparse row whose entries are `first` to `last - 1`."""
    accumulator[:] = 0
    total = np.int64(0)
    for entry in range(first, last):
        code = np.int64(codes[entry])
        total += code
        add_scaled(accumulator, code, weight[indices[entry]])
    return total


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
        total = multiply_dense(codes[n], weight, accumulator)
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
        total = multiply_sparse(indices, codes, indptr[n], indptr[n + 1], weight, accumulator)
        factor = row_reciprocal(total) if row_factor else np.int64(1)
        if degree_factor.size:
            factor *= degree_factor[n]
        write_scaled(accumulator, factor, by, out[n])


@jit
def accumulate_dense(
    codes: AnyCodes, weight: AnyCodes, first: int, accumulators: npt.NDArray[Any], sums: npt.NDArray[np.int64]
) -> None:
    """`accumulators = codes @ weight` for a block of nodes.

    Args:
        codes: [N, F_s].
        weight: [F_s, width].
        first: the block's first node; it has as many as `accumulators` has rows.
        accumulators: [block, width] in int32 or int64, as proved; written.
        sums: [block], written: the sum of each row's codes.
    """
    for row in range(accumulators.shape[0]):
        sums[row] = multiply_dense(codes[first + row], weight, accumulators[row])


@jit
def accumulate_sparse(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    codes: AnyCodes,
    weight: AnyCodes,
    first: int,
    accumulators: npt.NDArray[Any],
    sums: npt.NDArray[np.int64],
) -> None:
    """`accumulate_dense` of sparse codes (`indptr` [N + 1], `indices` and `codes` [nnz])."""
    for row in range(accumulators.shape[0]):
        begin, end = indptr[first + row], indptr[first + row + 1]
        sums[row] = multiply_sparse(indices, codes, begin, end, weight, accumulators[row])


@jit
def add_aligned(
    accumulator: npt.NDArray[Any], row_factor: bool, total: np.int64, align: int, totals: npt.NDArray[np.int64]
) -> None:
    """`totals[c] += (accumulator[c] * row factor) << align`, the factor that of a row whose codes sum to `total`."""
    factor = row_reciprocal(total) if row_factor else np.int64(1)
    for c in range(accumulator.size):
        totals[c] += (np.int64(accumulator[c]) * factor) << align


@jit
def add_dense(
    codes: AnyCodes,
    weight: AnyCodes,
    row_factor: bool,
    align: int,
    first: int,
    accumulator: npt.NDArray[Any],
    totals: npt.NDArray[np.int64],
) -> None:
    """Add one dense input's part to the totals of a block of nodes.

    Args:
        codes: [N, F_s].
        weight: [F_s, width].
        row_factor: multiply by row24 of the row's sum.
        align: left shift, >= 0.
        first: the block's first node; it has as many as `totals` has rows.
        accumulator: [width], scratch.
        totals: [block, width], added to.
    """
    for row in range(totals.shape[0]):
        total = multiply_dense(codes[first + row], weight, accumulator)
        add_aligned(accumulator, row_factor, total, align, totals[row])


@jit
def add_sparse(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    codes: AnyCodes,
    weight: AnyCodes,
    row_factor: bool,
    align: int,
    first: int,
    accumulator: npt.NDArray[Any],
    totals: npt.NDArray[np.int64],
) -> None:
    """Add one sparse input's part (as `transform_sparse` takes it); the rest as `add_dense`."""
    for row in range(totals.shape[0]):
        begin, end = indptr[first + row], indptr[first + row + 1]
        total = multiply_sparse(indices, codes, begin, end, weight, accumulator)
        add_aligned(accumulator, row_factor, total, align, totals[row])


@jit
def write_totals(
    totals: npt.NDArray[np.int64], degree_factor: npt.NDArray[np.int64], first: int, by: Rescale, out: AnyCodes
) -> None:
    """Round the totals [block, width] of the nodes from `first` on into `out` [N, width]."""
    for row in range(totals.shape[0]):
        factor = degree_factor[first + row] if degree_factor.size else np.int64(1)
        write_scaled(totals[row], factor, by, out[first + row])
