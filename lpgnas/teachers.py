"""The full-precision teacher: an ensemble whose class probabilities are the soft labels that models may learn from.

Its members are GCNs of two blocks where nearly every node has a labelled one within their reach, or GraphSAGE (Hamilton
et al. 2017) if labels are so many that some of them can tell which of the two is better. Where labels are few, members
have to reach further: predict, then propagate (APPNP, Gasteiger et al. 2019), a perceptron on each node's features,
whose logits are spread by personalised PageRank, and which has to say the same of a node whatever is dropped, unless
labels are so few that it is likely to agree with its own mistakes (docs/search.md has the figures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lpgnas.adam import Adam, ParameterGroup
from lpgnas.dropout import Dropout
from lpgnas.errors import ConfigError
from lpgnas.fused_ops import Array, as_array
from lpgnas.graph_tensors import GraphTensors, Neighbourhood, graph_tensors, input_gain
from lpgnas.manual_models import ModelShape, manual_spec
from lpgnas.training import TrainingData, TrainingSettings, train_model, training_loss

Kind = Literal["GCN", "GraphSAGE", "APPNP", "consistent APPNP"]
"""Of an ensemble's members."""
RESTART, HOPS = 0.1, 10
"""Share of a node's own logits in every hop, and the hops, as Gasteiger et al. have them."""
WEIGHT_DECAY = 5e-3
"""L2 penalty on the first weight, theirs too; the settings of the models that learn from it do not count."""
VIEWS, CONSISTENCY = 2, 1.0
"""Draws of dropout in a step, and the weight of their differing, which rises over the first half of the training."""
BALANCE = 0.3
"""Weight of the classes' divergence from those of the labels, beside that of the draws' differing: all nodes in one
class are consistent too."""
CONSISTENT_FROM = 0.01
"""Consistency, which doubles the time of a step, is asked for where at least this share of the nodes has a label."""
MANUAL: dict[Kind, str] = {"GCN": "gcn", "GraphSAGE": "graphsage"}
"""Architectures of the members that have one."""
VIEW_SEEDS = 500
"""From the seed of one draw to that of the next; members have seeds in a row."""
CONFIDENCE = 0.95
"""Mean probability of the likeliest class that soft labels are raised to. Members that are trained for half the epochs
are much less sure than right, and targets that are nearly flat drown in what few bits round off."""
MOST_SHARPENING = 64.0
GCN_REACH = 0.75
"""A GCN teaches where at least this share of the nodes has a labelled one within two hops."""
HELD_OUT, COMPARED_FROM = 0.1, 400
"""Share of the training labels that a GCN and a GraphSAGE are compared on, which neither sees, and how many these must
be: fewer do not tell a point apart."""
MANY_LABELS_EPOCHS = 2
"""Times the epochs that members are trained for where labels are so many: they learn longer before they overfit."""


class _Spreading(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, near: Neighbourhood) -> Tensor:  # noqa: ANN401
        ctx.near = near
        return torch.from_numpy(_spread(as_array(own), near, transposed=False))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return torch.from_numpy(_spread(as_array(gradient), ctx.near, transposed=True)), None


def _spread(own: Array, near: Neighbourhood, *, transposed: bool) -> Array:
    """What `spread_logits` computes, or its transpose: the same sums along reversed edges."""
    product = near.sum.transpose_times if transposed else near.sum.times
    root, value = near.rsqrt.numpy(), own
    for _ in range(HOPS):
        value = root * product(root * value)
        value *= 1.0 - RESTART
        value += RESTART * own
    return value


def spread_logits(own: Tensor, graph: GraphTensors) -> Tensor:
    """Personalised PageRank with self-loops: `HOPS` times `z <- 0.9 D^-1/2 A D^-1/2 z + 0.1 own`, own [N, C]."""
    result: Tensor = _Spreading.apply(own, graph.with_loops)  # type: ignore[no-untyped-call]
    return result


def inconsistency(views: Sequence[Tensor]) -> Tensor:
    """How far classes by several draws of dropout are from their sharpened mean: on all nodes, labelled or not.

    Squared distances of probabilities, the mean raised to the power 2, as Feng et al. (GRAND, 2020) regularise.

    Args:
        views: logits [N, C], one for each draw.
    """
    classes = [torch.softmax(logits, dim=1) for logits in views]
    wanted = (torch.stack([one.detach() for one in classes]).mean(dim=0)) ** 2
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    return torch.stack([((one - wanted) ** 2).sum(dim=1).mean() for one in classes]).mean()


