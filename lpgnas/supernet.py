"""The supernet: one set of full-precision weights that every model of a search space takes its own from, by slices.

A narrower block uses the first rows and columns of the widest one; operators and formats are applied on top, so that
a step costs what a step of the sampled model costs. One sampled model a step trains the weights for all choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from lpgnas.adam import Adam, ParameterGroup
from lpgnas.dropout import Dropout
from lpgnas.graph_tensors import GraphTensors, input_fraction
from lpgnas.layers import QuantizedModel, Tap, part_name
from lpgnas.search_space import Choices, SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.training import TrainingData, TrainingSettings, check_training, training_loss


class Supernet:
    """Shared weights of a search space.

    Args:
        space: whose models share.
        input_fraction: of the features, as `lpgnas.graph_tensors.input_fraction` gives it.
        words: the columns of the features [K] that a model keeps, None for all.
        gain: of the weights of the features, in training.

    Attributes:
        parameters: the shared tensors at their largest shapes, by the names of the deepest `QuantizedModel`.
    """

    def __init__(
        self,
        space: SearchSpace,
        input_fraction: int,
        words: Callable[[ModelSpec], Tensor | None] = lambda _: None,
        gain: float = 1.0,
    ) -> None:
        self._gain = gain
        self._input_fraction, self._depth, self._words = input_fraction, space.depth, words
        self.parameters: dict[str, Tensor] = {}
        for spec in space.widest():  # attentions share what they call by the same name
            model = QuantizedModel(replace(spec, input_words=None), input_fraction)
            names = self.shared_names(model)
            for name, parameter in model.named_parameters():
                self.parameters.setdefault(names[name], parameter)

    def shared_names(self, model: QuantizedModel) -> dict[str, str]:
        """For every parameter of a model its name in `parameters`.

        Blocks share by their place, the output block always with the output block, whatever their number; a transform
        has a part for each pair of reader and source.
        """
        last, names = len(model.blocks) - 1, {}
        for index, layer in enumerate(model.blocks):
            place = self._depth - 1 if index == last else index
            parts = {
                part_name(prefix, index, source): part_name(prefix, place, source)
                for prefix in ("weight", "shortcut_weight")
                for source in model.spec.sources(index)
            }
            for name, _ in layer.named_parameters():
                names[f"layers.{index}.{name}"] = f"layers.{place}.{parts.get(name, name)}"
        return names

    def logits(
        self,
        spec: ModelSpec,
        graph: GraphTensors,
        *,
        dropout: Dropout | None = None,
        taps: Sequence[Tap] = (),
    ) -> Tensor:
        """Logits [N, C] of a model with the shared weights; fractions are chosen from what flows through it.

        Args:
            spec: the model.
            graph: features and edges.
            dropout: as in a training.
            taps: one for each block, or none.
        """
        model = QuantizedModel(spec, self._input_fraction, self._words(spec), self._gain)
        for block, tap in zip(model.blocks, taps, strict=False):
            block.tap = tap
        slices = dict(self._slices(model))
        result: Tensor = functional_call(model, slices, (graph,), {"observe": True, "dropout": dropout})
        return result

    def model(self, spec: ModelSpec, graph: GraphTensors) -> QuantizedModel:
        """A model of its own with the shared weights as they are, calibrated on `graph`."""
        model = QuantizedModel(spec, self._input_fraction, self._words(spec), self._gain)
        with torch.no_grad():
            own = dict(model.named_parameters())
            for name, part in self._slices(model):
                own[name].copy_(part)
            model.fold_gain()
            model(graph, observe=True)
        return model

    def _slices(self, model: QuantizedModel) -> Iterator[tuple[str, Tensor]]:
        """For every parameter of a model its part of the shared one; of the features, the columns that it keeps."""
        names = self.shared_names(model)
        read = {f"layers.{k}.{name}" for k, block in enumerate(model.blocks) for name in block.input_parts()}
        for name, own in model.named_parameters():
            shared = self.parameters[names[name]]
            if model.words is not None and name in read:
                yield name, shared[: len(own)].index_select(1, model.words)
            else:
                yield name, _slice(shared, own.shape)


def _slice(shared: Tensor, shape: torch.Size) -> Tensor:
    """The first entries of every dimension; of an attention vector [1, width], the first ones over all heads."""
    if shared.dim() == 2 and shared.shape[0] == 1 and shape[0] * shape[1] <= shared.shape[1]:
        return shared[0, : shape.numel()].view(shape)
    return shared[tuple(slice(0, size) for size in shape)]


@dataclass(frozen=True)
class SupernetStep:
    """One step: the model that was sampled and its training loss."""

    choices: Choices
    loss: float


class SupernetTraining:
    """A supernet with its optimizer: losses of sampled models, and steps of the shared weights.

    Args:
        space: whose models share.
        data: graphs, labels and nodes.
        settings: learning rate, dropout and distillation.
        seed: of weights and dropout.
        teacher: soft labels [N, C], or None.
    """

    def __init__(
        self, space: SearchSpace, data: TrainingData, settings: TrainingSettings, seed: int, teacher: Tensor | None
    ) -> None:
        check_training(space.spec(space.smallest()), data, teacher)
        torch.manual_seed(seed)
        self.dropout = Dropout(settings.dropout, seed)
        fraction = input_fraction(data.graph, space.input_format.bits, signed=space.input_signed)
        smallest = replace(space.spec(space.smallest()), input_words=None)
        self.supernet = Supernet(space, fraction, data.kept_words, data.input_gain(smallest))
        self.graph = data.tensors(QuantizedModel(smallest, fraction), stop=False)
        self._data, self._settings, self._teacher = data, settings, teacher
        self._optimizer = Adam([ParameterGroup(tuple(self.supernet.parameters.values()), settings.learning_rate)])

    def logits(self, spec: ModelSpec, taps: Sequence[Tap] = ()) -> Tensor:
        """Logits [N, C] of a sampled model, with dropout."""
        return self.supernet.logits(spec, self.graph, dropout=self.dropout, taps=taps)

    def loss(self, logits: Tensor) -> Tensor:
        """The loss of a real training."""
        return training_loss(logits, self._data, self._settings, self._teacher)

    def step(self, loss: Tensor) -> None:
        """One step of the shared weights."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.dropout.next_step()


def train_supernet(
    space: SearchSpace,
    fits: Callable[[ModelSpec], bool],
    data: TrainingData,
    settings: TrainingSettings,
    seed: int,
    *,
    steps: int,
    teacher: Tensor | None = None,
    on_step: Callable[[], None] | None = None,
) -> list[SupernetStep]:
    """Train the shared weights, one sampled model a step, and keep the losses.

    Every other model is drawn feasibly, the others from all options that can be part of a feasible model: under a tight
    budget most feasible models are narrow, and little would be learned about wide ones.

    Args:
        space: what is sampled.
        fits: whether a model is within the budget.
        data: graphs, labels and nodes.
        settings: learning rate, dropout and distillation.
        seed: of weights, samples and dropout.
        steps: number of steps.
        teacher: soft labels [N, C], or None.
        on_step: called after each step.
    """
    rng = np.random.default_rng(seed)
    training = SupernetTraining(space, data, settings, seed, teacher)
    options = space.feasible_options(fits)
    done: list[SupernetStep] = []
    for step in range(steps):
        choices = space.draw_feasible(rng, fits) if step % 2 else space.draw(rng, options)
        if choices is None:
            break
        loss = training.loss(training.logits(space.spec(choices)))
        training.step(loss)
        done.append(SupernetStep(choices, float(loss.detach())))
        if on_step is not None:
            on_step()
    return done
