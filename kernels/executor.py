"""`Executor`: runs an integer program with the Numba kernels on a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.attentions.score import EdgeScore, ScoreInputs
from lpgnas.errors import GraphError, ProgramError
from lpgnas.graph import Features, check_features
from lpgnas.integer_program import (
    COEFFICIENT_BITS,
    MAX_PROBABILITY,
    Aggregate,
    IntegerProgram,
    Lookup,
    Operation,
    Part,
    Score,
    Transform,
    reciprocal,
    rsqrt15,
)
from lpgnas.kernels.aggregation import Bounds, aggregate, bits_of, row_epilogue, short_sums
from lpgnas.kernels.arena import empty_arena, plan_arena
from lpgnas.kernels.attention import (
    Softmax,
    aggregate_softmax,
    node_blocks,
    score_nodes,
    softmax_max_rows,
    softmax_sum_rows,
)
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.linear import add_dense, add_sparse, transform_dense, transform_sparse, write_totals
from lpgnas.kernels.lookup import look_up
from lpgnas.kernels.quantize import SparseCodes, code_dtype, quantize_input
from lpgnas.kernels.spmm import NOT_COUNTED, Epilogue
from lpgnas.kernels.transform_tiles import (
    DenseScratch,
    SparseScratch,
    TiledWeight,
    add_dense_tiles,
    add_sparse_tiles,
    dense_scratch,
    real_rescale,
    sparse_scratch,
    tile_weight,
    transform_dense_tiles,
    transform_sparse_tiles,
)
from lpgnas.operators import ATTENTIONS
from lpgnas.proofs import check_program
from lpgnas.requantize import AnyCodes, rescale

BLOCK_EDGES = 4096
"""Edges whose scores are held at once; a node with more has a block of its own."""
BLOCK_NODES = 256
"""Nodes whose totals are held at once while a transform adds its inputs."""
_NO_FACTOR = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a program makes of a graph.

    Attributes:
        codes: [N, C] int64 codes of the logits.
        logits: [N, C] float32, `codes * 2^-fraction`.
        arena_bytes: bytes allocated for the tensors that the program computes, logits included. The input's codes,
            the accumulators and totals of one block of nodes and the scores of one block of edges are apart.
    """

    codes: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    arena_bytes: int


def check_type(program: object) -> None:
    """Refuse what is no program.

    Raises:
        ProgramError: it is none.
    """
    if not isinstance(program, IntegerProgram):
        raise ProgramError(f"there must be an IntegerProgram, got {type(program).__name__}; load_program reads one")


def check_inputs(program: IntegerProgram, x: Features) -> None:
    """Refuse features that the program cannot read.

    Raises:
        GraphError: wrong shape, dtype, value or number of columns.
        ProgramError: no program.
    """
    check_type(program)
    check_features(x, "graph")
    if x.shape[1] != program.num_features:
        raise GraphError(f"graph: x has {x.shape[1]} columns, but the program reads {program.num_features}")


def _reads_edges(operation: Aggregate) -> bool:
    return ATTENTIONS.get(operation.attention).neighbours


