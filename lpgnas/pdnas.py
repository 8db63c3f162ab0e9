"""Strategy `pdnas`: the search with quantisation off, over architectures in float32 (PDNAS-n has up to n blocks).

A float model has no integer form, so there is no run folder of it: this is a rival for tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from lpgnas.budget import Budget
from lpgnas.cost_models.rows import CostReport
from lpgnas.errors import ConfigError
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import BestTraining, SearchSettings, Task, restart_seeds, search, train_best


@dataclass(frozen=True)
class FloatWinner:
    """A searched and trained float32 model.

    Attributes:
        spec: the architecture.
        cost: its sizes on the graph, 32 bits a number.
        training: the model, with its rating on the selection nodes.
        steps: training steps of the search.
    """

    spec: ModelSpec
    cost: CostReport
    training: BestTraining
    steps: int


def search_float(
    space: SearchSpace,
    task: Task,
    settings: SearchSettings,
    seed: int,
    *,
    blocks: int,
    budget: Budget | None = None,
    restarts: int = 3,
) -> FloatWinner:
    """Search the architectures of `space` with up to `blocks` blocks in float32, and train the winner.

    Args:
        space: its operators, widths, heads and shortcuts count; its formats do not.
        task: what it trains on. Without a teacher, as the paper's rivals have none, or with one.
        settings: strategy and effort.
        seed: of search and trainings.
        blocks: n of PDNAS-n; with routes, blocks that nobody reads are left out.
        budget: of the float model, or None.
        restarts: trainings of the winner; the best on the selection nodes stays.

    Raises:
        ConfigError: fewer than one block or training.
        InfeasibleBudget: nothing fits the budget.
    """
    if blocks < 1 or restarts < 1:
        raise ConfigError(f"a float search needs at least one block and one training, got {blocks} and {restarts}")
    found = search(space.in_float(blocks), budget or Budget(), task, settings, seed)
    training = train_best(found.best.spec, task, restart_seeds(seed, restarts))
    return FloatWinner(found.best.spec, found.best.cost, training, found.steps)
