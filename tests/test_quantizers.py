"""Fake quantisation against exact rationals, and its straight-through gradients."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import naive
import numpy as np
import pytest
import torch
from brevitas.function.ops_ste import binary_sign_ste, floor_ste, round_ste, ternary_sign_ste
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lpgnas.number_formats import FLOAT32, MAX_FRACTION, FormatChoice, Rounding
from lpgnas.quantizers import (
    calibrated_fraction,
    code_range,
    fake_quantize,
    quantize_weight,
    range_fraction,
    weight_fraction,
)

ROUNDINGS = list(Rounding)
VALUES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20)
SAMPLE = torch.tensor([-2.5, -1.5, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.5, 2.5], dtype=torch.float64)


def exact(value: float, fraction: int, low: int, high: int, rounding: Rounding) -> float:
    """The definition, in rationals."""
    code = naive.round_fraction(Fraction(value) * Fraction(2) ** fraction, str(rounding))
    return float(min(max(code, low), high) * Fraction(2) ** -fraction)


@given(VALUES, st.integers(-12, 20), st.integers(2, 16), st.booleans(), st.sampled_from(ROUNDINGS))
def test_fake_quantize(values: list[float], fraction: int, bits: int, signed: bool, rounding: Rounding) -> None:
    low, high = code_range(bits, signed=signed)
    made = fake_quantize(torch.tensor(values, dtype=torch.float64), fraction, low, high, rounding)
    assert made.tolist() == [exact(value, fraction, low, high, rounding) for value in values]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_ties(rounding: Rounding) -> None:
    expected = {
        Rounding.HALF_EVEN: [-2, -2, -1, 0, 0, 0, 0, 0, 1, 2, 2],
        Rounding.HALF_UP: [-2, -1, -1, 0, 0, 0, 0, 1, 1, 2, 3],
        Rounding.FLOOR: [-3, -2, -1, -1, -1, 0, 0, 0, 0, 1, 2],
    }
    assert fake_quantize(SAMPLE, 0, -100, 100, rounding).tolist() == expected[rounding]


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_gradients_pass_straight_through_and_stop_where_codes_saturate(rounding: Rounding) -> None:
    values = torch.tensor([-9.0, -1.3, 0.2, 0.9, 9.0], requires_grad=True)
    fake_quantize(values, 2, -8, 7, rounding).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_code_range() -> None:
    assert code_range(4, signed=True) == (-8, 7)
    assert code_range(1, signed=False) == (0, 1)
    assert code_range(16, signed=False) == (0, 65535)


@given(VALUES, st.integers(2, 16))
def test_range_fraction_is_the_largest_that_fits(values: list[float], bits: int) -> None:
    high = code_range(bits, signed=True)[1]
    fraction = range_fraction(torch.tensor(values), high)
    largest = max(abs(Fraction(value)) for value in values)
    if largest == 0:
        assert fraction == 0
        return
    if fraction > -MAX_FRACTION:
        assert largest * Fraction(2) ** fraction <= high
    if fraction < MAX_FRACTION:
        assert largest * Fraction(2) ** (fraction + 1) > high


def test_range_fraction_at_the_ends() -> None:
    assert range_fraction(torch.zeros(3), 7) == 0
    assert range_fraction(torch.zeros(0), 7) == 0
    assert range_fraction(torch.tensor([float("inf")]), 7) == 0
    assert range_fraction(torch.tensor([1e-30]), 7) == MAX_FRACTION
    assert range_fraction(torch.tensor([1e-320], dtype=torch.float64), 7) == MAX_FRACTION
    assert range_fraction(torch.tensor([1e30]), 7) == -MAX_FRACTION
    assert range_fraction(torch.tensor([7.0]), 7) == 0
    assert range_fraction(torch.tensor([np.nextafter(7.0, 8.0)], dtype=torch.float64), 7) == -1


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_calibration(bits: int, signed: bool) -> None:
    values = torch.randn(500, generator=torch.Generator().manual_seed(bits)).double()
    low, high = code_range(bits, signed=signed)
    fraction = calibrated_fraction(values, bits, signed=signed, rounding=Rounding.HALF_EVEN)
    base = range_fraction(values if signed else values.clamp(min=0), high)
    if bits > 4:
        assert fraction == base
        return
    errors = {}
    for candidate in range(base, base + 4):
        made = [exact(value, candidate, low, high, Rounding.HALF_EVEN) for value in values.tolist()]
        errors[candidate] = sum((one - other) ** 2 for one, other in zip(made, values.tolist(), strict=True))
    assert errors[fraction] == min(errors.values())


@given(VALUES, st.sampled_from(["binary", "ternary", "fixed2", "fixed4", "fixed8"]), st.integers(-4, 8))
def test_weights(values: list[float], name: str, fraction: int) -> None:
    choice = FormatChoice.parse(name)
    made = quantize_weight(torch.tensor(values, dtype=torch.float64), choice, fraction).tolist()
    scale = 2.0**-fraction
    if name == "binary":
        expected = [scale if value >= 0 else -scale for value in values]
    elif name == "ternary":
        expected = [0.0 if abs(value) <= 0.7 * scale else float(np.copysign(scale, value)) for value in values]
    else:
        low, high = code_range(choice.bits, signed=True)
        expected = [exact(value, fraction, low, high, Rounding.HALF_EVEN) for value in values]
    assert made == expected


@pytest.mark.parametrize("name", ["binary", "ternary", "fixed4"])
def test_gradients_of_weights(name: str) -> None:
    weight = torch.tensor([-0.9, -0.1, 0.05, 0.6, 40.0], requires_grad=True)
    quantize_weight(weight, FormatChoice.parse(name), 1).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad[1:4].ne(0).all()
    assert (weight.grad[4] == 0) == (name == "fixed4")


def test_weight_fractions() -> None:
    weight = torch.tensor([[0.5, -0.25, 0.75, 0.0]])
    assert weight_fraction(weight, FormatChoice("fixed", 4)) == 3  # 0.75 * 8 = 6 <= 7
    assert weight_fraction(weight, FormatChoice("binary", 1)) == round(-np.log2(0.375))
    assert weight_fraction(weight, FormatChoice("ternary", 2)) == round(-np.log2((0.5 + 0.75) / 2))
    for choice in (FormatChoice("fixed", 4), FormatChoice("binary", 1), FormatChoice("ternary", 2)):
        assert weight_fraction(torch.zeros(2, 2), choice) == 0
    assert torch.equal(quantize_weight(weight, FLOAT32, 0), weight)


def test_values_and_gradients_are_those_of_brevitas() -> None:
    weight = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64)
    slopes = torch.arange(41, dtype=torch.float64)
    within = 0.7 * 0.5 * torch.ones(1, dtype=torch.float64)

    def check(made: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor]) -> None:
        one, other = (weight.clone().requires_grad_() for _ in range(2))
        left, right = made(one), wanted(other)
        assert torch.equal(left, right)
        (left * slopes).sum().backward()  # type: ignore[no-untyped-call]
        (right * slopes).sum().backward()  # type: ignore[no-untyped-call]
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)

    binary, ternary, fixed = (FormatChoice.parse(name) for name in ("binary", "ternary", "fixed4"))
    check(lambda w: quantize_weight(w, binary, 1), lambda w: binary_sign_ste(w) * 0.5)
    check(
        lambda w: quantize_weight(w, ternary, 1),
        lambda w: ternary_sign_ste(w - w.clamp(-within, within).detach()) * 0.5,
    )
    check(lambda w: quantize_weight(w, fixed, 3), lambda w: round_ste(w * 8).clamp(-8, 7) / 8)
    check(lambda w: fake_quantize(w, 2, -8, 7, Rounding.FLOOR), lambda w: floor_ste(w * 4).clamp(-8, 7) / 4)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("signed", [False, True])
def test_few_bits_take_the_fraction_with_the_least_squared_error(signed: bool, rounding: Rounding) -> None:
    for seed in range(20):
        values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) ** 3
        low, high = code_range(3, signed=signed)
        base = range_fraction(values if signed else values.clamp(min=0), high)
        errors = [
            sum((exact(value, fraction, low, high, rounding) - value) ** 2 for value in values.tolist())
            for fraction in range(base, base + 4)
        ]
        assert calibrated_fraction(values, 3, signed=signed, rounding=rounding) == base + int(np.argmin(errors))
