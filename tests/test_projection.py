"""Exact projection under budgets: against all models of a small space, and feasible on published sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lpgnas import projection
from lpgnas.budget import Budget
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.projection import Preferences, project, worth
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec

SMALL = SearchSpace(
    12, 3, activations=("relu", "tanh"), aggregations=("sum", "max"), widths=(4, 8, 12), heads=(1, 2),
    weight_formats=("binary", "fixed4"), code_bits=(4, 8), attentions=("const", "gat"), blocks=(1,),
)  # fmt: skip
SIZE = GraphSize(60, 200)
CORA = SearchSpace(1433, 7, row_normalize=True)
CORA_SIZE = GraphSize(2708, 10_556)


def fits_in(budget: Budget, size: GraphSize) -> Callable[[ModelSpec], bool]:
    def fits(spec: ModelSpec) -> bool:
        cost = spec_cost(spec, size)
        return budget.allows(weight_bits=cost.weight_bits, buffer_bits=cost.buffer_bits, peak_bits=cost.peak_bits)

    return fits


def random_preferences(space: SearchSpace, rng: np.random.Generator) -> Preferences:
    return [rng.normal(size=count) for _, count in space.genes()]


@pytest.mark.parametrize("depth", [1, 2])
def test_no_feasible_model_is_worth_more(depth: int) -> None:
    two = replace(SMALL, blocks=(2,), activations=("tanh",), aggregations=("sum",), heads=(1,), shortcuts=("none",))
    space = SMALL if depth == 1 else two
    vectors = list(product(*(range(count) for _, count in space.genes())))
    rng = np.random.default_rng(0)
    costs = [spec_cost(space.spec(choices), SIZE) for choices in vectors]
    for _ in range(6):
        low, high = min(c.weight_bits for c in costs), max(c.weight_bits for c in costs)
        peak = int(rng.choice([cost.peak_bits for cost in costs]))
        budget = Budget(int(rng.integers(low, high + 1)), int(rng.integers(30_000, 60_000)), peak)
        inside = [
            choices
            for choices, cost in zip(vectors, costs, strict=True)
            if not budget.excess(weight_bits=cost.weight_bits, buffer_bits=cost.buffer_bits, peak_bits=cost.peak_bits)
        ]
        preferences = random_preferences(space, rng)
        found = project(space, preferences, fits_in(budget, SIZE))
        if not inside:
            assert found is None
            continue
        assert found in inside
        assert worth(found, preferences) == pytest.approx(max(worth(one, preferences) for one in inside))


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
        limits = [int(np.quantile([getattr(one, what) for one in costs.values()], rng.uniform(0, 0.7) ** 3))
                  for what in ("weight_bits", "buffer_bits", "peak_bits")]  # fmt: skip
        budget = Budget(*limits)
        inside = [
            choices
            for choices, cost in costs.items()
            if not budget.excess(weight_bits=cost.weight_bits, buffer_bits=cost.buffer_bits, peak_bits=cost.peak_bits)
        ]
        preferences = random_preferences(space, rng)
        found = project(space, preferences, fits_in(budget, SIZE))
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
    inside = fits_in(Budget(weights="2KiB", buffers="60KiB"), CORA_SIZE)

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
    found = project(space, preferences, fits_in(Budget(peak=peak), size))
    assert found is not None and worth(found, preferences) == 4.0


def test_a_free_space_gives_every_favourite() -> None:
    preferences = random_preferences(CORA, np.random.default_rng(1))
    found = project(CORA, preferences, lambda spec: True)
    assert found == tuple(int(values.argmax()) for values in preferences)


def test_ties_go_to_the_cheaper_option() -> None:
    flat = [np.zeros(count) for _, count in CORA.genes()]
    assert project(CORA, flat, lambda spec: True) == CORA.smallest()


@pytest.mark.parametrize("checks", [0, 20, 4000])
def test_what_is_left_after_too_many_checks_is_feasible(checks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "MAX_CHECKS", checks)
    rng, fits = np.random.default_rng(2), fits_in(Budget(weights="1KiB", buffers="40KiB", peak="500KiB"), CORA_SIZE)
    for _ in range(5):
        found = project(CORA, random_preferences(CORA, rng), fits)
        assert found is not None and fits(CORA.spec(found))


def test_an_infeasible_budget_has_no_projection() -> None:
    assert project(CORA, random_preferences(CORA, np.random.default_rng(3)), lambda spec: False) is None
