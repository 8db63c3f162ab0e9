"""The teacher: what it may see, and what it needs."""

from __future__ import annotations

import numpy as np
import pytest
import runs
import torch
from torch import Tensor

from lpgnas.errors import ConfigError
from lpgnas.graph import Graph
from lpgnas.teachers import soft_labels
from lpgnas.training import TrainingData, TrainingSettings, transductive_data

SETTINGS = TrainingSettings(epochs=10, distillation=0.0)


def small_data(graph: Graph) -> TrainingData:
    nodes = np.arange(runs.NODES)
    return transductive_data(graph, nodes < 30, (nodes >= 30) & (nodes < 40))


def taught(graph: Graph) -> Tensor:
    return soft_labels(
        small_data(graph), SETTINGS, 0, row_normalize=True, input_signed=False, num_classes=runs.CLASSES, members=2
    )


def test_it_sees_training_labels_only() -> None:
    graph = runs.small_graph()
    assert graph.y is not None
    soft = taught(graph)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(runs.NODES))
    assert float((soft.argmax(dim=1)[:30] == torch.from_numpy(graph.y)[:30]).double().mean()) > 0.6
    y = graph.y.copy()
    y[30:] = (y[30:] + 1) % runs.CLASSES
    assert torch.equal(taught(Graph(graph.name, graph.x, graph.edge_index, y, graph.num_classes)), soft)
    y[:30] = (y[:30] + 1) % runs.CLASSES
    assert not torch.equal(taught(Graph(graph.name, graph.x, graph.edge_index, y, graph.num_classes)), soft)


@pytest.mark.parametrize(("members", "labelled"), [(0, 30), (2, 0)])
def test_members_and_labels_are_needed(members: int, labelled: int) -> None:
    nodes = np.arange(runs.NODES)
    data = transductive_data(runs.small_graph(), nodes < labelled, nodes >= 50)
    with pytest.raises(ConfigError, match=f"got {members} members and {labelled} labels"):
        soft_labels(
            data, SETTINGS, 0, row_normalize=True, input_signed=False, num_classes=runs.CLASSES, members=members
        )
