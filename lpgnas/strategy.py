"""Search: feasible random specs under a budget, then successive halving with real quantisation-aware training.

This is the `random` strategy, the baseline that every other one must beat. Each rung trains its candidates from scratch
for more epochs and keeps the best by their score: accuracy on the selection nodes, which neither the loss nor early
stopping sees, and agreement with the teacher where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lpgnas.budget import Budget
from lpgnas.cost_models.rows import CostReport, GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ConfigError, InfeasibleBudget, LoweringError
from lpgnas.lowering import lower
from lpgnas.search_space import Choices, SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.training import TrainedModel, TrainingData, TrainingSettings, train_model

MAX_SPEED_UP = 4.0
"""A rung with fewer epochs takes larger steps, up to this factor: at the final learning rate, short trainings only show
who moves first."""


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
        candidates: feasible specs that are drawn.
        rungs: rounds of halving; the last one keeps 1.
    """

    candidates: int = 32
    rungs: tuple[Rung, ...] = (Rung(40, 10), Rung(100, 4), Rung(200, 1, seeds=3))

    def __post_init__(self) -> None:
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
        return sum(count * rung.epochs * rung.seeds for count, rung in counts)


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
    """

    data: TrainingData
    select: Tensor
    size: GraphSize
    max_degree: int
    teacher: Tensor | None
    settings: TrainingSettings


def draw_candidates(
    space: SearchSpace, budget: Budget, size: GraphSize, count: int, seed: int
) -> tuple[Candidate, ...]:
    """Up to `count` different feasible candidates, drawn with `seed`.

    Raises:
        InfeasibleBudget: not even the smallest model of the space fits; the message names its sizes.
    """
    rng = np.random.default_rng(seed)

    def fits(spec: ModelSpec) -> bool:
        cost = spec_cost(spec, size)
        return budget.allows(weight_bits=cost.weight_bits, buffer_bits=cost.buffer_bits, peak_bits=cost.peak_bits)

    found: dict[str, Candidate] = {}
    for _ in range(20 * count):
        choices = space.draw_feasible(rng, fits)
        if choices is None:
            raise _infeasible(space, budget, size)
        spec = space.spec(choices)
        if spec.to_json() not in found:  # several choice vectors name one model
            found[spec.to_json()] = Candidate(len(found), choices, spec, spec_cost(spec, size))
        if len(found) == count:
            break
    return tuple(found.values())


def _infeasible(space: SearchSpace, budget: Budget, size: GraphSize) -> InfeasibleBudget:
    least = spec_cost(space.spec(space.smallest()), size)
    over = budget.excess(weight_bits=least.weight_bits, buffer_bits=least.buffer_bits, peak_bits=least.peak_bits)
    parts = [
        f"--{what}-budget {-(-bits // 8)}B"  # whole bytes, upwards: as printed it is feasible
        for what, bits in (("weight", least.weight_bits), ("buffer", least.buffer_bits), ("peak", least.peak_bits))
    ]
    return InfeasibleBudget(
        f"no model of the search space fits the budget ({budget}); too small: "
        f"{', '.join(name.removesuffix('_bits') for name in over)}. "
        f"The smallest feasible budget is {' '.join(parts)}"
    )


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
    try:
        lower(model.spec, model.layer_codes(), input_fraction=model.input_fraction, max_degree=max_degree)
    except LoweringError as error:
        return str(error)
    return ""


def _run_trial(candidate: Candidate, index: int, rung: Rung, task: Task, seed: int) -> Trial:
    """Train a candidate on a rung; with several seeds, its figures are their means."""
    settings = replace(
        task.settings,
        epochs=rung.epochs,
        learning_rate=task.settings.learning_rate * min(MAX_SPEED_UP, task.settings.epochs / rung.epochs),
    )
    rated = []
    for repeat in range(rung.seeds):
        trained = train_model(candidate.spec, task.data, settings, seed + 1000 * repeat, teacher=task.teacher)
        refused = refusal(trained, task.max_degree)
        if refused:
            return Trial(candidate.number, index, rung.epochs, -1.0, float("inf"), -1.0, refused)
        rated.append(selection_score(trained, task))
    accuracy, loss, score = (
        float(np.mean([getattr(one, name) for one in rated])) for name in ("accuracy", "loss", "score")
    )
    return Trial(candidate.number, index, rung.epochs, accuracy, loss, score)


def search_random(
    space: SearchSpace,
    budget: Budget,
    task: Task,
    settings: SearchSettings,
    seed: int,
    *,
    done: Mapping[tuple[str, int], Trial] | None = None,
    on_trial: Callable[[Candidate, Trial], None] | None = None,
) -> SearchResult:
    """Draw feasible candidates and halve them.

    Args:
        space: what may be drawn.
        budget: what every candidate fits.
        task: what it trains on.
        settings: candidates and rungs.
        seed: of the draws and the trainings.
        done: trials of an interrupted run by (spec as JSON, rung); they are not trained again.
        on_trial: called after each new or remembered trial.

    Raises:
        InfeasibleBudget: as `draw_candidates`.
    """
    candidates = draw_candidates(space, budget, task.size, settings.candidates, seed)
    alive, trials = list(candidates), []
    for index, rung in enumerate(settings.rungs):
        results: list[tuple[float, float, int]] = []
        for candidate in alive:
            remembered = (done or {}).get((candidate.spec.to_json(), index))
            if remembered is not None and (remembered.candidate, remembered.epochs) != (candidate.number, rung.epochs):
                remembered = None  # of another search: its training would differ
            trial = remembered or _run_trial(candidate, index, rung, task, seed)
            trials.append(trial)
            results.append((-trial.score, trial.loss, candidate.number))
            if on_trial is not None:
                on_trial(candidate, trial)
        alive = [candidates[number] for _, _, number in sorted(results)[: rung.keep]]
    if trials[-1].accuracy < 0 and all(trial.accuracy < 0 for trial in trials if trial.rung == trials[-1].rung):
        raise LoweringError("no candidate has an exact integer form; allow fewer bits or a smaller max_degree")
    steps = sum(trial.epochs * settings.rungs[trial.rung].seeds for trial in trials)
    return SearchResult(alive[0], candidates, tuple(trials), steps)
