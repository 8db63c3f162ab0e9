"""How many models a space holds, and what an option costs at least, against enumeration."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import runs

import lpgnas
from lpgnas.budget import QUANTITIES
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.search_space import Choices, SearchSpace
from lpgnas.space_table import COUNTED, SpaceSize

GRAPH = GraphSize(60, 352, 180)
FEW: dict[str, Any] = {"activations": ("relu", "tanh"), "widths": (4, 8), "heads": (1, 2), "aggregations": ("sum",)}
FEW |= {"weight_formats": ("binary",), "code_bits": (4,)}
SPACES = {
    "chain": SearchSpace(12, 3, attentions=("gcn", "gat"), **FEW),
    "words": SearchSpace(24, 3, attentions=("gcn",), kept_words=(0.25, 0.5, 1.0), **FEW),
    "routes": SearchSpace(12, 3, blocks=(1, 2, 3), routes=True, attentions=("gcn",), **FEW),
}


def vectors(space: SearchSpace) -> list[Choices]:
    """Every choice vector with inactive genes at their first option."""
    every = itertools.product(*(range(count) for _, count in space.genes()))
    return [one for one in every if all(on or option == 0 for option, on in zip(one, space.active(one), strict=True))]


def has(space: SearchSpace, vector: Choices, choice: str, option: int) -> bool:
    most = max(count for name, count in space.genes() if name.split(".")[-1] == choice)
    genes = zip(space.genes(), vector, space.active(vector), strict=True)
    return any(name.split(".")[-1] == choice and picked == option and on and count == most
               for (name, count), picked, on in genes)  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_counts_are_those_of_an_enumeration(name: str) -> None:
    space = SPACES[name]
    size, every = SpaceSize(space, GRAPH), vectors(space)
    assert size.models == len(every)
    table = size.table().set_index(["choice", "option"])
    assert set(size.options()) == {gene.split(".")[-1] for gene, _ in space.genes() if "from_" not in gene}
    for choice, options in size.options().items():
        for place, option in enumerate(options):
            expected = sum(has(space, one, choice, place) for one in every)
            assert table.loc[(choice, option), "models"] == expected, (choice, option)


@pytest.mark.parametrize("name", SPACES)
def test_what_an_option_costs_at_least_is_the_cost_of_models_that_have_it(name: str) -> None:
    space = SPACES[name]
    size, every = SpaceSize(space, GRAPH), vectors(space)
    costs = {one: spec_cost(space.spec(one), GRAPH) for one in every}
    for choice, options in size.options().items():
        for place in range(len(options)):
            having = [costs[one] for one in every if has(space, one, choice, place)]
            least = size.least(choice, place)
            assert set(least) == {one.name for one in COUNTED} == {q.name for q in QUANTITIES} - {"latency_ns"}
            for quantity, value in least.items():
                assert value in {cost.quantity(quantity) for cost in having}
                assert value >= min(cost.quantity(quantity) for cost in having)


def test_options_that_cost_more_do() -> None:
    size = SpaceSize(SPACES["chain"], GRAPH)
    assert size.least("width", 1)["weight_bits"] > size.least("width", 0)["weight_bits"]
    assert size.least("attention", 1)["weight_bits"] > size.least("attention", 0)["weight_bits"]
    assert size.least("heads", 1)["buffer_bits"] > size.least("heads", 0)["buffer_bits"]


def test_the_command_and_the_api(small_npz: Path) -> None:
    flags = ("--attentions", "gcn", "--blocks", "2,3", "--routes", "--code-bits", "8")
    done = runs.lpgnas("space", "--dataset", small_npz, *flags)
    assert done.code == 0, done.err
    size = lpgnas.space(str(small_npz), attentions=["gcn"], blocks=[2, 3], routes=True, code_bits=[8])
    assert done.out.startswith(f"{size.models:.3e} models (2^")
    assert "| attention | gcn | 100.0 % |" in done.out
    assert "| blocks | 3 |" in done.out
    in_memory = lpgnas.space(runs.small_graph(), attentions=["gcn"], blocks=[2, 3], routes=True, code_bits=[8])
    assert in_memory.models == size.models
    assert runs.lpgnas("space", "--attentions", "gcn").code == 2
