"""Float products of a constant CSR matrix with a dense one, for training, and the dropout of its entries.

A tile of up to 16 columns of the result stays in vector registers while a row's entries are added up. Numba's own loops
keep it in memory, which costs two to four times as much at the widths of small models. In float64 sums of grid values
are exact, whatever their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lpgnas.jit import jit, lowered

Floats = Any
"""An array of float32 or float64."""
Integers = Any
"""An array of integers."""

TILES = (16, 8, 7, 6, 5, 4, 3, 2, 1)
"""Widths of the tiles that a row is cut into, greedily: every tile goes through the row's entries once."""


def _tile_function(width: int, *, scatter: bool) -> Any:  # noqa: ANN401 - a function for other kernels
    """A function `(indices, values, start, end, dense, result, row, first)` of a tile's columns from `first` on.

    It sums `values[e] * dense[indices[e]]` over the entries into `result[row]`, or with `scatter` adds
    `values[e] * dense[row]` to every `result[indices[e]]`. One value stands for all.
    """

    def function(
        indices: Integers, values: Floats, start: int, end: int, dense: Floats, result: Floats, row: int, first: int
    ) -> None:
        columns = slice(first, first + width)
        if not scatter:
            result[row, columns] = 0
        for e in range(start, end):
            value = values[e if len(values) > 1 else 0]
            if scatter:
                result[indices[e], columns] += value * dense[row, columns]
            else:
                result[row, columns] += value * dense[indices[e], columns]

    def make_intrinsic() -> Any:  # noqa: ANN401 - Numba is not imported before it compiles
        from lpgnas.kernels.vector_tiles import tile_intrinsic

        return tile_intrinsic(width, scatter=scatter)

    return lowered(make_intrinsic)(function)


_sum_16, _sum_8, _sum_7, _sum_6, _sum_5, _sum_4, _sum_3, _sum_2, _sum_1 = (
    _tile_function(width, scatter=False) for width in TILES
)
_add_16, _add_8, _add_7, _add_6, _add_5, _add_4, _add_3, _add_2, _add_1 = (
    _tile_function(width, scatter=True) for width in TILES
)


@jit
def _sum_rest(
    indices: Integers, values: Floats, start: int, end: int, dense: Floats, out: Floats, i: int, k: int, last: int
) -> None:
    """The columns of a row from `k` up to `last`, at most seven, as one tile."""
    rest = last - k
    if rest == 7:
        _sum_7(indices, values, start, end, dense, out, i, k)
    elif rest == 6:
        _sum_6(indices, values, start, end, dense, out, i, k)
    elif rest == 5:
        _sum_5(indices, values, start, end, dense, out, i, k)
    elif rest == 4:
        _sum_4(indices, values, start, end, dense, out, i, k)
    elif rest == 3:
        _sum_3(indices, values, start, end, dense, out, i, k)
    elif rest == 2:
        _sum_2(indices, values, start, end, dense, out, i, k)
    elif rest == 1:
        _sum_1(indices, values, start, end, dense, out, i, k)


@jit
def sum_rows(indptr: Integers, indices: Integers, values: Floats, dense: Floats, out: Floats) -> None:
    """`out = matrix @ dense`.

    Args:
        indptr: [N + 1] first entry of each row.
        indices: [entries] columns.
        values: [entries], or [1] where all are the same.
        dense: [M, K].
        out: [N, K].
    """
    sum_columns(indptr, indices, values, dense, out, 0, dense.shape[1])


@jit
def sum_columns(
    indptr: Integers, indices: Integers, values: Floats, dense: Floats, out: Floats, first: int, last: int
) -> None:
    """The columns [first, last) of `sum_rows`; the others of `out` are left as they are."""
    for i in range(len(indptr) - 1):
        start, end, k = indptr[i], indptr[i + 1], first
        while k + 16 <= last:
            _sum_16(indices, values, start, end, dense, out, i, k)
            k += 16
        if k + 8 <= last:
            _sum_8(indices, values, start, end, dense, out, i, k)
            k += 8
        _sum_rest(indices, values, start, end, dense, out, i, k, last)


