"""The search: what it refuses, its halving, and that it resumes and repeats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import runs
from latency_tables import random_table

from lpgnas.budget import QUANTITIES, Budget, Quantity
from lpgnas.budget import SIZE as SIZE_SCALE
from lpgnas.cost_models.latency import LatencyTable
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ConfigError, InfeasibleBudget, LatencyTableError, LoweringError
from lpgnas.search_space import SearchSpace
from lpgnas.strategy import (
    Candidate,
    Rung,
    SearchResult,
    SearchSettings,
    Task,
    Trial,
    draw_candidates,
    search,
)
from lpgnas.supernet import SupernetStep
from lpgnas.training import TrainingSettings, transductive_data

SPACE = SearchSpace(runs.FEATURES, runs.CLASSES, row_normalize=True)
RUNGS = (Rung(1, 3), Rung(2, 2), Rung(4, 1))
SETTINGS = {
    "feasible": SearchSettings("feasible", candidates=5, rungs=RUNGS, supernet_steps=8),
    "random": SearchSettings("random", candidates=5, rungs=RUNGS),
}
both = pytest.mark.parametrize("strategy", SETTINGS)
SIZE = GraphSize(runs.NODES, runs.small_graph().num_edges)

TABLE = random_table(np.random.default_rng(0))


def task(max_degree: int = 40) -> Task:
    nodes = np.arange(runs.NODES)
    data = transductive_data(runs.small_graph(), nodes < 30, (nodes >= 30) & (nodes < 40))
    select = data.train.new_tensor((nodes >= 40) & (nodes < 50))
    return Task(data, select, SIZE, max_degree, None, TrainingSettings(distillation=0.0), TABLE)


def searched(
    strategy: str, done: dict[tuple[str, int], Trial] | None = None, seed: int = 0
) -> tuple[SearchResult, list[Trial]]:
    """The result, and what was reported on the way."""
    reported: list[Trial] = []

    def on_trial(candidate: Candidate, trial: Trial) -> None:
        assert candidate.number == trial.candidate
        reported.append(trial)

    settings = SETTINGS[strategy]
    return search(SPACE, Budget(), task(), settings, seed, done=done, on_trial=on_trial), reported


@both
def test_halving_keeps_the_best_of_each_rung(strategy: str) -> None:
    result, reported = searched(strategy)
    assert tuple(reported) == result.trials
    rungs = [[trial for trial in reported if trial.rung == rung] for rung in range(3)]
    assert [len(rung) for rung in rungs] == list(SETTINGS[strategy].entrants()) == [5, 3, 2]
    supernet = 8 if strategy == "feasible" else 0
    assert result.steps == SETTINGS[strategy].steps() == supernet + 5 * 1 + 3 * 2 + 2 * 4
    for rung, following, spec in zip(rungs, [*rungs[1:], None], RUNGS, strict=True):
        assert {trial.epochs for trial in rung} == {spec.epochs}
        ranked = sorted(rung, key=lambda trial: (-trial.score, trial.loss, trial.candidate))
        kept = [trial.candidate for trial in ranked[: spec.keep]]
        assert kept == ([result.best.number] if following is None else [trial.candidate for trial in following])
    assert [candidate.number for candidate in result.candidates] == list(range(5))
    assert len({candidate.spec.to_json() for candidate in result.candidates}) == 5


@both
def test_a_search_repeats_and_depends_on_its_seed(strategy: str) -> None:
    (first, _), (again, _), (other, _) = searched(strategy), searched(strategy), searched(strategy, seed=1)
    assert first == again
    assert first.candidates != other.candidates


@both
def test_a_resumed_search_trains_nothing_twice(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, trials = searched(strategy)
    specs = [candidate.spec.to_json() for candidate in whole.candidates]
    for known in (4, len(trials)):
        with monkeypatch.context() as patch:
            if known == len(trials):  # nothing is left to train
                patch.delattr("lpgnas.strategy.train_model")
            done = {(specs[trial.candidate], trial.rung): trial for trial in trials[:known]}
            resumed, reported = searched(strategy, done)
        assert resumed == whole
        assert all(one is other for one, other in zip(reported[:known], trials, strict=False))


@both
def test_remembered_trials_decide(strategy: str) -> None:
    whole, trials = searched(strategy)
    specs = [candidate.spec.to_json() for candidate in whole.candidates]
    loser = next(trial.candidate for trial in trials[4::-1] if trial.candidate not in {t.candidate for t in trials[5:]})
    done = {(specs[loser], rung): Trial(loser, rung, epochs, 1.1, 0.0, 1.1) for rung, epochs in enumerate((1, 2, 4))}
    assert searched(strategy, done)[0].best.number == loser


def test_a_supernet_is_trained_once() -> None:
    kept: list[SupernetStep] = []
    whole = search(SPACE, Budget(), task(), SETTINGS["feasible"], 0, on_supernet=kept.extend)
    assert len(kept) == 8
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("lpgnas.strategy.train_supernet")
        assert search(SPACE, Budget(), task(), SETTINGS["feasible"], 0, supernet=kept) == whole


def test_later_waves_learn_from_earlier_ones() -> None:
    """Where one activation alone decides the rating, later waves prefer it."""
    settings = SearchSettings("feasible", 24, (Rung(1, 1),), supernet_steps=0, waves=3)
    space = replace(SPACE, blocks=(2,))

    def tanh(candidate: Candidate) -> bool:
        return candidate.spec.layers[0].activation == "tanh"

    def rated(candidate: Candidate, index: int, rung: Rung, task: Task, seed: int) -> Trial:
        return Trial(candidate.number, index, rung.epochs, 0.5, 1.0, 0.9 if tanh(candidate) else 0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpgnas.strategy.rate_candidate", rated)
        result = search(space, Budget(), task(), settings, 0)
    assert sum(map(tanh, result.candidates[16:])) > sum(map(tanh, result.candidates[:8]))
    assert tanh(result.best)


@pytest.mark.parametrize("strategy", ["lpgnas", "lpgnas-textbook"])
def test_one_round_derives_a_model_within_the_budget(strategy: str) -> None:
    settings = SearchSettings(strategy, candidates=5, rungs=(Rung(1, 3), Rung(2, 1)), supernet_steps=10)
    budget = Budget(weights=8 * 300, buffers=8 * 3000, peak=8 * 2500)
    steps: list[SupernetStep] = []
    reported: list[Trial] = []
    results = [
        search(
            SPACE, budget, task(), settings, seed,
            on_supernet=steps.extend, on_trial=lambda candidate, trial: reported.append(trial),
        )
        for seed in (0, 0, 1)
    ]  # fmt: skip
    first, again, other = results
    assert first == again and steps[: first.steps] != steps[-first.steps :]
    assert first.steps == settings.steps() == 10 + 5 * 1 + 3 * 2 == len(steps) // 3
    assert tuple(reported[: len(first.trials)]) == first.trials
    for result in (first, other):
        assert result.best == result.candidates[-1]
        assert [trial.candidate for trial in result.trials] == list(range(len(result.candidates)))
        assert {(trial.epochs, trial.note) for trial in result.trials} == {(0, "")}
        for candidate in result.candidates:
            assert budget.allows(candidate.cost)


def test_a_derived_model_without_an_exact_form_does_not_win() -> None:
    with pytest.raises(LoweringError, match="no derived model has an exact integer form"):
        search(SPACE, Budget(), task(max_degree=1 << 20), SearchSettings("lpgnas", 2, RUNGS, supernet_steps=4), 0)


@both
def test_a_search_over_numbers_of_blocks_and_routes(strategy: str) -> None:
    space = replace(SPACE, blocks=(1, 2, 3), routes=True, attentions=("self", "gcn", "gat"))
    budget = Budget(weights="150B", buffers="2KiB", peak="1.5KiB")
    result = search(space, budget, task(), SETTINGS[strategy], 0)
    assert result == search(space, budget, task(), SETTINGS[strategy], 0)
    assert len(result.candidates) == 5
    for one in result.candidates:
        assert budget.allows(one.cost)
        assert space.spec(one.choices) == one.spec
    assert len({space.macro(one.choices).sources for one in result.candidates}) > 1


@pytest.mark.parametrize("limited", QUANTITIES, ids=lambda one: str(one.what))
def test_an_infeasible_budget_names_the_smallest_feasible_one(limited: Quantity) -> None:
    least = spec_cost(SPACE.spec(SPACE.smallest()), SIZE, latency=TABLE).quantity(limited.name)
    for strategy in ("lpgnas", "feasible"):
        with pytest.raises(InfeasibleBudget) as caught:
            search(SPACE, Budget(**{limited.keyword: least - 1}), task(), SearchSettings(strategy), 0)
    message = str(caught.value)
    assert f"too small: {limited.what}. " in message
    flag, named = message.rsplit("budget is ", 1)[1].split()
    assert (flag, caught.value.smallest) == (limited.flag, f"{flag} {named}")
    budget = Budget(**{limited.keyword: named})
    assert budget[limited.name] - least < (8 if limited.scale is SIZE_SCALE else 1)  # sizes are whole bytes
    found = draw_candidates(SPACE, budget, SIZE, 3, 0, TABLE)
    assert found
    assert all(budget.allows(one.cost) for one in found)


def test_a_table_without_an_operation_is_refused_before_anything_is_trained() -> None:
    short = LatencyTable("short", 1, [point for point in TABLE.points if point.operation != "aggregate/gat/max"])
    with pytest.raises(LatencyTableError, match="no point of aggregate/gat/max; measure it"):
        search(SPACE, Budget(), replace(task(), latency=short), SETTINGS["feasible"], 0)


def test_a_small_space_gives_fewer_candidates() -> None:
    space = replace(
        SPACE, blocks=(1,), attentions=("const",), aggregations=("sum",), weight_formats=("binary",), code_bits=(4, 8)
    )
    found = draw_candidates(space, Budget(), SIZE, 50, 0)
    assert len(found) == 2


@both
def test_a_search_without_any_exact_model_is_refused(strategy: str) -> None:
    with pytest.raises(LoweringError, match="no candidate has an exact integer form"):
        search(SPACE, Budget(), task(max_degree=1 << 20), SETTINGS[strategy], 0)


def test_settings_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one candidate, got 0"):
        SearchSettings(candidates=0)
    with pytest.raises(ConfigError, match="unknown strategy 'best'; known: feasible, lpgnas, lpgnas-textbook, random"):
        SearchSettings("best")
    with pytest.raises(ConfigError, match="supernet_steps -1 and waves 3"):
        SearchSettings(supernet_steps=-1, waves=3)
    for rungs in ((), (Rung(5, 2),)):
        with pytest.raises(ConfigError, match="the last rung must keep exactly 1"):
            SearchSettings(rungs=rungs)
    assert SearchSettings(candidates=2).entrants() == (2, 2, 2)
