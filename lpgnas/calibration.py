"""A latency table of this machine: the executor's operations, timed one by one on synthetic graphs.

Programs of random codes hold every kind of operation. The operations of a program take turns, and the median of their
turns counts. What the executor prepares once a graph (codes of the features, edges by target, memory) is left out, as
it is of the prepared inference of `lpgnas bench`. No torch here.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lpgnas import __version__
from lpgnas.components import WEIGHTS, Component
from lpgnas.cost_models.latency import (
    DENSE,
    LOGITS,
    LOOKUP,
    ONES,
    SCORE,
    SPARSE,
    LatencyTable,
    Point,
    aggregate_kind,
    head_kind,
    known_kinds,
)
from lpgnas.integer_program import Aggregate, IntegerProgram, Lookup, Operation, Score
from lpgnas.kernels.executor import Executor, Inference
from lpgnas.lowering import LayerCodes, Quantized, lower
from lpgnas.machine import cpu_name
from lpgnas.number_formats import FormatChoice
from lpgnas.operators import ATTENTIONS
from lpgnas.progress import Progress
from lpgnas.results import read_text, sha256, write_atomic
from lpgnas.spec import INPUT, LayerSpec, ModelSpec, required_components

WEIGHT_BITS = 8
"""Of all weights: narrower ones are laid out in bytes too, and take as long."""
TABLE_BITS = 8
"""Most of scores, and of what is looked up."""
HEADS = 4
"""Heads of learned attentions beside one."""
FEWEST_TURNS = 3
LONG_NS = 400_000_000
"""The operations of a place that took this long together have turned often enough, after the fewest turns."""
PROBES, QUIET = 1000, 0.005
"""Times of the fixed program before anything else is timed; and the quantile that is taken for an idle machine's."""
SAVE_SECONDS = 5.0
Clock = Callable[[], int]


@dataclass(frozen=True)
class Cell:
    """One place of the table, and what is measured there.

    Attributes:
        what: `sparse` or `dense` (a transform of features), `blocks` (all that follows it) or `heads` (of learned
            attentions).
        rows: nodes.
        share: non-zeros, columns or edges a node.
        columns: of the output.
        bits: of the codes that are read.
    """

    what: str
    rows: int
    share: int
    columns: int
    bits: int

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.what} {self.rows} {self.share} {self.columns} {self.bits}"

    @property
    def weight(self) -> int:
        """About how long it takes, in milliseconds; `blocks` and `heads` have many operations."""
        costs = {"sparse": (20, 3), "dense": (20, 1), "blocks": (400, 100), "heads": (200, 100)}
        fixed, each = costs[self.what]
        return fixed + self.rows * self.share * each * (8 + self.columns) // 1_000_000

    def point(self, kind: str, *, bits: int = 0) -> Point:
        """The point of an operation that is measured here, of codes of `bits` (default: the cell's), its time open."""
        reads_share = kind.startswith(("transform/", "aggregate/", "head/"))
        size = self.rows * (self.share if reads_share else 1)
        return Point(kind, size, self.columns, bits or self.bits, 1, self.rows)


@dataclass(frozen=True)
class Timed:
    """A call and the point that its time makes; what is called `before` is not timed."""

    call: Callable[[], object]
    point: Point
    before: tuple[Callable[[], object], ...] = ()


@dataclass(frozen=True)
class Case:
    """A prepared program, and its operations that are timed."""

    inference: Inference
    timed: tuple[Timed, ...]


@dataclass(frozen=True)
class Grid:
    """The values along the axes of every kind of cell; their products are measured."""

    rows: tuple[int, ...]
    dense_rows: tuple[int, ...]
    words: tuple[int, ...]
    inputs: tuple[int, ...]
    degrees: tuple[int, ...]
    widths: tuple[int, ...]
    columns: tuple[int, ...]
    head_columns: tuple[int, ...]
    input_bits: tuple[int, ...]
    message_bits: tuple[int, ...]
    turns: int

    def cells(self) -> Iterator[Cell]:
        """Every cell, in the order of measuring."""
        for rows in self.rows:
            for bits in (1, *self.input_bits):  # features of one bit have a kernel of their own
                yield from (Cell("sparse", rows, share, width, bits) for share in self.words for width in self.widths)
            for bits in self.message_bits:
                for what, listed in (("blocks", self.columns), ("heads", self.head_columns)):
                    yield from (Cell(what, rows, share, columns, bits) for share in self.degrees for columns in listed)
        for rows in self.dense_rows:
            for bits in self.input_bits:
                yield from (Cell("dense", rows, share, width, bits) for share in self.inputs for width in self.widths)


