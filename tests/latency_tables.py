"""Latency tables for the tests: random ones, whose measured times may fall where they should rise."""

from __future__ import annotations

from itertools import product

import numpy as np

from lpgnas.cost_models.latency import LatencyTable, Point, known_kinds


def random_points(rng: np.random.Generator, kinds: tuple[str, ...] = ()) -> list[Point]:
    """Points of version 1 of every kind (or of those given) on one to three sizes, columns and bits each."""
    points = []
    for kind in kinds or known_kinds(1):
        scale = int(np.exp(rng.uniform(0, 8)))
        axes = [
            sorted({int(value) for value in np.exp(rng.uniform(0, high, int(rng.integers(1, 4))))})
            for high in (12, 5, 5)
        ]
        for size, columns, bits in product(*axes):
            points.append(Point(kind, size, columns, bits, scale * int(rng.integers(1, 1000))))
    return points


def measured_points(rng: np.random.Generator, kinds: tuple[str, ...] = ()) -> list[Point]:
    """Points of version 2 of every kind (or of those given) on one or two rows, sizes a row, columns and bits each."""
    points = []
    for kind in kinds or known_kinds():
        scale = int(np.exp(rng.uniform(0, 8)))
        axes = [
            sorted({int(value) for value in np.exp(rng.uniform(0, high, int(rng.integers(1, 3))))})
            for high in (8, 4, 5, 3)
        ]
        if "/self/" in kind:
            axes[1] = [1]  # it reads no edges
        for rows, share, columns, bits in product(*axes):
            points.append(Point(kind, rows * share, columns, bits, scale * int(rng.integers(1, 1000)), rows))
    return points


def random_table(rng: np.random.Generator) -> LatencyTable:
    """A table of version 1 of every kind."""
    return LatencyTable("random", 1, random_points(rng))
