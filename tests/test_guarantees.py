"""Budgets are guarantees: on published sizes, everything that a search draws is within, by three separate counts."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import samples
from counting import counted_bits, counted_operations, header_of, listed_bits, parameter_bits
from latency_tables import random_table

from lpgnas.budget import QUANTITIES, Budget
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import InfeasibleBudget, LoweringError
from lpgnas.export.files import export_files
from lpgnas.integer_program import IntegerProgram
from lpgnas.lowering import lower
from lpgnas.number_formats import FormatChoice
from lpgnas.operators import ACTIVATIONS, ATTENTIONS
from lpgnas.preferences import Controller
from lpgnas.program_file import to_bytes
from lpgnas.projection import Projection
from lpgnas.search_space import SearchSpace
from lpgnas.space_options import space_arguments
from lpgnas.spec import ModelSpec
from lpgnas.strategy import Draws, draw_candidates, fits_within

GRAPHS = {
    "Cora": (SearchSpace(1433, 7, row_normalize=True, kept_words=(0.125, 0.5, 1.0)), GraphSize(2708, 10_556, 49_216)),
    "PubMed": (
        SearchSpace(500, 3, FormatChoice("fixed", 8), row_normalize=True, kept_words=(0.25, 0.75, 1.0)),
        GraphSize(19_717, 88_648, 988_031),
    ),
}
TABLE = random_table(np.random.default_rng(4))
MAX_DEGREE = 1023
TRIES, CHECKS = 40, 200
"""Draws before one is cut down to its budget, and costs before a projection settles, over the whole space."""
Limits = dict[str, int]
"""Limits by the name of their quantity."""


def smallest(graph: str) -> Limits:
    space, size = GRAPHS[graph]
    return limits_of(space.spec(space.smallest()), size)


def limits_of(spec: ModelSpec, size: GraphSize) -> Limits:
    """The limits that a model uses up."""
    cost = spec_cost(spec, size, latency=TABLE)
    return {one.name: cost.quantity(one.name) for one in QUANTITIES}


def feasible_limits(rng: np.random.Generator, smallest: Limits) -> Limits:
    """Limits drawn log-uniformly from the smallest feasible ones to 100 times them, on some of the quantities."""
    limits = {what: int(least * np.exp(rng.uniform(0, np.log(100)))) for what, least in smallest.items()}
    kept = rng.permutation(list(limits))[: int(rng.integers(1, len(limits) + 1))]
    return {str(what): limits[str(what)] for what in kept}


def budget_of(limits: Limits) -> Budget:
    keywords = {one.name: one.keyword for one in QUANTITIES}
    return Budget(**{keywords[what]: limit for what, limit in limits.items()})


def lowered(rng: np.random.Generator, spec: ModelSpec) -> IntegerProgram:
    """A program of the spec with random weights."""
    input_fraction = spec.input_format.bits - 1
    codes = samples.random_codes(rng, spec, input_fraction)
    return lower(spec, codes, input_fraction=input_fraction, max_degree=MAX_DEGREE, words=samples.random_words(0, spec))


def check_within(limits: Limits, program: IntegerProgram, size: GraphSize) -> None:
    """A program is within by its cost, by the header of its file, and by what its ONNX files list."""
    cost = program_cost(program, size, latency=TABLE)
    header = header_of(io.BytesIO(to_bytes(program)))
    counted = counted_bits(header, size.num_nodes) | counted_operations(header, size.num_nodes, size.num_edges)
    assert counted == {what: cost.quantity(what) for what in counted}
    assert counted.keys() | {"latency_ns"} == {one.name for one in QUANTITIES}
    assert all(cost.quantity(what) <= limit for what, limit in limits.items())
    made = export_files(program)
    assert all("2^24" in reason for reason in made.refused.values())
    models = [content for name, content in made.files.items() if name.endswith(".onnx")]
    assert len(models) + len(made.refused) == 3
    for model in models:
        listed = listed_bits(model, size.num_nodes)
        assert listed["array_bits"] + parameter_bits(header) == counted["weight_bits"]
        assert listed["buffer_bits"] == counted["buffer_bits"]


def guessing(space: SearchSpace, rng: np.random.Generator) -> Controller:
    """A controller with random opinions, so that it wants other models at each budget."""
    return Controller(space, rng.normal(size=sum(count for _, count in space.genes())))


def check_feasible(graph: str, draws: int, programs: int, seed: int) -> None:
    """Candidates of `draws` feasible budgets are within, and so are the programs of some of them."""
    space, size = GRAPHS[graph]
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        limits = feasible_limits(rng, smallest(graph))
        found = draw_candidates(space, budget_of(limits), size, 3, draw, TABLE)
        learned = Draws(space, budget_of(limits), size, guessing(space, rng), draw, TABLE).next(2)
        assert found
        assert learned
        for candidate in (*found, *learned):
            cost = spec_cost(candidate.spec, size, latency=TABLE)
            assert candidate.cost == cost
            assert all(cost.quantity(what) <= limit for what, limit in limits.items())
        if draw < programs:
            check_within(limits, lowered(rng, found[-1].spec), size)
            check_within(limits, lowered(rng, learned[-1].spec), size)


def check_whole_space(graph: str, budgets: int, programs: int, seed: int) -> None:
    """A draw under each of `budgets` budgets of the whole space is within, and so is every third's derived model.

    There are several smallest models, none smaller than all others: a budget starts from one of them. Projections
    settle after few costs here; what they settle for has to fit all the same.
    """
    narrow, size = GRAPHS[graph]
    space = replace(narrow, **space_arguments("whole", None, {}))
    rng, chains = np.random.default_rng(seed), [c for c in space.smallest_models() if space.macro(c).is_chain]
    least, drawn = [limits_of(space.spec(choices), size) for choices in chains], Counter[str]()
    assert len(chains) == len(space.blocks) == 4
    built = refused = 0
    for number in range(budgets):
        limits = feasible_limits(rng, least[int(rng.integers(len(least)))])
        fits = fits_within(budget_of(limits), size, TABLE)
        found = [space.draw_feasible(rng, fits, tries=TRIES)]
        if number % 3 == 0:
            project = Projection(space, fits, CHECKS)
            found.append(project(guessing(space, rng).preferences(rng)))
        for choices in found:
            assert choices is not None
            spec = space.spec(choices)
            used = limits_of(spec, size)
            assert all(used[what] <= limit for what, limit in limits.items()), (number, limits, used)
            drawn.update({f"blocks {len(spec.layers)}", *(layer.attention for layer in spec.layers)})
            drawn.update(layer.activation for layer in spec.layers)
        if built < programs and found[-1] is not None:
            try:
                program = lowered(rng, space.spec(found[-1]))
            except LoweringError as error:  # random codes of tiny messages ask for more places than a shift has
                assert "a shift of" in str(error)
                refused += 1
            else:
                check_within(limits, program, size)
                built += 1
    assert built == programs >= 4 * refused
    if budgets >= 500:
        everything = {*ATTENTIONS, *ACTIVATIONS, *(f"blocks {count}" for count in space.blocks)}
        assert min(drawn[name] for name in everything) >= 10, drawn


def check_infeasible(graph: str, draws: int, seed: int) -> None:
    """Budgets below the smallest are refused with a budget that works, and that no smaller byte replaces."""
    space, size = GRAPHS[graph]
    rng, least = np.random.default_rng(seed), smallest(graph)
    for _ in range(draws):
        limits = feasible_limits(rng, smallest(graph))
        for what in rng.permutation(list(limits))[: int(rng.integers(1, len(limits) + 1))]:
            limits[str(what)] = max(1, int(least[str(what)] * rng.uniform(0, 0.999)))
        with pytest.raises(InfeasibleBudget) as caught:
            draw_candidates(space, budget_of(limits), size, 1, 0, TABLE)
        named = str(caught.value).rsplit("The smallest feasible budget is ", 1)[1].split()
        assert named == caught.value.smallest.split()
        assert named[::2] == [one.flag for one in QUANTITIES if one.name in limits]
        flags = {flag[2:].replace("-", "_"): text for flag, text in zip(named[::2], named[1::2], strict=True)}
        offered = Budget.of_options(flags)
        assert all(0 <= offered[what] - least[what] < 8 for what in limits)
        for candidate in draw_candidates(space, offered, size, 2, 0, TABLE):
            check_within(dict(offered), lowered(rng, candidate.spec), size)


@pytest.mark.parametrize("graph", GRAPHS)
def test_some_budgets_are_met_or_refused(graph: str) -> None:
    check_feasible(graph, draws=8, programs=1, seed=0)
    check_infeasible(graph, draws=1, seed=1)


@pytest.mark.parametrize("graph", GRAPHS)
def test_some_budgets_of_the_whole_space_are_met(graph: str) -> None:
    check_whole_space(graph, budgets=6, programs=1, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
def test_500_budgets_of_the_whole_space_are_met(graph: str) -> None:
    """A thousand with both graphs."""
    check_whole_space(graph, budgets=500, programs=20, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
def test_200_feasible_budgets_are_met(graph: str) -> None:
    check_feasible(graph, draws=200, programs=30, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
def test_20_infeasible_budgets_are_refused_with_one_that_works(graph: str) -> None:
    check_infeasible(graph, draws=20, seed=3)