FULL = Grid(
    rows=(1024, 4096, 16384),
    dense_rows=(1024, 8192),
    words=(4, 16, 64, 256),
    inputs=(4, 16, 64, 256, 1024),
    degrees=(1, 2, 5, 40),
    widths=(1, 8, 16, 32, 64, 128),
    columns=(1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128),
    head_columns=(8, 64),
    input_bits=(8, 9, 16),
    message_bits=(8, 12),
    turns=7,
)
QUICK = Grid(
    rows=(1024, 16384),
    dense_rows=(1024,),
    words=(8, 128),
    inputs=(8, 64, 768),
    degrees=(1, 5, 40),
    widths=(1, 16, 64),
    columns=(2, 4, 8, 16, 64),
    head_columns=(16,),
    input_bits=(8,),
    message_bits=(8,),
    turns=5,
)
"""Narrower codes take no less; wider ones, and larger graphs, are taken in proportion."""
WORDS = 2503
"""Columns of sparse features: a prime, so that steps of any length meet different ones."""


def spread_counts(rng: np.random.Generator, rows: int, total: int, most: int) -> npt.NDArray[np.int64]:
    """`total` entries over `rows` log-normally, as words and degrees are spread; at most `most` in a row."""
    share = rng.lognormal(0.0, 1.0, rows)
    ends = np.cumsum(share) / share.sum()
    counts = np.zeros(rows, dtype=np.int64)
    while (left := total - int(counts.sum())) > 0:
        places = np.minimum(np.searchsorted(ends, rng.random(left)), rows - 1)
        counts = np.minimum(counts + np.bincount(places, minlength=rows), most)
    return counts


def synthetic_edges(rng: np.random.Generator, nodes: int, edges: int) -> npt.NDArray[np.int64]:
    """Edges [2, E] with log-normal in- and out-degrees of their own."""
    ends = [np.repeat(np.arange(nodes), spread_counts(rng, nodes, edges, edges)) for _ in range(2)]
    return np.stack([rng.permutation(ends[0]), ends[1]]).astype(np.int64)


def synthetic_words(rng: np.random.Generator, rows: int, entries: int) -> sparse.csr_array:
    """Sparse features [rows, 2503] of ones with `entries` entries."""
    counts = spread_counts(rng, rows, entries, WORDS - 1)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    turn = np.arange(entries) - np.repeat(indptr[:-1], counts)
    start, step = rng.integers(0, WORDS, rows), rng.integers(1, WORDS, rows)
    columns = (np.repeat(start, counts) + turn * np.repeat(step, counts)) % WORDS
    x = sparse.csr_array((np.ones(entries, dtype=np.float32), columns, indptr), shape=(rows, WORDS))
    x.sort_indices()
    return x


def _formats(layer: LayerSpec, bits: int, *, last: bool) -> LayerSpec:
    """The layer with weights of 8 bits and codes of `bits`."""
    formats = {}
    for component in sorted(required_components(layer, last=last)):
        if component in WEIGHTS:
            chosen = WEIGHT_BITS
        else:
            chosen = min(bits, TABLE_BITS) if component in (Component.SCORE, Component.AGGREGATE) else bits
        formats[component] = FormatChoice("fixed", chosen)
    return replace(layer, formats=formats)


