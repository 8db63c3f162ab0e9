"""Transforms in tiles = the plain loops = plain Python integers, also where everything is extreme."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import naive
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lpgnas.integer_program import rsqrt15
from lpgnas.kernels.linear import transform_dense, transform_sparse
from lpgnas.kernels.quantize import SparseCodes
from lpgnas.kernels.transform_tiles import (
    BLOCK_ROWS,
    CHUNK,
    SHORT_SUMS,
    SPARSE_SUMS,
    TiledWeight,
    add_dense_tiles,
    add_sparse_tiles,
    dense_scratch,
    real_rescale,
    sparse_scratch,
    tile_weight,
    transform_dense_tiles,
    transform_sparse_tiles,
)
from lpgnas.number_formats import Rounding
from lpgnas.requantize import rescale

NO_FACTOR = np.zeros(0, dtype=np.int64)
WITHOUT_JIT = """
import test_transform_tiles as tests
import numpy as np
for case in range(30):
    tests.check(*tests.drawn(case), group=2 + 2 * (case % 2))
"""

VNNI = """
import numba
from numba import types
from lpgnas.kernels.transform_tiles import lane_group, multiply_tiles
lanes, sums = (lambda axes, kind=kind: types.Array(kind, axes, "C") for kind in (types.uint32, types.int32))
kernel = numba.njit(error_model="numpy")(multiply_tiles._function)
kernel.compile((lanes(2), types.int64, lanes(3), types.int64, sums(1), sums(2)))
print(lane_group(), "vpdpbusd" in next(iter(kernel.inspect_asm().values())))
"""

Codes = npt.NDArray[Any]


def expected(
    codes: Codes,
    weight: Codes,
    degrees: list[int] | None,
    *,
    row_factor: bool,
    shift: int,
    rounding: Rounding,
    low: int,
) -> list[list[int]]:
    """The messages in plain Python; codes of `low` to `low + 255`."""
    result = []
    for n, row in enumerate(codes.tolist()):
        factor = naive.reciprocal(24, sum(row)) if row_factor else 1
        factor *= 1 if degrees is None else naive.rsqrt15(degrees[n])
        sums = [sum(a * b for a, b in zip(row, column, strict=True)) for column in weight.T.tolist()]
        result.append([naive.requantize(total * factor, shift, low, low + 255, str(rounding)) for total in sums])
    return result


def as_sparse(codes: Codes) -> SparseCodes:
    """The entries; their codes only where some are not 1."""
    made = sparse.csr_array(codes)
    values = made.data[:0] if bool((made.data == 1).all()) else made.data
    return SparseCodes(made.indptr.astype(np.int64), made.indices.astype(np.int32), values)


def check(
    codes: Codes,
    weight: Codes,
    rounding: Rounding = Rounding.HALF_EVEN,
    *,
    row_factor: bool = False,
    degrees: list[int] | None = None,
    shift: int = 4,
    low: int = -128,
    group: int = 2,
) -> None:
    """Dense and sparse tiles against plain Python and against the plain loops."""
    tiles = tile_weight(weight, signed=codes.dtype == np.int8, group=group)
    width = weight.shape[1]
    factor = NO_FACTOR if degrees is None else rsqrt15(np.array(degrees))
    wanted = expected(codes, weight, degrees, row_factor=row_factor, shift=shift, rounding=rounding, low=low)
    largest = np.abs(codes.astype(np.int64)).sum(axis=1).max(initial=0) * 128
    largest = int(largest) * (1 << 24 if row_factor else 1) * (1 if degrees is None else 1 << 15)
    assert largest < 1 << 53
    by = real_rescale(shift, rounding, (low, low + 255), largest + (1 << shift if shift > 0 else 0), width)
    integers = rescale(shift, rounding, low, low + 255)
    kind = np.dtype(np.int8 if low < 0 else np.uint8)
    out = np.full((4, len(codes), width), 77, dtype=kind)
    entries, scratch = as_sparse(codes), np.empty(width, dtype=np.int64)
    values = entries.codes if entries.codes.size else np.ones(entries.indices.size, dtype=codes.dtype)
    transform_dense_tiles(codes, tiles, row_factor, factor, by, dense_scratch(tiles, len(codes)), out[0])
    transform_sparse_tiles(entries, tiles, row_factor, factor, by, sparse_scratch(tiles, len(codes)), out[1])
    transform_dense(codes, weight, row_factor, factor, integers, scratch, out[2])
    transform_sparse(*entries[:2], values, weight, row_factor, factor, integers, scratch, out[3])
    for name, one in zip(("dense tiles", "sparse tiles", "dense loops", "sparse loops"), out, strict=True):
        assert one.tolist() == wanted, (name, codes.shape, weight.shape)
    check_totals(codes, weight, tiles, row_factor=row_factor)


def check_totals(codes: Codes, weight: Codes, tiles: TiledWeight, *, row_factor: bool) -> None:
    """What the tiles add to the totals of a block of nodes."""
    first, last = len(codes) // 3, len(codes)
    factor = [naive.reciprocal(24, sum(row)) if row_factor else 1 for row in codes.tolist()]
    products = codes.astype(np.int64) @ weight.astype(np.int64) * np.array(factor)[:, None] * 8 + 5
    totals = np.full((2, last - first, weight.shape[1]), 5, dtype=np.int64)
    add_dense_tiles(codes, tiles, row_factor, 3, first, dense_scratch(tiles, 7), totals[0])
    add_sparse_tiles(as_sparse(codes), tiles, row_factor, 3, first, sparse_scratch(tiles, 7), totals[1])
    assert np.array_equal(totals[0], products[first:])
    assert np.array_equal(totals[1], products[first:])


def drawn(seed: int) -> tuple[Codes, Codes]:
    """Codes and weights of any small shape; extremes are frequent."""
    rng = np.random.default_rng(seed)
    nodes, inputs, width = (int(rng.integers(1, high)) for high in (9, 12, 40))
    kind = (np.dtype(np.int8), np.dtype(np.uint8))[seed % 2]
    info = np.iinfo(kind)
    codes = rng.choice(np.array([info.min, info.max, 0, 1, 3]), (nodes, inputs)).astype(kind)
    weight = rng.choice(np.array([-128, 127, 0, -1, 90]), (inputs, width)).astype(np.int8)
    return codes, weight


@settings(max_examples=100)
@given(
    seed=st.integers(0, 1 << 30),
    rounding=st.sampled_from(list(Rounding)),
    row_factor=st.booleans(),
    degrees=st.none() | st.just([0, 1, 2, 3, 7, 100, 1023, 5000]),
    shift=st.integers(-3, 30),
    low=st.sampled_from([-128, 0]),
    group=st.sampled_from([2, 4]),
)
def test_small_shapes(
    seed: int, rounding: Rounding, row_factor: bool, degrees: list[int] | None, shift: int, low: int, group: int
) -> None:
    codes, weight = drawn(seed)
    row_factor = row_factor and codes.dtype == np.uint8
    some = None if degrees is None or row_factor else degrees[: len(codes)]
    if row_factor:
        codes = codes % 4  # the totals of a row factor stay below 2^53 for few bits only
    check(codes, weight, rounding, row_factor=row_factor, degrees=some, shift=shift, low=low, group=group)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 100])
def test_widths(width: int, group: int) -> None:
    rng = np.random.default_rng(width)
    for kind in (np.int8, np.uint8):
        info = np.iinfo(kind)
        codes = rng.integers(info.min, info.max + 1, (7, 5)).astype(kind)
        check(codes, rng.integers(-128, 128, (5, width)).astype(np.int8), shift=8, group=group)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5, 2 * CHUNK - 1, 2 * CHUNK, 4 * CHUNK + 1, SHORT_SUMS + 1, 1433])
def test_everything_extreme(inputs: int, sign: int, group: int) -> None:
    """All codes and all weights at the ends of their ranges, beyond every block of the tiles."""
    for kind, code in ((np.int8, -128), (np.int8, 127), (np.uint8, 255), (np.uint8, 1)):
        codes = np.full((3, inputs), code, dtype=kind)
        codes[1] = 0  # an empty row
        weight = np.full((inputs, 9), 127 if sign > 0 else -128, dtype=np.int8)
        for shift in (0, 16):
            check(codes, weight, shift=shift, group=group)


@pytest.mark.parametrize("nodes", [1, 5, 6, 7, SPARSE_SUMS // 64 + 1, BLOCK_ROWS - 1, BLOCK_ROWS + 7])
def test_numbers_of_rows(nodes: int) -> None:
    rng = np.random.default_rng(nodes)
    codes = (rng.random((nodes, 10)) < 0.3).astype(np.uint8)
    weight = rng.integers(-128, 128, (10, 3)).astype(np.int8)
    check(codes, weight, row_factor=True, shift=20)
    check(codes, weight, degrees=rng.integers(0, 50, nodes).tolist(), shift=12)


def test_ties_of_every_rounding() -> None:
    """Every total from -512 to 511 over 2^4, in float32 and in float64."""
    codes = np.stack([np.arange(-128, 128), np.ones(256)], axis=1).astype(np.int8)
    weight = np.array([[4, 4, 4, 4], [0, 1, 2, 3]], dtype=np.int8)
    tiles = tile_weight(weight, signed=True)
    for rounding in Rounding:
        for bound in (1 << 20, 1 << 40):
            wanted = expected(codes, weight, None, row_factor=False, shift=4, rounding=rounding, low=-128)
            out = np.empty((256, 4), dtype=np.int8)
            by = real_rescale(4, rounding, (-128, 127), bound, 4)
            assert by.reals.dtype == (np.float32 if bound < 1 << 24 else np.float64)
            transform_dense_tiles(codes, tiles, False, NO_FACTOR, by, dense_scratch(tiles, 256), out)
            assert out.tolist() == wanted


@pytest.mark.parametrize("rounding", list(Rounding))
def test_totals_at_their_limit(rounding: Rounding) -> None:
    """Totals next to 2^24 in float32 and next to 2^53 in float64, at every shift."""
    cases = (
        (np.array([[1]], dtype=np.uint8), 1, 24),
        (np.array([[255]], dtype=np.uint8), (1 << 53) // (255 * 127), 53),
    )
    for codes, factor, bits in cases:
        weight = np.array([[127, -127, 126, -1]], dtype=np.int8)
        for shift in range(1, 53):
            by = real_rescale(shift, rounding, (-128, 127), (1 << bits) - 1, 4)
            out = np.empty((1, 4), dtype=np.int8)
            tiles = tile_weight(weight, signed=False)
            transform_dense_tiles(codes, tiles, False, np.array([factor]), by, dense_scratch(tiles, 1), out)
            totals = [int(codes[0, 0]) * int(one) * factor for one in weight[0]]
            assert out[0].tolist() == [naive.requantize(total, shift, -128, 127, str(rounding)) for total in totals]


def python(code: str, **variables: str) -> str:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests"), str(root / "tests/kernels")])
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_compilation() -> None:
    python(WITHOUT_JIT, NUMBA_DISABLE_JIT="1")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for other x86 processors")
def test_processors_with_vnni_get_its_instruction() -> None:
    """Compiled, not run: the quads that it replaces are tested above on any processor."""
    features = "+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512vnni"
    assert python(VNNI, NUMBA_CPU_NAME="znver4", NUMBA_CPU_FEATURES=features) == "4 True\n"
