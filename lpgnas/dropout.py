"""Dropout of what blocks read in training, from one generator."""

from __future__ import annotations

import torch
from torch import Tensor

from lpgnas.errors import ConfigError
from lpgnas.fused_ops import drop
from lpgnas.graph_tensors import CsrMatrix

FRESH_EVERY = 2
"""Steps between two draws of the features' entries. A draw visits every entry of the features and can cost more than
the rest of a step; the steps between take one of the last draws once more."""
DRAWS_KEPT = 8
"""Draws that a step chooses from, where they take no more than `BYTES_KEPT` together."""
BYTES_KEPT = 1 << 28


class Dropout:
    """Which entries a step drops.

    Args:
        probability: of dropping an entry, in steps of 1/256; what is kept is scaled up.
        seed: of the generator.

    Raises:
        ConfigError: the probability is not in [0, 1).
    """

    def __init__(self, probability: float, seed: int) -> None:
        if not 0.0 <= probability < 1.0:
            raise ConfigError(f"a dropout of {probability} is not in 0 to less than 1")
        self._probability = probability
        self._generator = torch.Generator().manual_seed(seed)
        self._of_features = torch.Generator().manual_seed(seed + 1)  # of its own: not every model draws at every step
        self._steps = 0
        self._draws: list[CsrMatrix] = []
        self._features: CsrMatrix | None = None
        self._state = self._generator.get_state()

    def next_step(self) -> None:
        """Draw for another step."""
        self._steps += 1
        self._features = None
        if self._steps % FRESH_EVERY and self._draws:
            self._features = self._draws[int(torch.randint(len(self._draws), (1,), generator=self._of_features))]
        self._state = self._generator.get_state()

    def repeat_step(self) -> None:
        """The draws of this step once more, for another model."""
        self._generator.set_state(self._state)

    def features(self, matrix: CsrMatrix) -> CsrMatrix:
        """The graph's features [N, F] as this step has them; `matrix` is the same at every step."""
        if self._probability == 0.0:
            return matrix
        if self._features is None:
            self._features = matrix.dropped(self._probability, self._of_features)
            most = min(DRAWS_KEPT, max(1, BYTES_KEPT // self._features.nbytes))
            self._draws = [*self._draws, self._features][-most:]
        return self._features

    def entries(self, value: Tensor) -> Tensor:
        """`value` (any shape) with entries dropped, drawn anew."""
        return drop(value, self._probability, self._generator)
