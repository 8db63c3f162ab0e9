"""Budgets: sizes in words, exact bits, and what passes a limit."""

from __future__ import annotations

import pytest

from lpgnas.budget import Budget, format_bits, parse_size
from lpgnas.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("1B", 8),
        ("1500B", 12_000),
        ("3KiB", 24_576),
        (" 60 KiB ", 491_520),
        ("+2MiB", 2 << 23),
        ("1GiB", 8 << 30),
        ("0.5KiB", 4096),
        ("0.3B", 2),  # a fraction of a bit is dropped
        ("99999999999999999999B", 8 * 99_999_999_999_999_999_999),  # exact, not a float
        ("9007199254740993B", 8 * 9_007_199_254_740_993),
    ],
)
def test_sizes(text: str, bits: int) -> None:
    assert parse_size(text) == bits


NO_SIZES = "3|KiB|3 parsecs|3kib|3KB|1e3B|0x10B|1.B|.5B|3KiB x|inf B|nanB|\u0663KiB||0"


@pytest.mark.parametrize("text", [*NO_SIZES.split("|"), "9" * 400 + "B"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match=r"peak budget: cannot read .* as a size; write a number and B, KiB"):
        parse_size(text, "peak budget")


@pytest.mark.parametrize("text", ["0B", "-1KiB", "0.01B", "-0.5MiB"])
def test_sizes_that_are_not_positive(text: str) -> None:
    with pytest.raises(ConfigError, match=f"size: '{text}' is not a positive size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (1, "0.125 B"),
        (8, "1 B"),
        (8191, "1023.875 B"),
        (8192, "1 KiB"),
        (12288, "1.5 KiB"),
        (8 << 20, "1 MiB"),
        (8 << 30, "1 GiB"),
        (8 << 40, "1024 GiB"),
        (800, "100 B"),
    ],
)
def test_bits_for_people(bits: int, text: str) -> None:
    assert format_bits(bits) == text


def test_limits_are_inclusive_and_separate() -> None:
    budget = Budget.parse("1KiB", None, "2B")
    assert budget == Budget(weight_bits=8192, buffer_bits=None, peak_bits=16)
    assert budget.allows(weight_bits=8192, buffer_bits=1 << 60, peak_bits=16)
    assert budget.excess(weight_bits=8193, buffer_bits=0, peak_bits=16) == ("weight_bits",)
    assert budget.excess(weight_bits=8193, buffer_bits=0, peak_bits=17) == ("weight_bits", "peak_bits")
    assert not budget.allows(weight_bits=0, buffer_bits=0, peak_bits=17)
    assert Budget(buffer_bits=7).excess(weight_bits=9, buffer_bits=8, peak_bits=9) == ("buffer_bits",)
    assert str(budget) == "weights 1 KiB, peak 2 B"
    assert str(Budget()) == "unlimited"
    assert Budget().allows(weight_bits=1 << 80, buffer_bits=1 << 80, peak_bits=1 << 80)