@jit
def _add_rest(
    indices: Integers, values: Floats, start: int, end: int, dense: Floats, out: Floats, i: int, k: int, last: int
) -> None:
    """The columns of a row from `k` up to `last`, at most seven, as one tile."""
    rest = last - k
    if rest == 7:
        _add_7(indices, values, start, end, dense, out, i, k)
    elif rest == 6:
        _add_6(indices, values, start, end, dense, out, i, k)
    elif rest == 5:
        _add_5(indices, values, start, end, dense, out, i, k)
    elif rest == 4:
        _add_4(indices, values, start, end, dense, out, i, k)
    elif rest == 3:
        _add_3(indices, values, start, end, dense, out, i, k)
    elif rest == 2:
        _add_2(indices, values, start, end, dense, out, i, k)
    elif rest == 1:
        _add_1(indices, values, start, end, dense, out, i, k)


@jit
def add_rows(indptr: Integers, indices: Integers, values: Floats, dense: Floats, out: Floats) -> None:
    """`out += matrix^T @ dense`, with the matrix by rows.

    Args:
        indptr: [N + 1] first entry of each row.
        indices: [entries] columns.
        values: [entries], or [1] where all are the same.
        dense: [N, K].
        out: [M, K].
    """
    add_columns(indptr, indices, values, dense, out, 0, dense.shape[1])


@jit
def add_columns(
    indptr: Integers, indices: Integers, values: Floats, dense: Floats, out: Floats, first: int, last: int
) -> None:
    """The columns [first, last) of `add_rows`."""
    for i in range(len(indptr) - 1):
        start, end, k = indptr[i], indptr[i + 1], first
        while k + 16 <= last:
            _add_16(indices, values, start, end, dense, out, i, k)
            k += 16
        if k + 8 <= last:
            _add_8(indices, values, start, end, dense, out, i, k)
            k += 8
        _add_rest(indices, values, start, end, dense, out, i, k, last)


@jit
def fill_random(seed: np.uint64, out: Integers) -> None:
    """Uniform 64-bit words [n] uint64: SplitMix64 (Steele et al. 2014), which has no order and so no chain of waits."""
    # on whole arrays, whose overflows wrap without the compiler as well
    words = np.arange(1, len(out) + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out[:] = words ^ (words >> np.uint64(31))


@jit
def keep_entries(
    indptr: Integers,
    indices: Integers,
    values: Floats,
    draws: Integers,
    threshold: int,
    to_indptr: Integers,
    to_indices: Integers,
    to_values: Floats,
) -> None:
    """The entries whose drawn byte reaches `threshold`, in order.

    Args:
        indptr: [N + 1] first entry of each row.
        indices: [entries] columns.
        values: [entries], or [1] where all are the same (they are not copied then).
        draws: [entries] uint8.
        threshold: 0 to 255.
        to_indptr: [N + 1].
        to_indices: [entries + 1]; only its beginning counts.
        to_values: likewise, or [1].
    """
    _pack(indices, draws, threshold, to_indices)
    if len(values) > 1:
        _pack(values, draws, threshold, to_values)
    to_indptr[0] = 0
    for i in range(len(indptr) - 1):
        kept = 0
        for e in range(indptr[i], indptr[i + 1]):
            kept += int(draws[e] >= threshold)
        to_indptr[i + 1] = to_indptr[i] + kept


@jit
def _pack(values: Integers | Floats, draws: Integers, threshold: int, out: Integers | Floats) -> None:
    # Over all rows at once, which are short. Entries are written whether kept or not: a branch on a random byte would
    # be guessed wrong half the time.
    kept = 0
    for e in range(len(values)):
        out[kept] = values[e]
        kept += int(draws[e] >= threshold)
