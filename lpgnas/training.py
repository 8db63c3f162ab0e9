"""Quantisation-aware training of one spec on one graph.

Straight-through gradients, Adam, dropout, cross-entropy on the training labels; with a teacher, a weighted mean of that
and the divergence from its soft labels on all nodes of the training graph. Fractions are observed on evaluations and
frozen for the last part of the training. The state kept is the best on the early-stopping nodes; selection and test
nodes are not seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from lpgnas.adam import Adam, ParameterGroup
from lpgnas.components import Component
from lpgnas.dropout import Dropout
from lpgnas.errors import ConfigError
from lpgnas.fused_ops import Targets, mixed_cross_entropy
from lpgnas.graph import BoolArray, Graph
from lpgnas.graph_tensors import GraphPart, GraphTensors, graph_tensors, input_fraction, input_gain
from lpgnas.input_words import rank_words
from lpgnas.layers import QuantizedModel
from lpgnas.number_formats import FLOAT32
from lpgnas.spec import ModelSpec


@dataclass(frozen=True)
class TrainingSettings:
    """How one model is trained.

    Attributes:
        epochs: steps over the whole graph.
        learning_rate: of Adam.
        weight_decay: L2 penalty on the first block's weight (Kipf & Welling 2017), in the unit that it is trained in
            (`lpgnas.graph_tensors.input_gain`), unless it is binary or ternary.
        dropout: probability, in steps of 1/256, of each entry of every block's input.
        evaluate_every: epochs between evaluations (early stopping, observation of fractions).
        freeze_at: share of the epochs after which fractions stay as they are.
        distillation: weight of the teacher's divergence in the loss, 0 to 1; the labels have the rest.
        temperature: of the teacher's and the student's softmax.
        early_stopping: keep the best state on the early-stopping nodes; otherwise the last one, and their labels are
            not looked at.
    """

    epochs: int = 200
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    dropout: float = 0.5
    evaluate_every: int = 2
    freeze_at: float = 0.7
    distillation: float = 1.0
    temperature: float = 1.0
    early_stopping: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.evaluate_every < 1:
            raise ConfigError(f"epochs {self.epochs} and evaluate_every {self.evaluate_every} must be at least 1")
        for name in ("dropout", "distillation", "freeze_at"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in 0 to 1")
        if self.dropout == 1.0:
            raise ConfigError("a dropout of 1 leaves nothing; give less")


@dataclass(frozen=True)
class TrainingData:
    """What training may see.

    Attributes:
        graph: the graph that messages flow on in training (in the inductive mode, training nodes only).
        labels: [N] classes of its nodes.
        train: [N] nodes whose labels the loss sees.
        stop_graph: the graph that early stopping is measured on.
        stop_labels: [N'] classes.
        stop: [N'] nodes of early stopping.
        ranked_words: the columns of the features [F] int64, those first that models keep first; None to rank them by
            what they tell about the training labels (`lpgnas.input_words`).
    """

    graph: Graph
    labels: Tensor
    train: Tensor
    stop_graph: Graph
    stop_labels: Tensor
    stop: Tensor
    ranked_words: Tensor | None = None
    _cache: dict[object, GraphTensors] = field(init=False, default_factory=dict, repr=False, compare=False)
    _gains: dict[bool, float] = field(init=False, default_factory=dict, repr=False, compare=False)
    _parts: dict[object, GraphPart] = field(init=False, default_factory=dict, repr=False, compare=False)

    def tensors(self, model: QuantizedModel, *, stop: bool) -> GraphTensors:
        """The training or stopping graph with its features in the model's input format (kept for the next model)."""
        graph = self.stop_graph if stop and self.stop_graph is not self.graph else self.graph
        key = self._key(model, stop=stop)
        if key not in self._cache:
            self._cache[key] = graph_tensors(
                graph, model.input_format, model.spec.rounding, row_normalize=model.spec.row_normalize
            )
        return self._cache[key]

    def part(self, model: QuantizedModel, *, stop: bool) -> GraphPart:
        """What the labelled nodes (or those of early stopping) see of it through the model's blocks (kept likewise).

        With few labels that is a small part of a graph, and a training without a teacher needs no more.
        """
        key = (*self._key(model, stop=stop), stop, len(model.layers))
        if key not in self._parts:
            nodes = (self.stop if stop else self.train).numpy()
            self._parts[key] = self.tensors(model, stop=stop).around(nodes, len(model.layers))
        return self._parts[key]

    def _key(self, model: QuantizedModel, *, stop: bool) -> tuple[object, ...]:
        first = not stop or self.stop_graph is self.graph
        return first, model.input_format, model.spec.rounding, model.spec.row_normalize

    @cached_property
    def word_ranks(self) -> Tensor:
        """The columns of the features [F] int64, those first that models keep first."""
        if self.ranked_words is not None:
            return self.ranked_words
        return torch.from_numpy(rank_words(self.graph, self.train.numpy()))

    def input_gain(self, spec: ModelSpec) -> float:
        """What the weights of the features are multiplied by in training (`lpgnas.graph_tensors.input_gain`)."""
        if spec.row_normalize not in self._gains:
            self._gains[spec.row_normalize] = input_gain(self.graph, row_normalize=spec.row_normalize)
        return self._gains[spec.row_normalize]

    def kept_words(self, spec: ModelSpec) -> Tensor | None:
        """The columns of the features that `spec` keeps [K] int64, rising: the first by rank; None for all."""
        return None if spec.input_words is None else self.word_ranks[: spec.input_words].sort().values


def transductive_data(graph: Graph, train: BoolArray, stop: BoolArray) -> TrainingData:
    """All nodes and edges take part in training; labels only those of `train` [N]."""
    if graph.y is None:
        raise ConfigError(f"{graph.name} has no labels; training needs y")
    labels = torch.from_numpy(graph.y)
    return TrainingData(graph, labels, torch.from_numpy(train), graph, labels, torch.from_numpy(stop))


@dataclass(frozen=True)
class TrainedModel:
    """A trained model.

    Attributes:
        model: in evaluation mode, holding the best state.
        stop_accuracy: on the early-stopping nodes, of that state.
        stop_loss: cross-entropy there.
        epochs: steps taken.
    """

    model: QuantizedModel
    stop_accuracy: float
    stop_loss: float
    epochs: int


def train_model(
    spec: ModelSpec,
    data: TrainingData,
    settings: TrainingSettings,
    seed: int,
    *,
    teacher: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> TrainedModel:
    """Train `spec` from scratch.

    Args:
        spec: the choices; with float32 formats the full-precision reference.
        data: graphs, labels and nodes.
        settings: how.
        seed: of initial weights and dropout; the result repeats to the byte on one machine and thread count.
        teacher: soft labels [N, C] of the training graph, or None.
        progress: called with the epoch after each one.

    Raises:
        ConfigError: the spec or the teacher is of another graph, or there is no node to stop early on.
    """
    check_training(spec, data, teacher)
    torch.manual_seed(seed)
    dropout = Dropout(settings.dropout, seed)
    fraction = input_fraction(data.graph, spec.input_format.bits, signed=spec.input_signed)
    model = QuantizedModel(spec, fraction, data.kept_words(spec), data.input_gain(spec))
    whole = teacher is not None and settings.distillation > 0.0
    part = None if whole else data.part(model, stop=False)
    graph = data.tensors(model, stop=False) if part is None else part.tensors
    optimizer = optimizer_of(model, settings)
    keeper = Keeper(model, data, early_stopping=settings.early_stopping)
    keeper.evaluate(observe=True)
    # a float model without early stopping is looked at once, at its end
    looks = settings.early_stopping or any(f != FLOAT32 for layer in spec.layers for f in layer.formats.values())
    for epoch in range(1, settings.epochs + 1):
        optimizer.zero_grad()
        logits = model(graph, dropout=dropout)
        training_loss(logits, data, settings, teacher, part).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        dropout.next_step()
        if (looks and epoch % settings.evaluate_every == 0) or epoch == settings.epochs:
            keeper.evaluate(observe=epoch <= settings.freeze_at * settings.epochs)
        if progress is not None:
            progress(epoch)
    return keeper.result(settings.epochs)


def check_training(spec: ModelSpec, data: TrainingData, teacher: Tensor | None) -> None:
    """Refuse what does not go together, before kernels that check no index see it.

    Raises:
        ConfigError: the spec or the teacher is of another graph, or there is no node to stop early on.
    """
    nodes, features = data.graph.num_nodes, data.graph.num_features
    classes = 1 + int(data.labels.max()) if len(data.labels) else 0
    if spec.num_features != features or spec.num_classes < classes:
        raise ConfigError(
            f"the spec reads {spec.num_features} features and tells {spec.num_classes} classes apart; "
            f"{data.graph.name} has {features} features and at least {classes} classes"
        )
    if teacher is not None and tuple(teacher.shape) != (nodes, spec.num_classes):
        raise ConfigError(f"the teacher has soft labels {tuple(teacher.shape)}; needed are {(nodes, spec.num_classes)}")
    if not bool(data.stop.any()):
        raise ConfigError("training needs at least one node to stop early on")


class Keeper:
    """Keeps a model's best state on the early-stopping nodes, or its last one without early stopping.

    Args:
        model: whose parameters and fractions change between two looks.
        data: graphs, labels and nodes.
        early_stopping: whether those nodes decide.
    """

    def __init__(
        self,
        model: QuantizedModel,
        data: TrainingData,
        *,
        early_stopping: bool,
    ) -> None:
        self._model, self._data, self._early_stopping = model, data, early_stopping
        self._best: tuple[float, float] | None = None
        self._state: dict[str, Tensor] = {}

    def evaluate(self, *, observe: bool) -> None:
        """Look at the model as it is; `observe` chooses its fractions anew first."""
        data, model = self._data, self._model
        with torch.no_grad():
            observe = observe and not model.spec.is_float
            if observe:  # fractions come from the nodes that training may see
                logits = model(data.tensors(model, stop=False), observe=True)
            if observe and data.stop_graph is data.graph:
                logits = logits[data.stop]
            else:
                part = data.part(model, stop=True)
                logits = model(part.tensors)[data.stop[torch.from_numpy(part.nodes)]]
        self.judge(logits)

    def judge(self, logits: Tensor) -> None:
        """Keep the model as it is, if its logits [S, C] on the early-stopping nodes are the best so far."""
        labels = self._data.stop_labels[self._data.stop]
        accuracy = float((logits.argmax(dim=1) == labels).double().mean())
        loss = float(functional.cross_entropy(logits, labels))
        if not self._early_stopping or self._best is None or (accuracy, -loss) >= self._best:
            self._best = (accuracy, -loss)
            self._state = {name: value.clone() for name, value in self._model.state_dict().items()}

    def result(self, epochs: int) -> TrainedModel:
        """The model with the state that was kept, after `epochs` steps.

        Raises:
            ConfigError: it was never looked at.
        """
        if self._best is None:
            raise ConfigError("nothing was evaluated")
        self._model.load_state_dict(self._state)
        self._model.fold_gain()
        self._state = self._model.state_dict()  # what was kept, with the gain in it
        return TrainedModel(self._model, self._best[0], -self._best[1], epochs)


def optimizer_of(model: QuantizedModel, settings: TrainingSettings) -> Adam:
    """Adam for all parameters of a model, with the settings' L2 penalty on the first block's weight."""
    # the latent weight of a binary or ternary code only votes for it: decay would shrink its scale and nothing else
    decays = model.spec.layers[0].formats[Component.LINEAR_WEIGHT].kind in ("fixed", "float32")
    first = tuple(p for p in model.layers[0].parameters() if p.dim() == 2 and decays)
    rest = tuple(p for p in model.parameters() if all(p is not q for q in first))
    rate = settings.learning_rate
    return Adam([ParameterGroup(first, rate, settings.weight_decay), ParameterGroup(rest, rate)])


def training_loss(
    logits: Tensor,
    data: TrainingData,
    settings: TrainingSettings,
    teacher: Tensor | None,
    part: GraphPart | None = None,
) -> Tensor:
    """Cross-entropy of the labels, mixed with the divergence from the teacher's soft labels on all nodes.

    Args:
        logits: [N, C] of the training graph, or [N', C] of a part of it.
        data: labels and nodes.
        settings: share and temperature of the teacher.
        teacher: soft labels [N, C], or None.
        part: whose nodes the logits are of; there is no teacher then.
    """
    share = 0.0 if teacher is None else settings.distillation
    nodes = slice(None) if part is None else torch.from_numpy(part.nodes)
    targets = Targets(
        labels=data.labels[nodes],
        labelled=data.train[nodes],
        label_weight=1.0 - share,
        soft=teacher if share else None,
        soft_weight=share * settings.temperature**2,
        temperature=settings.temperature,
    )
    return mixed_cross_entropy(logits, targets)
