"""Exact projection under a budget: the feasible choices with the largest sum of preferences.

Depth-first branch and bound over the genes of a space. Options are listed from the cheapest upwards, so a partial
choice completed with the cheapest options bounds its cost from below; completed with the most preferred ones, it bounds
its worth from above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lpgnas.search_space import Choices, SearchSpace
from lpgnas.spec import ModelSpec

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
while they are fixed is the cheapest option of every other gene the cheapest for the peak as well. Attentions come
before aggregations, which some of them decide."""


def worth(choices: Choices, preferences: Preferences) -> float:
    """Sum of the preferences of a choice vector."""
    return float(sum(values[option] for values, option in zip(preferences, choices, strict=True)))


def project(space: SearchSpace, preferences: Preferences, fits: Callable[[ModelSpec], bool]) -> Choices | None:
    """The choice vector of `space` whose model `fits` with the largest `worth`; None if not even the smallest fits.

    Ties go to the cheaper option. Exact unless `MAX_CHECKS` are passed.
    """
    smallest = space.smallest()
    if not fits(space.spec(smallest)):
        return None
    return _Branches(space, preferences, fits).best()


class _Branches:
    """One search: the incumbent, and the checks that are left."""

    def __init__(self, space: SearchSpace, preferences: Preferences, fits: Callable[[ModelSpec], bool]) -> None:
        self._space, self._fits, self._checks = space, fits, MAX_CHECKS
        self._preferences = preferences
        self._chosen = list(space.smallest())
        names = [name.split(".")[1] for name, _ in space.genes()]
        self._options = [
            [options[place] for place in np.argsort(-values[list(options)], kind="stable")]
            for options, values in zip(space.feasible_options(fits), preferences, strict=True)
        ]
        rank = {name: place for place, name in enumerate(COST_ORDER)}
        self._order = sorted(range(len(names)), key=lambda gene: (rank.get(names[gene], len(rank)), gene))
        most = [preferences[gene][self._options[gene][0]] for gene in self._order]
        self._rest = [float(sum(most[depth:])) for depth in range(len(most) + 1)]
        self._best, self._worth = space.smallest(), -np.inf

    def best(self) -> Choices:
        self._descend(0, 0.0)
        return self._best

    def _check(self, gene: int, option: int) -> bool:
        """Whether the choices so far fit with this one, all open genes at their cheapest."""
        self._checks -= 1
        before, self._chosen[gene] = self._chosen[gene], option
        fitting = self._fits(self._space.spec(tuple(self._chosen)))
        self._chosen[gene] = before
        return fitting

    def _descend(self, depth: int, value: float) -> None:
        if depth == len(self._order):
            if value > self._worth:
                self._best, self._worth = tuple(self._chosen), value
            return
        gene = self._order[depth]
        for option in self._options[gene]:
            reached = value + float(self._preferences[gene][option])
            if reached + self._rest[depth + 1] <= self._worth:
                return  # the other options are worth no more
            if self._checks <= 0 and np.isfinite(self._worth):
                return
            if option == 0 or self._check(gene, option):
                self._chosen[gene] = option
                self._descend(depth + 1, reached)
                self._chosen[gene] = 0
