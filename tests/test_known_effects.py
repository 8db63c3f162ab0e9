"""What a search knows before it starts: a table of effects, read for any space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.known_effects import drawn_models, fitted, sampled_space, synthetic_graph, synthetic_split
from lpgnas.budget import Budget
from lpgnas.cost_models.rows import GraphSize
from lpgnas.known_effects import Named, effect_table, effects_digest, gene_options, known_effects
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS
from lpgnas.preferences import Controller, one_hot
from lpgnas.search_space import SearchSpace
from lpgnas.strategy import Draws

SPACE = SearchSpace(20, 3)


def by_name(space: SearchSpace) -> dict[str, list[float]]:
    effects, counts = known_effects(space, taught=True), [count for _, count in space.genes()]
    parts = np.split(effects, np.cumsum(counts)[:-1])
    return {name: list(part) for (name, _), part in zip(space.genes(), parts, strict=True)}


@pytest.mark.parametrize("taught", [False, True])
def test_the_table_knows_every_operator_of_the_package(taught: bool) -> None:
    table = effect_table(taught=taught)
    assert all(np.isfinite(effect) for effect in table.values())
    known = {(choice, option) for _, choice, option in table}
    for choice, registry in (("attention", ATTENTIONS), ("aggregation", AGGREGATIONS), ("activation", ACTIVATIONS)):
        assert {option for one, option in known if one == choice} == set(registry.names())
    genes: dict[tuple[str, str], list[float]] = {}
    for (where, choice, _), effect in table.items():
        genes.setdefault((where, choice), []).append(effect)
    for effects in genes.values():
        assert abs(sum(effects)) < 0.001 * len(effects)


@pytest.mark.parametrize(
    "space",
    [
        SPACE,
        SearchSpace(20, 3, blocks=(1,)),
        SearchSpace(20, 3, blocks=(1, 2, 3), routes=True),
        SearchSpace(500, 3, kept_words=(0.125, 0.25, 0.5, 1.0)),
    ],
)
def test_every_option_of_every_gene_has_an_effect(space: SearchSpace) -> None:
    macro = len(space.macro_genes())
    for place, (name, options) in enumerate(gene_options(space)):
        assert len(options) == (0 if place < macro else space.genes()[place][1]), name
    assert len(known_effects(space, taught=False)) == sum(count for _, count in space.genes())


def test_numbers_are_interpolated_in_octaves() -> None:
    table = effect_table(taught=True)
    narrow, wide = table["first", "width", "32"], table["first", "width", "64"]
    effects = by_name(replace(SPACE, widths=(4, 32, 48, 64, 200)))["layer0.width"]
    assert effects[1] == narrow and effects[3] == wide
    assert table["first", "width", "48"] == effects[2]
    between = by_name(replace(SPACE, widths=(32, 40, 48)))["layer0.width"]
    assert min(between[0], between[2]) <= between[1] <= max(between[0], between[2])
    assert effects[4] == table["first", "width", "96"]  # the last one counts beyond


def test_a_search_without_a_teacher_has_effects_of_its_own() -> None:
    assert effect_table(taught=True).keys() == effect_table(taught=False).keys()
    assert not np.array_equal(known_effects(SPACE, taught=True), known_effects(SPACE, taught=False))


def test_unknown_operators_are_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    space = replace(SPACE, attentions=("gcn", "const"))
    assert by_name(space)["layer0.attention"] == [
        effect_table(taught=True)["first", "attention", one] for one in ("gcn", "const")
    ]
    monkeypatch.setitem(ATTENTIONS._entries, "mine", replace(ATTENTIONS.get("gcn"), name="mine"))
    assert by_name(replace(SPACE, attentions=("gcn", "mine")))["layer0.attention"][1] == 0.0


def test_the_first_candidate_follows_them_and_trainings_overrule_them() -> None:
    names = [name for name, _ in SPACE.genes()]
    counts = [count for _, count in SPACE.genes()]
    width = names.index("layer0.width")
    known = np.zeros(sum(counts))
    known[sum(counts[:width])] = 1.0
    controller = Controller(SPACE, np.zeros(len(known)), known)
    assert int(controller.preferences()[width].argmax()) == 0
    rng = np.random.default_rng(0)
    choices = [SPACE.draw(rng) for _ in range(80)]
    controller.learn(choices, np.array([float(vector[width]) for vector in choices]))
    assert int(controller.preferences()[width].argmax()) > counts[width] // 2


@pytest.mark.parametrize("routes", [False, True])
def test_more_blocks_are_no_better_just_for_being_more(routes: bool) -> None:
    space = SearchSpace(20, 3, blocks=(1, 2, 3), routes=routes)
    known, nothing = known_effects(space, taught=True), np.zeros(sum(count for _, count in space.genes()))
    budget, size = Budget(), GraphSize(100, 400)
    controller = Controller(space, nothing, known)
    preferences, macro = controller.preferences(), len(space.macro_genes())
    assert all(part.max() == 0.0 for part in preferences[macro:])
    drawn = Draws(space, budget, size, controller, 0).next(12)
    assert len({len(one.spec.layers) for one in drawn}) > 1


def test_the_digest_follows_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    before = effects_digest()
    assert effects_digest() == before
    monkeypatch.setattr("lpgnas.known_effects.effect_table", lambda *, taught: {("first", "width", "4"): 0.5})
    assert effects_digest() != before


def test_the_fit_finds_effects() -> None:
    parts, planted = [], dict[Named, float]()
    for seed in (0, 1, 2):
        graph = synthetic_graph(seed)
        space, rng = sampled_space(graph), np.random.default_rng(seed)
        choices = list(drawn_models(graph, 80, seed))
        for _, options in gene_options(space):
            for place, one in enumerate(options):
                planted.setdefault(one, 0.4 * np.sin(3.0 * place + len(planted)))
        effects = np.array([planted[one] for _, options in gene_options(space) for one in options])
        score = one_hot(space, choices) @ effects + 0.2 * rng.normal(size=len(choices))
        rows = {"graph": graph.name, "labels": "few", "score": score, "accuracy": score / score.max()}
        parts.append((space, pd.DataFrame({**rows, "choices": [" ".join(map(str, one)) for one in choices]})))
    found = fitted(parts)
    shared = [one for one in found if one[1] in ("attention", "aggregation", "activation")]
    assert np.corrcoef([found[one] for one in shared], [planted[one] for one in shared])[0, 1] > 0.6


def test_synthetic_graphs_repeat_and_their_nodes_have_one_part() -> None:
    graph, again = synthetic_graph(3), synthetic_graph(3)
    assert np.array_equal(graph.edge_index, again.edge_index) and (graph.x != again.x).nnz == 0
    assert {(one, other) for one, other in graph.edge_index.T} == {(other, one) for one, other in graph.edge_index.T}
    assert np.sum(synthetic_split(graph, 3), axis=0).tolist() == [1] * graph.num_nodes
