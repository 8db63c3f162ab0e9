"""The search space: valid draws, a smallest model that is minimal, and feasible draws that fit."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from lpgnas.budget import Budget
from lpgnas.components import Component
from lpgnas.cost_models.rows import CostReport, GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ConfigError, InfeasibleBudget
from lpgnas.number_formats import FormatChoice
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import draw_candidates

SIZES = {"weight_bits": "weights", "buffer_bits": "buffers", "peak_bits": "peak"}
"""Sizes of a cost, and the limit of a budget on each."""
CORA = GraphSize(2708, 10556)
SMALL = GraphSize(60, 352)
SPACES = {
    "default": SearchSpace(1433, 7, row_normalize=True),
    "signed": SearchSpace(20, 4, FormatChoice("fixed", 8), input_signed=True),
    "one layer": SearchSpace(20, 4, blocks=(1,)),
    "deep": SearchSpace(20, 4, blocks=(4,)),
    "odd widths": SearchSpace(20, 3, widths=(3, 6), heads=(1, 2, 3), attentions=("const", "gat")),
    "attention only": SearchSpace(9, 2, attentions=("gat",), activations=("tanh",)),
}


def cost(space: SearchSpace, choices: tuple[int, ...], size: GraphSize) -> CostReport:
    return spec_cost(space.spec(choices), size)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("size", [SMALL, CORA, GraphSize(1, 0)], ids=["small", "cora", "one node"])
def test_no_draw_is_smaller_than_the_smallest(name: str, size: GraphSize) -> None:
    space, rng = SPACES[name], np.random.default_rng(0)
    least = cost(space, space.smallest(), size)
    for _ in range(300):
        drawn = cost(space, space.draw(rng), size)
        assert all(getattr(drawn, what) >= getattr(least, what) for what in SIZES)


@pytest.mark.parametrize("name", SPACES)
def test_every_draw_is_a_valid_spec(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(1)
    specs = [space.spec(space.draw(rng)) for _ in range(200)]
    for spec in specs:
        assert ModelSpec.from_json(spec.to_json()) == spec  # the constructor checks it
        assert spec.layers[-1].activation == "none"
        assert len(spec.layers) == space.depth
    assert len({spec.to_json() for spec in specs}) > 50


def test_every_option_comes_up() -> None:
    space, rng = SPACES["default"], np.random.default_rng(2)
    layers = [space.spec(space.draw(rng)).layers[0] for _ in range(500)]
    assert {layer.attention for layer in layers} == set(space.attentions)
    assert {layer.aggregation for layer in layers} == set(space.aggregations)
    assert {layer.activation for layer in layers} == set(space.activations)
    assert {layer.width for layer in layers} == set(space.widths)
    assert {layer.heads for layer in layers} == set(space.heads)
    for component, options in ((Component.ACTIVATION, 3), (Component.MESSAGE, 3), (Component.LINEAR_WEIGHT, 4)):
        drawn = {(layer.activation, str(layer.formats[component])) for layer in layers}
        assert len(drawn) == 4 * options  # the format is drawn apart from the activation function


def test_size_and_genes() -> None:
    space = SPACES["one layer"]
    assert space.size() == math.prod(count for _, count in space.genes()) == 3 * 3 * 4 * 4 * 3 * 3 * 3
    assert SPACES["default"].size() == (3 * 3 * 4 * 8 * 3 * 4 * 4 * 3**4) * (3 * 3 * 2 * 4 * 4 * 3**3)
    names = [name for name, _ in SPACES["default"].genes()]
    assert len(set(names)) == len(names) == 24
    assert space.smallest() == (0,) * len(space.genes())
    with pytest.raises(ValueError, match="zip"):
        space.spec((0,))


@pytest.mark.parametrize("name", ["attentions", "aggregations", "activations", "widths", "heads", "shortcuts"])
def test_empty_options_are_refused(name: str) -> None:
    assert name in {field.name for field in fields(SearchSpace)}
    without: dict[str, Any] = {name: ()}
    with pytest.raises(ConfigError, match=f"no options for {name}"):
        replace(SPACES["default"], **without)
    with pytest.raises(ConfigError, match="weight_formats, code_bits and at least 1 block"):
        SearchSpace(3, 2, blocks=(0,))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("slack", [0, 1, 50, 3000])
def test_tight_budgets_are_met(name: str, slack: int) -> None:
    space, rng = SPACES[name], np.random.default_rng(slack)
    least = cost(space, space.smallest(), SMALL)
    for what, limit in SIZES.items():
        budget = Budget(**{limit: getattr(least, what) + slack})

        def fits(spec: ModelSpec, budget: Budget = budget) -> bool:
            made = spec_cost(spec, SMALL)
            return budget.allows(weight_bits=made.weight_bits, buffer_bits=made.buffer_bits, peak_bits=made.peak_bits)

        for _ in range(5):
            choices = space.draw_feasible(rng, fits, tries=5)
            assert choices is not None
            assert fits(space.spec(choices))
    assert space.draw_feasible(rng, lambda spec: False) is None


def test_every_candidate_of_200_budgets_on_cora_is_within() -> None:
    space, rng = SPACES["default"], np.random.default_rng(3)
    least = cost(space, space.smallest(), CORA)
    refused = 0
    for draw in range(200):
        factors = np.exp(rng.uniform(np.log(0.8), np.log(60), 3))  # log-uniform; some below the smallest
        limits = {what: int(getattr(least, what) * factor) for what, factor in zip(SIZES, factors, strict=True)}
        limits = {what: limit for what, limit in limits.items() if rng.random() < 0.7}
        feasible = all(getattr(least, what) <= limit for what, limit in limits.items())
        try:
            found = draw_candidates(
                space, Budget(**{SIZES[what]: limit for what, limit in limits.items()}), CORA, 2, draw
            )
        except InfeasibleBudget:
            refused += 1
            assert not feasible
            continue
        assert feasible
        for candidate in found:
            assert all(getattr(candidate.cost, what) <= limit for what, limit in limits.items())
            assert candidate.cost == spec_cost(candidate.spec, CORA)
    assert 3 < refused < 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8, 4)}, "widths of the search space must rise, got \\(8, 4\\)"),
        ({"code_bits": (4, 4)}, "code_bits of the search space must rise"),
        ({"heads": (2, 4)}, "heads of the search space must begin with 1, got \\(2, 4\\)"),
    ],
)
def test_options_must_rise(changes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SearchSpace(12, 3), **changes)  # type: ignore[arg-type]
