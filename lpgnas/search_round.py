"""The search round of the strategy `lpgnas`: shared weights and two controllers, trained together once.

First the weights alone, on models drawn evenly; then weights and controllers together on models that the controllers
sample, noise and temperature falling. No step runs more than the sampled models: a choice never multiplies activations.

How a gradient reaches the choices (`RoundSettings.gradient`):

- `textbook`: the sampled option's output is multiplied by its straight-through probability, whose value is 1. This
  asks only whether a larger output would lower the loss.
- `mixed`: the same, but a weight's format sees all its formats: the gradient of `sum_k p_k Q_k(W)`, straight through
  onto the sampled `Q_s(W)`. That costs work of the weight's size, not of the activations'.
- `paired`: two models are sampled a step, and the difference of their log-losses tells which choices were better.
- `paired+mixed`: both gradients reach the weights' formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lpgnas.components import WEIGHTS, Component
from lpgnas.controllers import (
    UPDATES,
    Controllers,
    Floats,
    PairLearner,
    arg_max,
    is_format,
    split_genes,
)
from lpgnas.errors import ConfigError, InfeasibleBudget
from lpgnas.layers import Tap
from lpgnas.number_formats import FormatChoice
from lpgnas.operators import ATTENTIONS
from lpgnas.projection import Preferences, Projection
from lpgnas.quantizers import quantize_weight, weight_fraction
from lpgnas.search_space import INPUT_GROUP, Choices, SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.supernet import SupernetStep, SupernetTraining

GRADIENTS = ("textbook", "mixed", "paired", "paired+mixed")
SIZES = ("expected", "derived", "feasible")
RATES = {"adam": 0.03, "sgd": 0.5, "natural": 0.05}
"""Learning rate of the controllers for each rule of update."""
MULTIPLIER_RATE = 0.02
"""Growth of the weight of a size with each sampled model, by the log of the arg-max model's share of the limit."""
REDRAWS = 40
"""Samples that may be over the budget before one is projected under it."""
MAX_KEPT = 20_000
"""Sizes of models that are remembered."""
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Scales of normalised logits [rms 1] that a model's loss is the least of."""

Fits = Callable[[ModelSpec], bool]
Shares = Callable[[ModelSpec], Floats]
"""Each limited size of a model as a share of its limit."""


