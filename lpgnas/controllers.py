"""The two controllers of the strategy `lpgnas`: logits for every option, one set for architecture, one for formats.

A model is sampled by the arg-max of noised log-probabilities (Gumbel noise), which draws from a softmax; how a gradient
reaches the logits is in `lpgnas.search_round`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from lpgnas.preferences import EFFECT_VARIANCE, NOISE_VARIANCE, one_hot
from lpgnas.projection import Preferences
from lpgnas.search_space import Choices, SearchSpace

Floats = npt.NDArray[np.float64]

UPDATES = ("adam", "sgd", "natural")


class Controllers:
    """Logits of every option; options outside `options` have probability 0.

    Args:
        space: whose options are chosen.
        options: of every gene, those that can be part of a feasible model.
        rng: of the noise.

    Attributes:
        logits: one tensor [options] float64 for each gene.
    """

    def __init__(self, space: SearchSpace, options: Sequence[Sequence[int]], rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self.genes = tuple(name for name, _ in space.genes())
        self.logits = [torch.zeros(count, dtype=torch.float64, requires_grad=True) for _, count in space.genes()]
        self._closed = []
        for (_, count), open_options in zip(space.genes(), options, strict=True):
            closed = torch.full((count,), -torch.inf, dtype=torch.float64)
            closed[list(open_options)] = 0.0
            self._closed.append(closed)

    def parameters(self, *, quantisation: bool) -> list[Tensor]:
        """The logits of one of the two controllers."""
        return [part for name, part in zip(self.genes, self.logits, strict=True) if is_format(name) == quantisation]

    def log_probabilities(self) -> list[Tensor]:
        """Log-probabilities of every gene's options; -inf for closed ones."""
        return [functional.log_softmax(part + shut, 0) for part, shut in zip(self.logits, self._closed, strict=True)]

    def preferences(self) -> Preferences:
        """Log-probabilities for `lpgnas.projection.project`; closed options far below all others."""
        return [np.maximum(part.detach().numpy(), -1e6) for part in self.log_probabilities()]

    def favourite(self) -> Choices:
        """The most probable option of every gene."""
        return tuple(int(part.argmax()) for part in self.log_probabilities())

    def noised(self, noise: float) -> Iterator[list[Floats]]:
        """Log-probabilities plus `noise` times Gumbel noise, without end; the logits are those of the first.

        The arg-max of each draws from softmax(logits / noise).
        """
        exact = [part.detach().numpy() for part in self.log_probabilities()]
        while True:
            yield [part + noise * self._rng.gumbel(size=len(part)) for part in exact]

    def gates(self, noised: Sequence[Floats], temperature: float, *, of_weights: bool = False) -> dict[str, Tensor]:
        """Straight-through one-hot vectors of the sample that `noised` names, by gene; or of weights' formats alone.

        Their values are those of the arg-max, their gradients those of the softmax of the noised log-probabilities at
        this temperature.
        """
        result = {}
        for name, logits, shut, shifted in zip(self.genes, self.logits, self._closed, noised, strict=True):
            if of_weights and not is_weight_format(name):
                continue
            part = functional.log_softmax(logits + shut, 0)
            drawn = torch.from_numpy(shifted)
            soft = torch.softmax((part + (drawn - part).nan_to_num(0.0).detach()) / temperature, 0)
            hard = functional.one_hot(drawn.argmax(), len(part)).double()
            result[name] = hard + soft - soft.detach()
        return result


def arg_max(noised: Sequence[Floats]) -> Choices:
    """The option with the largest value of every gene."""
    return tuple(int(part.argmax()) for part in noised)


def is_format(gene: str) -> bool:
    """Whether a gene belongs to the quantisation controller."""
    return gene.endswith("_format")


def is_weight_format(gene: str) -> bool:
    """Whether a gene is the format of a weight."""
    return gene.endswith("_weight_format")


class PairLearner:
    """Gradients from the difference of two samples.

    For two independent samples a, b of the same distribution, also one conditioned on a budget,
    `(f(a) - f(b)) / 2 * (grad log p(a) - grad log p(b))` is an unbiased gradient of the mean of f: the normalising
    constant cancels, and so does whatever moves both, as the learning curve of the shared weights does.

    With `natural` the gradient is preconditioned by the Fisher information of all samples so far: that is the least
    squares fit of the differences by one effect an option (Kakade 2001), older pairs fading.
    """

    def __init__(self, space: SearchSpace, memory: float = 0.995) -> None:
        self._space, self._memory = space, memory
        count = sum(options for _, options in space.genes())
        self._gram, self._moment = np.zeros((count, count)), np.zeros(count)
        self._square, self._weight = 0.0, 0.0

    def score_gradient(self, one: Choices, other: Choices, difference: float, noise: float) -> Floats:
        """Gradient [P] of the mean of f by the logits; `difference` is f(one) - f(other)."""
        # genes without a part in a model were drawn too: without them the means would not cancel
        rows = one_hot(self._space, [one, other], inactive=True)
        result: Floats = difference / (2.0 * noise) * (rows[0] - rows[1])
        return result

    def natural_gradient(self, one: Choices, other: Choices, difference: float) -> Floats:
        """Effect [P] of every option on f in units of its spread, by ridge regression over the pairs so far."""
        rows = one_hot(self._space, [one, other])
        direction = rows[0] - rows[1]
        self._gram = self._memory * self._gram + np.outer(direction, direction)
        self._moment = self._memory * self._moment + difference * direction
        self._square = self._memory * self._square + difference**2
        self._weight = self._memory * self._weight + 1.0
        # the variance of a difference is twice that of f
        spread = (self._square / self._weight / 2.0) ** 0.5
        if spread == 0.0:
            return np.zeros(len(direction))
        penalty = 2.0 * NOISE_VARIANCE / EFFECT_VARIANCE * np.eye(len(direction))
        return np.linalg.solve(self._gram + penalty, self._moment / spread)


def split_genes(space: SearchSpace, flat: Floats) -> list[Floats]:
    """A vector over all options [P] as one vector for each gene."""
    return np.split(flat, np.cumsum([count for _, count in space.genes()])[:-1])