def decode(program: IntegerProgram, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Logits as float32: codes times one power of two."""
    unit = math.ldexp(1.0, -program.logits.fraction)  # a product with a power of two is exact, and faster than ldexp
    return (codes * unit).astype(np.float32)


class Executor:
    """Runs one program on any graph.

    Raises:
        ProgramError: a program whose proofs do not hold.
    """

    def __init__(self, program: IntegerProgram) -> None:
        check_type(program)
        check_program(program)
        self.program = program
        # Transforms read their weights by input column, so that outputs are contiguous.
        self.parts = {
            op.output: tuple(_transposed(part, op) for part in program.parts(op))
            for op in program.operations
            if isinstance(op, Transform)
        }

    def run(self, x: Features, edge_index: npt.NDArray[np.int64]) -> Prediction:
        """Predict every node of a graph.

        Args:
            x: features [N, F] float32, dense or CSR.
            edge_index: [2, E] int64, row 0 source, row 1 target.

        Raises:
            GraphError: arrays that are not a graph, or another number of features.
            DegreeError: a node with more incoming edges than the program is proved for.
        """
        return self.prepare(x, edge_index).predict()

    def prepare(self, x: Features, edge_index: npt.NDArray[np.int64], *, count_clipped: bool = False) -> Inference:
        """All of `run` but the operations; errors are the same.

        Args:
            x: as in `run`.
            edge_index: as in `run`.
            count_clipped: whether aggregations count what their clamps change, in `Inference.clipped`.
        """
        check_inputs(self.program, x)
        return Inference(self.program, self.parts, x, edge_index, count_clipped=count_clipped)


@dataclass(frozen=True, eq=False)
class TransposedPart:
    """One input of a transform, with its columns of the weight as [F_s, width], zero where no column is read.

    See `lpgnas.integer_program.Part`. `tiles` is the same weight for the kernels in tiles, None where they don't do.
    """

    source: str
    weight: AnyCodes
    align: int
    row_factor: bool
    tiles: TiledWeight | None


def _transposed(part: Part, operation: Transform) -> TransposedPart:
    """A part with its weight in both layouts; that of the tiles where they hold its codes and accumulators."""
    weight = np.ascontiguousarray(part.spread().T)
    fits = part.source.bits <= 8 and weight.dtype == np.int8 and operation.accumulator_bits == 32
    tiles = tile_weight(weight, signed=part.source.signed) if fits else None
    return TransposedPart(part.source.name, weight, part.align, part.row_factor, tiles)


class Inference:
    """A program on one graph: the graph as CSR, the codes of the input and the arena. `Executor.prepare` makes it.

    Attributes:
        clipped: [2] int64 by the output of each aggregation, where they are counted: how many of its results the clamp
            raised and lowered when it was last run.
    """

    def __init__(
        self,
        program: IntegerProgram,
        parts: Mapping[str, tuple[TransposedPart, ...]],
        x: Features,
        edge_index: npt.NDArray[np.int64],
        *,
        count_clipped: bool = False,
    ) -> None:
        self.clipped: dict[str, npt.NDArray[np.int64]] = {}
        self._count_clipped = count_clipped
        self._program = program
        self._parts = parts
        self._edge_index = edge_index
        self._nodes = int(x.shape[0])
        self._graphs: dict[bool, CsrGraph] = {}
        self._coefficients: dict[tuple[str, bool], npt.NDArray[np.int64]] = {}
        self._dense_scratches: dict[int, DenseScratch] = {}  # by the identity of a weight, which lives in `parts`
        self._sparse_scratches: dict[int, SparseScratch] = {}
        loops = {op.self_loops for op in program.operations if isinstance(op, Aggregate) and _reads_edges(op)}
        for one in sorted(loops) or [False]:  # now, while the edges are those that were checked
            self._graph(one).check_degree(program.max_degree)
        self._x = quantize_input(x, program.input_format, program.rounding)
        self._dense_x: AnyCodes | None = None
        plan = plan_arena(program, self._nodes)
        arena = empty_arena(plan.size)
        self._arena_bytes = arena.nbytes
        self._tensors: dict[str, AnyCodes] = {}
        for tensor in program.tensors:
            kind = code_dtype(tensor.bits, signed=tensor.signed)
            begin, count = plan.offsets[tensor.name], self._nodes * tensor.columns * kind.itemsize
            view = arena[begin : begin + count].view(kind)
            self._tensors[tensor.name] = view.reshape(self._nodes, tensor.columns)

    def predict(self) -> Prediction:
        """Every operation, in order."""
        for operation in self._program.operations:
            self.step(operation)
        return self.prediction()

    def prediction(self) -> Prediction:
        """The logits; all operations have to be done."""
        codes = self._tensors[self._program.output].astype(np.int64)
        return Prediction(codes, decode(self._program, codes), self._arena_bytes)

    def step(self, operation: Operation) -> None:
        """One operation of the program; the ones before it have to be done.

        Raises:
            ProgramError: an operation without a kernel.
        """
        if isinstance(operation, Transform):
            self._transform(operation)
        elif isinstance(operation, Score):
            self._score(operation)
        elif isinstance(operation, Aggregate):
            self._aggregate(operation)
        elif isinstance(operation, Lookup):
            self._lookup(operation)
        else:
            raise ProgramError(f"no kernel for the operation {type(operation).__name__}")

    def _graph(self, self_loops: bool) -> CsrGraph:
        if self_loops not in self._graphs:
            self._graphs[self_loops] = CsrGraph.from_edges(self._edge_index, self._nodes, self_loops=self_loops)
        return self._graphs[self_loops]

    @cached_property
    def _loops(self) -> CsrGraph:
        """One edge i -> i a node: where no edge is read, the aggregate of every node is its own message."""
        return CsrGraph.from_edges(np.empty((2, 0), dtype=np.int64), self._nodes, self_loops=True)

    def _coefficient(self, kind: str, self_loops: bool) -> npt.NDArray[np.int64]:
        """Coefficients of degrees [N], `rsqrt` or `recip`, made once a graph."""
        key = (kind, self_loops)
        if key not in self._coefficients:
            degree = self._graph(self_loops).degree
            made = rsqrt15(degree) if kind == "rsqrt" else reciprocal(COEFFICIENT_BITS, degree)
            self._coefficients[key] = made
        return self._coefficients[key]

    def _codes(self, name: str) -> AnyCodes:
        """Dense codes of a tensor; a sparse input is filled up once if something else than a transform reads it."""
        if name != self._program.input.name:
            return self._tensors[name]
        if not isinstance(self._x, SparseCodes):
            return self._x
        if self._dense_x is None:
            self._dense_x = self._x.dense(self._program.num_features)
        return self._dense_x

    def _scratch(self, columns: int, bits: int) -> npt.NDArray[Any]:
        return np.empty(columns, dtype=np.int32 if bits == 32 else np.int64)

    def _transform(self, operation: Transform) -> None:
        out = self._program.tensor(operation.output)
        by = rescale(operation.shift, self._program.rounding, out.low, out.high)
        factor = self._coefficient("rsqrt", operation.self_loops) if operation.degree_factor else _NO_FACTOR
        scratch, codes = self._scratch(out.columns, operation.accumulator_bits), self._tensors[out.name]
        parts = self._parts[out.name]
        if len(parts) > 1:
            for first in range(0, self._nodes, BLOCK_NODES):
                totals = np.zeros((min(BLOCK_NODES, self._nodes - first), out.columns), dtype=np.int64)
                for part in parts:
                    self._add_part(part, first, scratch, totals)
                write_totals(totals, factor, first, by, codes)
            return
        part = parts[0]
        if part.tiles is not None:
            self._transform_tiles(operation, part, part.tiles, factor, codes)
            return
        rest = (part.weight, part.row_factor, factor, by, scratch, codes)
        sparse = self._sparse(part.source)
        if sparse is not None:
            transform_sparse(sparse.indptr, sparse.indices, sparse.codes, *rest)
        else:
            transform_dense(self._codes(part.source), *rest)

    def _transform_tiles(
        self,
        operation: Transform,
        part: TransposedPart,
        tiles: TiledWeight,
        factor: npt.NDArray[np.int64],
        codes: AnyCodes,
    ) -> None:
        out, sparse = self._program.tensor(operation.output), self._sparse(part.source)
        clamp = (out.low, out.high)
        by = real_rescale(operation.shift, self._program.rounding, clamp, operation.total_bound, out.columns)
        if sparse is not None:
            rest = (part.row_factor, factor, by, self._sparse_scratch(tiles), codes)
            transform_sparse_tiles(self._coded(sparse), tiles, *rest)
        else:
            scratch = self._dense_scratch(tiles)
            transform_dense_tiles(self._codes(part.source), tiles, part.row_factor, factor, by, scratch, codes)

    def _dense_scratch(self, tiles: TiledWeight) -> DenseScratch:
        """Memory that repeated predictions share: fresh pages would cost more than some transforms."""
        if id(tiles) not in self._dense_scratches:
            self._dense_scratches[id(tiles)] = dense_scratch(tiles, self._nodes)
        return self._dense_scratches[id(tiles)]

    def _sparse_scratch(self, tiles: TiledWeight) -> SparseScratch:
        if id(tiles) not in self._sparse_scratches:
            self._sparse_scratches[id(tiles)] = sparse_scratch(tiles, self._nodes)
        return self._sparse_scratches[id(tiles)]

    def _coded(self, sparse: SparseCodes) -> SparseCodes:
        """A sparse input without its codes where all of them are 1."""
        return sparse._replace(codes=sparse.codes[:0]) if self._program.input.bits == 1 else sparse

    def _add_part(
        self, part: TransposedPart, first: int, scratch: npt.NDArray[Any], totals: npt.NDArray[np.int64]
    ) -> None:
        sparse, tiles = self._sparse(part.source), part.tiles
        place = (part.row_factor, part.align, first)
        if tiles is not None and sparse is not None:
            add_sparse_tiles(self._coded(sparse), tiles, *place, self._sparse_scratch(tiles), totals)
        elif tiles is not None:
            add_dense_tiles(self._codes(part.source), tiles, *place, self._dense_scratch(tiles), totals)
        elif sparse is not None:
            add_sparse(*sparse, part.weight, *place, scratch, totals)
        else:
            add_dense(self._codes(part.source), part.weight, *place, scratch, totals)

    def _sparse(self, name: str) -> SparseCodes | None:
        """The codes of a sparse input, None for any other tensor."""
        return self._x if name == self._program.input.name and isinstance(self._x, SparseCodes) else None

    def _score(self, operation: Score) -> None:
        message = self._codes(operation.input)
        for weight, out in operation.products().values():
            score_nodes(message, self._program.array(weight).values, self._tensors[out])

    def _epilogue(self, operation: Aggregate) -> Epilogue:
        program, columns = self._program, self._program.tensor(operation.output).columns
        factor = _NO_FACTOR
        if ATTENTIONS.get(operation.attention).degree_factors:
            factor = self._coefficient("rsqrt", operation.self_loops)
        elif operation.aggregation == "mean":
            factor = self._coefficient("recip", operation.self_loops)
        bias = np.zeros(columns, dtype=np.int64)
        if operation.bias is not None:
            bias = program.array(operation.bias).values.astype(np.int64) << operation.bias_shift
        shortcut: AnyCodes = np.zeros((self._nodes, 0), dtype=np.int8)
        if operation.shortcut is not None:
            shortcut = self._codes(operation.shortcut)
        by = rescale(operation.shift, program.rounding, operation.clamp_low, operation.clamp_high)
        clipped = NOT_COUNTED
        if self._count_clipped:
            clipped = self.clipped[operation.output] = np.zeros(2, dtype=np.int64)
        return Epilogue(factor, operation.term_shift, bias, shortcut, operation.shortcut_shift, by, clipped)

    def _aggregate(self, operation: Aggregate) -> None:
        message, epilogue = self._codes(operation.input), self._epilogue(operation)
        out, reads_edges = self._tensors[operation.output], _reads_edges(operation)
        graph = self._graph(operation.self_loops) if reads_edges else self._loops
        magnitude = self._program.tensor(operation.input).magnitude
        bounds = Bounds(magnitude, operation.accumulator_bound, operation.total_bound)
        score = ATTENTIONS.get(operation.attention).score
        if score is not None:
            self._attend(operation, score, graph, message, epilogue, bounds)
            return
        aggregate(graph, message, epilogue, bounds, out, maximum=operation.aggregation == "max")

    def _score_inputs(self, operation: Aggregate, graph: CsrGraph, message: AnyCodes) -> ScoreInputs:
        program, heads = self._program, operation.heads
        none = np.empty((0, heads), dtype=np.int32)
        scores = {side: self._tensors[name] for side, name in operation.node_scores().items()}
        weights = [program.array(name).values.astype(np.int64) for name in operation.edge_weights]
        table = np.empty(0, dtype=np.int64)
        if operation.argument_table is not None:
            table = program.array(operation.argument_table).values.astype(np.int64)
        return ScoreInputs(
            graph.indptr,
            graph.sources,
            message,
            scores.get("source", none),
            scores.get("target", none),
            np.stack(weights) if weights else np.empty((0, heads, 0), dtype=np.int64),
            rescale(operation.argument_shift, program.rounding, operation.score_low, operation.score_high),
            table,
        )

    def _attend(
        self,
        operation: Aggregate,
        score: EdgeScore,
        graph: CsrGraph,
        message: AnyCodes,
        epilogue: Epilogue,
        bounds: Bounds,
    ) -> None:
        program, out = self._program, self._tensors[operation.output]
        if operation.table is None:
            raise ProgramError(f"layer {operation.layer}: {operation.attention} lacks its table")
        by = rescale(operation.score_shift, program.rounding, operation.score_low, operation.score_high)
        table, inputs = program.array(operation.table).values, self._score_inputs(operation, graph, message)
        largest = max(BLOCK_EDGES, int(np.diff(graph.indptr).max()))
        raw = np.empty((min(largest, graph.sources.size), operation.heads), dtype=np.int64)
        softmax, maximum = Softmax(raw, by, table), operation.aggregation == "max"
        weights = np.empty(int(graph.degree.max()), dtype=np.uint8)
        scratch = self._scratch(out.shape[1] // operation.heads, operation.accumulator_bits)
        short, rows = short_sums(bounds.magnitude, message.dtype, MAX_PROBABILITY), row_epilogue(epilogue, bounds.total)
        kernel = softmax_max_rows if maximum else softmax_sum_rows
        for block in node_blocks(graph.indptr, BLOCK_EDGES):
            score.kernel(inputs, *block, raw)
            where = (graph.indptr, graph.sources, block, message, softmax)
            if operation.accumulator_bits == 32:
                kernel(*where, short, rows, weights, bits_of(out))
            else:
                aggregate_softmax(*where, maximum, epilogue, weights, scratch, out)

    def _lookup(self, operation: Lookup) -> None:
        low, table = self._program.tensor(operation.input).low, self._program.array(operation.table).values
        look_up(self._codes(operation.input), low, table, self._tensors[operation.output])
