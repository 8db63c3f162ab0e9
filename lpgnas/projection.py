"""Exact projection under a budget: the feasible choices with the largest sum of preferences.

Branch and bound over the genes of a space. Of its macro genes cost is no monotone function, so that they are set
first: macro-architectures are taken in an estimated order of their models' worth. Then, depth-first, the others:
their options are listed from the cheapest upwards, so a partial choice completed with the cheapest options bounds its
cost from below; completed with the most preferred ones, it bounds its worth from above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lpgnas.search_space import Choices, SearchSpace
from lpgnas.spec import ModelSpec

Options = tuple[tuple[int, ...], ...]
"""The options of each gene that come into question."""
Preferences = Sequence[npt.NDArray[np.float64]]
"""One number for each option of each gene of a space; more is better."""
MAX_CHECKS = 4000
"""Costs that a projection looks at before it settles for the best choice so far. Tight budgets on two blocks need a few
hundred; what is returned is feasible either way."""
COST_ORDER = (
    "activation",
    "width",
    "words",
    "linear_weight_format",
    "shortcut",
    "attention",
    "activation_format",
    "message_format",
)
"""Genes that decide the cost come first, so that a dear branch is cut early. The activations come before all: only
while they are fixed is the cheapest option of every other gene the cheapest for the peak as well. Attentions come
before aggregations, which some of them decide."""


def worth(choices: Choices, preferences: Preferences, active: Sequence[bool] | None = None) -> float:
    """Sum of the preferences of a choice vector, of its active genes where these are given."""
    counted = active or (True,) * len(choices)
    picked = zip(preferences, choices, counted, strict=True)
    return float(sum(values[option] for values, option, counts in picked if counts))


def project(space: SearchSpace, preferences: Preferences, fits: Callable[[ModelSpec], bool]) -> Choices | None:
    """`Projection` of one set of preferences."""
    return Projection(space, fits)(preferences)


class Projection:
    """Finds the choice vector of `space` whose model `fits` with the largest `worth`.

    Which options can fit is looked up once for each macro-architecture, whatever the preferences.

    Args:
        space: whose models are asked for.
        fits: whether a model is within the budget.
        checks: costs that one projection looks at before it settles.
    """

    def __init__(self, space: SearchSpace, fits: Callable[[ModelSpec], bool], checks: int = MAX_CHECKS) -> None:
        self._space, self._fits, self._checks = space, fits, checks
        self._macros = [space.macro(choices) for choices in space.macro_choices()]
        self._active = [space.active(choices) for choices in space.macro_choices()]
        # a chain stands for all macro-architectures of its blocks: an estimate of what their models could be worth
        chains = {macro.groups: place for place, macro in reversed(list(enumerate(self._macros))) if macro.is_chain}
        self._chains = [chains[macro.groups] for macro in self._macros]
        self._known: dict[int, Options | None] = {}
        self._fitting: dict[Choices, bool] = {}  # what one projection looked up, the next asks again
        self._looked = 0

    def __call__(self, preferences: Preferences) -> Choices | None:
        """The best choice vector, None if not even a smallest model fits.

        Only active genes count. Ties go to the cheaper option. Exact unless the checks are passed.
        """
        branches = _Branches(self._space, preferences, self._fit, self._checks)
        own = [self._own(place, preferences) for place in range(len(self._macros))]
        reach = {chain: self._reach(chain, preferences) for chain in sorted(set(self._chains))}
        estimates = [own[place] + reach[chain] for place, chain in enumerate(self._chains)]
        largest = [float(values.max()) for values in preferences]
        for place in sorted(range(len(own)), key=lambda place: (-estimates[place], place)):
            if branches.exhausted:
                break
            inner = enumerate(self._active[place])
            bound = own[place] + sum(largest[gene] for gene, counts in inner if counts and gene >= self._inner)
            if bound <= branches.worth:
                continue
            before = self._looked
            options = self._options(place)
            branches.spend(self._looked - before)
            if options is not None and own[place] + self._reach(place, preferences) > branches.worth:
                branches.search(self._space.macro_choices()[place], own[place], options, self._active[place])
        return branches.best

    @property
    def _inner(self) -> int:
        """The first gene behind the macro genes."""
        return len(self._space.macro_genes())

    def _own(self, place: int, preferences: Preferences) -> float:
        """Worth of the macro genes themselves."""
        picked = zip(preferences, self._space.macro_choices()[place], self._active[place], strict=False)
        return float(sum(values[option] for values, option, counts in picked if counts))

    def _options(self, place: int) -> Options | None:
        """Options of every gene that fit alone; None where not even the smallest model fits."""
        if place not in self._known:
            macro = self._space.macro_choices()[place]
            smallest = (*macro, *(0,) * (len(self._space.genes()) - len(macro)))
            fitting = self._counted(self._space.spec(smallest))
            self._known[place] = self._space.feasible_options(self._counted, macro) if fitting else None
        return self._known[place]

    def _fit(self, choices: Choices) -> bool:
        """Whether the model of these choices fits."""
        known = self._fitting.get(choices)
        if known is None:
            known = self._fitting[choices] = self._fits(self._space.spec(choices))
        return known

    def _counted(self, spec: ModelSpec) -> bool:
        self._looked += 1
        return self._fits(spec)

    def _reach(self, place: int, preferences: Preferences) -> float:
        """The most that the genes behind the macro genes can be worth, -inf where no model fits."""
        options = self._options(place)
        if options is None:
            return -np.inf
        rows = list(zip(preferences, options, self._active[place], strict=True))[self._inner :]
        return float(sum(values[list(listed)].max() for values, listed, counts in rows if counts))


class _Branches:
    """One search: the incumbent, and the checks that are left."""

    def __init__(
        self, space: SearchSpace, preferences: Preferences, fits: Callable[[Choices], bool], checks: int
    ) -> None:
        self._fits, self._checks = fits, checks
        self._preferences = preferences
        self._names = [name.split(".")[-1] for name, _ in space.genes()]
        self.best: Choices | None = None
        self.worth = -np.inf
        # of the macro-architecture that is being searched
        self._order: list[int] = []
        self._chosen: list[int] = []
        self._options: list[list[int]] = []
        self._rest: list[float] = []

    @property
    def exhausted(self) -> bool:
        """Whether the best so far is settled for."""
        return self._checks <= 0 and self.best is not None

    def spend(self, checks: int) -> None:
        """Count checks that were made for this search elsewhere."""
        self._checks -= checks

    def search(self, macro: Choices, own: float, options: Options, active: Sequence[bool]) -> None:
        """All models with these macro genes, which are worth `own` themselves."""
        self._chosen = [*macro, *(0 for _ in options[len(macro) :])]
        self._options = [
            [listed[place] for place in np.argsort(-values[list(listed)], kind="stable")]
            for listed, values in zip(options, self._preferences, strict=True)
        ]
        rank = {name: place for place, name in enumerate(COST_ORDER)}
        inner = [gene for gene in range(len(macro), len(options)) if active[gene]]
        self._order = sorted(inner, key=lambda gene: (rank.get(self._names[gene], len(rank)), gene))
        most = [float(self._preferences[gene][self._options[gene][0]]) for gene in self._order]
        self._rest = [float(sum(most[depth:])) for depth in range(len(most) + 1)]
        self._descend(0, own)

    def _check(self, gene: int, option: int) -> bool:
        """Whether the choices so far fit with this one, all open genes at their cheapest."""
        before, self._chosen[gene] = self._chosen[gene], option
        self._checks -= 1
        fitting = self._fits(tuple(self._chosen))
        self._chosen[gene] = before
        return fitting

    def _descend(self, depth: int, value: float) -> None:
        if depth == len(self._order):
            if value > self.worth:
                self.best, self.worth = tuple(self._chosen), value
            return
        gene = self._order[depth]
        for option in self._options[gene]:
            reached = value + float(self._preferences[gene][option])
            if reached + self._rest[depth + 1] <= self.worth:
                return  # the other options are worth no more
            if self._checks <= 0 and np.isfinite(self.worth):
                return
            if option == 0 or self._check(gene, option):
                self._chosen[gene] = option
                self._descend(depth + 1, reached)
                self._chosen[gene] = 0