@dataclass(frozen=True)
class RoundSettings:
    """How a search round learns.

    Attributes:
        gradient: one of `GRADIENTS`.
        update: `adam`, `sgd`, or `natural` (paired gradients only).
        size: how controllers see sizes: `expected` (beta times the expected size), `derived` (its weight grows while
            the arg-max model is over a budget), `feasible` (samples are drawn from the feasible models only).
        beta: weight of the size loss, the mean of the limited sizes as shares of their limits.
        normalise: whether controllers see the loss at the best scale of normalised logits.
        warm_up: share of the steps that train weights only.
        noise: of the sampling, from and to.
        temperature: of the straight-through gradient, from and to.
        snapshots: derived models that are kept along the round, the last one included.
    """

    gradient: str = "paired+mixed"
    update: str = "natural"
    size: str = "derived"
    beta: float = 0.0
    normalise: bool = True
    warm_up: float = 0.2
    noise: tuple[float, float] = (1.0, 0.3)
    temperature: tuple[float, float] = (2.0, 0.3)
    snapshots: int = 8

    def __post_init__(self) -> None:
        for name, known in (("gradient", GRADIENTS), ("update", UPDATES), ("size", SIZES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.update == "natural" and not self.paired:
            raise ConfigError(f"a natural update needs paired samples, not the gradient {self.gradient!r}")
        if self.beta < 0.0 or not 0.0 <= self.warm_up < 1.0 or self.snapshots < 1:
            raise ConfigError(
                f"beta {self.beta}, warm_up {self.warm_up} and snapshots {self.snapshots} must be at least 0, in 0 to "
                "1, and at least 1"
            )

    @property
    def paired(self) -> bool:
        """Whether a step samples two models."""
        return self.gradient.startswith("paired")


@dataclass(frozen=True)
class Snapshot:
    """The derived model at a moment of the round."""

    step: int
    choices: Choices


@dataclass(frozen=True)
class RoundResult:
    """What a round leaves: its steps, and the derived models along it, the last one last."""

    steps: tuple[SupernetStep, ...]
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True)
class _Gate:
    """A gene's sampled option, its straight-through one-hot vector, and its open options."""

    option: int
    one_hot: Tensor
    options: tuple[int, ...]

    @property
    def chosen(self) -> Tensor:
        """The entry of the sampled option: 1, with a gradient."""
        return self.one_hot[self.option]


class SearchRound:
    """One round.

    Args:
        space: what may be chosen.
        fits: whether a model is within the budget; something in the space is.
        shares: limited sizes as shares of their limits; an empty array where nothing is limited.
        training: the supernet, untrained.
        settings: how.
        seed: of the samples.
        on_step: called after each sampled model.
    """

    def __init__(
        self,
        space: SearchSpace,
        fits: Fits,
        shares: Shares,
        training: SupernetTraining,
        settings: RoundSettings,
        seed: int,
        on_step: Callable[[], None] | None = None,
    ) -> None:
        self._space, self._fits, self._shares, self._training = space, fits, shares, training
        self._settings, self._on_step = settings, on_step
        self._rng = np.random.default_rng(seed)
        self._options = space.feasible_options(fits)
        self._project = Projection(space, fits)
        self.controllers = Controllers(space, self._options, self._rng)
        self._learner = PairLearner(space)
        self._multipliers = np.zeros(len(shares(space.spec(space.smallest()))))
        rate = RATES[settings.update]
        kind = torch.optim.Adam if settings.update == "adam" else torch.optim.SGD
        groups = [{"params": self.controllers.parameters(quantisation=part)} for part in (False, True)]
        self._optimizer = kind(groups, lr=rate)
        self._steps: list[SupernetStep] = []
        self._seen: dict[Choices, Floats] = {}

    def run(self, steps: int) -> RoundResult:
        """Spend `steps` sampled models, and derive."""
        settings = self._settings
        warm = int(settings.warm_up * steps)
        while len(self._steps) < warm:
            self._warm_step()
        marks = [warm + (steps - warm) * (k + 1) // settings.snapshots for k in range(settings.snapshots)]
        snapshots: list[Snapshot] = []
        for mark in marks:
            while len(self._steps) < mark:
                done = (len(self._steps) - warm) / max(1, steps - warm)
                noise, temperature = _annealed(settings.noise, done), _annealed(settings.temperature, done)
                if settings.paired and len(self._steps) + 2 <= steps:
                    self._pair_step(noise, temperature)
                elif settings.paired:  # the odd one
                    self._warm_step()
                else:
                    self._single_step(noise, temperature)
            snapshots.append(Snapshot(len(self._steps), self.derived()))
        return RoundResult(tuple(self._steps), tuple(snapshots))

    def derived(self) -> Choices:
        """The most probable feasible model: the arg-max of every gene, projected under the budgets."""
        favourite = self.controllers.favourite()
        if self._fits(self._space.spec(favourite)):
            return favourite
        return self._projected(self.controllers.preferences())

    def _projected(self, preferences: Preferences) -> Choices:
        found = self._project(preferences)
        if found is None:
            raise InfeasibleBudget("no model of the search space fits the budget of this round")
        return found

    # --- steps ---

    def _warm_step(self) -> None:
        """As the supernet of `feasible`: half of the samples fit, the others have options that can."""
        drawn = None
        if len(self._steps) % 2:
            drawn = self._space.draw_feasible(self._rng, self._fits)
        choices = drawn or self._space.draw(self._rng, self._options)
        loss = self._training.loss(self._training.logits(self._space.spec(choices)))
        self._training.step(loss)
        self._note(choices, loss)

    def _single_step(self, noise: float, temperature: float) -> None:
        self._weigh_sizes(1)
        noised = self._sample(noise)
        choices = arg_max(noised)
        gates = self.controllers.gates(noised, temperature)
        self._optimizer.zero_grad(set_to_none=True)
        logits = self._training.logits(self._space.spec(choices), self._taps(choices, gates))
        loss = self._training.loss(logits)
        self._training.step(loss + self._size_loss(choices, gates))
        self._optimizer.step()
        self._note(choices, loss)

    def _pair_step(self, noise: float, temperature: float) -> None:
        """Two models on the same dropout; the weights take the mean of both losses."""
        self._weigh_sizes(2)
        settings = self._settings
        pair: list[Choices] = []
        losses: list[Tensor] = []
        values = []
        self._optimizer.zero_grad(set_to_none=True)
        for _ in range(2):
            noised = self._sample(noise)
            choices = arg_max(noised)
            taps: Sequence[Tap] = ()
            if settings.gradient == "paired+mixed":
                taps = self._taps(choices, self.controllers.gates(noised, temperature, of_weights=True))
            self._training.dropout.repeat_step()
            logits = self._training.logits(self._space.spec(choices), taps)
            pair.append(choices)
            losses.append(self._training.loss(logits))
            values.append(self._value(logits.detach(), choices))
        self._training.step((losses[0] + losses[1]) / 2)
        self._learn(pair[0], pair[1], values[0] - values[1], noise)
        for choices, loss in zip(pair, losses, strict=True):
            self._note(choices, loss)

    def _learn(self, one: Choices, other: Choices, difference: float, noise: float) -> None:
        if not np.isfinite(difference):
            return
        if self._settings.update == "natural":
            flat = self._learner.natural_gradient(one, other, difference)
        else:
            flat = self._learner.score_gradient(one, other, difference, noise)
        for part, gradient in zip(self.controllers.logits, split_genes(self._space, flat), strict=True):
            made = torch.from_numpy(gradient.copy())
            part.grad = made if part.grad is None else part.grad + made
        self._optimizer.step()

    def _note(self, choices: Choices, loss: Tensor) -> None:
        self._steps.append(SupernetStep(choices, float(loss.detach())))
        if self._on_step is not None:
            self._on_step()

    # --- samples ---

    def _sample(self, noise: float) -> list[Floats]:
        """Noised log-probabilities; where only feasible models count, redrawn until their arg-max fits."""
        draws = self.controllers.noised(noise)
        noised = next(draws)
        if self._settings.size != "feasible":
            return noised
        for _ in range(REDRAWS):
            if self._fits(self._space.spec(arg_max(noised))):
                return noised
            noised = next(draws)
        best = self._projected([np.maximum(part, -1e6) for part in noised])
        for part, option in zip(noised, best, strict=True):
            part[option] = part[np.isfinite(part)].max() + 1e-9
        return noised

    # --- what the controllers see ---

    def _value(self, logits: Tensor, choices: Choices) -> float:
        """Log-loss of a sampled model, and its size."""
        tried = [_normalised(logits) * scale for scale in SCALES] if self._settings.normalise else [logits]
        loss = min(float(self._training.loss(scaled)) for scaled in tried)
        value = float(np.log(max(loss, 1e-12)))
        sizes = self._size(choices)
        if not len(sizes) or self._settings.size == "feasible":
            return value + self._settings.beta * (float(sizes.mean()) if len(sizes) else 0.0)
        return value + float((self._size_weights() * sizes).sum())

    def _size(self, choices: Choices) -> Floats:
        if choices not in self._seen:
            if len(self._seen) > MAX_KEPT:
                self._seen.clear()
            self._seen[choices] = self._shares(self._space.spec(choices))
        return self._seen[choices]

    def _size_weights(self) -> Floats:
        """Weight of each limited size: its part of beta, and with `derived` its multiplier."""
        count = len(self._multipliers)
        return np.full(count, self._settings.beta / max(1, count)) + self._multipliers

    def _weigh_sizes(self, models: int) -> None:
        """Dual ascent on the arg-max model, once a step of so many sampled models."""
        if self._settings.size == "derived" and len(self._multipliers):
            over = np.log(self._size(self.controllers.favourite()))
            self._multipliers = np.maximum(0.0, self._multipliers + models * MULTIPLIER_RATE * over)

    def _size_loss(self, choices: Choices, gates: Mapping[str, Tensor]) -> Tensor:
        """The size loss, linear in the probabilities of each gene: its gradient is that of the expected size.

        Each option's coefficient is the size of the sampled model with that option instead.
        """
        total = torch.zeros((), dtype=torch.float64)
        if not len(self._multipliers):
            return total
        weights = self._size_weights()
        for gene, gate in enumerate(gates.values()):
            if len(self._options[gene]) < 2:
                continue
            swapped = torch.zeros(len(gate), dtype=torch.float64)
            for option in self._options[gene]:
                sizes = self._size((*choices[:gene], option, *choices[gene + 1 :]))
                swapped[option] = float((weights * sizes).sum())
            total = total + (gate * (swapped - swapped[choices[gene]])).sum()
        return total + float((weights * self._size(choices)).sum())

    # --- gates ---

    def _taps(self, choices: Choices, gates: Mapping[str, Tensor]) -> list[Tap]:
        macro, groups = self._space.macro(choices), dict[str, dict[str, _Gate]]()
        for name, option, options in zip(self.controllers.genes, choices, self._options, strict=True):
            group, _, gene = name.rpartition(".")
            group = f"layer{macro.groups[0]}" if group == INPUT_GROUP else group  # which always reads the input
            if name in gates:
                groups.setdefault(group, {})[gene] = _Gate(option, gates[name], options)
        layers = zip(macro.groups, self._space.spec(choices).layers, strict=True)
        return [self._tap(groups.get(f"layer{group}", {}), layer.attention) for group, layer in layers]

    def _tap(self, genes: dict[str, _Gate], attention: str) -> Tap:
        """The gates of one block: its formats at their tensors, its architecture at its output."""
        mixed, textbook = "mixed" in self._settings.gradient, self._settings.gradient in ("textbook", "mixed")
        learned = ATTENTIONS.get(attention).learned
        architecture = [
            gate.chosen
            for name, gate in genes.items()
            if textbook and not is_format(name) and (learned or name != "heads")
        ]
        product = list(accumulate(architecture, torch.mul))[-1:]

        def tap(component: Component, real: Tensor, quantized: Tensor) -> Tensor:
            name = f"{component.value}_format"
            result, gate = quantized, genes.get(name)
            if gate is not None and mixed and component in WEIGHTS:
                result = self._mixed(gate.one_hot, real, quantized, gate.options)
            elif gate is not None and textbook:
                result = result * gate.chosen.to(result.dtype)
            if component in (Component.ACTIVATION, Component.OUTPUT) and product:
                result = result * product[0].to(result.dtype)
            return result

        return tap

    def _mixed(self, gate: Tensor, weight: Tensor, quantized: Tensor, options: Sequence[int]) -> Tensor:
        """`quantized` as it is, with the gradient of `sum_k p_k Q_k(W)` by the probabilities of these options."""
        choices = [FormatChoice.parse(self._space.weight_formats[option]) for option in options]
        with torch.no_grad():
            values = [quantize_weight(weight, choice, weight_fraction(weight, choice)) for choice in choices]
        result: Tensor = _Mixed.apply(quantized, gate[list(options)], *values)  # type: ignore[no-untyped-call]
        return result


class _Mixed(torch.autograd.Function):
    """The first tensor; the gradient of the second [K] is that of a sum of the K others weighted by it."""

    @staticmethod
    def forward(ctx: Any, quantized: Tensor, gate: Tensor, *values: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(*values)
        ctx.type = gate.dtype
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        values = ctx.saved_tensors
        to_gate = torch.stack([torch.vdot(gradient.reshape(-1), value.reshape(-1)) for value in values])
        return (gradient, to_gate.to(ctx.type), *(None for _ in values))


def _annealed(ends: tuple[float, float], done: float) -> float:
    """From the first to the last value, geometrically, as `done` goes from 0 to 1."""
    return float(ends[0] * (ends[1] / ends[0]) ** done)


def _normalised(logits: Tensor) -> Tensor:
    """Logits [N, C] without their row means, over their root mean square: operators of any scale compete alike."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean().sqrt().detach() + 1e-12)
