"""The one rounding of every operation: `requantize(a, shift, low, high)` of the integer semantics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lpgnas.jit import jit
from lpgnas.number_formats import Rounding

AnyCodes = npt.NDArray[Any]
"""Integer codes in the narrow dtype of their tensor (int8, uint8, int16, uint16), or int32 for scores."""


class Rescale(NamedTuple):
    """A shift, a rounding mode and a clamp, in a form without branches; see `rescale`.

    Attributes:
        left: bits of the left shift, which is exact.
        right: bits of the arithmetic right shift.
        addend: added before the right shift.
        tie: 1 where the parity of the quotient decides a tie, else 0.
        low: smallest result.
        high: largest result.
    """

    left: int
    right: int
    addend: int
    tie: int
    low: int
    high: int


def rescale(shift: int, rounding: Rounding, low: int, high: int) -> Rescale:
    """The constants of `requantize(., shift, low, high)` under `rounding`."""
    if shift <= 0:
        return Rescale(-shift, 0, 0, 0, low, high)
    half = 1 << (shift - 1)
    addend, tie = {Rounding.HALF_EVEN: (half - 1, 1), Rounding.HALF_UP: (half, 0), Rounding.FLOOR: (0, 0)}[rounding]
    return Rescale(0, shift, addend, tie, low, high)


@jit
def round_shift(value: np.int64, by: Rescale) -> np.int64:
    """`value * 2^-shift`, rounded once; int64 in and out. The proofs exclude overflow."""
    shifted = value << by.left
    return (shifted + by.addend + ((shifted >> by.right) & by.tie)) >> by.right


@jit
def requantize(value: np.int64, by: Rescale) -> np.int64:
    """`round_shift`, saturated."""
    rounded = round_shift(value, by)
    return min(max(rounded, np.int64(by.low)), np.int64(by.high))
