"""`ScoreAlgebra` of torch tensors: the formulas of `lpgnas.attentions` on real values, with gradients."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lpgnas.attentions.score import Side
from lpgnas.fused_ops import leaky, rows_at
from lpgnas.operators import LEAKY_SLOPE


class TorchScores:
    """The operations of a formula on the edges of a graph.

    Args:
        source: [E'] int64.
        target: [E'] int64.
        messages: [N, heads, w].
        weight: an attention weight [heads, w] by its name.
        table: the function of the score's table, elementwise.
    """

    def __init__(
        self,
        source: Tensor,
        target: Tensor,
        messages: Tensor,
        weight: Callable[[str], Tensor],
        table: Callable[[Tensor], Tensor],
    ) -> None:
        self._rows: dict[str, Tensor] = {"source": source, "target": target}
        self._messages, self._weight, self._table = messages, weight, table
        self._products: dict[str, Tensor] = {}

    def node(self, weight: str, at: Side) -> Tensor:
        """[E', heads]."""
        if weight not in self._products:
            self._products[weight] = (self._messages * self._weight(weight)).sum(dim=2)
        return rows_at(self._products[weight], self._rows[at])

    def message(self, at: Side) -> Tensor:
        """[E', heads, w]."""
        return rows_at(self._messages, self._rows[at])

    def weight(self, name: str) -> Tensor:
        """[heads, w]."""
        return self._weight(name)

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        """The sum."""
        return left + right

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        """The product."""
        return left * right

    def leaky(self, value: Tensor) -> Tensor:
        """Slope 1/4 below 0; real values keep their scale."""
        return leaky(value, LEAKY_SLOPE)

    def look_up(self, value: Tensor) -> Tensor:
        """The table's function."""
        return self._table(value)

    def over_channels(self, value: Tensor) -> Tensor:
        """[E', heads]."""
        return value.sum(dim=2)
