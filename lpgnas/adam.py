"""Adam in one pass over each parameter: with models this small, the calls of an optimizer cost more than its sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from lpgnas.fused_ops import Array, as_array
from lpgnas.kernels.training import adam_step


@dataclass
class _State:
    """Of one parameter: its values (the same memory), running means of its gradient and of the square, steps taken."""

    values: Array
    mean: Array
    square: Array
    steps: int = 0

    @classmethod
    def of(cls, parameter: Tensor) -> _State:
        """Before the first step of a contiguous parameter."""
        values = parameter.detach().view(-1).numpy()
        return cls(values, np.zeros_like(values), np.zeros_like(values))


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate and one L2 penalty."""

    parameters: tuple[Tensor, ...]
    learning_rate: float
    weight_decay: float = 0.0
    states: dict[int, _State] = field(default_factory=dict, repr=False, compare=False)


class Adam:
    """Adam (Kingma and Ba 2015) as `torch.optim.Adam` has it: betas 0.9 and 0.999, epsilon 1e-8, L2 in the gradient.

    Parameters without a gradient stay as they are, and their steps are not counted.
    """

    def __init__(self, groups: Iterable[ParameterGroup]) -> None:
        self._groups = tuple(groups)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self._groups:
            for parameter in group.parameters:
                parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self._groups:
            for index, parameter in enumerate(group.parameters):
                if parameter.grad is not None:
                    state = group.states.get(index) or group.states.setdefault(index, _State.of(parameter))
                    self._move(group, state, as_array(parameter.grad).reshape(-1))

    @staticmethod
    def _move(group: ParameterGroup, state: _State, gradient: Array) -> None:
        state.steps += 1
        real = gradient.dtype.type
        rate, decay = real(group.learning_rate), real(group.weight_decay)
        adam_step(state.values, gradient, state.mean, state.square, rate, decay, state.steps)
