"""Float products with sparse matrices against dense ones, compiled and as plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from lpgnas.kernels import sparse_products

WIDTHS = (1, 2, 3, 7, 8, 16, 31, 40)
"""Every tile, and sums of tiles."""


def matrix(rows: int, columns: int, seed: int, *, equal: bool) -> Any:
    """Small integers, so that sums are exact; with empty rows, and one row that is full."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 9, (rows, columns)) * (rng.random((rows, columns)) < 0.3)
    dense[rows // 2] = 3
    dense[0] = 0
    if equal:
        dense = 2 * (dense > 0)
    return sparse.csr_array(dense.astype(np.float64))


def parts(made: Any, dtype: type, *, equal: bool) -> tuple[Any, Any, Any]:
    values = made.data.astype(dtype)
    return made.indptr.astype(np.int64), made.indices.astype(np.int32), values[:1] if equal else values


def check_products(width: int, dtype: type, *, equal: bool) -> None:
    one = matrix(9, 6, width, equal=equal)
    rng = np.random.default_rng(width)
    right: Any = rng.integers(-9, 9, (6, width)).astype(dtype)
    left: Any = rng.integers(-9, 9, (9, width)).astype(dtype)
    out: Any = np.full((9, width), np.nan, dtype)
    sparse_products.sum_rows(*parts(one, dtype, equal=equal), right, out)
    assert np.array_equal(out, one @ right)
    added: Any = np.full((6, width), 5.0, dtype)
    sparse_products.add_rows(*parts(one, dtype, equal=equal), left, added)
    assert np.array_equal(added, one.T @ left + 5.0)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", WIDTHS)
def test_products(width: int, dtype: type, equal: bool) -> None:
    check_products(width, dtype, equal=equal)


def test_products_without_the_compiler() -> None:
    check = "t.check_products(width, numpy.float32, equal=width % 2 == 0)"
    random = "t.test_random_words_are_uniform_and_depend_on_the_seed()"
    code = f"import numpy, test_sparse_products as t\nfor width in t.WIDTHS: {check}\n{random}"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("threshold", [0, 100, 255])
def test_kept_entries(threshold: int, equal: bool) -> None:
    one = matrix(9, 6, 3, equal=equal)
    indptr, indices, values = parts(one, np.float32, equal=equal)
    draws = np.random.default_rng(threshold).integers(0, 256, one.nnz).astype(np.uint8)
    to_indptr, to_indices = np.full(len(indptr), -1, np.int64), np.full(one.nnz + 1, -1, np.int32)
    to_values = values.copy() if equal else np.full(one.nnz + 1, np.nan, np.float32)
    sparse_products.keep_entries(indptr, indices, values, draws, threshold, to_indptr, to_indices, to_values)
    kept = draws >= threshold
    count = int(kept.sum())
    assert to_indptr[-1] == count
    assert np.array_equal(to_indices[:count], indices[kept])
    assert np.array_equal(np.diff(to_indptr), [kept[a:b].sum() for a, b in pairwise(indptr)])
    assert np.array_equal(to_values, values) if equal else np.array_equal(to_values[:count], values[kept])


def test_an_empty_matrix() -> None:
    indptr, indices = np.zeros(4, np.int64), np.zeros(0, np.int32)
    out = np.full((3, 5), np.nan, np.float32)
    sparse_products.sum_rows(indptr, indices, np.zeros(0, np.float32), np.ones((2, 5), np.float32), out)
    assert not out.any()


def test_random_words_are_uniform_and_depend_on_the_seed() -> None:
    words = np.empty(4096, np.uint64)
    sparse_products.fill_random(np.uint64(1), words)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert abs(counts - 128).max() < 6 * np.sqrt(128)
    again, other = np.empty_like(words), np.empty_like(words)
    sparse_products.fill_random(np.uint64(1), again)
    sparse_products.fill_random(np.uint64(2), other)
    assert np.array_equal(words, again)
    assert len(np.intersect1d(words, other)) == 0
