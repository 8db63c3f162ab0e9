"""The search space: valid draws, a smallest model that is minimal, and feasible draws that fit."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency_tables import random_table

from lpgnas.budget import QUANTITIES, Budget
from lpgnas.components import Component
from lpgnas.cost_models.rows import CostReport, GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ConfigError, InfeasibleBudget
from lpgnas.number_formats import FormatChoice
from lpgnas.operators import ACTIVATIONS, ATTENTIONS
from lpgnas.projection import COST_ORDER
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import draw_candidates

LIMITS = {one.name: one.keyword for one in QUANTITIES}
"""Quantities of a cost, and the limit of a budget on each."""
CORA = GraphSize(2708, 10556)
SMALL = GraphSize(60, 352, 180)
TABLE = random_table(np.random.default_rng(7))
SPACES = {
    "default": SearchSpace(1433, 7, row_normalize=True),
    "signed": SearchSpace(20, 4, FormatChoice("fixed", 8), input_signed=True),
    "one layer": SearchSpace(20, 4, blocks=(1,)),
    "deep": SearchSpace(20, 4, blocks=(4,)),
    "odd widths": SearchSpace(20, 3, widths=(3, 6), heads=(1, 2, 3), attentions=("const", "gat")),
    "every operator": SearchSpace(
        9,
        3,
        attentions=("self", *(name for name in ATTENTIONS if name != "self")),
        activations=("relu", *(name for name in ACTIVATIONS if name != "relu")),
        blocks=(3,),
    ),
    "some blocks": SearchSpace(20, 4, blocks=(1, 2, 4)),
    "routes": SearchSpace(20, 4, blocks=(2, 3), routes=True, attentions=("self", "gcn", "gat")),
    "routes of few features": SearchSpace(1, 2, blocks=(1, 3), routes=True),
    "some words": SearchSpace(1433, 7, row_normalize=True, kept_words=(0.125, 0.25, 0.5, 0.75, 1.0)),
    "some words, routes": SearchSpace(
        7, 3, widths=(2, 4), blocks=(1, 2), routes=True, kept_words=(0.2, 0.5, 0.9, 1.0), shortcuts=("none",)
    ),
    "few words only": SearchSpace(20, 4, kept_words=(0.1, 0.3)),
    "attention only": SearchSpace(9, 2, attentions=("gat",), activations=("tanh",)),
}


def cost(space: SearchSpace, choices: tuple[int, ...], size: GraphSize) -> CostReport:
    return spec_cost(space.spec(choices), size, latency=TABLE)


def quantities(report: CostReport) -> list[int]:
    return [report.quantity(what) for what in LIMITS]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("size", [SMALL, CORA, GraphSize(1, 0)], ids=["small", "cora", "one node"])
def test_no_draw_is_smaller_than_the_smallest(name: str, size: GraphSize) -> None:
    space, rng = SPACES[name], np.random.default_rng(0)
    least = [cost(space, choices, size) for choices in space.smallest_models()]
    assert len(least) == 1 or space.macro_genes()
    for _ in range(300):
        drawn = cost(space, space.draw(rng), size)
        bounds = [zip(quantities(drawn), quantities(one), strict=True) for one in least]
        assert any(all(more >= less for more, less in bound) for bound in bounds)


@pytest.mark.parametrize("name", SPACES)
@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 500), st.integers(0, 300))
@settings(max_examples=15)
def test_cheapest_options_bound_every_quantity(name: str, seed: int, cut: int, edges: int, nonzeros: int) -> None:
    """What a projection prunes by: choices fixed in its order, and completed with the first options, cost no more."""
    space, rng = SPACES[name], np.random.default_rng(seed)
    table, size = random_table(rng), GraphSize(1 + seed % 50, edges, nonzeros or None)
    genes = [name.split(".")[-1] for name, _ in space.genes()]
    rank = {name: place for place, name in enumerate(COST_ORDER)}
    order = sorted(range(len(genes)), key=lambda gene: (rank.get(genes[gene], len(rank)), gene))
    whole = space.draw(rng)
    fixed = {*range(len(space.macro_genes())), *order[: cut % (len(genes) + 1)]}
    bound = tuple(option if gene in fixed else 0 for gene, option in enumerate(whole))
    costs = [spec_cost(space.spec(choices), size, latency=table) for choices in (bound, whole)]
    assert all(less <= more for less, more in zip(*map(quantities, costs), strict=True))


@pytest.mark.parametrize("name", SPACES)
def test_every_draw_is_a_valid_spec(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(1)
    specs = [space.spec(space.draw(rng)) for _ in range(200)]
    for spec in specs:
        assert ModelSpec.from_json(spec.to_json()) == spec  # the constructor checks it
        assert spec.layers[-1].activation == "none"
        assert len(spec.layers) in space.blocks or space.routes
    assert len({spec.to_json() for spec in specs}) > 50


def test_every_option_comes_up() -> None:
    space, rng = SPACES["default"], np.random.default_rng(2)
    layers = [space.spec(space.draw(rng)).layers[0] for _ in range(500)]
    assert {layer.attention for layer in layers} == set(space.attentions)
    assert {layer.aggregation for layer in layers} == set(space.aggregations)
    assert {layer.activation for layer in layers} == set(space.activations)
    assert {layer.width for layer in layers} == set(space.widths)
    assert {layer.heads for layer in layers} == set(space.heads)
    for component, options in ((Component.ACTIVATION, 4), (Component.MESSAGE, 4), (Component.LINEAR_WEIGHT, 4)):
        drawn = {(layer.activation, str(layer.formats[component])) for layer in layers}
        assert len(drawn) == 4 * options  # the format is drawn apart from the activation function


def test_size_and_genes() -> None:
    space = SPACES["one layer"]
    assert space.size() == math.prod(count for _, count in space.genes()) == 3 * 3 * 4**5
    assert SPACES["default"].size() == (3 * 3 * 4 * 8 * 3 * 4**6) * (3 * 3 * 2 * 4**5)
    names = [name for name, _ in SPACES["default"].genes()]
    assert len(set(names)) == len(names) == 24
    assert space.smallest() == (0,) * len(space.genes())
    with pytest.raises(ValueError, match="zip"):
        space.spec((0,))


def test_kept_words() -> None:
    space = SPACES["some words"]
    assert space.word_counts == (179, 358, 716, 1074, 1433)
    names = [name for name, _ in space.genes()]
    assert names[0] == "input.words"
    assert names[1:] == [name for name, _ in SPACES["default"].genes()]
    specs = [space.spec((option, *space.smallest()[1:])) for option in range(5)]
    assert [spec.input_words for spec in specs] == [179, 358, 716, 1074, None]
    assert all(active for name, active in zip(names, space.active(space.smallest()), strict=True) if "words" in name)
    assert SPACES["few words only"].spec(SPACES["few words only"].smallest()).input_words == 2
    assert all(spec.input_words is None for spec in space.widest())


@pytest.mark.parametrize(
    ("space", "counts"),
    [
        (SearchSpace(20, 4, kept_words=(1.0,)), (20,)),
        (SearchSpace(20, 4, kept_words=(0.5,)), (10,)),
        (SearchSpace(1, 4, kept_words=(0.5, 1.0)), (1,)),
        # 3/4 of the words save 5 bits a narrowest column and cost an index of 20
        (SearchSpace(20, 4, widths=(3,), kept_words=(0.5, 0.75, 1.0)), (10, 20)),
        (SearchSpace(20, 4, widths=(4,), kept_words=(0.5, 0.75, 1.0)), (10, 15, 20)),
        (SearchSpace(20, 4, widths=(3,), kept_words=(0.5, 0.75)), (10, 15)),
        (SearchSpace(20, 2, widths=(4,), blocks=(1, 2), kept_words=(0.5, 0.75, 1.0)), (10, 20)),
        # with routes the output block may be the only one that reads them
        (SearchSpace(20, 2, widths=(4,), routes=True, kept_words=(0.5, 0.75, 1.0)), (10, 20)),
        (SearchSpace(20, 4, widths=(1,), weight_formats=("fixed4",), kept_words=(0.75, 1.0)), (15, 20)),
        (SearchSpace(20, 4, kept_words=(0.5, 1.0)).in_float(2), (20,)),
    ],
)
def test_an_index_that_saves_nothing_is_no_choice(space: SearchSpace, counts: tuple[int, ...]) -> None:
    assert space.word_counts == counts
    assert ("input.words" in dict(space.genes())) == (len(counts) > 1)


@pytest.mark.parametrize("shares", [(), (0.0, 1.0), (0.5, 1.5), (-0.5,), (float("nan"),)])
def test_shares_of_words_that_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="kept_words of the search space are shares above 0 and up to 1"):
        replace(SPACES["default"], kept_words=shares)


def test_macro_genes_come_first() -> None:
    names = [name for name, _ in SPACES["routes"].genes()]
    assert names[:7] == [
        "blocks", "layer1.from_x", "layer1.from_0", "layer2.from_x", "layer2.from_0", "layer2.from_1",
        "layer0.attention",
    ]  # fmt: skip
    assert SPACES["default"].macro_genes() == ()
    assert SPACES["some blocks"].macro_genes() == (("blocks", 3),)


@pytest.mark.parametrize(
    ("macro", "groups", "sources"),
    [
        ((0, 0, 0, 0, 0, 0), (0, 2), [(-1,), (0,)]),  # two blocks, the output's genes in the last group
        ((0, 0, 0, 1, 0, 0), (2,), [(-1,)]),  # the output reads x alone: the block before it is left out
        ((0, 0, 0, 1, 1, 0), (0, 2), [(-1,), (-1, 0)]),
        ((0, 1, 1, 0, 0, 1), (0, 2), [(-1,), (0,)]),  # routes of a block that two blocks lack
        ((1, 0, 0, 0, 0, 0), (0, 1, 2), [(-1,), (0,), (1,)]),
        ((1, 1, 0, 0, 0, 0), (1, 2), [(-1,), (0,)]),  # nobody reads the first block; the others are numbered anew
        ((1, 1, 1, 1, 1, 1), (0, 1, 2), [(-1,), (-1, 0), (-1, 0, 1)]),
    ],
)
def test_routes_name_models(macro: tuple[int, ...], groups: tuple[int, ...], sources: list[tuple[int, ...]]) -> None:
    space = SPACES["routes"]
    choices = (*macro, *(0,) * (len(space.genes()) - 6))
    spec = space.spec(choices)
    assert [spec.sources(index) for index in range(len(spec.layers))] == sources
    assert spec.layers[-1].width == 4
    active = {name for (name, _), on in zip(space.genes(), space.active(choices), strict=True) if on}
    assert {name.split(".")[0] for name in active if ".from_" not in name} == {"blocks", *(f"layer{k}" for k in groups)}


@pytest.mark.parametrize("name", ["some blocks", "routes", "routes of few features"])
def test_only_active_genes_have_a_part_in_the_model(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(4)
    changed = 0
    for _ in range(60):
        choices = space.draw(rng)
        text, active = space.spec(choices).to_json(), space.active(choices)
        for gene, (_, count) in enumerate(space.genes()):
            for option in range(count):
                other = space.spec((*choices[:gene], option, *choices[gene + 1 :])).to_json()
                changed += other != text
                assert active[gene] or other == text, space.genes()[gene]
    assert changed > 1000


@pytest.mark.parametrize("name", SPACES)
def test_macro_choices_are_all_macro_architectures(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(5)
    listed = space.macro_choices()
    macros = {space.macro(choices) for choices in listed}
    assert len(set(listed)) == len(listed)
    for _ in range(300):
        assert space.macro(space.draw(rng)) in macros
    for choices in listed:  # an option of a gene without a part is not listed twice
        active = space.active((*choices, *(0,) * (len(space.genes()) - len(choices))))
        assert all(on or option == 0 for option, on in zip(choices, active, strict=False))
    models = [space.spec(choices).to_json() for choices in space.smallest_models()]
    assert len(set(models)) == len(models)


def test_an_infeasible_budget_names_one_that_works() -> None:
    for name in ("some blocks", "routes", "routes of few features"):
        space = SPACES[name]
        least = min(spec_cost(space.spec(one), SMALL).buffer_bits for one in space.smallest_models())
        with pytest.raises(InfeasibleBudget, match="A smallest feasible budget is") as caught:
            draw_candidates(space, Budget(buffers=least - 1), SMALL, 1, 0)
        budget = Budget(buffers=caught.value.smallest.removeprefix("--buffer-budget "))
        assert budget["buffer_bits"] - least < 8
        assert len(draw_candidates(space, budget, SMALL, 1, 0)) == 1


def test_routes_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="routes among 6 blocks are too many to search; use 5 at most"):
        SearchSpace(3, 2, blocks=(2, 6), routes=True)
    with pytest.raises(ConfigError, match="an identity shortcut needs one source, which routes leave open"):
        SearchSpace(3, 2, routes=True, shortcuts=("none", "identity"))
    with pytest.raises(ConfigError, match=r"blocks of the search space must rise, got \(3, 2\)"):
        SearchSpace(3, 2, blocks=(3, 2))


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
    models = [cost(space, choices, SMALL) for choices in space.smallest_models()]
    for what, limit in LIMITS.items():
        budget = Budget(**{limit: min(one.quantity(what) for one in models) + slack})

        def fits(spec: ModelSpec, budget: Budget = budget) -> bool:
            return budget.allows(spec_cost(spec, SMALL, latency=TABLE))

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
        factors = np.exp(rng.uniform(np.log(0.8), np.log(60), len(LIMITS)))  # log-uniform; some below the smallest
        limits = {what: int(least.quantity(what) * factor) for what, factor in zip(LIMITS, factors, strict=True)}
        limits = {what: limit for what, limit in limits.items() if rng.random() < 0.5}
        feasible = all(least.quantity(what) <= limit for what, limit in limits.items())
        budget = Budget(**{LIMITS[what]: limit for what, limit in limits.items()})
        try:
            found = draw_candidates(space, budget, CORA, 2, draw, TABLE)
        except InfeasibleBudget:
            refused += 1
            assert not feasible
            continue
        assert feasible
        for candidate in found:
            assert all(candidate.cost.quantity(what) <= limit for what, limit in limits.items())
            assert candidate.cost == spec_cost(candidate.spec, CORA, latency=TABLE)
    assert 3 < refused < 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8, 4)}, "widths of the search space must rise, got \\(8, 4\\)"),
        ({"code_bits": (4, 4)}, "code_bits of the search space must rise"),
        ({"heads": (2, 4)}, "heads of the search space must begin with 1, got \\(2, 4\\)"),
        ({"weight_formats": ("fixed4", "binary")}, "weight_formats of the search space must begin with the cheapest"),
        ({"shortcuts": ("linear", "none")}, "shortcuts of the search space must begin with the cheapest"),
        ({"activations": ("tanh", "relu")}, "activations of the search space must begin with the cheapest"),
        ({"attentions": ("gat", "gcn")}, "attentions of the search space must begin with the cheapest"),
        ({"attentions": ("gat", "cos")}, "attentions of the search space must begin with the cheapest"),
        ({"aggregations": ("mean", "sum")}, "aggregations of the search space must begin with the cheapest"),
        (
            {"aggregations": ("max",), "attentions": ("const", "gcn")},
            "aggregations of the search space must begin with the cheapest, got .*attentions",
        ),
    ],
)
def test_options_must_rise(changes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SearchSpace(12, 3), **changes)  # type: ignore[arg-type]
