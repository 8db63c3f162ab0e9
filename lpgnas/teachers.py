"""The full-precision teacher: an ensemble whose class probabilities are the soft labels that models may learn from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lpgnas.errors import ConfigError
from lpgnas.manual_models import ModelShape, manual_spec
from lpgnas.training import TrainingData, TrainingSettings, train_model


def soft_labels(
    data: TrainingData,
    settings: TrainingSettings,
    seed: int,
    *,
    row_normalize: bool,
    input_signed: bool,
    num_classes: int,
    members: int = 3,
    hidden: int = 64,
) -> Tensor:
    """Mean class probabilities [N, C] of an ensemble of full-precision GCNs that saw the training labels only.

    Their last states count: early stopping would let the labels of its nodes into the soft labels.

    Raises:
        ConfigError: no members, or no training labels.
    """
    labelled = int(data.train.sum())
    if members < 1 or not labelled:
        raise ConfigError(f"a teacher needs members and labels, got {members} members and {labelled} labels")
    settings = replace(settings, distillation=0.0, early_stopping=False)
    shape = ModelShape(data.graph.num_features, num_classes, row_normalize=row_normalize, input_signed=input_signed)
    spec = manual_spec("gcn", shape, hidden)
    total = torch.zeros(data.graph.num_nodes, num_classes)
    for member in range(members):
        trained = train_model(spec, data, settings, seed * 1000 + member)
        with torch.no_grad():
            logits = trained.model(data.tensors(trained.model, stop=False))
        total += torch.softmax(logits / settings.temperature, dim=1)
    return total / members
