"""Budgets: amounts in words, exact limits, and what passes them."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpgnas.budget import (
    COUNT,
    QUANTITIES,
    SIZE,
    TIME,
    Budget,
    Scale,
    format_bits,
    format_time,
    parse_size,
    size_text,
)
from lpgnas.config import RunConfig
from lpgnas.cost_models.rows import TOTALS, CostReport, CostRow
from lpgnas.errors import ConfigError, LatencyTableError, UnknownName


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


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("2M", 2_000_000), (" 1.5 K ", 1500), ("30M", 30_000_000), ("0.001G", 10**6), ("3T", 3 * 10**12)],
)
def test_counts(text: str, count: int) -> None:
    assert COUNT.parse(text, "mac budget") == count
    assert COUNT.parse(COUNT.text(count), "again") == count


@pytest.mark.parametrize(
    ("text", "nanoseconds", "shown"),
    [("1ns", 1, "1 ns"), ("2ms", 2 * 10**6, "2 ms"), ("1.5 us", 1500, "1.5 us"), ("3s", 3 * 10**9, "3 s")],
)
def test_times(text: str, nanoseconds: int, shown: str) -> None:
    assert TIME.parse(text, "latency budget") == nanoseconds
    assert TIME.parse(TIME.text(nanoseconds), "again") == nanoseconds
    assert format_time(nanoseconds) == shown


@pytest.mark.parametrize("scale", [SIZE, COUNT, TIME], ids=lambda scale: str(scale.noun))
@given(st.integers(1, 10**30))
def test_texts_of_any_amount_read_back(scale: Scale, amount: int) -> None:
    if len(str(amount)) <= 20:
        assert scale.parse(scale.text(amount), "limit") == amount
        assert 0 <= scale.parse(scale.rounded_up(amount), "limit") - amount < next(iter(scale.units.values()))


@pytest.mark.parametrize(
    ("keyword", "text", "message"),
    [
        ("macs", "0", "mac budget: '0' is not a positive count"),
        ("macs", "-2M", "mac budget: '-2M' is not a positive count"),
        ("bops", "2m", "bop budget: cannot read '2m' as a count; write a number alone or with K, M, G or T"),
        ("bops", "3KiB", "bop budget: cannot read '3KiB' as a count"),
        ("latency", "0ms", "latency budget: '0ms' is not a positive time"),
        ("latency", "0.5ns", "latency budget: '0.5ns' is not a positive time"),
        ("latency", "2", "latency budget: cannot read '2' as a time; write a number and ns, us, ms or s, e.g. 2ms"),
        ("latency", "2 minutes", "latency budget: cannot read"),
        ("latency", "nans", "latency budget: cannot read"),
    ],
)
def test_other_limits_that_are_refused(keyword: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Budget(**{keyword: text})


def test_budgets_of_texts_and_of_whole_numbers() -> None:
    assert Budget(weights="3KiB", buffers="60KiB") == Budget(weights=24_576, buffers=np.int64(491_520))
    assert Budget(peak=7)["peak_bits"] == 7
    assert Budget(macs="2M", latency="2ms") == Budget(macs=2_000_000, latency=2_000_000)
    assert hash(Budget(macs=3)) == hash(Budget(macs="3")) != hash(Budget(bops=3))
    assert repr(Budget(weights="1B", macs=5)) == "Budget(weights=8, macs=5)"
    wrong: Any
    for wrong, message in (
        ("3 parsecs", "peak budget: cannot read '3 parsecs'"),
        (0, "peak budget: 0 bits is not a positive size"),
        (-8, "peak budget: -8 bits is not"),
        (3.5, "peak budget: 3.5 is neither a size such as '3KiB' nor a whole number of bits"),
    ):
        with pytest.raises(ConfigError, match=message):
            Budget(peak=wrong)
    with pytest.raises(
        ConfigError, match=r"latency budget: 0\.5 is neither a time such as '2ms' nor a whole number of n"
    ):
        Budget(latency=0.5)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match=r"unknown limit 'weight'\. Did you mean 'weights'"):
        Budget(weight="3KiB")


def test_budgets_of_options_and_back() -> None:
    options = {"weight_budget": "3KiB", "bop_budget": "30M", "latency_budget": "1500us", "seed": 3}
    budget = Budget.of_options(options)
    assert budget == Budget(weights="3KiB", bops="30M", latency="1500us")
    assert Budget.of_options(budget.options()) == budget
    assert budget.options().keys() == options.keys() - {"seed"}
    assert Budget.of_options({"weight_budget": "", "seed": 3}) == Budget()


def test_every_quantity_is_an_option_and_a_total() -> None:
    names = {one.name for one in fields(RunConfig)}
    for one in QUANTITIES:
        assert one.option in names
        assert one.name in (*TOTALS, "latency_ns")
        assert f"--{one.option}".replace("_", "-") == one.flag


def counted(**quantities: int) -> CostReport:
    """A report of these totals; everything else is 0."""
    macs, bops = quantities.pop("macs", 0), quantities.pop("bops", 0)
    row = CostRow(0, "any", 1, quantities["weight_bits"], quantities["buffer_bits"], macs, bops)
    return CostReport((row,), quantities["peak_bits"], 0, 0, 0)


def test_limits_are_inclusive_and_separate() -> None:
    budget = Budget(weights="1KiB", peak="2B")
    assert budget.allows(counted(weight_bits=8192, buffer_bits=1 << 60, peak_bits=16))
    assert budget.excess(counted(weight_bits=8193, buffer_bits=0, peak_bits=16)) == ("weight_bits",)
    assert budget.excess(counted(weight_bits=8193, buffer_bits=0, peak_bits=17)) == ("weight_bits", "peak_bits")
    assert not budget.allows(counted(weight_bits=0, buffer_bits=0, peak_bits=17))
    assert Budget(buffers=7).excess(counted(weight_bits=9, buffer_bits=8, peak_bits=9)) == ("buffer_bits",)
    assert Budget(macs=5, bops=6).excess(counted(weight_bits=9, buffer_bits=8, peak_bits=9, macs=6, bops=6)) == (
        "macs",
    )
    assert str(budget) == "weights 1 KiB, peak 2 B"
    assert str(Budget(macs="2M", bops=1, latency="2.5ms")) == "MACs 2,000,000, BOPs 1, latency 2.5 ms"
    assert str(Budget()) == "unlimited"
    assert Budget().allows(counted(weight_bits=1 << 80, buffer_bits=1 << 80, peak_bits=1 << 80))


def test_a_limited_quantity_that_was_not_counted_is_never_within() -> None:
    with pytest.raises(LatencyTableError, match="latency_ns is limited but was not counted; give a table"):
        Budget(latency="1s").allows(counted(weight_bits=0, buffer_bits=0, peak_bits=0))
