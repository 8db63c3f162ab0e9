"""Formats and the rounding of real values."""

from __future__ import annotations

from fractions import Fraction

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpgnas.errors import SpecError
from lpgnas.number_formats import (
    FLOAT32,
    Binary,
    FixedPoint,
    Float32,
    FormatChoice,
    Rounding,
    Ternary,
    quantize_array,
    round_to_int,
)

NAMES = ["binary", "ternary", "float32", *(f"fixed{bits}" for bits in range(1, 17))]


@pytest.mark.parametrize(
    ("fmt", "low", "high"),
    [
        (FixedPoint(2, 0), -2, 1),
        (FixedPoint(8, 3), -128, 127),
        (FixedPoint(16, 0), -32768, 32767),
        (FixedPoint(1, 0, signed=False), 0, 1),
        (FixedPoint(16, 0, signed=False), 0, 65535),
        (Binary(0), -1, 1),
        (Ternary(0), -1, 1),
    ],
)
def test_ranges(fmt: FixedPoint | Binary | Ternary, low: int, high: int) -> None:
    assert (fmt.low, fmt.high) == (low, high)


@pytest.mark.parametrize(("bits", "signed"), [(1, True), (0, False), (17, True), (17, False), (-1, False)])
def test_widths_that_do_not_exist(bits: int, signed: bool) -> None:
    with pytest.raises(SpecError, match=f"bits, got {bits}"):
        FixedPoint(bits, 0, signed)


@pytest.mark.parametrize("name", NAMES)
def test_choices_round_trip(name: str) -> None:
    assert str(FormatChoice.parse(name)) == name


@pytest.mark.parametrize(
    "name", ["", "fixed", "fixed0", "fixed17", "fixed08", "Binary", "float", "fixed4 ", "fixed4\n"]
)
def test_unknown_choices(name: str) -> None:
    with pytest.raises(SpecError, match="number format"):
        FormatChoice.parse(name)


@pytest.mark.parametrize(("kind", "bits"), [("binary", 2), ("ternary", 1), ("float32", 16), ("fixed", 0), ("other", 4)])
def test_impossible_choices(kind: str, bits: int) -> None:
    with pytest.raises(SpecError, match="no number format"):
        FormatChoice(kind, bits)


def test_with_fraction() -> None:
    assert FormatChoice("fixed", 4).with_fraction(2, signed=False) == FixedPoint(4, 2, signed=False)
    assert FormatChoice("binary", 1).with_fraction(2) == Binary(2)
    assert FormatChoice("ternary", 2).with_fraction(-1) == Ternary(-1)
    assert FLOAT32.with_fraction(0) == Float32()


def test_ties() -> None:
    values = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_to_int(values, Rounding.HALF_EVEN).tolist() == [-2, -2, 0, 0, 2, 2]
    assert round_to_int(values, Rounding.HALF_UP).tolist() == [-2, -1, 0, 1, 2, 3]
    assert round_to_int(values, Rounding.FLOOR).tolist() == [-3, -2, -1, 0, 1, 2]


@given(
    value=st.floats(allow_nan=False, allow_infinity=False, width=32),
    fraction=st.integers(-60, 60),
    rounding=st.sampled_from(list(Rounding)),
)
def test_quantise_equals_exact_rationals(value: float, fraction: int, rounding: Rounding) -> None:
    fmt = FixedPoint(8, fraction)
    exact = naive.round_fraction(Fraction(value) * Fraction(2) ** fraction, rounding)
    assert int(quantize_array(np.array([value], dtype=np.float32), fmt, rounding)[0]) == min(max(exact, -128), 127)
