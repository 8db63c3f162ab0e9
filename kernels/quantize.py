"""Features to input codes: float64 arithmetic on float32 values, one pass, in the narrow dtype of the input.

It equals `number_formats.quantize_array`. Zero has code 0 in every rounding mode, so sparse features stay sparse.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lpgnas.graph import Features, most_entries
from lpgnas.jit import jit
from lpgnas.number_formats import FixedPoint, Rounding
from lpgnas.requantize import AnyCodes

MODES = {Rounding.HALF_EVEN: 0, Rounding.HALF_UP: 1, Rounding.FLOOR: 2}
"""Numbers of the rounding modes."""


class SparseCodes(NamedTuple):
    """Codes [N, F] by row: `indptr` [N + 1] int64, `indices` [nnz] int32, `codes` [nnz] narrow and none of them 0."""

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    codes: AnyCodes

    def dense(self, columns: int) -> AnyCodes:
        """The same codes [N, columns] with their zeros."""
        shape = (self.indptr.size - 1, columns)
        return cast(AnyCodes, sparse.csr_array((self.codes, self.indices, self.indptr), shape=shape).toarray())


def code_dtype(bits: int, *, signed: bool) -> np.dtype[np.signedinteger | np.unsignedinteger]:
    """The narrowest dtype for codes of `bits` bits (1 to 32)."""
    width = 8 if bits <= 8 else 16 if bits <= 16 else 32
    return np.dtype(f"{'int' if signed else 'uint'}{width}")


def quantize_features(x: Features, fmt: FixedPoint, rounding: Rounding) -> AnyCodes | SparseCodes:
    """Codes of checked features [N, F] float32: dense for dense features, sparse for CSR features."""
    if isinstance(x, np.ndarray):
        return _quantize(x.ravel(), fmt, rounding).reshape(x.shape)
    if not x.has_canonical_format:  # a duplicate must be summed before it is rounded
        x = x.copy()
        x.sum_duplicates()
    codes = _quantize(x.data, fmt, rounding)
    return _without_zeros(x.indptr.astype(np.int64), x.indices.astype(np.int32), codes)


def quantize_input(x: Features, fmt: FixedPoint, rounding: Rounding) -> AnyCodes | SparseCodes:
    """The codes of `quantize_features`, sparse too where dense features hold so many zeros that products gain by it."""
    if not isinstance(x, np.ndarray):
        return quantize_features(x, fmt, rounding)
    x, indptr = np.ascontiguousarray(x), np.zeros(len(x) + 1, dtype=np.int64)
    count_entries(x, indptr)
    if indptr[-1] > most_entries(fmt.bits) * x.size:
        return quantize_features(x, fmt, rounding)
    indices, values = np.empty(indptr[-1] + 1, dtype=np.int32), np.empty(indptr[-1] + 1, dtype=np.float32)
    find_entries(x, indices, values)
    return _without_zeros(indptr, indices[:-1], _quantize(values[:-1], fmt, rounding))


@jit
def count_entries(x: npt.NDArray[np.float32], indptr: npt.NDArray[np.int64]) -> None:
    """`indptr` [N + 1] of the entries of `x` [N, F] that are not 0; it starts as 0."""
    for row in range(x.shape[0]):
        entries = 0
        for column in range(x.shape[1]):
            entries += int(x[row, column] != 0)
        indptr[row + 1] = indptr[row] + entries


@jit
def find_entries(x: npt.NDArray[np.float32], indices: npt.NDArray[np.int32], values: npt.NDArray[np.float32]) -> None:
    """Columns and values of these entries, row by row; both arrays have one place more than there are entries."""
    found, one, none = np.uint64(0), np.uint64(1), np.uint64(0)  # an unsigned index is not tested for its sign
    for row in range(x.shape[0]):
        features = x[row]
        for column in range(features.size):  # written whether kept or not: a branch would be guessed wrong
            indices[found] = column
            values[found] = features[column]
            found += one if features[column] != 0 else none


def _without_zeros(indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.int32], codes: AnyCodes) -> SparseCodes:
    """The entries whose code is not 0; those of a 1-bit format are all 1 then."""
    kept = codes != 0
    if not kept.all():
        indptr = np.concatenate([[0], np.cumsum(kept)])[indptr]
        indices, codes = indices[kept], codes[kept]
    return SparseCodes(indptr, indices, codes)


def _quantize(values: npt.NDArray[np.float32], fmt: FixedPoint, rounding: Rounding) -> AnyCodes:
    codes = np.empty(values.shape, dtype=code_dtype(fmt.bits, signed=fmt.signed))
    quantize_values(values, 2.0**fmt.fraction, MODES[rounding], float(fmt.low), float(fmt.high), codes)
    return codes


@jit
def rounded(scaled: Any, mode: int) -> Any:  # noqa: ANN401 - float64, of NumPy or of the compiler
    """`scaled` as a whole number: mode 0 half to even, 1 half up, 2 floor."""
    if mode == 0:
        return np.rint(scaled)
    if mode == 1:
        return np.floor(scaled + 0.5)
    return np.floor(scaled)


@jit
def quantize_values(
    values: npt.NDArray[np.float32], scale: float, mode: int, low: float, high: float, codes: AnyCodes
) -> None:
    """`codes[k] = clip(round(values[k] * scale), low, high)`; the modes are those of `rounded`."""
    for k in range(values.size):
        code = rounded(np.float64(values[k]) * scale, mode)
        codes[k] = np.int64(min(max(code, low), high))
