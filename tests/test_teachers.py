"""The teacher: what it computes, and what it may see."""

from __future__ import annotations

import numpy as np
import pytest
import runs
import torch
from torch import Tensor
from torch_geometric.nn import APPNP

from lpgnas.errors import ConfigError
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors
from lpgnas.number_formats import Rounding
from lpgnas.teachers import STEPS, TELEPORT, TeacherSettings, propagated, soft_labels
from lpgnas.training import TrainingData, transductive_data

SETTINGS = TeacherSettings(epochs=20, members=2)


def small_data(graph: Graph) -> TrainingData:
    nodes = np.arange(runs.NODES)
    return transductive_data(graph, nodes < 30, (nodes >= 30) & (nodes < 40))


def taught(graph: Graph, settings: TeacherSettings = SETTINGS) -> Tensor:
    return soft_labels(small_data(graph), settings, 0, row_normalize=True, num_classes=runs.CLASSES)


def test_it_propagates_as_pyg_does() -> None:
    graph = runs.small_graph()
    tensors = graph_tensors(graph, None, Rounding.HALF_EVEN, row_normalize=False)
    logits = torch.randn(graph.num_nodes, 3, generator=torch.Generator().manual_seed(0))
    expected = APPNP(STEPS, TELEPORT)(logits, torch.from_numpy(graph.edge_index))
    torch.testing.assert_close(propagated(logits, tensors), expected, rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("name", ["epochs", "members", "hidden"])
def test_an_empty_teacher_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} of a teacher is 0"):
        TeacherSettings(**{name: 0})


def test_a_teacher_needs_labels() -> None:
    graph, nodes = runs.small_graph(), np.arange(runs.NODES)
    with pytest.raises(ConfigError, match="needs training labels"):
        soft_labels(
            transductive_data(graph, nodes < 0, nodes < 10), SETTINGS, 0, row_normalize=True, num_classes=runs.CLASSES
        )
