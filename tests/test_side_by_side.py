"""Models that are trained side by side become those that are trained alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import runs
import torch

from lpgnas.errors import ConfigError
from lpgnas.manual_models import ModelShape, manual_spec
from lpgnas.side_by_side import train_gcns
from lpgnas.training import TrainingData, TrainingSettings, train_model, transductive_data

SETTINGS = TrainingSettings(epochs=20, dropout=0.0, distillation=0.5, learning_rate=0.02)
FASTER = replace(SETTINGS, learning_rate=0.05)
HIDDEN = 5


def small_data() -> TrainingData:
    nodes = np.arange(runs.NODES)
    return transductive_data(runs.small_graph(), nodes < 12, (nodes >= 30) & (nodes < 40))


def shape() -> ModelShape:
    graph = runs.small_graph()
    return ModelShape(graph.num_features, runs.CLASSES, row_normalize=False)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_they_become_what_each_becomes_alone(taught: bool, early_stopping: bool) -> None:
    """Without dropout, whose draws they share; sums in another order leave the rounding of float32."""
    soft = torch.softmax(torch.randn(runs.NODES, runs.CLASSES, generator=torch.Generator().manual_seed(0)), dim=1)
    teacher, data = soft if taught else None, small_data()
    members = [
        (replace(settings, early_stopping=early_stopping), seed) for settings in (SETTINGS, FASTER) for seed in (0, 3)
    ]
    spec = manual_spec("gcn", shape(), HIDDEN)
    for together, (settings, seed) in zip(
        train_gcns(shape(), HIDDEN, data, members, teacher=teacher), members, strict=True
    ):
        alone = train_model(spec, data, settings, seed, teacher=teacher)
        assert together.stop_accuracy == alone.stop_accuracy
        for one, other in zip(together.model.parameters(), alone.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_dropout_is_their_own_beyond_the_features() -> None:
    members = [(replace(SETTINGS, dropout=0.5), 0)] * 2
    one, other = train_gcns(shape(), HIDDEN, small_data(), members)
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="no model to train"):
        train_gcns(shape(), HIDDEN, small_data(), [])
    with pytest.raises(ConfigError, match="learning rates alone"):
        train_gcns(shape(), HIDDEN, small_data(), [(SETTINGS, 0), (replace(FASTER, epochs=7), 1)])
    with pytest.raises(ConfigError, match="the teacher has soft labels"):
        train_gcns(shape(), HIDDEN, small_data(), [(SETTINGS, 0)], teacher=torch.ones(3, 3))
