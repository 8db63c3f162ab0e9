"""The part of a graph that every dialect shares: edges, degrees, guards, gathering and scattering.

Edges are in bounds or the session raises: a negative index becomes one that no array holds, since runtimes would let
it wrap, and a degree beyond the proved one makes a lookup leave its table. `ScatterElements` is used throughout:
the sum of `ScatterND` has a data race in onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from lpgnas.errors import ExportError
from lpgnas.export.graph_builder import LOGITS, GraphBuilder
from lpgnas.export.local_functions import SCATTERS
from lpgnas.integer_program import Aggregate, IntegerProgram
from lpgnas.operators import ATTENTIONS

DEGREE_GUARD = "graph/degree_within_max_degree"
_NO_NODE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class EdgeSet:
    """Edges with or without the added self-loops.

    Attributes:
        name: prefix of its nodes.
        source: [E'] int64.
        target: [E'] int64.
        degree: in-degrees [N, 1] int64.
        has_loops: every node has an edge.
        num_edges: E', where the file is static.
    """

    name: str
    source: str
    target: str
    degree: str
    num_edges: int | None
    has_loops: bool = False


class MessagePassing:
    """Reads `x` and `edge_index` and offers edge sets and scatters on them.

    Scatters are calls of a local function where the dialect's runtimes know those; else they are spelled out, with the
    sizes of a static file as constants.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        program: IntegerProgram,
        num_nodes: int | None = None,
        num_edges: int | None = None,
        *,
        local_functions: bool = False,
    ) -> None:
        aggregates = [operation for operation in program.operations if isinstance(operation, Aggregate)]
        if not aggregates:
            raise ExportError("the program aggregates nothing; the degree guard of an exported file needs a reader")
        self._guards_own = not any(ATTENTIONS.get(operation.attention).neighbours for operation in aggregates)
        self._own_rows = ""
        self._builder = builder
        self._nodes = num_nodes
        self._edges = num_edges
        self._local_functions = local_functions
        self._columns = program.num_features
        self._sets: dict[bool, EdgeSet] = {}
        self._prepare(program.max_degree)

    def inputs(self) -> list[ValueInfoProto]:
        """`x` [num_nodes, F] float32 and `edge_index` [2, num_edges] int64."""
        nodes, edges = self._nodes, self._edges
        return [
            helper.make_tensor_value_info(
                "x", TensorProto.FLOAT, ["num_nodes" if nodes is None else nodes, self._columns]
            ),
            helper.make_tensor_value_info(
                "edge_index", TensorProto.INT64, [2, "num_edges" if edges is None else edges]
            ),
        ]

    def output(self, columns: int) -> ValueInfoProto:
        """`logits` [num_nodes, C] float32."""
        rows = "num_nodes" if self._nodes is None else self._nodes
        return helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [rows, columns])

    def _prepare(self, max_degree: int) -> None:
        b = self._builder
        zero, one = b.constant(0, np.int64), b.constant(1, np.int64)
        negative = b.add("Less", "graph/negative_index", "edge_index", zero)
        checked = b.add("Where", "graph/edges", negative, b.constant(_NO_NODE, np.int64), "edge_index")
        source = b.add("Gather", "graph/source", checked, zero, axis=0)
        target = b.add("Gather", "graph/target", checked, one, axis=0)
        bare = EdgeSet("graph", source, target, "", self._edges)
        ones = self._filled("graph/ones", self._edge_shape(bare, 1), 1, np.int64)
        if self._guards_own:  # no message is gathered, but sources out of range are refused all the same
            nodes = self._filled("graph/node_ones", self._node_shape(1), 1, np.int64)
            ones = self.gather("graph/source_ones", nodes, bare)
        degree = self.scatter("graph/degree", ones, bare, 1, "add", np.int64)
        largest = b.add("ReduceMax", "graph/largest_degree", degree, keepdims=0)
        beyond = b.add("Greater", "graph/degree_is_beyond", largest, b.constant(max_degree, np.int64))
        index = b.add("Cast", "graph/degree_check", beyond, to=TensorProto.INT64)
        guard = b.add("Gather", DEGREE_GUARD, b.constant([0], np.int64), index, axis=0)
        guarded = b.add("Add", "graph/guarded_target", target, guard)
        if self._guards_own:
            self._own_rows = b.add("Add", "graph/guarded_nodes", self._node_numbers(), guard)
        self._sets[False] = EdgeSet("graph", source, guarded, degree, self._edges)

    def edges(self, *, self_loops: bool) -> EdgeSet:
        """The edges of the graph, with one loop added to every node if asked for."""
        if self_loops not in self._sets:
            self._sets[True] = self._with_loops(self._sets[False])
        return self._sets[self_loops]

    def _with_loops(self, bare: EdgeSet) -> EdgeSet:
        b, name = self._builder, "loops"
        one, loops = b.constant(1, np.int64), self._node_numbers()
        return EdgeSet(
            name,
            b.add("Concat", f"{name}/source", bare.source, loops, axis=0),
            b.add("Concat", f"{name}/target", bare.target, loops, axis=0),
            b.add("Add", f"{name}/degree", bare.degree, one),
            None if self._nodes is None or bare.num_edges is None else bare.num_edges + self._nodes,
            has_loops=True,
        )

    def _node_numbers(self) -> str:
        """0 to N - 1, int64 [N]."""
        b = self._builder
        if self._nodes is not None:
            return b.initializer("loops/nodes", np.arange(self._nodes, dtype=np.int64))
        zero, one, zeros = b.constant(0, np.int64), b.constant(1, np.int64), b.constant([0], np.int64)
        count = b.add("Squeeze", "loops/num_nodes", self._node_count(), zeros)
        return b.add("Range", "loops/nodes", zero, count, one)

    def _node_count(self) -> str:
        """N as int64 [1]."""
        if self._nodes is not None:
            return self._builder.constant([self._nodes], np.int64)
        name = "graph/num_nodes"
        return name if name in self._builder else self._builder.add("Shape", name, "x", start=0, end=1)

    def _shape(self, name: str, count: str, columns: int) -> str:
        width = self._builder.constant([columns], np.int64)
        return name if name in self._builder else self._builder.add("Concat", name, count, width, axis=0)

    def _node_shape(self, columns: int) -> str:
        if self._nodes is not None:
            return self._builder.constant([self._nodes, columns], np.int64)
        return self._shape(f"graph/shape_{columns}", self._node_count(), columns)

    def _edge_shape(self, edges: EdgeSet, columns: int) -> str:
        if edges.num_edges is not None:
            return self._builder.constant([edges.num_edges, columns], np.int64)
        name = f"{edges.name}/num_edges"
        count = name if name in self._builder else self._builder.add("Shape", name, edges.source)
        return self._shape(f"{edges.name}/edge_shape_{columns}", count, columns)

    def _filled(self, name: str, shape: str, value: float, dtype: npt.DTypeLike) -> str:
        filler = numpy_helper.from_array(np.array([value], dtype))
        return self._builder.add("ConstantOfShape", name, shape, value=filler)

    def _target_rows(self, edges: EdgeSet, columns: int) -> str:
        """Targets repeated for every column, [E', columns], as `ScatterElements` wants them."""
        b = self._builder
        column = f"{edges.target}_column"
        if column not in b:
            b.add("Unsqueeze", column, edges.target, b.constant([1], np.int64))
        name = f"{edges.target}_rows_{columns}"
        if columns == 1:
            return column
        return name if name in b else b.add("Expand", name, column, self._edge_shape(edges, columns))

    def own(self, values: str) -> str:
        """`values` [N, C] for the nodes themselves; behind the guards where nothing else in the program is."""
        if not self._guards_own:
            return values
        return self._builder.add("Gather", self._builder.free_name(f"{values}/own"), values, self._own_rows, axis=0)

    def gather(self, name: str, values: str, edges: EdgeSet, *, side: str = "source") -> str:
        """Rows of `values` [N, C] at the `source` or `target` of each edge: [E', C]."""
        return self._builder.add("Gather", name, values, edges.source if side == "source" else edges.target, axis=0)

    def scatter(
        self,
        name: str,
        updates: str,
        edges: EdgeSet,
        columns: int,
        reduction: str,
        dtype: npt.DTypeLike,
        initial: float = 0,
    ) -> str:
        """The `add` or `max` of `updates` [E', columns] over the edges into each node: [N, columns].

        A node without edges keeps `initial`.
        """
        if self._local_functions:
            start = self._builder.constant(initial, dtype)
            return self._builder.call(SCATTERS[reduction], name, updates, edges.target, self._node_count(), start)
        start = self._filled(f"{name}/initial", self._node_shape(columns), initial, dtype)
        return self._builder.add(
            "ScatterElements", name, start, self._target_rows(edges, columns), updates, axis=0, reduction=reduction
        )

    def scatter_max_or_zero(
        self, name: str, updates: str, edges: EdgeSet, columns: int, dtype: npt.DTypeLike, lowest: float
    ) -> str:
        """The largest of `updates` [E', columns] a node, 0 for a node without edges: [N, columns]."""
        b = self._builder
        largest = self.scatter(f"{name}/largest", updates, edges, columns, "max", dtype, lowest)
        empty = f"{edges.name}/has_no_edges"
        if empty not in b:
            b.add("Equal", empty, edges.degree, b.constant(0, np.int64))
        return b.add("Where", name, empty, b.constant(0, dtype), largest)

    def per_head(self, name: str, values: str, factors: str, heads: int, columns: int) -> str:
        """`values` [R, columns] times `factors` [R, heads], each factor for its head's columns: [R, columns]."""
        b = self._builder
        if heads == 1:
            return b.add("Mul", name, values, factors)
        split = self.split_heads(f"{name}/heads", values, heads, columns)
        factor = b.add("Unsqueeze", f"{name}/factors", factors, b.constant([2], np.int64))
        product = b.add("Mul", f"{name}/products", split, factor)
        return b.add("Reshape", name, product, b.constant([0, columns], np.int64))

    def split_heads(self, name: str, values: str, heads: int, columns: int) -> str:
        """`values` [R, columns] as [R, heads, columns / heads]."""
        shape = self._builder.constant([0, heads, columns // heads], np.int64)
        return self._builder.add("Reshape", name, values, shape)

    def head_scores(self, name: str, messages: str, weights: str, heads: int, columns: int) -> str:
        """The sum over each head's columns of `messages` [N, columns] times `weights` [heads, w]: [N, heads]."""
        b = self._builder
        split = f"{messages}/heads"
        if split not in b:
            self.split_heads(split, messages, heads, columns)
        product = b.add("Mul", f"{name}/products", split, weights)
        return b.add("ReduceSum", name, product, b.constant([2], np.int64), keepdims=0)
