"""Exact projection under a budget: the feasible choices with the largest sum of preferences.

Branch and bound over the genes of a space. Of its macro genes cost is no monotone function, so that they are set
first: macro-architectures are taken in the order of what their models could be worth. Then, depth-first, the others:
their options are listed from the cheapest upwards, so a partial choice completed with the cheapest options bounds its
cost from below; completed with the most preferred ones, it bounds its worth from above.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lpgnas.search_space import Choices, SearchSpace
from lpgnas.spec import ModelSpec

Options = list[list[int]]
"""Options of each gene behind the macro genes, in the order in which they are tried."""
Preferences = Sequence[npt.NDArray[np.float64]]
"""One number for each option of each gene of a space; more is better."""
MAX_CHECKS = 4000
"""Costs that a projection looks at before it settles for the best choice so far. Tight budgets on two blocks need a few
hundred; what is returned is feasible either way."""
COST_ORDER = (
    "activation",
    "width",
    "linear_weight_format",
    "shortcut",
    "attention",
    "activation_format",
    "message_format",
)
"""Genes that decide the cost come first, so that a dear branch is cut early. The activations come before all: only
while they are fixed is the cheapest option of every other gene the cheapest for the peak as well."""


@dataclass(frozen=True, eq=False)
class _MacroTable:
    """Every macro-architecture of a space, as a row.

    Attributes:
        choices: [M, macro genes] options.
        macro_active: [M, macro genes], whether they count.
        inner_active: [M, other genes], likewise.
    """

    choices: npt.NDArray[np.int64]
    macro_active: npt.NDArray[np.bool_]
    inner_active: npt.NDArray[np.bool_]


@lru_cache(maxsize=8)
def _macro_table(space: SearchSpace) -> _MacroTable:
    rows, macros = space.macro_choices(), len(space.macro_genes())
    active = np.array([space.active(row) for row in rows], dtype=bool)
    choices = np.array(rows, dtype=np.int64).reshape(len(rows), macros)
    return _MacroTable(choices, active[:, :macros], active[:, macros:])


def worth(choices: Choices, preferences: Preferences, active: Sequence[bool] | None = None) -> float:
    """Sum of the preferences of a choice vector, of its active genes where these are given."""
    counted = active or (True,) * len(choices)
    picked = zip(preferences, choices, counted, strict=True)
    return float(sum(values[option] for values, option, counts in picked if counts))


def project(space: SearchSpace, preferences: Preferences, fits: Callable[[ModelSpec], bool]) -> Choices | None:
    """The choice vector of `space` whose model `fits` with the largest `worth`; None if not even the smallest fits.

    Only active genes count. Ties go to the cheaper option. Exact unless `MAX_CHECKS` are passed.
    """
    return _Branches(space, preferences, fits).best()


class _Branches:
    """One search: the incumbent, and the checks that are left."""

    def __init__(self, space: SearchSpace, preferences: Preferences, fits: Callable[[ModelSpec], bool]) -> None:
        self._space, self._fits, self._checks = space, fits, MAX_CHECKS
        self._preferences = preferences
        self._macros = len(space.macro_genes())
        names = [name.split(".")[-1] for name, _ in space.genes()]
        rank = {name: place for place, name in enumerate(COST_ORDER)}
        inner = range(self._macros, len(names))
        self._order = sorted(inner, key=lambda gene: (rank.get(names[gene], len(rank)), gene))
        self._best: Choices | None = None
        self._worth = -np.inf
        # of the macro-architecture that is being searched
        self._chosen: list[int] = []
        self._options_of: dict[int, list[int]] = {}
        self._likes: dict[int, npt.NDArray[np.float64]] = {}
        self._rest: list[float] = []

    def best(self) -> Choices | None:
        """See `project`."""
        table = _macro_table(self._space)
        most = np.array([values.max() for values in self._preferences[self._macros :]])
        own = np.zeros(len(table.choices))
        for gene in range(self._macros):
            own += table.macro_active[:, gene] * self._preferences[gene][table.choices[:, gene]]
        # entries: minus the bound, the place, and the options once they are known
        queue: list[tuple[float, int, Options | None]] = [
            (-bound, place, None) for place, bound in enumerate((own + table.inner_active @ most).tolist())
        ]
        heapq.heapify(queue)
        while queue:
            bound, place, options = heapq.heappop(queue)
            if self._best is not None and (-bound <= self._worth or self._checks <= 0):
                break
            macro = tuple(table.choices[place].tolist())
            if options is None:
                options = self._options(macro, table.inner_active[place])
                if options is not None:
                    reachable = self._most(options, table.inner_active[place])
                    heapq.heappush(queue, (-(float(own[place]) + sum(reachable)), place, options))
                continue
            self._search(macro, float(own[place]), options, table.inner_active[place])
        return self._best

    def _options(self, macro: Choices, active: npt.NDArray[np.bool_]) -> Options | None:
        """Feasible options of the other genes, the best liked first; None where not even the smallest model fits."""
        fits = self._counted if macro else self._fits  # where there is but one, there is nothing to save
        if not fits(self._space.spec((*macro, *(0,) * len(active)))):
            return None
        listed = self._space.feasible_options(fits, macro)[self._macros :]
        return [
            [options[place] for place in np.argsort(-values[list(options)], kind="stable")]
            for options, values in zip(listed, self._preferences[self._macros :], strict=True)
        ]

    def _most(self, options: Options, active: npt.NDArray[np.bool_]) -> list[float]:
        """The largest preference of each gene behind the macro genes, 0 where it has no part."""
        likes = zip(self._preferences[self._macros :], options, active, strict=True)
        return [float(values[listed[0]]) if counts else 0.0 for values, listed, counts in likes]

    def _search(self, macro: Choices, own: float, options: Options, active: npt.NDArray[np.bool_]) -> None:
        """All models of one macro-architecture, whose own genes are worth `own`."""
        self._chosen = [*macro, *(0 for _ in options)]
        self._options_of = {gene: options[gene - self._macros] for gene in self._order}
        self._likes = {gene: self._preferences[gene] * float(active[gene - self._macros]) for gene in self._order}
        most = self._most(options, active)
        ordered = [most[gene - self._macros] for gene in self._order]
        self._rest = [float(sum(ordered[depth:])) for depth in range(len(ordered) + 1)]
        self._descend(0, own)

    def _counted(self, spec: ModelSpec) -> bool:
        self._checks -= 1
        return self._fits(spec)

    def _check(self, gene: int, option: int) -> bool:
        """Whether the choices so far fit with this one, all open genes at their cheapest."""
        before, self._chosen[gene] = self._chosen[gene], option
        fitting = self._counted(self._space.spec(tuple(self._chosen)))
        self._chosen[gene] = before
        return fitting

    def _descend(self, depth: int, value: float) -> None:
        if depth == len(self._order):
            if value > self._worth:
                self._best, self._worth = tuple(self._chosen), value
            return
        gene = self._order[depth]
        for option in self._options_of[gene]:
            reached = value + float(self._likes[gene][option])
            if reached + self._rest[depth + 1] <= self._worth:
                return  # the other options are worth no more
            if self._checks <= 0 and np.isfinite(self._worth):
                return
            if option == 0 or self._check(gene, option):
                self._chosen[gene] = option
                self._descend(depth + 1, reached)
                self._chosen[gene] = 0
