"""Budgets: sizes in words, exact bits, and what passes a limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lpgnas.budget import Budget, format_bits, parse_size, size_text
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


@pytest.mark.parametrize(
    ("bits", "text"), [(1, "0.125B"), (12_001, "1500.125B"), (20, "2.5B"), (24_576, "3KiB"), (8 << 30, "1GiB")]
)
def test_texts_of_exact_bits(bits: int, text: str) -> None:
    assert size_text(bits) == text
    assert parse_size(text) == bits


def test_budgets_of_texts_and_of_bits() -> None:
    assert Budget(weights="3KiB", buffers="60KiB") == Budget.parse("3KiB", "60KiB") == Budget(24_576, np.int64(491_520))
    assert Budget(peak=7).peak_bits == 7
    wrong: Any
    for wrong, message in (
        ("3 parsecs", "peak budget: cannot read '3 parsecs'"),
        (0, "peak budget: 0 bits is not a positive size"),
        (-8, "peak budget: -8 bits is not"),
        (3.5, "peak budget: 3.5 is neither a size such as '3KiB' nor a whole number of bits"),
    ):
        with pytest.raises(ConfigError, match=message):
            Budget(peak=wrong)


def test_limits_are_inclusive_and_separate() -> None:
    budget = Budget.parse("1KiB", None, "2B")
    assert budget == Budget(weights=8192, buffers=None, peak=16)
    assert budget.allows(weight_bits=8192, buffer_bits=1 << 60, peak_bits=16)
    assert budget.excess(weight_bits=8193, buffer_bits=0, peak_bits=16) == ("weight_bits",)
    assert budget.excess(weight_bits=8193, buffer_bits=0, peak_bits=17) == ("weight_bits", "peak_bits")
    assert not budget.allows(weight_bits=0, buffer_bits=0, peak_bits=17)
    assert Budget(buffers=7).excess(weight_bits=9, buffer_bits=8, peak_bits=9) == ("buffer_bits",)
    assert str(budget) == "weights 1 KiB, peak 2 B"
    assert str(Budget()) == "unlimited"
    assert Budget().allows(weight_bits=1 << 80, buffer_bits=1 << 80, peak_bits=1 << 80)
