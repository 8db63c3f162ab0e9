"""What is known of every option before a search: its effect on models of synthetic graphs.

Effects of choices are much the same on all graphs: those that were fitted on synthetic graphs alone rank random models
of real ones with a correlation above 0.7 (docs/search.md has the figures). The table is package data, made by
`python -m benchmarks.known_effects`.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from functools import cache
from importlib import resources
from math import log2
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lpgnas.search_space import INPUT_GROUP, SearchSpace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Floats = npt.NDArray[np.float64]
Named = tuple[str, str, str]
"""Where a gene is (`input`, `first` or `last` block), its choice, and its option."""
NUMBERED = ("words", "width", "heads")
TAUGHT, ALONE = "with_teacher", "without"
"""Columns of the table."""
SHARES = 64
"""Shares of kept words are told apart in 64ths."""


def axis(choice: str, option: str) -> float | None:
    """Where an option lies among the numbers that its choice has: octaves; None for a name."""
    if choice.endswith("_format"):
        number = option.removeprefix("fixed").removeprefix("float")
        return log2(int(number)) if number.isdigit() else None
    return log2(float(option)) if choice in NUMBERED else None


def gene_options(space: SearchSpace) -> Iterator[tuple[str, tuple[Named, ...]]]:
    """Every gene with its options; those of a macro-architecture have none. A block in the middle counts as a first."""
    shares = (SHARES * (count or space.num_features) / space.num_features for count in space.word_counts)
    lists = space.option_names() | {"words": tuple(str(max(1, round(share)) / SHARES) for share in shares)}
    macro = len(space.macro_genes())
    for place, (name, count) in enumerate(space.genes()):
        group, _, choice = name.rpartition(".")
        where = INPUT_GROUP if group == INPUT_GROUP else "last" if group == f"layer{space.depth - 1}" else "first"
        options = () if place < macro else tuple((where, choice, one) for one in lists[choice][:count])
        yield name, options


@cache
def effect_table(*, taught: bool) -> Mapping[Named, float]:
    """The effects of the package on models with or without a teacher, in standard deviations of the rating."""
    with resources.files("lpgnas.data").joinpath("known_effects.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kind = TAUGHT if taught else ALONE
    return MappingProxyType({(row["where"], row["choice"], row["option"]): float(row[kind]) for row in rows})


def effects_digest() -> str:
    """Hash of both tables, for the keys of what is kept."""
    tables = [sorted(effect_table(taught=taught).items()) for taught in (False, True)]
    return hashlib.sha256(repr(tables).encode()).hexdigest()[:16]


def known_effects(space: SearchSpace, *, taught: bool) -> Floats:
    """The effect [P] of every option of every gene on a model's rating, where ratings have variance 1.

    Numbers between those of the table are interpolated in octaves; beyond them, the last one counts. What the table
    does not know, as an operator of the user's, has the mean effect of its choice: 0.

    Args:
        space: whose options.
        taught: whether models learn from a teacher; effects were fitted for either case.
    """
    table = effect_table(taught=taught)
    curves: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for (where, choice, option), effect in table.items():
        place = axis(choice, option)
        if place is not None:
            curves[where, choice].append((place, effect))

    def effect_of(one: Named) -> float:
        where, choice, option = one
        place, curve = axis(choice, option), sorted(curves.get((where, choice), []))
        if place is None or not curve:
            return table.get(one, 0.0)
        return float(np.interp(place, np.array([at for at, _ in curve]), np.array([effect for _, effect in curve])))

    counts = dict(space.genes())
    parts = [[effect_of(one) for one in options] or [0.0] * counts[name] for name, options in gene_options(space)]
    return np.array([value for part in parts for value in part], dtype=np.float64)