def _layer_codes(
    rng: np.random.Generator, layer: LayerSpec, inputs: int, *, normalized: bool, last: bool
) -> LayerCodes:
    """Random codes whose fractions keep values near 1, so that they spread over their formats and scores differ.

    Rows that are `normalized` are taken to have about 32 words.
    """
    formats, score = layer.formats, ATTENTIONS.get(layer.attention).score

    def weights(component: Component, shape: tuple[int, ...]) -> Quantized:
        choice = formats[component]
        extent = 1 if choice.kind != "fixed" else 1 << (choice.bits - 1)
        codes = rng.integers(-extent, extent, shape, endpoint=choice.kind == "ternary")
        if choice.kind == "binary":
            codes = 2 * codes + 1
        spread = 32**-0.5 if normalized and component is Component.LINEAR_WEIGHT else math.sqrt(shape[-1])
        return Quantized(codes, round(math.log2(0.6 * extent * spread)))

    def fraction(component: Component) -> int:
        return formats[component].bits - 3 if component in formats else 0

    attention = (layer.heads, layer.width // layer.heads)
    return LayerCodes(
        weight=weights(Component.LINEAR_WEIGHT, (layer.width, inputs)),
        bias=Quantized(rng.integers(-128, 128, layer.width), fraction(Component.MESSAGE)),
        message_fraction=fraction(Component.MESSAGE),
        output_fraction=fraction(Component.OUTPUT if last else Component.ACTIVATION),
        aggregate_fraction=fraction(Component.AGGREGATE),
        shortcut_weight=weights(Component.LINEAR_WEIGHT, (layer.width, inputs)) if layer.shortcut == "linear" else None,
        shortcut_fraction=fraction(Component.MESSAGE),
        attention=() if score is None else tuple(weights(Component.ATTENTION_WEIGHT, attention) for _ in score.weights),
        score_fraction=2,
        argument_fraction=fraction(Component.SCORE),
    )


def synthetic_program(spec: ModelSpec, max_degree: int, seed: int = 0) -> IntegerProgram:
    """A spec lowered with random codes, for timing; what it predicts means nothing.

    Raises:
        LoweringError: the spec has no exact integer form.
    """
    rng = np.random.default_rng(seed)
    codes = tuple(
        _layer_codes(
            rng,
            layer,
            spec.input_width(k),
            normalized=spec.row_normalize and spec.sources(k) == (INPUT,),
            last=k == len(spec.layers) - 1,
        )
        for k, layer in enumerate(spec.layers)
    )
    words = None if spec.input_words is None else np.arange(spec.input_words)
    fraction = max(0, spec.input_format.bits - 1)
    return lower(spec, codes, input_fraction=fraction, max_degree=max_degree, words=words)


def _blocks(layers: Sequence[LayerSpec], bits: int, inputs: tuple[int, int], max_degree: int) -> IntegerProgram:
    """A program of these blocks, on features of `inputs` columns and bits.

    Each reads the block before it and the features: averages of averages would leave nothing that attentions differ by.
    """
    last = len(layers) - 1
    made = tuple(
        replace(_formats(layer, bits, last=k == last), sources=(INPUT, k - 1) if k else (INPUT,))
        for k, layer in enumerate(layers)
    )
    columns, input_bits = inputs
    form = FormatChoice("fixed", input_bits)
    spec = ModelSpec(columns, made[-1].width, made, input_format=form, row_normalize=input_bits == 1)
    return synthetic_program(spec, max_degree)


def _feature_cell(cell: Cell) -> Case:
    """A block whose transform is timed."""
    rng, x = np.random.default_rng(0), None
    if cell.what == "sparse":
        x, kind = synthetic_words(rng, cell.rows, cell.rows * cell.share), ONES if cell.bits == 1 else SPARSE
    else:
        x, kind = rng.random((cell.rows, cell.share), dtype=np.float32), DENSE
    layers = [LayerSpec("const", "sum", "none", cell.columns)]
    program = _blocks(layers, WEIGHT_BITS, (x.shape[1], cell.bits), 1)
    inference = Executor(program).prepare(x, np.empty((2, 0), dtype=np.int64))
    call = partial(inference.step, program.operations[0])
    return Case(inference, (Timed(call, cell.point(kind, bits=max(cell.bits, WEIGHT_BITS))),))


def _prepared_blocks(cell: Cell, layers: Sequence[LayerSpec]) -> tuple[IntegerProgram, Inference]:
    """A program of these blocks, on a graph with the cell's degree: its own loops are among the edges."""
    rng = np.random.default_rng(0)
    edges = synthetic_edges(rng, cell.rows, cell.rows * (cell.share - 1))
    program = _blocks(layers, cell.bits, (4, 8), int(np.bincount(edges[1], minlength=1).max()))
    return program, Executor(program).prepare(rng.random((cell.rows, 4), dtype=np.float32), edges)


def _block_cell(cell: Cell) -> Case:
    """Blocks of every attention and aggregation, one after the other; the first has an activation by table."""
    kinds = [kind.split("/")[1:] for kind in known_kinds() if kind.startswith("aggregate/")]
    layers = [
        LayerSpec(attention, aggregation, "tanh" if k == 0 else "none", cell.columns)
        for k, (attention, aggregation) in enumerate(kinds)
    ]
    program, inference = _prepared_blocks(cell, layers)
    scores = (one for one in program.operations if isinstance(one, Score))
    one_product = next(one.layer for one in scores if len(one.products()) == 1)
    timed: list[Timed] = []
    before: list[Callable[[], object]] = []
    for operation in program.operations:
        kind = _kind(cell, operation, one_product)
        if kind is None:
            before.append(partial(inference.step, operation))
            continue
        timed.append(Timed(partial(inference.step, operation), cell.point(kind), tuple(before)))
        before = []
    if cell.share == 1:
        timed.append(Timed(inference.prediction, cell.point(LOGITS)))
    return Case(inference, tuple(timed))


def _head_cell(cell: Cell) -> Case:
    """Every learned attention with one head and with more, one after the other."""
    learned = [one for one in ATTENTIONS if ATTENTIONS.get(one).learned]
    layers = [LayerSpec(one, "sum", "none", cell.columns, heads) for one in learned for heads in (1, HEADS)]
    layers.append(LayerSpec("const", "sum", "none", cell.columns))  # the last block cannot have heads
    program, inference = _prepared_blocks(cell, layers)
    timed: list[Timed] = []
    before: list[Callable[[], object]] = []
    for operation in program.operations:
        call = partial(inference.step, operation)
        if isinstance(operation, Aggregate) and operation.attention in learned:
            timed.append(Timed(call, cell.point(head_kind(operation.attention)), tuple(before)))
            before = []
        else:
            before.append(call)
    return Case(inference, tuple(timed))


def _of_one_head(ratios: Sequence[float]) -> list[float]:
    """What one more head takes, of the times with one and with more of every attention."""
    return [max(0.0, many - one) / (HEADS - 1) for one, many in zip(ratios[::2], ratios[1::2], strict=True)]


def _kind(cell: Cell, operation: Operation, one_product: int) -> str | None:
    """The kind of an operation that is timed in a cell; None if it is timed elsewhere."""
    alone = cell.share == 1  # what does not depend on the edges is timed where there are the fewest
    if isinstance(operation, Aggregate) and (ATTENTIONS.get(operation.attention).neighbours or alone):
        return aggregate_kind(operation.attention, operation.aggregation)
    if isinstance(operation, Lookup) and alone and cell.bits <= TABLE_BITS:
        return LOOKUP
    if isinstance(operation, Score) and alone and operation.layer == one_product:
        return SCORE
    return None


class Stopwatch:
    """Times calls in turns, on a processor that may have other work.

    Other work makes everything slower, by about the same share: times are taken relative to those of a fixed program
    right before and after, and told as on a processor on which this program takes its `reference`.

    Args:
        clock: gives nanoseconds; processor time leaves out what other processes take, but not that they slow this one.
    """

    def __init__(self, clock: Clock = time.process_time_ns) -> None:
        self._clock = clock
        cell = Cell("blocks", 512, 6, 16, 8)
        layers = [LayerSpec("gcn", "sum", "relu", cell.columns)] * 2
        edges = synthetic_edges(np.random.default_rng(0), cell.rows, cell.rows * (cell.share - 1))
        program = _blocks(layers, cell.bits, (16, 8), cell.rows * cell.share)
        self._inference = Executor(program).prepare(np.ones((cell.rows, 16), dtype=np.float32), edges)
        self._inference.predict()
        self._probes = [self._probe() for _ in range(PROBES)]

    @property
    def reference(self) -> int:
        """Nanoseconds of the fixed program while little else ran: a low quantile of all its times so far."""
        return max(1, round(float(np.quantile(self._probes, QUIET))))

    def ratios(self, timed: Sequence[Timed], turns: int, enough: int | None = None) -> list[float]:
        """Medians over the turns of each call's time over that of the fixed program.

        Once the calls took `enough` nanoseconds together, the fewest turns suffice.
        """
        found: list[list[float]] = [[] for _ in timed]
        taken, spent = 0, 0
        while taken < turns and (taken < FEWEST_TURNS or enough is None or spent < enough):
            taken += 1
            for one, own in zip(timed, found, strict=True):
                for call in one.before:
                    call()
                before, took, after = self._probe(), self._time(one.call), self._probe()
                spent += took
                own.append(2 * took / max(1, before + after))
                self._probes += [before, after]
        return [float(np.median(own)) for own in found]

    def _time(self, call: Callable[[], object]) -> int:
        started = self._clock()
        call()
        return self._clock() - started

    def _probe(self) -> int:
        return self._time(self._inference.predict)


def calibrate(
    out: Path | None = None, *, quick: bool = False, grid: Grid | None = None, stream: TextIO | None = None
) -> LatencyTable:
    """Measure the latency table of this machine, one thread.

    Args:
        out: where the table goes; beside it, in `<name>.part`, is what was measured so far, from which the next call
            goes on. None keeps it in memory alone.
        quick: fewer places, in well under a minute; predictions are rougher.
        grid: other places.
        stream: where progress goes; None is silent.

    Raises:
        RunFolderError: the file cannot be written, or what was measured so far cannot be read.
    """
    grid = grid or (QUICK if quick else FULL)
    cells = list(grid.cells())
    state = _State(None if out is None else out.with_name(out.name + ".part"), grid)
    state.save()  # a place that cannot be written is told before anything is measured
    progress, watch = Progress("calibrate", sum(one.weight for one in cells), stream), Stopwatch()
    try:
        for cell in cells:
            if cell.name not in state.ratios:
                state.add(cell, _measured(cell, watch, grid.turns), watch.reference)
            progress.advance(cell.weight)
    finally:
        state.save()
    table = LatencyTable(cpu_name(), 1, state.points(cells))
    if out is not None:
        write_atomic(out, table.to_json())
        state.remove()
    return table


def _measured(cell: Cell, watch: Stopwatch, turns: int) -> list[tuple[Point, float]]:
    """The points of a cell, and their times over the reference."""
    case = {"blocks": _block_cell, "heads": _head_cell}.get(cell.what, _feature_cell)(cell)
    case.inference.predict()  # compiles
    ratios, points = watch.ratios(case.timed, turns, LONG_NS), [one.point for one in case.timed]
    if cell.what == "heads":
        ratios, points = _of_one_head(ratios), points[::2]
    return list(zip(points, ratios, strict=True))


class _State:
    """What has been measured so far, in a file; that of another machine, version or grid is not read."""

    def __init__(self, path: Path | None, grid: Grid) -> None:
        facts = {"cpu": cpu_name(), "host": platform.node(), "grid": asdict(grid)}
        facts |= {"lpgnas": __version__, "numba": version("numba"), "numpy": np.__version__}
        self._key = sha256(json.dumps(facts, sort_keys=True).encode())
        self._path, self._saved = path, time.monotonic()
        self.ratios: dict[str, list[tuple[Point, float]]] = {}
        self._reference: int | None = None
        if path is not None and path.exists():
            self._read(read_text(path))

    def _read(self, text: str) -> None:
        try:
            content = json.loads(text)
            if content["key"] == self._key:
                self._reference = int(content["reference"])
                self.ratios = {
                    name: [(Point(**point), float(ratio)) for point, ratio in made]
                    for name, made in content["ratios"].items()
                }
        except (ValueError, KeyError, TypeError, AttributeError):  # not one of these files: begin anew
            self.ratios, self._reference = {}, None

    def add(self, cell: Cell, measured: list[tuple[Point, float]], reference: int) -> None:
        """Keep what a cell gave, and the shortest reference."""
        self.ratios[cell.name] = measured
        self._reference = min(reference, self._reference or reference)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def points(self, cells: Sequence[Cell]) -> list[Point]:
        """All points with their times."""
        unit = self._reference or 1
        return [
            replace(point, nanoseconds=max(1, round(ratio * unit)))
            for cell in cells
            for point, ratio in self.ratios[cell.name]
        ]

    def save(self) -> None:
        """Write the file."""
        if self._path is not None:
            ratios = {name: [(asdict(point), ratio) for point, ratio in made] for name, made in self.ratios.items()}
            write_atomic(self._path, json.dumps({"key": self._key, "reference": self._reference, "ratios": ratios}))
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
