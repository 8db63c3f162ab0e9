"""The full-precision teacher: an ensemble whose class probabilities are the soft labels that models may learn from.

Predict, then propagate (APPNP; Gasteiger et al. 2019, arXiv 1810.05997): a two-layer perceptron gives each node its own
logits Z, and K steps `P <- (1 - alpha) A P + alpha Z` of personalised PageRank spread them, A being the adjacency with
self-loops, normalised as in a GCN. It sees farther than a model of two blocks, and its steps have only C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lpgnas.errors import ConfigError
from lpgnas.graph_tensors import GraphTensors, Product, graph_tensors
from lpgnas.number_formats import Rounding
from lpgnas.training import TrainingData

STEPS = 10
TELEPORT = 0.1
"""K and alpha of the paper."""
DECAY_OF_ONE_LABEL = 0.7
"""L2 penalty on the first layer, divided by the number of labels: a prior counts less the more there is to see. With
the 140 labels of public Cora it is the 5e-3 of the paper."""


class Perceptron(nn.Module):
    """Two layers, F -> hidden -> C, with dropout in front of each.

    Args:
        num_features: F.
        hidden: units.
        num_classes: C.
    """

    def __init__(self, num_features: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(num_features, hidden), nn.Linear(hidden, num_classes)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, product: Product, dropout: float = 0.0) -> Tensor:
        """Logits [N, C]; `product` maps a matrix [F, k] to `features @ it`."""
        hidden = functional.relu(product(self.first.weight.t()) + self.first.bias)
        logits: Tensor = self.second(functional.dropout(hidden, dropout))
        return logits


def propagated(logits: Tensor, graph: GraphTensors) -> Tensor:
    """`STEPS` steps of personalised PageRank from `logits` [N, C]; the same shape."""
    near = graph.with_loops
    spread = logits
    for _ in range(STEPS):
        neighbours = near.rsqrt * near.sum.product(near.rsqrt * spread)
        spread = (1.0 - TELEPORT) * neighbours + TELEPORT * logits
    return spread


@dataclass(frozen=True)
class TeacherSettings:
    """How a teacher is made.

    Attributes:
        epochs: steps of each member.
        learning_rate: of Adam.
        dropout: in front of both layers.
        members: of the ensemble.
        hidden: units of each.
    """

    epochs: int = 100
    learning_rate: float = 0.03
    dropout: float = 0.5
    members: int = 3
    hidden: int = 64

    def __post_init__(self) -> None:
        for name in ("epochs", "members", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a teacher is {getattr(self, name)}; it must be at least 1")


def soft_labels(
    data: TrainingData, settings: TeacherSettings, seed: int, *, row_normalize: bool, num_classes: int
) -> Tensor:
    """Mean class probabilities [N, C] of an ensemble that saw the training labels only.

    The last states count: early stopping would let the labels of its nodes into the soft labels.

    Raises:
        ConfigError: no training labels.
    """
    labelled = int(data.train.sum())
    if not labelled:
        raise ConfigError("a teacher needs training labels, got none; give the split some training nodes")
    graph = graph_tensors(data.graph, None, Rounding.HALF_EVEN, row_normalize=row_normalize)
    product = graph.product()
    total = torch.zeros(graph.num_nodes, num_classes)
    for member in range(settings.members):
        torch.manual_seed(seed * 1000 + member)
        generator = torch.Generator().manual_seed(seed * 1000 + member)
        model = Perceptron(data.graph.num_features, settings.hidden, num_classes)
        groups: list[dict[str, object]] = [
            {"params": [model.first.weight], "weight_decay": DECAY_OF_ONE_LABEL / labelled},
            {"params": [p for p in model.parameters() if p is not model.first.weight], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.Adam(groups, lr=settings.learning_rate, fused=True)
        for _ in range(settings.epochs):
            optimizer.zero_grad(set_to_none=True)
            logits = propagated(model(graph.product(settings.dropout, generator), settings.dropout), graph)
            functional.cross_entropy(logits[data.train], data.labels[data.train]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            total += torch.softmax(propagated(model(product), graph), dim=1)
    return total / settings.members
