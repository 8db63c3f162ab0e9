"""The search with quantisation off: float models of n blocks, whose sizes are those of their parameters."""

from __future__ import annotations

import numpy as np
import pytest
import runs

from lpgnas.budget import Budget
from lpgnas.cost_models.rows import GraphSize
from lpgnas.errors import ConfigError, InfeasibleBudget
from lpgnas.pdnas import search_float
from lpgnas.search_space import SearchSpace
from lpgnas.strategy import Rung, SearchSettings, Task
from lpgnas.training import TrainingSettings, transductive_data

SPACE = SearchSpace(runs.FEATURES, runs.CLASSES, row_normalize=True)


def task() -> Task:
    nodes = np.arange(runs.NODES)
    data = transductive_data(runs.small_graph(), nodes < 30, (nodes >= 30) & (nodes < 40))
    select = data.train.new_tensor((nodes >= 40) & (nodes < 50))
    size = GraphSize(runs.NODES, runs.small_graph().num_edges)
    return Task(data, select, size, 40, None, TrainingSettings(epochs=10, distillation=0.0))


def settings(strategy: str) -> SearchSettings:
    return SearchSettings(strategy, candidates=3, rungs=(Rung(1, 2), Rung(3, 1)), supernet_steps=8)


@pytest.mark.parametrize(("strategy", "blocks"), [("feasible", 2), ("random", 3), ("lpgnas", 4)])
def test_a_float_search(strategy: str, blocks: int) -> None:
    found = search_float(SPACE, task(), settings(strategy), 0, blocks=blocks, restarts=2)
    assert found.spec.is_float and len(found.spec.layers) == blocks
    assert all(choice.kind == "float32" for layer in found.spec.layers for choice in layer.formats.values())
    parameters = sum(parameter.numel() for parameter in found.training.trained.model.parameters())
    assert found.cost.weight_bits == 32 * parameters
    assert found.steps == settings(strategy).steps()
    assert 0.0 <= found.training.selection.accuracy <= 1.0
    again = search_float(SPACE, task(), settings(strategy), 0, blocks=blocks, restarts=2)
    assert (again.spec, again.training.selection) == (found.spec, found.training.selection)


def test_a_budget_counts_32_bits() -> None:
    limit = 4 * 600
    found = search_float(SPACE, task(), settings("random"), 0, blocks=2, budget=Budget(weights=8 * limit), restarts=1)
    assert found.cost.weight_bits <= 8 * limit
    with pytest.raises(InfeasibleBudget):
        search_float(SPACE, task(), settings("random"), 0, blocks=2, budget=Budget(weights=8 * 20))


def test_what_is_refused() -> None:
    for blocks, restarts in ((0, 1), (2, 0)):
        with pytest.raises(ConfigError, match="at least one block and one training"):
            search_float(SPACE, task(), settings("random"), 0, blocks=blocks, restarts=restarts)