def imbalance(views: Sequence[Tensor], expected: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the mean class probabilities of all draws and nodes from `expected` [C].

    Args:
        views: logits [N, C], one for each draw.
        expected: positive, of sum 1.
    """
    mean = torch.stack([torch.softmax(logits, dim=1).mean(dim=0) for logits in views]).mean(dim=0)
    mean = mean.clamp_min(torch.finfo(mean.dtype).tiny)  # the logarithm of 0 has no gradient
    divergence: Tensor = (torch.special.xlogy(mean, mean) - mean * expected.log()).sum()
    return divergence


class _Perceptron:
    """One hidden layer, spread over a graph."""

    def __init__(self, columns: int, hidden: int, num_classes: int, gain: float) -> None:
        self._gain = gain
        self.first, self.second = (
            torch.nn.init.xavier_uniform_(torch.empty(wide, narrow)).t().contiguous().requires_grad_()
            for narrow, wide in ((columns, hidden), (hidden, num_classes))
        )
        self.biases = tuple(torch.zeros(width, requires_grad=True) for width in (hidden, num_classes))

    def logits(self, graph: GraphTensors, dropout: Dropout | None = None) -> Tensor:
        """[N, C]."""
        features = None if dropout is None else dropout.features(graph.features)
        first = self.first if self._gain == 1.0 else self.first * self._gain
        hidden = functional.relu(graph.product(features)(first) + self.biases[0])
        own = (hidden if dropout is None else dropout.entries(hidden)).matmul(self.second) + self.biases[1]
        return spread_logits(own, graph)


@dataclass(frozen=True)
class _Ensemble:
    """What all members share."""

    data: TrainingData
    settings: TrainingSettings
    shape: ModelShape
    hidden: int
    balance: float

    def logits(self, kind: Kind, seed: int) -> Tensor:
        """Logits [N, C] of a member of this kind."""
        if kind in MANUAL:
            return self._manual(MANUAL[kind], seed)
        return self._appnp(seed, consistent=kind == "consistent APPNP")

    def _manual(self, architecture: str, seed: int) -> Tensor:
        """Of two blocks."""
        trained = train_model(manual_spec(architecture, self.shape, self.hidden), self.data, self.settings, seed)
        logits: Tensor = trained.model(self.data.tensors(trained.model, stop=False))
        return logits

    def _appnp(self, seed: int, *, consistent: bool) -> Tensor:
        """Of a perceptron, spread."""
        graph, settings = self._graph, self.settings
        torch.manual_seed(seed)
        gain = input_gain(self.data.graph, row_normalize=self.shape.row_normalize)
        model = _Perceptron(graph.features.columns, self.hidden, self.shape.num_classes, gain)
        views = [Dropout(settings.dropout, seed + view * VIEW_SEEDS) for view in range(VIEWS if consistent else 1)]
        rate = settings.learning_rate
        rest = ParameterGroup((model.second, *model.biases), rate)
        optimizer = Adam([ParameterGroup((model.first,), rate, WEIGHT_DECAY), rest])
        for step in range(settings.epochs):
            optimizer.zero_grad()
            logits = [model.logits(graph, dropout) for dropout in views]
            loss = torch.stack([training_loss(one, self.data, settings, None) for one in logits]).mean()
            if consistent:
                weight = CONSISTENCY * min(1.0, 2.0 * step / settings.epochs)
                loss = loss + weight * (inconsistency(logits) + self.balance * imbalance(logits, self._class_shares))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            for dropout in views:
                dropout.next_step()
        return model.logits(graph)

    @cached_property
    def _class_shares(self) -> Tensor:
        """Share [C] of every class among the training labels and one more label each: no share is 0."""
        counts = torch.bincount(self.data.labels[self.data.train], minlength=self.shape.num_classes) + 1.0
        return counts / counts.sum()

    @cached_property
    def _graph(self) -> GraphTensors:
        return _float_tensors(self.data, self.shape)


def _float_tensors(data: TrainingData, shape: ModelShape) -> GraphTensors:
    return graph_tensors(data.graph, None, shape.rounding, row_normalize=shape.row_normalize)


def usual_kind(data: TrainingData, shape: ModelShape) -> Kind:
    """The kind of teacher for a graph where these nodes have labels, whatever they say."""
    reached = len(_float_tensors(data, shape).around(data.train.numpy(), 2).nodes) / data.graph.num_nodes
    if reached >= GCN_REACH:
        return "GCN"
    return "consistent APPNP" if float(data.train.double().mean()) >= CONSISTENT_FROM else "APPNP"


def _with_many_labels(ensemble: _Ensemble, seed: int) -> tuple[_Ensemble, Kind]:
    """The ensemble that learns from many labels, and its kind: a GCN, or GraphSAGE where that is better.

    It has to be by more than a standard error, on labels that neither of the two saw.
    """
    data, settings = ensemble.data, ensemble.settings
    ensemble = replace(ensemble, settings=replace(settings, epochs=MANY_LABELS_EPOCHS * settings.epochs))
    held = _held_out(data, seed)
    train = data.train.clone()
    train[held] = False
    without = replace(ensemble, data=replace(data, train=train))
    kinds: tuple[Kind, ...] = ("GraphSAGE", "GCN")
    sage, gcn = (
        (without.logits(kind, seed * 1000)[held].argmax(dim=1) == data.labels[held]).double() for kind in kinds
    )
    error = (sage - gcn).std() / len(held) ** 0.5
    return ensemble, "GraphSAGE" if float((sage - gcn).mean()) > float(error) else "GCN"


def _held_out(data: TrainingData, seed: int) -> Tensor:
    """Some of the training nodes, drawn at random."""
    labelled = data.train.nonzero().squeeze(1)
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))
    return labelled[order[: int(HELD_OUT * len(labelled))]]


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
    kind: Kind | None = None,
    balance: float = BALANCE,
    confidence: float = CONFIDENCE,
) -> Tensor:
    """Mean class probabilities [N, C], sharpened, of full-precision models that saw the training labels only.

    Last states count: early stopping would let the labels of its nodes into the soft labels.

    Args:
        data: training graph and labels.
        settings: epochs, learning rate, dropout and temperature.
        seed: of initial weights and dropout.
        row_normalize: whether rows of features are divided by their sums.
        input_signed: whether features may be negative.
        num_classes: C.
        members: of the ensemble.
        hidden: width of each.
        kind: of its members, which are trained for the settings' epochs. None for the usual one (`usual_kind`); where
            that is a GCN and labels are many, the better of GCN and GraphSAGE, trained for longer.
        balance: what consistent members pay for classes of other shares than the labels have.
        confidence: mean probability of the likeliest class to sharpen them to; 0 for as they are.

    Raises:
        ConfigError: no members, or no training labels.
    """
    labelled = int(data.train.sum())
    if members < 1 or not labelled:
        raise ConfigError(f"a teacher needs members and labels, got {members} members and {labelled} labels")
    settings = replace(settings, distillation=0.0, early_stopping=False)
    shape = ModelShape(data.graph.num_features, num_classes, row_normalize=row_normalize, input_signed=input_signed)
    ensemble = _Ensemble(data, settings, shape, hidden, balance)
    if kind is None:
        kind = usual_kind(data, shape)
        if kind == "GCN" and len(_held_out(data, seed)) >= COMPARED_FROM:
            ensemble, kind = _with_many_labels(ensemble, seed)
    total = torch.zeros(data.graph.num_nodes, num_classes)
    for member in range(members):
        total += torch.softmax(ensemble.logits(kind, seed * 1000 + member).detach() / settings.temperature, dim=1)
    return sharpened(total / members, confidence)


def recipe() -> dict[str, float]:
    """What decides a teacher beside its settings and seed, for the keys of what is kept."""
    return {
        "restart": RESTART,
        "hops": HOPS,
        "weight_decay": WEIGHT_DECAY,
        "views": VIEWS,
        "consistency": CONSISTENCY,
        "balance": BALANCE,
        "consistent_from": CONSISTENT_FROM,
        "confidence": CONFIDENCE,
        "gcn_reach": GCN_REACH,
        "held_out": HELD_OUT,
        "compared_from": COMPARED_FROM,
        "many_labels_epochs": MANY_LABELS_EPOCHS,
    }


def usual_share(train: Tensor) -> float:
    """The teacher's share of the loss where nothing else is asked for: that of nodes without a label, 0.5 to 0.95.

    Args:
        train: nodes whose labels training sees [N] bool.
    """
    return min(0.95, max(0.5, 1.0 - float(train.double().mean())))


def sharpened(soft: Tensor, confidence: float) -> Tensor:
    """Class probabilities [N, C] to the power, at least 1, that makes their mean confidence `confidence`.

    The order of a node's classes stays. Where they are sure enough, or no power makes them so, the nearest one counts.
    """
    logs = soft.double().clamp_min(torch.finfo(torch.float32).tiny).log()

    def to_power(power: float) -> Tensor:
        return torch.softmax(logs * power, dim=1)

    low, high = 1.0, MOST_SHARPENING
    if float(soft.max(dim=1).values.mean()) >= confidence:
        return soft
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if float(to_power(middle).max(dim=1).values.mean()) < confidence else (low, middle)
    return to_power(high).to(soft.dtype)
