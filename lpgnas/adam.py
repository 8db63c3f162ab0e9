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
    """Of one parameter: steps taken, and running means of its gradient and of the square."""

    mean: Array
    square: Array
    steps: int = 0


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
                    self._move(group, index, as_array(parameter), as_array(parameter.grad))

    @staticmethod
    def _move(group: ParameterGroup, index: int, values: Array, gradient: Array) -> None:
        state = group.states.get(index)
        if state is None:
            state = group.states[index] = _State(np.zeros_like(values).reshape(-1), np.zeros_like(values).reshape(-1))
        state.steps += 1
        real = values.dtype.type
        flat = values.reshape(-1)  # the parameter's own memory: parameters are contiguous
        rate, decay = real(group.learning_rate), real(group.weight_decay)
        adam_step(flat, gradient.reshape(-1), state.mean, state.square, rate, decay, state.steps)
