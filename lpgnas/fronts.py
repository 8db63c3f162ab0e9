"""Fronts of accuracy against size: their hypervolume, and a paired bootstrap of the difference of two.

The hypervolume is the area that a front dominates within a reference point (Zitzler & Thiele 1999), here in percentage
points of accuracy times octaves of size: halving a model at equal accuracy counts alike at every size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lpgnas.errors import ConfigError

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Reference:
    """The point that a front is measured from: nothing larger or less accurate counts.

    Attributes:
        bits: the largest size.
        accuracy: the least accuracy, 0 to 1.
    """

    bits: float
    accuracy: float

    def __post_init__(self) -> None:
        if not self.bits > 0 or not 0.0 <= self.accuracy <= 1.0:
            raise ConfigError(f"a reference point has positive bits and an accuracy in 0 to 1, got {self}")


def hypervolume(points: Sequence[tuple[float, float]], reference: Reference) -> float:
    """The area that models dominate, in percentage points times octaves.

    Args:
        points: size in bits and accuracy (0 to 1) of each model; those outside the reference add nothing.
        reference: the far corner.

    Raises:
        ConfigError: a size that is not positive.
    """
    if any(not bits > 0 for bits, _ in points):
        raise ConfigError(f"sizes of a front must be positive, got {min(bits for bits, _ in points)}")
    area, best = 0.0, reference.accuracy
    for bits, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if bits < reference.bits and accuracy > best:
            area += 100.0 * (accuracy - best) * math.log2(reference.bits / bits)
            best = accuracy
    return area


@dataclass(frozen=True)
class SeededFront:
    """Models measured with the same seeds.

    Attributes:
        bits: [models, seeds], size of each model.
        accuracy: [models, seeds], 0 to 1; column s of two fronts is of one split and seed.

    Raises:
        ConfigError: no model, no seed, or shapes that differ.
    """

    bits: Floats
    accuracy: Floats

    def __post_init__(self) -> None:
        if self.bits.ndim != 2 or self.bits.shape != self.accuracy.shape or 0 in self.bits.shape:
            raise ConfigError(
                f"a front has sizes and accuracies [models, seeds], got {self.bits.shape} and {self.accuracy.shape}"
            )

    @property
    def seeds(self) -> int:
        """Columns."""
        return int(self.bits.shape[1])

    def hypervolume(self, reference: Reference, columns: npt.NDArray[np.intp] | None = None) -> float:
        """Of the models' means over the seeds, or over some columns; the mean size is geometric."""
        picked = np.arange(self.seeds) if columns is None else columns
        sizes = np.exp(np.log(self.bits[:, picked]).mean(axis=1))
        accuracies = self.accuracy[:, picked].mean(axis=1)
        return hypervolume(list(zip(sizes.tolist(), accuracies.tolist(), strict=True)), reference)


@dataclass(frozen=True)
class Difference:
    """Hypervolume of one front minus that of another, with the interval of the paired bootstrap."""

    value: float
    low: float
    high: float
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0.0 or self.high < 0.0


def paired_bootstrap(
    ours: SeededFront, theirs: SeededFront, reference: Reference, *, draws: int = 2000, seed: int = 0
) -> Difference:
    """The difference of two hypervolumes; seeds are drawn anew, the same ones for both fronts.

    The interval holds the middle 95 % of the draws (percentile bootstrap, Efron 1979). Both fronts take their best
    models by the same means that they are measured by: a front of many noisy models is a little too large.

    Args:
        ours: a front.
        theirs: another one, of the same seeds in the same order.
        reference: the far corner of both.
        draws: how often seeds are drawn.
        seed: of the draws.

    Raises:
        ConfigError: different numbers of seeds, or fewer than two; fewer than one draw.
    """
    if ours.seeds != theirs.seeds or ours.seeds < 2 or draws < 1:
        raise ConfigError(
            f"a paired bootstrap needs the same seeds, at least 2, on both sides and a draw; got {ours.seeds} and "
            f"{theirs.seeds} seeds, {draws} draws"
        )
    rng = np.random.default_rng(seed)
    drawn = rng.integers(ours.seeds, size=(draws, ours.seeds))
    values = [ours.hypervolume(reference, row) - theirs.hypervolume(reference, row) for row in drawn]
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = ours.hypervolume(reference) - theirs.hypervolume(reference)
    return Difference(value, float(low), float(high), ours.seeds)
