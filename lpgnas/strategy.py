"""Search under a budget: candidates that fit, then successive halving with real quantisation-aware training.

Strategy `feasible` (the default) trains a supernet, fits the effect of every choice to its losses, draws effects, and
takes the best model under the budget for each draw; what real trainings of one wave show decides the draws of the next.
Strategy `lpgnas` is the paper's: two controllers and shared weights in one differentiable search round, at the end the
most probable model under the budget (`lpgnas.search_round`); `lpgnas-textbook` the same with the textbook's gradient.
Strategy `random` draws feasible models uniformly: the baseline that every other one must beat.

Each rung trains its candidates from scratch for more epochs and keeps the best by their score: accuracy on the
selection nodes, which neither the loss nor early stopping sees, and agreement with the teacher where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lpgnas.budget import Budget
from lpgnas.config import SEARCHES
from lpgnas.cost_models.latency import LatencyTable, space_kinds
from lpgnas.cost_models.rows import CostReport, GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ConfigError, InfeasibleBudget, LoweringError
from lpgnas.known_effects import known_effects
from lpgnas.lowering import lower
from lpgnas.preferences import Controller, supernet_opinion
from lpgnas.projection import Projection
from lpgnas.search_round import RoundSettings, SearchRound
from lpgnas.search_space import Choices, SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.supernet import SupernetStep, SupernetTraining, train_supernet
from lpgnas.training import TrainedModel, TrainingData, TrainingSettings, train_model

MAX_SPEED_UP = 4.0
"""A rung with fewer epochs takes larger steps, up to this factor: at the final learning rate, short trainings only show
who moves first."""


TEXTBOOK = RoundSettings("textbook", "adam", "expected", beta=0.1, normalise=False)
"""The search round as textbooks have it."""
AGREEMENT_SHARE = 0.5
"""Share of the agreement with the teacher in the score of a candidate."""


@dataclass(frozen=True)
class Rung:
    """One round of successive halving: train for `epochs` from `seeds` initial weights, keep the best `keep`."""

    epochs: int
    keep: int
    seeds: int = 1


@dataclass(frozen=True)
class SearchSettings:
    """How the search spends its steps.

    Attributes:
        strategy: one of `lpgnas.config.SEARCHES`.
        candidates: feasible specs that are drawn.
        rungs: rounds of halving; the last one keeps 1.
        supernet_steps: training steps of the supernet (`feasible`).
        round_settings: of the search round; None for those of the strategy. A round has as many steps as `feasible`
            spends on its supernet and its trainings.
        waves: groups that candidates are drawn in; each knows the first ratings of those before (`feasible`).
    """

    strategy: str = "feasible"
    candidates: int = 16
    rungs: tuple[Rung, ...] = (Rung(40, 5), Rung(100, 2), Rung(200, 1, seeds=2))
    supernet_steps: int = 100
    waves: int = 2
    round_settings: RoundSettings | None = None

    def __post_init__(self) -> None:
        if self.strategy not in SEARCHES:
            raise ConfigError(f"unknown strategy {self.strategy!r}; known: {', '.join(SEARCHES)}")
        if self.supernet_steps < 0 or self.waves < 1:
            raise ConfigError(f"supernet_steps {self.supernet_steps} and waves {self.waves} must be at least 0 and 1")
        if self.candidates < 1:
            raise ConfigError(f"a search needs at least one candidate, got {self.candidates}")
        if not self.rungs or self.rungs[-1].keep != 1:
            raise ConfigError("the last rung must keep exactly 1 candidate")

    def entrants(self) -> tuple[int, ...]:
        """Candidates that each rung trains."""
        counts = [self.candidates]
        for rung in self.rungs[:-1]:
            counts.append(min(counts[-1], rung.keep))
        return tuple(counts)

    def steps(self) -> int:
        """Training steps of the whole search (its effort)."""
        counts = zip(self.entrants(), self.rungs, strict=True)
        halving = sum(count * rung.epochs * rung.seeds for count, rung in counts)
        return halving + (0 if self.strategy == "random" else self.supernet_steps)

    def round(self) -> RoundSettings | None:
        """How the differentiable search round learns; None for a strategy that halves."""
        if not self.strategy.startswith("lpgnas"):
            return None
        return self.round_settings or (TEXTBOOK if self.strategy == "lpgnas-textbook" else RoundSettings())


@dataclass(frozen=True)
class Trial:
    """One candidate trained on one rung.

    Attributes:
        candidate: its number in the order of drawing.
        rung: index of the rung.
        epochs: training steps.
        accuracy: on the selection nodes, 0 to 1; -1 where the model has no exact integer form.
        loss: cross-entropy there.
        score: what candidates are ranked by, see `selection_score`; -1 likewise.
        note: why a model was dropped, or empty.
    """

    candidate: int
    rung: int
    epochs: int
    accuracy: float
    loss: float
    score: float
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """A feasible spec with its cost on the graph."""

    number: int
    choices: Choices
    spec: ModelSpec
    cost: CostReport


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves.

    Attributes:
        best: the winner.
        candidates: all that were drawn, in order.
        trials: all that was trained, in order.
        steps: training steps spent.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    steps: int


@dataclass(frozen=True)
class Task:
    """What a search trains on.

    Attributes:
        data: graphs, labels, training and early-stopping nodes.
        select: selection nodes [N'] of the stopping graph.
        size: nodes and edges that costs are counted for.
        max_degree: what a model must be provable for.
        teacher: soft labels, or None.
        settings: of each training; a rung sets the epochs.
        latency: times of operations, or None where latency is not counted.
    """

    data: TrainingData
    select: Tensor
    size: GraphSize
    max_degree: int
    teacher: Tensor | None
    settings: TrainingSettings
    latency: LatencyTable | None = None
    _trained: dict[tuple[str, int], TrainedModel] = field(init=False, default_factory=dict, repr=False, compare=False)

    def train(self, spec: ModelSpec, seed: int, progress: Callable[[int], None] | None = None) -> TrainedModel:
        """A whole training; one that a search has made already is not made again.

        Args:
            spec: the choices.
            seed: of initial weights and dropout.
            progress: called with the epoch after each one.
        """
        key = spec.to_json(), seed
        if key not in self._trained:
            made = train_model(spec, self.data, self.settings, seed, teacher=self.teacher, progress=progress)
            self._trained[key] = made
        elif progress is not None:
            for epoch in range(1, self.settings.epochs + 1):
                progress(epoch)
        return self._trained[key]


def restart_seeds(seed: int, restarts: int) -> list[int]:
    """Seeds of the final trainings of a run; those of a search's last rung are the first of them."""
    return [seed * 1000 + 500 + restart for restart in range(restarts)]


def draw_candidates(
    space: SearchSpace, budget: Budget, size: GraphSize, count: int, seed: int, latency: LatencyTable | None = None
) -> tuple[Candidate, ...]:
    """Up to `count` different feasible candidates, drawn with `seed`.

    Raises:
        InfeasibleBudget: as `require_feasible`.
    """
    rng, fits = np.random.default_rng(seed), fits_within(budget, size, latency)
    require_feasible(space, budget, size, latency)
    found: dict[str, Candidate] = {}
    for _ in range(20 * count):
        choices = space.draw_feasible(rng, fits)
        if choices is None:
            break
        spec = space.spec(choices)
        if spec.to_json() not in found:  # several choice vectors name one model
            found[spec.to_json()] = Candidate(len(found), choices, spec, spec_cost(spec, size, latency=latency))
        if len(found) == count:
            break
    return tuple(found.values())


def fits_within(budget: Budget, size: GraphSize, latency: LatencyTable | None = None) -> Callable[[ModelSpec], bool]:
    """Whether the model of a spec is within the budget on a graph of this size."""

    def fits(spec: ModelSpec) -> bool:
        return budget.allows(spec_cost(spec, size, latency=latency))

    return fits


def round_tools(
    budget: Budget, size: GraphSize, latency: LatencyTable | None = None
) -> tuple[Callable[[ModelSpec], bool], Callable[[ModelSpec], np.ndarray]]:
    """Whether a model fits, and each of its limited sizes as a share of the limit [limits], float64."""

    def shares(spec: ModelSpec) -> np.ndarray:
        cost = spec_cost(spec, size, latency=latency)
        return np.array([cost.quantity(name) / limit for name, limit in budget.items()])

    return fits_within(budget, size, latency), shares


def require_feasible(space: SearchSpace, budget: Budget, size: GraphSize, latency: LatencyTable | None = None) -> None:
    """Refuse a budget that no model of the space fits.

    Raises:
        InfeasibleBudget: not even the smallest model fits; the message names the smallest budget that does.
        LatencyTableError: the table lacks an operation that a model of the space can have.
    """
    if latency is not None:
        latency.require(space_kinds(space, size))
    costs = (spec_cost(space.spec(one), size, latency=latency) for one in space.smallest_models())
    least = min(costs, key=lambda cost: max((cost.quantity(name) / limit for name, limit in budget.items()), default=0))
    over = budget.excess(least)
    if not over:
        return
    named = budget_for(least, budget)
    raise InfeasibleBudget(
        f"no model of the search space fits the budget ({budget}); too small: "
        f"{', '.join(one.what for one in budget.limited() if one.name in over)}. "
        f"{'A' if space.macro_genes() else 'The'} smallest feasible budget is {named}",
        smallest=named,
    )


def budget_for(cost: CostReport, budget: Budget) -> str:
    """The limits that this cost needs, as flags, of the quantities that the budget limits."""
    return " ".join(f"{one.flag} {one.scale.rounded_up(cost.quantity(one.name))}" for one in budget.limited())


@dataclass(frozen=True)
class Selection:
    """How good a trained model looks without its test nodes.

    Attributes:
        accuracy: on the selection nodes, 0 to 1.
        loss: cross-entropy there.
        score: the accuracy; with a teacher, half of it and half of the agreement with the teacher's
            classes on all nodes of the training graph. Agreement needs no labels and has ten times the nodes, so that
            chance counts less.
    """

    accuracy: float
    loss: float
    score: float


def selection_score(trained: TrainedModel, task: Task) -> Selection:
    """Rate a trained model on the selection nodes and by its agreement with the teacher."""
    model = trained.model
    with torch.no_grad():
        logits = model(task.data.tensors(model, stop=True))
        own = logits if task.data.stop_graph is task.data.graph else model(task.data.tensors(model, stop=False))
    selected, labels = logits[task.select], task.data.stop_labels[task.select]
    accuracy = float((selected.argmax(dim=1) == labels).double().mean())
    score = accuracy
    if task.teacher is not None:
        agreement = float((own.argmax(dim=1) == task.teacher.argmax(dim=1)).double().mean())
        score = (1.0 - AGREEMENT_SHARE) * accuracy + AGREEMENT_SHARE * agreement
    return Selection(accuracy, float(functional.cross_entropy(selected, labels)), score)


def refusal(trained: TrainedModel, max_degree: int) -> str:
    """Why a trained model has no exact integer form, or empty."""
    model = trained.model
    if model.spec.is_float:
        return ""  # a full-precision search asks for none
    try:
        lower(
            model.spec,
            model.layer_codes(),
            input_fraction=model.input_fraction,
            max_degree=max_degree,
            words=model.word_codes(),
        )
    except LoweringError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class BestTraining:
    """The best of several trainings of one spec: the model, its rating, and which it was."""

    trained: TrainedModel
    selection: Selection
    restart: int


def train_best(
    spec: ModelSpec, task: Task, seeds: Sequence[int], progress: Callable[[int], None] | None = None
) -> BestTraining:
    """Train `spec` from the initial weights of every seed and keep the best on the selection nodes.

    Raises:
        LoweringError: no training gave an exact integer form.
    """
    made: list[tuple[tuple[float, float, int], BestTraining]] = []
    reasons: list[str] = []
    for restart, seed in enumerate(seeds):
        trained = task.train(spec, seed, progress)
        refused = refusal(trained, task.max_degree)
        if refused:
            reasons.append(refused)
            continue
        rated = selection_score(trained, task)
        made.append(((-rated.score, rated.loss, restart), BestTraining(trained, rated, restart)))
    if not made:
        raise LoweringError(f"none of {len(seeds)} trainings gave an exact integer form: {reasons[0]}")
    return min(made, key=lambda one: one[0])[1]


def rate_candidate(candidate: Candidate, index: int, rung: Rung, task: Task, seed: int) -> Trial:
    """Train a candidate on a rung; with several seeds, its figures are their means."""
    settings = replace(
        task.settings,
        epochs=rung.epochs,
        learning_rate=task.settings.learning_rate * min(MAX_SPEED_UP, task.settings.epochs / rung.epochs),
    )
    of_rung = task if settings == task.settings else replace(task, settings=settings)
    rated = []
    for one in restart_seeds(seed, rung.seeds):
        trained = of_rung.train(candidate.spec, one)
        refused = refusal(trained, task.max_degree)
        if refused:
            return Trial(candidate.number, index, rung.epochs, -1.0, float("inf"), -1.0, refused)
        rated.append(selection_score(trained, task))
    accuracy, loss, score = (
        float(np.mean([getattr(one, name) for one in rated])) for name in ("accuracy", "loss", "score")
    )
    return Trial(candidate.number, index, rung.epochs, accuracy, loss, score)


class _Halving:
    """Rates candidates rung by rung; remembers what an interrupted search rated."""

    def __init__(
        self,
        task: Task,
        settings: SearchSettings,
        seed: int,
        done: Mapping[tuple[str, int], Trial] | None,
        on_trial: Callable[[Candidate, Trial], None] | None,
    ) -> None:
        self._task, self._settings, self._seed = task, settings, seed
        self._done, self._on_trial = done or {}, on_trial
        self.trials: list[Trial] = []

    def rate(self, candidates: Sequence[Candidate], index: int) -> list[Trial]:
        """Train candidates on a rung."""
        return [self._rate(candidate, index) for candidate in candidates]

    def _rate(self, candidate: Candidate, index: int) -> Trial:
        rung = self._settings.rungs[index]
        trial = self._done.get((candidate.spec.to_json(), index))
        if trial is None or (trial.candidate, trial.epochs) != (candidate.number, rung.epochs):
            # not rated yet, or by another search: its training would differ
            trial = rate_candidate(candidate, index, rung, self._task, self._seed)
        self.trials.append(trial)
        if self._on_trial is not None:
            self._on_trial(candidate, trial)
        return trial

    def halve(self, candidates: Sequence[Candidate], steps: int) -> SearchResult:
        """The winner among candidates that the first rung has rated; `steps` were spent before."""
        alive, rated = list(candidates), list(self.trials)
        for index, rung in enumerate(self._settings.rungs):
            if index:
                rated = self.rate(alive, index)
            order = sorted(rated, key=lambda trial: (-trial.score, trial.loss, trial.candidate))
            alive = [candidates[trial.candidate] for trial in order[: rung.keep]]
        if all(trial.accuracy < 0 for trial in rated):
            raise LoweringError("no candidate has an exact integer form; allow fewer bits or a smaller max_degree")
        steps += sum(trial.epochs * self._settings.rungs[trial.rung].seeds for trial in self.trials)
        return SearchResult(alive[0], tuple(candidates), tuple(self.trials), steps)


def search(
    space: SearchSpace,
    budget: Budget,
    task: Task,
    settings: SearchSettings,
    seed: int,
    *,
    done: Mapping[tuple[str, int], Trial] | None = None,
    on_trial: Callable[[Candidate, Trial], None] | None = None,
    supernet: Sequence[SupernetStep] | None = None,
    on_step: Callable[[], None] | None = None,
    on_supernet: Callable[[Sequence[SupernetStep]], None] | None = None,
) -> SearchResult:
    """Find candidates by the strategy of `settings` and halve them.

    Args:
        space: what may be chosen.
        budget: what every candidate fits.
        task: what it trains on.
        settings: strategy, candidates and rungs.
        seed: of draws and trainings.
        done: trials of an interrupted run by (spec as JSON, rung); they are not trained again.
        on_trial: called after each new or remembered trial.
        supernet: the steps of a supernet that was trained before, or None.
        on_step: called after each step of the supernet.
        on_supernet: called with the steps of a newly trained supernet.

    Raises:
        InfeasibleBudget: as `draw_candidates`.
        LoweringError: no candidate has an exact integer form.
    """
    halving = _Halving(task, settings, seed, done, on_trial)
    if settings.strategy == "random":
        candidates = draw_candidates(space, budget, task.size, settings.candidates, seed, task.latency)
        halving.rate(candidates, 0)
        return halving.halve(candidates, 0)
    require_feasible(space, budget, task.size, task.latency)  # before anything is trained
    round_settings = settings.round()
    if round_settings is not None:
        return _search_round(space, budget, task, settings, seed, on_trial, on_step, on_supernet)
    if supernet is None:
        supernet = train_supernet(
            space,
            fits_within(budget, task.size, task.latency),
            task.data,
            task.settings,
            seed,
            steps=settings.supernet_steps,
            teacher=task.teacher,
            on_step=on_step,
        )
        if on_supernet is not None:
            on_supernet(supernet)
    opinion = supernet_opinion(space, [s.choices for s in supernet], np.array([s.loss for s in supernet]))
    known = known_effects(space, taught=task.teacher is not None)
    drawn = Draws(space, budget, task.size, Controller(space, opinion, known), seed, task.latency)
    for wave in range(settings.waves):
        count = settings.candidates * (wave + 1) // settings.waves - settings.candidates * wave // settings.waves
        halving.rate(drawn.next(count), 0)
        drawn.learn(halving.trials)
    return halving.halve(drawn.candidates, len(supernet))


def _search_round(
    space: SearchSpace,
    budget: Budget,
    task: Task,
    settings: SearchSettings,
    seed: int,
    on_trial: Callable[[Candidate, Trial], None] | None,
    on_step: Callable[[], None] | None,
    on_supernet: Callable[[Sequence[SupernetStep]], None] | None,
) -> SearchResult:
    """One search round; its derived models are the candidates, the last one with an exact integer form wins.

    Candidates are rated with the shared weights, for the record: the ratings decide nothing.
    """
    size, (fits, shares) = task.size, round_tools(budget, task.size, task.latency)
    training = SupernetTraining(space, task.data, task.settings, seed, task.teacher)
    searching = SearchRound(space, fits, shares, training, settings.round() or RoundSettings(), seed, on_step)
    result = searching.run(settings.steps())
    if on_supernet is not None:
        on_supernet(result.steps)
    candidates: dict[str, Candidate] = {}
    for snapshot in result.snapshots:
        spec = space.spec(snapshot.choices)
        number = candidates.pop(spec.to_json(), None)  # what is derived again moves to the end
        candidates[spec.to_json()] = number or Candidate(
            0, snapshot.choices, spec, spec_cost(spec, size, latency=task.latency)
        )
    listed = tuple(replace(candidate, number=number) for number, candidate in enumerate(candidates.values()))
    trials = tuple(_rate_shared(candidate, training, task) for candidate in listed)
    for candidate, trial in zip(listed, trials, strict=True):
        if on_trial is not None:
            on_trial(candidate, trial)
    exact = [candidate for candidate, trial in zip(listed, trials, strict=True) if trial.accuracy >= 0]
    if not exact:
        raise LoweringError(f"no derived model has an exact integer form: {trials[-1].note}")
    return SearchResult(exact[-1], listed, trials, len(result.steps))


def _rate_shared(candidate: Candidate, training: SupernetTraining, task: Task) -> Trial:
    """A candidate with the shared weights as they are: no epoch of its own."""
    made = TrainedModel(training.supernet.model(candidate.spec, training.graph), 0.0, 0.0, 0)
    refused = refusal(made, task.max_degree)
    if refused:
        return Trial(candidate.number, 0, 0, -1.0, float("inf"), -1.0, refused)
    rated = selection_score(made, task)
    return Trial(candidate.number, 0, 0, rated.accuracy, rated.loss, rated.score)


class Draws:
    """Different feasible candidates, the best models under the budget for drawn effects (Thompson sampling).

    Args:
        space: what may be chosen.
        budget: what every candidate fits; something in the space does.
        size: of the graph that costs are counted on.
        controller: whose effects are drawn.
        seed: of the draws.
        latency: times of operations, or None where latency is not limited.

    Attributes:
        candidates: all so far, in order.
    """

    def __init__(
        self,
        space: SearchSpace,
        budget: Budget,
        size: GraphSize,
        controller: Controller,
        seed: int,
        latency: LatencyTable | None = None,
    ) -> None:
        self._space, self._budget, self._size, self._controller = space, budget, size, controller
        self._seed, self._rng, self._latency = seed, np.random.default_rng(seed), latency
        self._project = Projection(space, fits_within(budget, size, latency))
        self._seen: set[str] = set()
        self.candidates: list[Candidate] = []

    def next(self, count: int) -> list[Candidate]:
        """Up to `count` new candidates."""
        before = len(self.candidates)
        for _ in range(8 * count):
            if len(self.candidates) - before == count:
                break
            # the first candidate is the controller's favourite
            rng = self._rng if self.candidates else None
            self._admit(self._project(self._controller.preferences(rng)))
        if len(self.candidates) - before < count:  # a space or a budget with few models
            wanted = len(self.candidates) + count
            for spare in draw_candidates(self._space, self._budget, self._size, wanted, self._seed, self._latency):
                if len(self.candidates) - before < count:
                    self._admit(spare.choices)
        return self.candidates[before:]

    def _admit(self, choices: Choices | None) -> None:
        spec = None if choices is None else self._space.spec(choices)
        if choices is None or spec is None or spec.to_json() in self._seen:  # several choice vectors name one model
            return
        self._seen.add(spec.to_json())
        cost = spec_cost(spec, self._size, latency=self._latency)
        self.candidates.append(Candidate(len(self.candidates), choices, spec, cost))

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take the ratings of the first rung."""
        rated = [trial for trial in trials if trial.rung == 0]
        choices = [self.candidates[trial.candidate].choices for trial in rated]
        self._controller.learn(choices, np.array([trial.score for trial in rated]))
