"""Hypervolumes against a count of grid cells, and the paired bootstrap on fronts whose difference is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpgnas.errors import ConfigError
from lpgnas.fronts import Reference, SeededFront, hypervolume, paired_bootstrap

CORNER = Reference(bits=2.0**12, accuracy=0.5)
POINTS = st.lists(st.tuples(st.integers(0, 14), st.integers(40, 100)), max_size=6)


def cells(points: list[tuple[int, int]]) -> int:
    """Unit cells (octave, percentage point) within the corner that some point dominates, one by one."""
    grid = itertools.product(range(12), range(50, 100))
    return sum(any(octave <= cell and height < accuracy for octave, accuracy in points) for cell, height in grid)


@given(POINTS)
def test_hypervolume_counts_cells(points: list[tuple[int, int]]) -> None:
    area = hypervolume([(2.0**octave, accuracy / 100) for octave, accuracy in points], CORNER)
    assert area == pytest.approx(cells(points), abs=1e-9)


def test_a_known_front() -> None:
    points = [(2.0**10, 0.8), (2.0**8, 0.7), (2.0**9, 0.65), (2.0**13, 0.99), (2.0**4, 0.5)]
    assert hypervolume(points, CORNER) == pytest.approx(20 * 4 + 10 * 2)
    assert hypervolume([], CORNER) == 0.0


def fronts(shift: float, noise: float, seeds: int = 10) -> tuple[SeededFront, SeededFront]:
    """Two fronts of three models; the splits move both alike by far more than they differ."""
    rng = np.random.default_rng(3)
    bits = np.repeat([[2.0**6], [2.0**8], [2.0**10]], seeds, axis=1)
    split = rng.normal(0.0, 0.02, seeds)
    base = np.array([[0.6], [0.7], [0.75]]) + split
    ours = base + shift + noise * rng.normal(size=base.shape)
    return SeededFront(bits, ours), SeededFront(bits, base)


def test_a_shift_common_to_all_splits_is_found_because_they_are_paired() -> None:
    ours, theirs = fronts(shift=0.004, noise=0.0)
    found = paired_bootstrap(ours, theirs, CORNER)
    # every model is 0.4 points better: the smallest reaches over 6 octaves, and so does the whole front
    assert found.value == pytest.approx(0.4 * 6)
    assert found.low == pytest.approx(found.high) and found.clear and found.seeds == 10
    crossed = SeededFront(theirs.bits, theirs.accuracy[:, ::-1])
    apart = paired_bootstrap(ours, crossed, CORNER)
    assert apart.low < 0.0 < apart.high and not apart.clear  # not paired, the splits hide it


def test_no_difference_is_not_claimed() -> None:
    ours, theirs = fronts(shift=0.0, noise=0.01)
    found = paired_bootstrap(ours, theirs, CORNER)
    assert found.low < 0.0 < found.high
    assert found == paired_bootstrap(ours, theirs, CORNER)
    other = paired_bootstrap(theirs, ours, CORNER)
    assert other.value == -found.value
    assert other.low == pytest.approx(-found.high)


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    held = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        bits = np.full((1, 12), 2.0**8)
        theirs = 0.7 + rng.normal(0.0, 0.02, (1, 12))
        ours = theirs + 0.01 + rng.normal(0.0, 0.005, (1, 12))
        found = paired_bootstrap(SeededFront(bits, ours), SeededFront(bits, theirs), CORNER, draws=300, seed=trial)
        held += found.low <= 100 * 0.01 * 4 <= found.high
    assert 60 * 0.8 <= held < 60


def test_what_is_refused() -> None:
    one, other = fronts(0.0, 0.0, seeds=4)[0], fronts(0.0, 0.0, seeds=5)[0]
    single = fronts(0.0, 0.0, seeds=1)[0]
    for ours, theirs, draws in ((one, other, 10), (single, single, 10), (one, one, 0)):
        with pytest.raises(ConfigError, match="needs the same seeds, at least 2, on both sides and a draw"):
            paired_bootstrap(ours, theirs, CORNER, draws=draws)
    with pytest.raises(ConfigError, match="sizes of a front must be positive, got 0"):
        hypervolume([(0.0, 0.5)], CORNER)
    with pytest.raises(ConfigError, match="positive bits and an accuracy in 0 to 1"):
        Reference(0.0, 0.5)
    with pytest.raises(ConfigError, match=r"got \(2, 0\) and \(2, 0\)"):
        SeededFront(np.zeros((2, 0)), np.zeros((2, 0)))
    assert math.isclose(one.hypervolume(CORNER), one.hypervolume(CORNER, np.arange(4)))
