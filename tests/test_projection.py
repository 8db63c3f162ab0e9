"""Exact projection under budgets: against all models of a small space, and feasible on published sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from latency_tables import random_table

from lpgnas import projection
from lpgnas.budget import QUANTITIES, Budget
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.projection import Preferences, project, worth
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import fits_within

SMALL = SearchSpace(
    12, 3, activations=("relu", "tanh"), aggregations=("sum", "max"), widths=(4, 8, 12), heads=(1, 2),
    weight_formats=("binary", "fixed4"), code_bits=(4, 8), attentions=("const", "gat"), blocks=(1,),
)  # fmt: skip
SIZE = GraphSize(60, 200)
CORA = SearchSpace(1433, 7, row_normalize=True)
CORA_SIZE = GraphSize(2708, 10_556)


def random_preferences(space: SearchSpace, rng: np.random.Generator) -> Preferences:
    return [rng.normal(size=count) for _, count in space.genes()]


TWO = replace(
    SMALL,
    blocks=(2,),
    activations=("tanh",),
    aggregations=("sum",),
    heads=(1,),
    shortcuts=("none",),
    weight_formats=("binary",),
)
WORDS = replace(TWO, kept_words=(0.25, 0.5, 1.0), code_bits=(8,), attentions=("const",))
DEEP = replace(TWO, blocks=(3,), activations=("relu", "tanh"), attentions=("const",), widths=(7,))


@pytest.mark.parametrize(
    "space",
    [
        pytest.param(SMALL, id="one block"),
        pytest.param(TWO, id="two blocks"),
        pytest.param(WORDS, id="some words"),
        pytest.param(DEEP, id="three blocks", marks=pytest.mark.slow),
    ],
)
def test_no_feasible_model_is_worth_more(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    table, names = random_table(rng), [one.name for one in QUANTITIES]
    vectors = np.array(list(product(*(range(count) for _, count in space.genes()))))
    reports = [spec_cost(space.spec(tuple(choices)), SIZE, latency=table) for choices in vectors]
    costs = np.array([[report.quantity(name) for name in names] for report in reports])
    refused = 0
    for _ in range(12):
        limits = costs[rng.integers(len(costs), size=len(names)), np.arange(len(names))]
        limited = rng.random(len(names)) < 0.4
        budget = Budget(
            **{one.keyword: int(limit) for one, limit, use in zip(QUANTITIES, limits, limited, strict=True) if use}
        )
        inside: npt.NDArray[np.bool_] = np.all(costs <= np.where(limited, limits, np.iinfo(np.int64).max), axis=1)
        preferences = random_preferences(space, rng)
        worths = np.sum([values[column] for values, column in zip(preferences, vectors.T, strict=True)], axis=0)
        found = project(space, preferences, fits_within(budget, SIZE, table))
        assert found is not None
        assert inside[np.all(vectors == np.array(found), axis=1)].all()
        assert worth(found, preferences) == pytest.approx(worths[inside].max())
        refused += not inside[worths.argmax()]
    assert refused > 3  # the budgets decided


ROUTED = replace(
    SMALL, blocks=(1, 2, 3), routes=True, activations=("tanh",), aggregations=("sum",), heads=(1,), widths=(4, 12),
    attentions=("self",), shortcuts=("none",), weight_formats=("binary", "fixed4"), code_bits=(4,),
)  # fmt: skip


@pytest.mark.parametrize(
    "space",
    [
        ROUTED,
        replace(ROUTED, num_features=1, num_classes=2),  # a block that reads x is cheaper than one that reads a block
        replace(ROUTED, routes=False),
        replace(ROUTED, blocks=(3,)),
    ],
    ids=["routed", "narrow input", "chains", "one number of blocks"],
)
def test_no_feasible_macro_architecture_is_worth_more(space: SearchSpace) -> None:
    counts = [count for _, count in space.genes()]
    vectors = {
        tuple(option if on else 0 for option, on in zip(choices, space.active(choices), strict=True))
        for choices in product(*(range(count) for count in counts))
    }
    costs = {choices: spec_cost(space.spec(choices), SIZE) for choices in sorted(vectors)}
    rng = np.random.default_rng(1)
    nothing = 0
    for _ in range(20):
        limits = {
            one.keyword: int(
                np.quantile([cost.quantity(one.name) for cost in costs.values()], rng.uniform(0, 0.7) ** 3)
            )
            for one in QUANTITIES[:3]
        }
        budget = Budget(**limits)
        inside = [choices for choices, cost in costs.items() if budget.allows(cost)]
        preferences = random_preferences(space, rng)
        found = project(space, preferences, fits_within(budget, SIZE))
        if not inside:
            nothing += 1
            assert found is None
            continue
        assert found in inside
        best = max(worth(one, preferences, space.active(one)) for one in inside)
        assert worth(found, preferences, space.active(found)) == pytest.approx(best)
    assert nothing < 15


def test_routes_of_four_blocks_in_time() -> None:
    """What is found after too many checks is feasible, and worth more than any smallest model."""
    space, rng = replace(CORA, blocks=(2, 3, 4), routes=True), np.random.default_rng(5)
    calls = [0]
    inside = fits_within(Budget(weights="2KiB", buffers="60KiB"), CORA_SIZE)

    def fits(spec: ModelSpec) -> bool:
        calls[0] += 1
        return inside(spec)

    find = projection.Projection(space, fits)
    for _ in range(2):
        preferences = random_preferences(space, rng)
        found = find(preferences)
        assert found is not None and inside(space.spec(found))
        least = [one for one in space.smallest_models() if inside(space.spec(one))]
        assert worth(found, preferences, space.active(found)) > max(
            worth(one, preferences, space.active(one)) for one in least
        )
    assert calls[0] < 3 * projection.MAX_CHECKS


def test_a_table_can_have_the_smaller_peak() -> None:
    """A clamp keeps messages and output alive together, a table with a narrow input only one of them."""
    space, size = SearchSpace(4, 2), GraphSize(1000, 4000)
    wide = {"width": 7, "message_format": 2, "activation_format": 2, "activation": 3}
    preferences = [np.zeros(count) for _, count in space.genes()]
    for values, (name, _) in zip(preferences, space.genes(), strict=True):
        option = wide.get(name.removeprefix("layer0."))
        if option is not None:
            values[option] = 1.0
    free = project(space, preferences, lambda spec: True)
    assert free is not None
    peak = spec_cost(space.spec(free), size).peak_bits
    found = project(space, preferences, fits_within(Budget(peak=peak), size))
    assert found is not None and worth(found, preferences) == 4.0


def test_a_free_space_gives_every_favourite() -> None:
    preferences = random_preferences(CORA, np.random.default_rng(1))
    found = project(CORA, preferences, lambda spec: True)
    assert found == tuple(int(values.argmax()) for values in preferences)


def test_ties_go_to_the_cheaper_option() -> None:
    flat = [np.zeros(count) for _, count in CORA.genes()]
    assert project(CORA, flat, lambda spec: True) == CORA.smallest()


@pytest.mark.parametrize("checks", [0, 20, 4000])
def test_what_is_left_after_too_many_checks_is_feasible(checks: int) -> None:
    rng, fits = np.random.default_rng(2), fits_within(Budget(weights="1KiB", buffers="40KiB", peak="500KiB"), CORA_SIZE)
    calls = [0]

    def counted(spec: ModelSpec) -> bool:
        calls[0] += 1
        return fits(spec)

    find, genes = projection.Projection(CORA, counted, checks), sum(count for _, count in CORA.genes())
    for _ in range(5):
        calls[0] = 0
        found = find(random_preferences(CORA, rng))
        assert found is not None and fits(CORA.spec(found))
        assert calls[0] <= checks + 2 * genes  # the options that fit alone, looked up at first, and one way down


def test_an_infeasible_budget_has_no_projection() -> None:
    assert project(CORA, random_preferences(CORA, np.random.default_rng(3)), lambda spec: False) is None
