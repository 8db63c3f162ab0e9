"""Latency tables for the tests: random ones, whose measured times may fall where they should rise."""

from __future__ import annotations

from itertools import product

import numpy as np

from lpgnas.cost_models.latency import LatencyTable, Point, known_kinds


def random_points(rng: np.random.Generator, kinds: tuple[str, ...] = ()) -> list[Point]:
    """Points of every kind (or of those given) on one to three sizes, columns and bits each."""
    points = []
    for kind in kinds or known_kinds():
        scale = int(np.exp(rng.uniform(0, 8)))
        axes = [
            sorted({int(value) for value in np.exp(rng.uniform(0, high, int(rng.integers(1, 4))))})
            for high in (12, 5, 5)
        ]
        for size, columns, bits in product(*axes):
            points.append(Point(kind, size, columns, bits, scale * int(rng.integers(1, 1000))))
    return points


def random_table(rng: np.random.Generator) -> LatencyTable:
    """A table of every kind."""
    return LatencyTable("random", 1, random_points(rng))
