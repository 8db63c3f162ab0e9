"""What a search space holds: how many models, and for every option how many have it and how little one costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lpgnas.budget import QUANTITIES
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.operators import ACTIVATIONS, ATTENTIONS
from lpgnas.report import markdown_table
from lpgnas.search_space import INPUT_GROUP, Choices, SearchSpace

if TYPE_CHECKING:
    import pandas as pd

COUNTED = tuple(one for one in QUANTITIES if one.name != "latency_ns")


@dataclass(frozen=True)
class SpaceSize:
    """A search space on a graph.

    Attributes:
        space: the choices.
        graph: nodes and edges that costs are counted for.
    """

    space: SearchSpace
    graph: GraphSize

    @property
    def models(self) -> int:
        """How many choices differ in a gene that has a part in the model.

        Several may name one model: heads of an attention that has none still count.
        """
        return sum(math.prod(self._counts(macro)) for macro in self.space.macro_choices())

    def models_with(self, choice: str, option: int) -> int:
        """How many of `models` have an option of a choice in some block, or in their macro-architecture."""
        space, total = self.space, 0
        for macro in space.macro_choices():
            if choice == "blocks":
                total += math.prod(self._counts(macro)) if macro[0] == option else 0
                continue
            own = [n for name, n in self._active(macro) if name == choice and n == self._most(choice)]
            total += math.prod(self._counts(macro)) // math.prod(own) * (math.prod(own) - math.prod(n - 1 for n in own))
        return total

    def _active(self, macro: Choices) -> Iterator[tuple[str, int]]:
        """Names within a block, and numbers of options, of the genes that have a part beside the macro genes."""
        full = (*macro, *(0,) * (len(self.space.genes()) - len(macro)))
        genes = zip(self.space.genes(), self.space.active(full), strict=True)
        yield from ((name.split(".")[1], n) for (name, n), counts in list(genes)[len(macro) :] if counts)

    def _counts(self, macro: Choices) -> list[int]:
        return [count for _, count in self._active(macro)]

    def _most(self, choice: str) -> int:
        """How many options a choice has, in blocks that have it."""
        return max(count for name, count in self.space.genes() if name.split(".")[-1] == choice)

    def least(self, choice: str, option: int) -> dict[str, int]:
        """The least of each quantity among chains that have the option in one block and are the cheapest otherwise.

        Where a choice has an effect only beside a learned attention, a wide block or a table, it stands beside it.
        """
        found: list[dict[str, int]] = []
        for idle in (False, True):  # only an option without any effect is taken where it has none
            for vector, other in self._variants(choice, option):
                spec = self.space.spec(vector)
                if idle or other is None or spec != self.space.spec(other):
                    cost = spec_cost(spec, self.graph)
                    found.append({one.name: cost.quantity(one.name) for one in COUNTED})
            if found:
                break
        return {one.name: min(cost[one.name] for cost in found) for one in COUNTED}

    def _variants(self, choice: str, option: int) -> Iterator[tuple[Choices, Choices | None]]:
        """Chains with the option in one block, each with the same chain under another option."""
        space = self.space
        learned = [k for k, name in enumerate(space.attentions) if ATTENTIONS.get(name).learned][:1]
        tables = [k for k, name in enumerate(space.activations) if ACTIVATIONS.get(name).function is not None][:1]
        wide = len(space.widths) - 1
        bases: list[dict[str, int]] = [{}, *({"activation": k} for k in tables)]
        bases += [made for k in learned for made in ({"attention": k}, {"attention": k, "width": wide})]
        macros, names = len(space.macro_genes()), [name for name, _ in space.genes()]
        for chain in (one for one in space.smallest_models() if space.macro(one).is_chain):
            if choice == "blocks":
                if chain[0] == option:
                    yield chain, None
                continue
            active = space.active(chain)
            for gene in range(macros, len(names)):
                count, group = space.genes()[gene][1], names[gene].split(".")[0]
                if names[gene] != f"{group}.{choice}" or not active[gene] or count < self._most(choice):
                    continue
                for base in bases if group != INPUT_GROUP else bases[:1]:
                    made = list(chain)
                    for name, wanted in base.items():
                        place = names.index(f"{group}.{name}")
                        made[place] = min(wanted, space.genes()[place][1] - 1)
                    made[gene] = option
                    other = None if count == 1 else (*made[:gene], (option + 1) % count, *made[gene + 1 :])
                    yield tuple(made), other

    def options(self) -> dict[str, tuple[str, ...]]:
        """Names of the options of every choice, by the name of the choice within a block."""
        space = self.space
        known = {"blocks": tuple(map(str, space.blocks)), **space.option_names()}
        found = {}
        for name, _ in space.genes():
            choice = name.split(".")[-1]
            if not choice.startswith("from_"):
                count = self._most(choice)
                found[choice] = known.get(choice, tuple(map(str, range(count))))[:count]
        return found

    def table(self) -> pd.DataFrame:
        """One row an option: choice, option, models that have it, and the least of each quantity with it."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"choice": choice, "option": option, "models": self.models_with(choice, place)}
                | self.least(choice, place)
                for choice, options in self.options().items()
                for place, option in enumerate(options)
            ]
        )


def space_report(size: SpaceSize) -> str:
    """The space as Markdown."""
    total, space = size.models, size.space
    routes = f", routes among {len(space.macro_choices())} macro-architectures" if space.routes else ""
    told = (
        f"{total:.3e} models (2^{math.log2(total):.1f}) of {', '.join(map(str, space.blocks))} blocks{routes}; "
        f"{len(space.genes())} choices. For every option: the share of models that have it in some block, and the "
        "least that a model with it costs.\n"
    )
    rows = [
        [row["choice"], row["option"], f"{100 * row['models'] / total:.1f} %"]
        + [one.format(row[one.name]) for one in COUNTED]
        for row in size.table().to_dict("records")
    ]
    return told + "\n" + markdown_table(["choice", "option", "models", *(one.title for one in COUNTED)], rows)
