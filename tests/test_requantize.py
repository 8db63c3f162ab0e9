"""The rounding alone, against exact rationals."""

from __future__ import annotations

import naive
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lpgnas.kernels.reference import requantize_array
from lpgnas.number_formats import Rounding
from lpgnas.requantize import requantize, rescale

BOUNDARIES = [0, 1, -1, 2**31 - 1, -(2**31), 2**31 - 2, 2**30, -(2**30), 3 << 20, -(3 << 20)]
ACCUMULATORS = st.one_of(st.sampled_from(BOUNDARIES), st.integers(-(2**31), 2**31 - 1), st.integers(-300, 300))


@settings(deadline=None)  # the first call compiles
@given(
    value=ACCUMULATORS,
    shift=st.integers(-20, 45),
    bits=st.integers(1, 16),
    signed=st.booleans(),
    rounding=st.sampled_from(list(Rounding)),
)
def test_kernel_and_reference_equal_naive(value: int, shift: int, bits: int, signed: bool, rounding: Rounding) -> None:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    expected = naive.requantize(value, shift, low, high, rounding)
    assert int(requantize(np.int64(value), rescale(shift, rounding, low, high))) == expected
    assert requantize_array(np.array([value]), shift, low, high, rounding).tolist() == [expected]


@settings(deadline=None)  # the first call compiles
@given(quotient=st.integers(-100, 100), shift=st.integers(1, 45), rounding=st.sampled_from(list(Rounding)))
def test_exact_ties(quotient: int, shift: int, rounding: Rounding) -> None:
    value = (quotient << shift) + (1 << (shift - 1))
    expected = naive.requantize(value, shift, -128, 127, rounding)
    assert int(requantize(np.int64(value), rescale(shift, rounding, -128, 127))) == expected
