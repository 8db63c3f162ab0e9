"""`ScoreAlgebra` of ONNX nodes: the operations of an attention's formula that both dialects spell alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lpgnas.attentions.score import EdgeScore, Side
from lpgnas.export.graph_builder import GraphBuilder
from lpgnas.export.message_passing import EdgeSet, MessagePassing
from lpgnas.integer_program import Aggregate, Array, IntegerProgram


class OnnxScores:
    """Values are names of tensors; a dialect adds `weight`, `leaky` and `look_up`.

    Args:
        graph: edges to gather along.
        builder: takes the nodes.
        program: the program.
        operation: whose scores they are.
        score: the attention's.
        edges: with or without loops.
        values: what holds each tensor of the program.
    """

    def __init__(
        self,
        graph: MessagePassing,
        builder: GraphBuilder,
        program: IntegerProgram,
        operation: Aggregate,
        score: EdgeScore,
        edges: EdgeSet,
        values: Mapping[str, str],
    ) -> None:
        self._graph, self._builder, self._program = graph, builder, program
        self._operation, self._edges, self._values = operation, edges, values
        self._weights = dict(zip(score.edge_weights, operation.edge_weights, strict=True))

    def _array(self, weight: str) -> Array:
        return self._program.array(self._weights[weight])

    def _typed(self, value: str) -> str:
        """`value` in the type of the formula's arithmetic."""
        return value

    def _name(self, what: str) -> str:
        return self._builder.free_name(f"{self._operation.output}/{what}")

    def _gathered(self, name: str, tensor: str, at: Side) -> str:
        return self._typed(self._graph.gather(self._name(name), self._values[tensor], self._edges, side=at))

    def node(self, weight: str, at: Side) -> str:
        """[E', heads]."""
        return self._gathered(f"{weight}_score", self._operation.node_scores()[weight], at)

    def message(self, at: Side) -> str:
        """[E', heads, w]."""
        operation = self._operation
        columns = self._program.tensor(operation.input).columns
        rows = self._gathered(f"{at}_message", operation.input, at)
        return self._graph.split_heads(self._name(f"{at}_heads"), rows, operation.heads, columns)

    def add(self, left: str, right: str) -> str:
        """The sum."""
        return self._builder.add("Add", self._name("raw_sum"), left, right)

    def multiply(self, left: str, right: str) -> str:
        """The product."""
        return self._builder.add("Mul", self._name("raw_product"), left, right)

    def over_channels(self, value: str) -> str:
        """[E', heads]."""
        channels = self._builder.constant([2], np.int64)
        return self._builder.add("ReduceSum", self._name("channel_sum"), value, channels, keepdims=0)
