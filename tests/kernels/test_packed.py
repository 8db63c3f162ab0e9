"""Packed codes: there and back, and their aggregation against that of the same codes in int8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgnas.errors import KernelError
from lpgnas.integer_program import INT32_LIMIT
from lpgnas.kernels.packed import PackedCodes, aggregate_packed, pack_codes
from lpgnas.kernels.spmm import Epilogue, aggregate_sum
from lpgnas.number_formats import Rounding
from lpgnas.requantize import rescale

FORMATS = ((4, True), (4, False), (2, True), (2, False), (1, False))
WITHOUT_JIT = """
import test_packed as t
for seed in range(10):
    for bits, signed in t.FORMATS:
        t.check(seed, 13 + seed, bits, signed)
"""


def check(seed: int, width: int, bits: int, signed: bool) -> None:
    """Hubs of more than a thousand edges, empty rows, and columns of one extreme code."""
    rng = np.random.default_rng(seed)
    nodes, rows = 6, 9
    targets = np.concatenate([rng.integers(0, nodes - 1, 30), np.zeros(int(rng.choice([0, 1200])), dtype=np.int64)])
    graph = samples.rectangular_graph(targets, rng.integers(0, rows, targets.size), nodes, rows)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    codes = rng.integers(low, high + 1, (rows, width))
    codes = np.where(rng.random(width)[None, :] < 0.5, rng.choice([low, high], width)[None, :], codes)
    codes = codes.astype("int8" if signed else "uint8")
    packed = pack_codes(codes, bits, signed=signed)
    assert packed.data.shape == (rows, -(-width * bits // 8))
    assert np.array_equal(packed.unpack(), codes)
    factor = rng.integers(1, 1 << 15, nodes) if seed % 2 else np.zeros(0, dtype=np.int64)
    shortcut = rng.integers(-128, 128, (nodes, width if seed % 3 else 0)).astype(np.int8)
    rounding = list(Rounding)[seed % 3]
    epilogue = Epilogue(
        factor, 1, rng.integers(-99, 99, width), shortcut, 2, rescale(12 if seed % 2 else 2, rounding, -128, 127)
    )
    out, plain = (np.empty((nodes, width), dtype=np.int8) for _ in range(2))
    clipped = np.zeros(2, dtype=np.int64)
    counting = epilogue._replace(clipped=clipped)
    aggregate_sum(graph.indptr, graph.sources, codes, counting, np.empty(width, np.int64), plain)
    wanted, clipped[:] = clipped.tolist(), 0
    for bound in (INT32_LIMIT - 1, INT32_LIMIT):
        aggregate_packed(graph, packed, epilogue if seed % 4 else counting, bound, out)
        assert np.array_equal(out, plain)
        assert clipped.tolist() == ([0, 0] if seed % 4 else wanted)  # nothing beyond the columns is counted
        clipped[:] = 0


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 1 << 30), width=st.integers(1, 300), kind=st.sampled_from(FORMATS))
def test_equal_to_plain_loops(seed: int, width: int, kind: tuple[int, bool]) -> None:
    check(seed, width, *kind)


def test_bad_codes_are_refused() -> None:
    with pytest.raises(KernelError, match=r"codes 0 to 8 leave the range \[-8, 7\] of 4 bits"):
        pack_codes(np.array([[0, 8]]), 4, signed=True)
    bad: list[tuple[Any, int, bool]] = [
        (np.zeros((1, 2)), 3, True),
        (np.zeros((1, 2)), 1, True),
        (np.zeros(2), 4, True),
    ]
    for codes, bits, signed in bad:
        with pytest.raises(KernelError):
            pack_codes(codes.astype(np.int8), bits, signed=signed)
    with pytest.raises(KernelError, match="packed codes must be"):
        PackedCodes(np.zeros((3, 4), dtype=np.uint8), 9, 4, True)
    graph = samples.rectangular_graph(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1, 1)
    nothing, by = np.zeros((1, 0), dtype=np.int8), rescale(0, Rounding.FLOOR, -128, 127)
    epilogue = Epilogue(np.zeros(0, np.int64), 0, np.zeros(5, np.int64), nothing, 0, by)
    with pytest.raises(KernelError, match="out must be"):
        aggregate_packed(graph, pack_codes(np.zeros((1, 5)).astype(int), 2, signed=True), epilogue, 9, nothing)


def test_without_compilation() -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests"), str(root / "tests/kernels")])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_JIT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
