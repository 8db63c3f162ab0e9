"""Latency from a table of measured operations: the file, its interpolation, and the work of each operation.

The file is described in docs/budgets.md. Times are whole nanoseconds and every step is exact, so that a spec and its
program have the same latency, and so that more never costs less: in rows, size, columns, bits and heads, and from a
plain aggregation to one that does more. Where measured times fall, version 1 lifts them to the largest below them, and
version 2 puts both in the middle.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np

from lpgnas.cost_models.rows import GraphSize
from lpgnas.errors import LatencyTableError
from lpgnas.json_objects import JsonObject
from lpgnas.operators import AGGREGATIONS, ATTENTIONS
from lpgnas.search_space import SearchSpace

FORMAT = "lpgnas latency table"
VERSIONS = (1, 2)
"""Schema versions that are read: points of version 2 have rows."""
DENSE, SPARSE, SCORE, LOOKUP = "transform/dense", "transform/sparse", "score", "lookup"
"""Kinds of operations; an aggregation is `aggregate/<attention>/<aggregation>`."""
ONES, LOGITS = "transform/ones", "logits"
"""Kinds of version 2 alone: the transform of sparse features of one bit, and the decoding of the logits."""
Place = tuple[int | Fraction, ...]
"""Where an operation lies: its size, columns and bits; in version 2 its rows, size a row, columns and bits."""
_AXES = {1: ("size", "columns", "bits"), 2: ("rows", "size a row", "columns", "bits")}


def aggregate_kind(attention: str, aggregation: str) -> str:
    """The kind of an aggregation."""
    return f"aggregate/{attention}/{aggregation}"


def head_kind(attention: str) -> str:
    """The kind of version 2 that times one more head of a learned attention, of the same columns together."""
    return f"head/{attention}"


def known_kinds(version: int = VERSIONS[-1]) -> tuple[str, ...]:
    """Every kind of operation that a program can have, as a schema version tells them apart."""
    pairs = ((one, kind) for one in ATTENTIONS for kind in AGGREGATIONS if kind in ATTENTIONS.get(one).aggregations)
    kinds = (DENSE, SPARSE, SCORE, *(aggregate_kind(*pair) for pair in pairs), LOOKUP)
    if version == 1:
        return kinds
    return (*kinds, *(head_kind(one) for one in ATTENTIONS if ATTENTIONS.get(one).learned), ONES, LOGITS)


@dataclass(frozen=True)
class Work:
    """One operation on a graph.

    Attributes:
        kind: of the operation.
        rows: nodes that it writes.
        size: codes that a transform reads (rows times columns, or non-zeros); edges of an aggregation, added self-loops
            among them; else the rows.
        columns: that it writes; of a score, that it reads.
        bits: of the codes that it reads.
        factor_bits: of what they are multiplied with; 1 for nothing.
        heads: of a learned attention.
    """

    kind: str
    rows: int
    size: int
    columns: int
    bits: int
    factor_bits: int = 1
    heads: int = 1


def not_above(kind: str) -> frozenset[str]:
    """The kinds that may not cost more than `kind` on the same size, columns and bits; itself among them.

    An aggregation with learned weights does what a plain one does and more, and a plain one more than `self`, which
    reads no edges. Plain attentions (const and gcn differ by a coefficient a node) cost alike, and sum, mean and max
    rise in this order.
    """
    if not kind.startswith("aggregate/"):
        return frozenset({kind})
    _, attention, aggregation = kind.split("/")
    order = AGGREGATIONS.names()
    plain = [one for one in ATTENTIONS if not ATTENTIONS.get(one).learned]
    attentions = [attention, *(plain if ATTENTIONS.get(attention).neighbours else ())]
    return frozenset(
        aggregate_kind(one, less) for one in attentions for less in order[: order.index(aggregation) + 1]
    ) & frozenset(known_kinds())


@dataclass(frozen=True)
class _Grid:
    """The times of one kind on the product of its axes, already rising along each.

    Attributes:
        axes: the values that were measured along each axis, rising.
        times: nanoseconds by place.
    """

    axes: tuple[tuple[int | Fraction, ...], ...]
    times: Mapping[Place, int]

    def at(self, place: Place) -> Fraction:
        """Linear between the points, the smallest point below them, proportional beyond the largest."""
        factor, sides = Fraction(1), []
        for axis, value in zip(self.axes, place, strict=True):
            if value > axis[-1]:
                factor *= Fraction(value) / axis[-1]
            sides.append(_between(axis, value))
        corners = (
            math.prod((weight for _, weight in corner), start=Fraction(self.times[tuple(value for value, _ in corner)]))
            for corner in product(*sides)
        )
        return factor * sum(corners, Fraction(0))


def _between(axis: tuple[int | Fraction, ...], value: int | Fraction) -> list[tuple[int | Fraction, Fraction]]:
    """The points of an axis around a value with their weights; the nearest one alone beyond the ends."""
    if value <= axis[0] or value >= axis[-1]:
        return [(axis[0] if value <= axis[0] else axis[-1], Fraction(1))]
    above = bisect_right(axis, value)
    low, high = axis[above - 1], axis[above]
    share = Fraction(value - low) / (high - low)
    return [(low, 1 - share), (high, share)] if share else [(low, Fraction(1))]


@dataclass(frozen=True)
class Point:
    """One measured operation.

    Attributes:
        operation: its kind.
        size: codes that a transform reads (rows times columns, or non-zeros); rows of a score or a lookup; edges of an
            aggregation, added self-loops among them.
        columns: that it writes; of a score, that it reads.
        bits: in version 1 the product of the bits of both operands of its multiplications, as BOPs count it; in version
            2 the larger of them for transforms and scores, the message's for aggregations. Of a lookup, its input's.
        nanoseconds: its time.
        rows: nodes that it writes; None in version 1.
    """

    operation: str
    size: int
    columns: int
    bits: int
    nanoseconds: int
    rows: int | None = None

    @property
    def place(self) -> Place:
        """Where it lies on the axes of its version."""
        if self.rows is None:
            return self.size, self.columns, self.bits
        return self.rows, Fraction(self.size, self.rows), self.columns, self.bits


class LatencyTable:
    """Times of operations on one device.

    Args:
        device: what was measured on.
        threads: how many threads it took.
        points: the measurements; those of one operation on every combination of the values along their axes. All of
            them have rows, or none.

    Raises:
        LatencyTableError: no points, an unknown operation, a number that is not positive, a point that stands twice or
            is missing, rows at some points only.
    """

    def __init__(self, device: str, threads: int, points: Sequence[Point]) -> None:
        if not points:
            raise LatencyTableError("the latency table has no points")
        if threads < 1:
            raise LatencyTableError(f"the latency table states {threads} threads; it must be at least 1")
        self.version = 1 if points[0].rows is None else 2
        self.device, self.threads, self.points = device, threads, tuple(points)
        by_kind: dict[str, dict[Place, int]] = {}
        for number, point in enumerate(points):
            _check_point(number, point, self.version)
            times = by_kind.setdefault(point.operation, {})
            if point.place in times:
                raise LatencyTableError(f"{_named(point.operation, point.place)} stands twice in the latency table")
            times[point.place] = point.nanoseconds
        self._grids = {kind: _grid(kind, times) for kind, times in by_kind.items()}
        self._known: dict[Work, int] = {}

    def nanoseconds(self, work: Work) -> int:
        """The time of an operation, rounded up; the decoding of logits, which version 1 does not have, takes none.

        Raises:
            LatencyTableError: the table has no such operation: it never costs zero.
        """
        if work not in self._known:
            self.require((work.kind,))
            time = max((self._time(work, kind) for kind in self._own(work.kind)), default=Fraction(0))
            kind = head_kind(work.kind.split("/")[-2]) if work.kind.startswith("aggregate/") else ""
            if work.heads > 1 and kind in known_kinds(self.version):
                self.require((kind,))
                time += (work.heads - 1) * self._time(work, kind)
            self._known[work] = math.ceil(time)
        return self._known[work]

    def _own(self, kind: str) -> list[str]:
        """The kinds of this table that an operation of `kind` may not be cheaper than."""
        if self.version == 1:
            kind = SPARSE if kind == ONES else kind
        return [less for less in sorted(not_above(kind)) if less in self._grids]

    def _time(self, work: Work, kind: str) -> Fraction:
        """The time of the work as one of `kind`."""
        grid = self._grids[kind]
        if self.version == 1:
            return grid.at((work.size, work.columns, work.bits * work.factor_bits))
        attention = ATTENTIONS.get(kind.split("/")[1]) if kind.startswith("aggregate/") else None
        multiplies = kind == SCORE or kind.startswith("transform/")
        bits = max(work.bits, work.factor_bits) if multiplies else work.bits
        share = Fraction(work.size, work.rows) if attention is None or attention.neighbours else Fraction(1)
        return grid.at((work.rows, share, work.columns, bits))

    def require(self, kinds: Sequence[str]) -> None:
        """Refuse a table without one of these operations.

        Raises:
            LatencyTableError: naming those that are missing.
        """
        if self.version == 1:
            known = known_kinds(1)
            kinds = [one for kind in kinds if (one := SPARSE if kind == ONES else kind) in known]
        missing = [kind for kind in kinds if kind not in self._grids]
        if missing:
            raise LatencyTableError(
                f"the latency table of {self.device!r} has no point of {', '.join(missing)}; measure it"
            )

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """The table in a JSON text.

        Raises:
            LatencyTableError: not JSON, not such a table, of another schema, or as the class.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise LatencyTableError(f"the latency table is not JSON: {error}") from error
        top = JsonObject("the latency table", raw, LatencyTableError)
        if (seen := top.take("format", str)) != FORMAT:
            raise LatencyTableError(f"the latency table has the format {seen!r}, not {FORMAT!r}")
        if (version := top.take("schema_version", int)) not in VERSIONS:
            raise LatencyTableError(f"the latency table has schema version {version}, this lpgnas reads 1 and 2")
        device, threads, listed = top.take("device", str), top.take("threads", int), top.take("points", list)
        top.finish()
        return cls(device, threads, [_point(number, one, version) for number, one in enumerate(listed)])

    def to_json(self) -> str:
        """Canonical JSON, which `from_json` reads: sorted keys, two spaces, a final newline."""
        points = [{name: one for name, one in asdict(point).items() if one is not None} for point in self.points]
        content = {"format": FORMAT, "schema_version": self.version, "device": self.device, "threads": self.threads}
        return json.dumps(content | {"points": points}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """The table in a file.

        Raises:
            LatencyTableError: it cannot be read, or as `from_json`.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise LatencyTableError(f"cannot read the latency table {path}: {error}") from error
        except LatencyTableError as error:
            raise LatencyTableError(f"{path}: {error}") from error


def space_kinds(space: SearchSpace, size: GraphSize) -> tuple[str, ...]:
    """Every kind of operation that a model of the space can have on a graph."""
    return tuple(dict.fromkeys(_space_kinds(space, size)))


def _space_kinds(space: SearchSpace, size: GraphSize) -> Iterator[str]:
    yield feature_kind(size, space.input_format.bits)
    yield LOGITS
    if space.depth > 1:
        yield DENSE  # of the features, or of a block
    for name in space.attentions:
        attention = ATTENTIONS.get(name)
        if attention.score is not None and attention.score.node_weights:
            yield SCORE
        if attention.learned and space.depth > 1 and space.heads != (1,):
            yield head_kind(name)
        yield from (aggregate_kind(name, space.aggregation(attention, kind)) for kind in space.aggregations)
    if space.depth > 1 and space.tables():
        yield LOOKUP


def feature_kind(size: GraphSize, bits: int) -> str:
    """The kind of a transform of a graph's features in codes of `bits`."""
    return DENSE if size.sparse_entries(bits) is None else ONES if bits == 1 else SPARSE


def _point(number: int, raw: object, version: int) -> Point:
    reader = JsonObject(f"points[{number}]", raw, LatencyTableError)
    operation = reader.take("operation", str)
    size, columns, bits, nanoseconds = (reader.take(name, int) for name in ("size", "columns", "bits", "nanoseconds"))
    rows = None if version == 1 else reader.take("rows", int)
    reader.finish()
    return Point(operation, size, columns, bits, nanoseconds, rows)


def _check_point(number: int, point: Point, version: int) -> None:
    if point.operation not in known_kinds(version):
        known = ", ".join(known_kinds(version))
        raise LatencyTableError(f"points[{number}]: unknown operation {point.operation!r}; known: {known}")
    if (point.rows is None) is not (version == 1):
        raise LatencyTableError(f"points[{number}]: rows are at some points only; give them at all or at none")
    for name in ("size", "columns", "bits", "nanoseconds", "rows"):
        if (value := getattr(point, name)) is not None and value < 1:
            raise LatencyTableError(f"points[{number}]: {name} is {value}; it must be at least 1")


def _axes(place: Place) -> tuple[str, ...]:
    return next(names for names in _AXES.values() if len(names) == len(place))


def _named(kind: str, place: Place) -> str:
    *first, last = (f"{name} {value}" for name, value in zip(_axes(place), place, strict=True))
    return f"{kind} with {', '.join(first)} and {last}"


def _grid(kind: str, measured: Mapping[Place, int]) -> _Grid:
    """The grid of one kind, its times made to rise along every axis."""
    some = _axes(next(iter(measured)))
    axes = tuple(tuple(sorted({place[axis] for place in measured})) for axis in range(len(some)))
    times = np.empty([len(axis) for axis in axes], dtype=object)  # whole numbers of any size
    for position, place in zip(np.ndindex(times.shape), product(*axes), strict=True):
        if place not in measured:
            raise LatencyTableError(
                f"the latency table lacks {_named(kind, place)}: the points of an operation lie on every combination "
                f"of its {', '.join(one if one == 'size a row' else one + 's' * (one[-1] != 's') for one in some)}"
            )
        times[position] = measured[place]
    most = times
    for axis in range(times.ndim):
        most = np.maximum.accumulate(most, axis=axis)
    if len(some) > len(_AXES[1]):
        least = np.flip(times)
        for axis in range(times.ndim):
            least = np.minimum.accumulate(least, axis=axis)
        most = (most + np.flip(least) + 1) // 2  # a mean of rising times rises
    return _Grid(axes, dict(zip(product(*axes), most.ravel().tolist(), strict=True)))
