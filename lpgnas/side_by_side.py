"""Float GCNs of two blocks trained side by side.

A reference is many trainings of one small model, and a step of such a model costs more in calls than in sums. Here all
of them share one product with the features and two with the adjacency. Initial weights, learning rates, early stopping
and optimizers are each model's own; so is what is dropped of the hidden units, while the features' entries are dropped
for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lpgnas.dropout import Dropout
from lpgnas.errors import ConfigError
from lpgnas.fused_ops import clamp_rows
from lpgnas.graph_tensors import GraphTensors
from lpgnas.layers import QuantizedModel
from lpgnas.manual_models import ModelShape, manual_spec
from lpgnas.training import (
    Keeper,
    TrainedModel,
    TrainingData,
    TrainingSettings,
    check_training,
    optimizer_of,
    training_loss,
)


def train_gcns(
    shape: ModelShape,
    hidden: int,
    data: TrainingData,
    members: Sequence[tuple[TrainingSettings, int]],
    *,
    teacher: Tensor | None = None,
) -> list[TrainedModel]:
    """Train a float32 GCN of two blocks (Kipf & Welling 2017) for each of `members`.

    Args:
        shape: features and classes.
        hidden: width of each.
        data: graphs, labels and nodes.
        members: settings, which may differ in the learning rate alone, and the seed of the initial weights.
        teacher: soft labels [N, C] of the training graph, or None.

    Raises:
        ConfigError: no members, settings that differ in more, or as `train_model`.
    """
    spec, (settings, first_seed) = manual_spec("gcn", shape, hidden), _first(members)
    check_training(spec, data, teacher)
    models = []
    for _, seed in members:
        torch.manual_seed(seed)
        models.append(QuantizedModel(spec, 0, gain=data.input_gain(spec)))
    optimizers = [optimizer_of(model, own) for model, (own, _) in zip(models, members, strict=True)]
    keepers = [Keeper(model, data, early_stopping=settings.early_stopping) for model in models]
    part = None if teacher is not None and settings.distillation else data.part(models[0], stop=False)
    graph = data.tensors(models[0], stop=False) if part is None else part.tensors
    dropout = Dropout(settings.dropout, first_seed)
    for epoch in range(1, settings.epochs + 1):
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses = [training_loss(one, data, settings, teacher, part) for one in _logits(models, graph, dropout)]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        dropout.next_step()
        if (settings.early_stopping and epoch % settings.evaluate_every == 0) or epoch == settings.epochs:
            _evaluate(models, keepers, data)
    return [keeper.result(settings.epochs) for keeper in keepers]


def _first(members: Sequence[tuple[TrainingSettings, int]]) -> tuple[TrainingSettings, int]:
    if not members:
        raise ConfigError("there is no model to train; name at least one seed")
    shared = {replace(settings, learning_rate=1.0) for settings, _ in members}
    if len(shared) > 1:
        raise ConfigError(f"models side by side may differ in their learning rates alone, got {shared}")
    return members[0]


def _logits(models: Sequence[QuantizedModel], graph: GraphTensors, dropout: Dropout | None = None) -> list[Tensor]:
    """[N, C] of each model."""
    near, features = graph.with_loops, None if dropout is None else dropout.features(graph.features)

    def spread(message: Tensor, block: int, low: float | None) -> Tensor:
        bias = torch.cat([model.blocks[block].bias for model in models])
        return clamp_rows(near.sum.product(message * near.rsqrt), low, None, row=near.rsqrt, bias=bias)

    first, second = ([model.blocks[block].whole("weight") for model in models] for block in (0, 1))
    value = spread(graph.product(features)(torch.cat(first).t()), 0, 0.0)
    value = value if dropout is None else dropout.entries(value)
    seconds: Tensor = torch.block_diag(*second)  # type: ignore[no-untyped-call]
    value = spread(value.matmul(seconds.t()), 1, None)
    return list(torch.split(value, len(second[0]), dim=1))


def _evaluate(models: Sequence[QuantizedModel], keepers: Sequence[Keeper], data: TrainingData) -> None:
    part = data.part(models[0], stop=True)
    stop = data.stop[torch.from_numpy(part.nodes)]
    with torch.no_grad():
        for keeper, logits in zip(keepers, _logits(models, part.tensors), strict=True):
            keeper.judge(logits[stop])
