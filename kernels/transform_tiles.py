"""Transforms of codes with at most 8 bits in tiles of int32 accumulators that stay in vector registers.

Dense codes: 6 rows by 32, 16 or 8 columns; each 32-bit lane multiplies and adds a pair of codes (as int16) with a pair
of weights, or a quad (uint8 by int8) where the processor has the VNNI instructions, whose sums of four do not saturate.
Sparse binary codes: weight rows are added up as bytes, two columns in an int16 lane: one sum of whole lanes and one of
their upper bytes tell both columns apart for as long as 16 bits hold them. No multiplication, no widening.

Accumulators may wrap on the way, since int32 holds the result as proved. The epilogue is in float64: every total stays
below 2^53, so that a product with `factor * 2^-shift` and the addition of 1/2 are exact; where totals stay below 2^24,
float32 does.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.jit import jit, lowered
from lpgnas.kernels.arena import ALIGNMENT
from lpgnas.kernels.linear import add_aligned, row_reciprocal
from lpgnas.kernels.quantize import MODES, SparseCodes
from lpgnas.number_formats import Rounding
from lpgnas.requantize import AnyCodes

Lanes = npt.NDArray[Any]
"""int32, each a pair of int16, or uint32, each a quad of bytes."""
Int32Array = npt.NDArray[np.int32]

ROWS, COLUMNS = 6, 32
"""Of the largest tile."""
BLOCK_ROWS = 768
"""Rows whose packed codes are held at once."""
CACHED_ROWS = 96
"""Rows of them that are multiplied with all panels before the next ones."""
CHUNK = 128
"""Lanes of a row that are multiplied before the next tile: their weights stay in the nearest cache."""
SPARSE_SUMS = 1 << 16
"""Accumulators of sparse rows that are held at once."""
SHORT_SUMS = 256
"""Weight rows whose bytes 16 bits can add up: 256 * 255 < 2^16."""


class TiledWeight(NamedTuple):
    """A weight [F, width] of int8 in the layouts of the tiles.

    Attributes:
        panels: [ceil(width / 32), ceil(F / group), 32] lanes, weights of `group` inputs in each; zeros beyond.
        initial: [32 ceil(width / 32)] int32, what accumulators start from.
        offset: added to every dense code, so that quads are unsigned; `initial` takes it back.
        rows: [F, width up to a multiple of 8] uint8, for sparse codes: weights + 128, the columns of a tile in turns
            from its first and its second half.
        width: outputs.
    """

    panels: Lanes
    initial: Int32Array
    offset: int
    rows: npt.NDArray[np.uint8]
    width: int


@cache
def lane_group() -> int:
    """Codes in a lane: 4 where the processor multiplies and adds quads of bytes exactly, else 2."""
    from numba.core.registry import cpu_target

    features = str(cpu_target.target_context.codegen()._tm_features).split(",")
    return 4 if {"+avx512vnni", "+avxvnni"} & set(features) else 2


def tile_weight(weight: AnyCodes, *, signed: bool, group: int | None = None) -> TiledWeight:
    """Lay out a weight for the tiles.

    Args:
        weight: [F, width] int8.
        signed: whether the codes that it is multiplied with are signed.
        group: codes in a lane, 2 or 4; None for what suits the processor.
    """
    group = lane_group() if group is None else group
    inputs, width = weight.shape
    groups, panels = -(-inputs // group), -(-width // COLUMNS)
    padded = np.zeros((groups * group, panels * COLUMNS), dtype=np.int16 if group == 2 else np.int8)
    padded[:inputs, :width] = weight
    lanes = padded.reshape(groups, group, panels, COLUMNS).transpose(2, 0, 3, 1)
    packed = np.ascontiguousarray(lanes).view(np.int32 if group == 2 else np.uint32)[..., 0]
    offset = 128 if signed and group == 4 else 0
    initial = np.zeros(panels * COLUMNS, dtype=np.int32)
    initial[:width] = -offset * weight.sum(axis=0, dtype=np.int64)
    return TiledWeight(_aligned(packed), initial, offset, _aligned(_byte_rows(weight)), width)


def _aligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A C-contiguous copy that starts on a cache line, so that a vector of it lies in one."""
    buffer = np.empty(array.nbytes + ALIGNMENT, dtype=np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    copy = buffer[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def _byte_rows(weight: AnyCodes) -> npt.NDArray[np.uint8]:
    """`TiledWeight.rows`."""
    inputs, width = weight.shape
    rows = np.full((inputs, -(-width // 8) * 8), 128, dtype=np.uint8)
    rows[:, :width] = weight.astype(np.int16) + 128
    first = 0
    for columns in (64, 32, 16, 8):
        while first + columns <= rows.shape[1]:
            tile = rows[:, first : first + columns]
            tile[:] = tile.reshape(inputs, 2, columns // 2).transpose(0, 2, 1).reshape(inputs, columns)
            first += columns
    return rows


def _dense_tile(columns: int) -> Any:  # noqa: ANN401 - a function for other kernels
    """A function `(codes, panels, accumulators, row, panel, first, last)` that adds the products of some lanes.

    `accumulators[row : row + 6, 32 * panel : 32 * panel + columns]` gets those of the lanes `first` to `last - 1`.
    """

    def function(
        codes: Lanes, panels: Lanes, accumulators: Int32Array, row: int, panel: int, first: int, last: int
    ) -> None:
        pairs = panels.dtype == np.int32
        left = codes[row : row + ROWS, first:last].copy().view(np.int16 if pairs else np.uint8).astype(np.int64)
        right = panels[panel, first:last, :columns].copy().view(np.int16 if pairs else np.int8).astype(np.int64)
        right = right.reshape(last - first, columns, -1).transpose(0, 2, 1).reshape(-1, columns)
        place = accumulators[row : row + ROWS, COLUMNS * panel : COLUMNS * panel + columns]
        place[:] = (place + left @ right).astype(np.int32)

    def make_intrinsic() -> Any:  # noqa: ANN401 - Numba is not imported before it compiles
        from lpgnas.kernels.integer_tiles import dense_tile_intrinsic

        return dense_tile_intrinsic(ROWS, columns)

    return lowered(make_intrinsic)(function)


def _row_tile(columns: int, *, coded: bool) -> Any:  # noqa: ANN401 - a function for other kernels
    """A function `(indices, codes, start, end, weight, accumulators, row, first)` that adds up weight rows.

    `accumulators[row, first : first + columns]` gets the sum of `weight[indices[e]]` over the entries `start` to
    `end - 1`, of which there are at most 256; with `coded`, each times `codes[e]`. `weight` is `TiledWeight.rows`.
    """

    def function(
        indices: npt.NDArray[np.int32],
        codes: AnyCodes,
        start: int,
        end: int,
        weight: npt.NDArray[np.uint8],
        accumulators: Int32Array,
        row: int,
        first: int,
    ) -> None:
        for e in range(start, end):
            factor = np.int32(codes[e]) if coded else np.int32(1)
            tile = weight[indices[e], first : first + columns].astype(np.int32)
            accumulators[row, first : first + columns] += factor * tile.reshape(-1, 2).T.ravel()

    def make_intrinsic() -> Any:  # noqa: ANN401 - Numba is not imported before it compiles
        from lpgnas.kernels.integer_tiles import row_tile_intrinsic

        return row_tile_intrinsic(columns, coded=coded)

    return lowered(make_intrinsic)(function)


_dense_32, _dense_16, _dense_8 = (_dense_tile(columns) for columns in (32, 16, 8))
_sum_64, _sum_32, _sum_16, _sum_8 = (_row_tile(columns, coded=False) for columns in (64, 32, 16, 8))
_coded_64, _coded_32, _coded_16, _coded_8 = (_row_tile(columns, coded=True) for columns in (64, 32, 16, 8))


@jit
def pack_rows(codes: AnyCodes, first: int, count: int, offset: int, parts: AnyCodes) -> None:
    """Codes of the rows `first` to `first + count - 1` of [N, F] in the layout of the tiles.

    Args:
        codes: [N, F].
        first: the first row.
        count: how many.
        offset: added to every code.
        parts: [rows up to a multiple of 6, group * lanes] int16 or uint8, written; zeros beyond the codes.
    """
    inputs = codes.shape[1]
    for row in range(-(-count // ROWS) * ROWS):
        place = parts[row]
        if row < count:
            source = codes[first + row]
            for f in range(inputs):
                place[f] = np.int64(source[f]) + offset
            place[inputs:] = 0
        else:
            place[:] = 0


@jit
def sum_rows_of_codes(codes: AnyCodes, first: int, count: int, sums: npt.NDArray[np.int64]) -> None:
    """`sums[row]`: the sum of the codes [N, F] of row `first + row`."""
    for row in range(count):
        total = np.int64(0)
        source = codes[first + row]
        for f in range(source.size):
            total += np.int64(source[f])
        sums[row] = total


@jit
def multiply_tiles(
    packed: Lanes, rows: int, panels: Lanes, width: int, initial: Int32Array, accumulators: Int32Array
) -> None:
    """`accumulators[: rows] = initial + packed @ panels`, rows up to a multiple of 6; see `TiledWeight`."""
    for row in range(-(-rows // ROWS) * ROWS):
        accumulators[row] = initial
    steps = -(-panels.shape[1] // CHUNK)
    cached = -(-rows // CACHED_ROWS)
    for turn in range(cached * panels.shape[0] * steps):
        block, rest = turn // (panels.shape[0] * steps), turn % (panels.shape[0] * steps)
        panel, first = rest // steps, rest % steps * CHUNK
        columns, last = width - COLUMNS * panel, min(first + CHUNK, panels.shape[1])
        for row in range(block * CACHED_ROWS, min((block + 1) * CACHED_ROWS, rows), ROWS):
            if columns > 16:
                _dense_32(packed, panels, accumulators, row, panel, first, last)
            elif columns > 8:
                _dense_16(packed, panels, accumulators, row, panel, first, last)
            else:
                _dense_8(packed, panels, accumulators, row, panel, first, last)


class DenseScratch(NamedTuple):
    """What a block of dense rows is packed into.

    Attributes:
        parts: [rows, group * lanes] int16 or uint8.
        packed: the same memory as [rows, lanes].
        accumulators: [rows, panels * 32] int32.
        sums: [rows] int64.
    """

    parts: AnyCodes
    packed: Lanes
    accumulators: Int32Array
    sums: npt.NDArray[np.int64]


def dense_scratch(weight: TiledWeight, rows: int) -> DenseScratch:
    """Scratch for `rows` rows at once, up to a multiple of 6, but at most 768."""
    rows = min(-(-rows // ROWS) * ROWS, BLOCK_ROWS)
    packed = np.empty((rows, weight.panels.shape[1]), dtype=weight.panels.dtype)
    parts = packed.view(np.int16 if packed.dtype == np.int32 else np.uint8)
    accumulators = np.empty((rows, weight.initial.size), dtype=np.int32)
    return DenseScratch(parts, packed, accumulators, np.zeros(rows, dtype=np.int64))


class RealRescale(NamedTuple):
    """A rounding in floats that hold every total exactly; see `real_rescale`.

    Attributes:
        scale: 2 to the negative shift.
        half: 1/2.
        low: smallest result.
        high: largest result.
        mode: 0 half to even, 1 half up, 2 floor.
        reals: [width], scratch.
    """

    scale: np.floating[Any]
    half: np.floating[Any]
    low: np.floating[Any]
    high: np.floating[Any]
    mode: int
    reals: npt.NDArray[np.floating[Any]]


def real_rescale(shift: int, rounding: Rounding, clamp: tuple[int, int], total_bound: int, width: int) -> RealRescale:
    """The constants of `requantize(., shift, *clamp)` for rows of `width` totals up to `total_bound`, below 2^53."""
    real = np.float32 if total_bound < 1 << 24 else np.float64
    low, high = clamp
    return RealRescale(
        real(2.0**-shift), real(0.5), real(low), real(high), MODES[rounding], np.empty(width, dtype=real)
    )


@jit
def write_block(
    accumulators: Int32Array,
    sums: npt.NDArray[np.int64],
    block: tuple[int, int],
    row_factor: bool,
    degree_factor: npt.NDArray[np.int64],
    by: RealRescale,
    out: AnyCodes,
) -> None:
    """Round accumulators [block, >= width] times their factors into the rows `block[0]` to `block[1] - 1` of `out`."""
    reals = by.reals
    for row in range(block[1] - block[0]):
        factor = row_reciprocal(sums[row]) if row_factor else np.int64(1)
        if degree_factor.size:
            factor *= degree_factor[block[0] + row]
        reals[0] = factor
        scale = reals[0] * by.scale
        source, place = accumulators[row], out[block[0] + row]
        for c in range(place.size):
            reals[c] = source[c]
        for c in range(place.size):
            value = reals[c] * scale
            if by.mode == 0:
                value = np.rint(value)
            elif by.mode == 1:
                value = np.floor(value + by.half)
            else:
                value = np.floor(value)
            place[c] = np.int32(min(max(value, by.low), by.high))


def accumulate_dense_tiles(
    codes: AnyCodes, block: tuple[int, int], wants_sums: bool, weight: TiledWeight, scratch: DenseScratch
) -> None:
    """`scratch.accumulators` (and, if wanted, `sums`) of a block of rows of `codes` [N, F].

    Several kernels rather than one: that of the tiles, which is long, is compiled once for all kinds of codes.
    """
    first, count = block[0], block[1] - block[0]
    if wants_sums:
        sum_rows_of_codes(codes, first, count, scratch.sums)
    pack_rows(codes, first, count, weight.offset, scratch.parts)
    multiply_tiles(scratch.packed, count, weight.panels, weight.width, weight.initial, scratch.accumulators)


def transform_dense_tiles(
    codes: AnyCodes,
    weight: TiledWeight,
    row_factor: bool,
    degree_factor: npt.NDArray[np.int64],
    by: RealRescale,
    scratch: DenseScratch,
    out: AnyCodes,
) -> None:
    """`lpgnas.kernels.linear.transform_dense` of codes with at most 8 bits and proved 32-bit accumulators."""
    for first in range(0, len(codes), len(scratch.sums)):
        block = (first, min(first + len(scratch.sums), len(codes)))
        accumulate_dense_tiles(codes, block, row_factor, weight, scratch)
        write_block(scratch.accumulators, scratch.sums, block, row_factor, degree_factor, by, out)


@jit
def add_rows_aligned(
    accumulators: Int32Array,
    sums: npt.NDArray[np.int64],
    row_factor: bool,
    align: int,
    totals: npt.NDArray[np.int64],
) -> None:
    """`totals[row] += (accumulators[row] * row factor) << align` for the rows and columns of `totals`."""
    for row in range(totals.shape[0]):
        add_aligned(accumulators[row][: totals.shape[1]], row_factor, sums[row], align, totals[row])


def add_dense_tiles(
    codes: AnyCodes,
    weight: TiledWeight,
    row_factor: bool,
    align: int,
    first: int,
    scratch: DenseScratch,
    totals: npt.NDArray[np.int64],
) -> None:
    """`lpgnas.kernels.linear.add_dense` in tiles."""
    for start in range(0, len(totals), len(scratch.sums)):
        part = totals[start : start + len(scratch.sums)]
        accumulate_dense_tiles(codes, (first + start, first + start + len(part)), row_factor, weight, scratch)
        add_rows_aligned(scratch.accumulators, scratch.sums, row_factor, align, part)


@jit
def accumulate_sparse_tiles(
    indptr: npt.NDArray[np.int64],
    indices: npt.NDArray[np.int32],
    codes: AnyCodes,
    block: tuple[int, int],
    weight: npt.NDArray[np.uint8],
    accumulators: Int32Array,
    sums: npt.NDArray[np.int64],
) -> None:
    """The products of the rows `block[0]` to `block[1] - 1`, and the sums of their codes.

    Args:
        indptr: [N + 1].
        indices: [nnz].
        codes: [nnz] of at most 8 bits, or [0] where every entry is 1.
        block: at most as many rows as `accumulators` has.
        weight: [F, width up to a multiple of 8], `TiledWeight.rows`.
        accumulators: [rows, width up to a multiple of 8], written.
        sums: [rows], written.
    """
    ones = codes.size == 0
    for row in range(block[1] - block[0]):
        start, last = indptr[block[0] + row], indptr[block[0] + row + 1]
        sums[row] = last - start
        if not ones:
            sums[row] = 0
            for e in range(start, last):
                sums[row] += np.int64(codes[e])
        accumulators[row, :] = -128 * sums[row]  # the bytes are 128 too large
        while start < last:
            end = min(start + SHORT_SUMS, last)
            if ones:
                _add_ones(indices, codes, start, end, weight, accumulators, row)
            else:
                _add_coded(indices, codes, start, end, weight, accumulators, row)
            start = end


class SparseScratch(NamedTuple):
    """Accumulators [rows, width up to a multiple of 8] int32 and sums [rows] int64 of a block of sparse rows."""

    accumulators: Int32Array
    sums: npt.NDArray[np.int64]


def sparse_scratch(weight: TiledWeight, rows: int) -> SparseScratch:
    """Scratch for at most `rows` rows at once, fewer where they are wide."""
    width = weight.rows.shape[1]
    rows = min(rows, max(1, SPARSE_SUMS // width))
    return SparseScratch(np.empty((rows, width), dtype=np.int32), np.empty(rows, dtype=np.int64))


@jit
def _add_ones(
    indices: npt.NDArray[np.int32],
    codes: AnyCodes,
    start: int,
    end: int,
    weight: npt.NDArray[np.uint8],
    accumulators: Int32Array,
    row: int,
) -> None:
    c, width = 0, weight.shape[1]
    while c + 64 <= width:
        _sum_64(indices, codes, start, end, weight, accumulators, row, c)
        c += 64
    if c + 32 <= width:
        _sum_32(indices, codes, start, end, weight, accumulators, row, c)
        c += 32
    if c + 16 <= width:
        _sum_16(indices, codes, start, end, weight, accumulators, row, c)
        c += 16
    if c < width:
        _sum_8(indices, codes, start, end, weight, accumulators, row, c)


@jit
def _add_coded(
    indices: npt.NDArray[np.int32],
    codes: AnyCodes,
    start: int,
    end: int,
    weight: npt.NDArray[np.uint8],
    accumulators: Int32Array,
    row: int,
) -> None:
    c, width = 0, weight.shape[1]
    while c + 64 <= width:
        _coded_64(indices, codes, start, end, weight, accumulators, row, c)
        c += 64
    if c + 32 <= width:
        _coded_32(indices, codes, start, end, weight, accumulators, row, c)
        c += 32
    if c + 16 <= width:
        _coded_16(indices, codes, start, end, weight, accumulators, row, c)
        c += 16
    if c < width:
        _coded_8(indices, codes, start, end, weight, accumulators, row, c)


def transform_sparse_tiles(
    entries: SparseCodes,
    weight: TiledWeight,
    row_factor: bool,
    degree_factor: npt.NDArray[np.int64],
    by: RealRescale,
    scratch: SparseScratch,
    out: AnyCodes,
) -> None:
    """`lpgnas.kernels.linear.transform_sparse` of codes with at most 8 bits and proved 32-bit accumulators.

    `entries.codes` [0] says that every entry is 1.
    """
    accumulators, sums = scratch
    for first in range(0, len(out), len(sums)):
        block = (first, min(first + len(sums), len(out)))
        accumulate_sparse_tiles(*entries, block, weight.rows, accumulators, sums)
        write_block(accumulators, sums, block, row_factor, degree_factor, by, out)


def add_sparse_tiles(
    entries: SparseCodes,
    weight: TiledWeight,
    row_factor: bool,
    align: int,
    first: int,
    scratch: SparseScratch,
    totals: npt.NDArray[np.int64],
) -> None:
    """`lpgnas.kernels.linear.add_sparse` in tiles; entries as `transform_sparse_tiles` takes them."""
    accumulators, sums = scratch
    for start in range(0, len(totals), len(sums)):
        part = totals[start : start + len(sums)]
        block = (first + start, first + start + len(part))
        accumulate_sparse_tiles(*entries, block, weight.rows, accumulators, sums)
        add_rows_aligned(accumulators, sums, row_factor, align, part)
