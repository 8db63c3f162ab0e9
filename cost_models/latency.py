"""Latency from a table of measured operations: the file, its interpolation, and the work of each operation.

The file is described in docs/budgets.md. Times are whole nanoseconds and every step is exact, so that a spec and its
program have the same latency, and so that more never costs less: in size, columns and bits, and from a plain
aggregation to one that does more. Measured times that fall are lifted to the largest below them.
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

from lpgnas.cost_models.rows import GraphSize
from lpgnas.errors import LatencyTableError
from lpgnas.json_objects import JsonObject
from lpgnas.operators import AGGREGATIONS, ATTENTIONS
from lpgnas.search_space import SearchSpace

FORMAT = "lpgnas latency table"
SCHEMA_VERSION = 1
DENSE, SPARSE, SCORE, LOOKUP = "transform/dense", "transform/sparse", "score", "lookup"
"""Kinds of operations; an aggregation is `aggregate/<attention>/<aggregation>`."""
Place = tuple[int, int, int]
"""Size, columns and bits of an operation."""


def aggregate_kind(attention: str, aggregation: str) -> str:
    """The kind of an aggregation."""
    return f"aggregate/{attention}/{aggregation}"


def known_kinds() -> tuple[str, ...]:
    """Every kind of operation that a program can have."""
    pairs = ((one, kind) for one in ATTENTIONS for kind in AGGREGATIONS if kind in ATTENTIONS.get(one).aggregations)
    return (DENSE, SPARSE, SCORE, *(aggregate_kind(*pair) for pair in pairs), LOOKUP)


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
        axes: measured sizes, columns and bits, each rising.
        times: nanoseconds by place.
    """

    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    times: Mapping[Place, int]

    def at(self, place: Place) -> Fraction:
        """Linear between the points, the smallest point below them, proportional beyond the largest."""
        factor, sides = Fraction(1), []
        for axis, value in zip(self.axes, place, strict=True):
            if value > axis[-1]:
                factor *= Fraction(value, axis[-1])
            sides.append(_between(axis, value))
        corners = (
            math.prod((weight for _, weight in corner), start=Fraction(self.times[_place(corner)]))
            for corner in product(*sides)
        )
        return factor * sum(corners, Fraction(0))


def _place(corner: Sequence[tuple[int, Fraction]]) -> Place:
    size, columns, bits = (value for value, _ in corner)
    return size, columns, bits


def _between(axis: tuple[int, ...], value: int) -> list[tuple[int, Fraction]]:
    """The points of an axis around a value with their weights; the nearest one alone beyond the ends."""
    if value <= axis[0] or value >= axis[-1]:
        return [(axis[0] if value <= axis[0] else axis[-1], Fraction(1))]
    above = bisect_right(axis, value)
    low, high = axis[above - 1], axis[above]
    share = Fraction(value - low, high - low)
    return [(low, 1 - share), (high, share)] if share else [(low, Fraction(1))]


@dataclass(frozen=True)
class Point:
    """One measured operation.

    Attributes:
        operation: its kind.
        size: codes that a transform reads (rows times columns, or non-zeros); rows of a score or a lookup; edges of an
            aggregation, added self-loops among them.
        columns: that it writes; of a score, that it reads.
        bits: product of the bits of both operands of its multiplications, as BOPs count it; of a lookup, its input's.
        nanoseconds: its time.
    """

    operation: str
    size: int
    columns: int
    bits: int
    nanoseconds: int


class LatencyTable:
    """Times of operations on one device.

    Args:
        device: what was measured on.
        threads: how many threads it took.
        points: the measurements; those of one operation on every combination of their sizes, columns and bits.

    Raises:
        LatencyTableError: no points, an unknown operation, a number that is not positive, a point that stands twice or
            is missing.
    """

    def __init__(self, device: str, threads: int, points: Sequence[Point]) -> None:
        if not points:
            raise LatencyTableError("the latency table has no points")
        if threads < 1:
            raise LatencyTableError(f"the latency table states {threads} threads; it must be at least 1")
        self.device, self.threads, self.points = device, threads, tuple(points)
        by_kind: dict[str, dict[Place, int]] = {}
        for number, point in enumerate(points):
            _check_point(number, point)
            times = by_kind.setdefault(point.operation, {})
            place = (point.size, point.columns, point.bits)
            if place in times:
                raise LatencyTableError(f"{_named(point.operation, place)} stands twice in the latency table")
            times[place] = point.nanoseconds
        self._grids = {kind: _grid(kind, times) for kind, times in by_kind.items()}
        self._known: dict[tuple[str, Place], int] = {}

    def nanoseconds(self, kind: str, size: int, columns: int, bits: int) -> int:
        """The time of an operation, rounded up.

        Raises:
            LatencyTableError: the table has no such operation: it never costs zero.
        """
        place = (size, columns, bits)
        if (kind, place) not in self._known:
            self.require((kind,))
            times = (self._grids[less].at(place) for less in not_above(kind) if less in self._grids)
            self._known[kind, place] = math.ceil(max(times))
        return self._known[kind, place]

    def require(self, kinds: Sequence[str]) -> None:
        """Refuse a table without one of these operations.

        Raises:
            LatencyTableError: naming those that are missing.
        """
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
        if (version := top.take("schema_version", int)) != SCHEMA_VERSION:
            raise LatencyTableError(f"the latency table has schema version {version}, this lpgnas reads 1")
        device, threads, listed = top.take("device", str), top.take("threads", int), top.take("points", list)
        top.finish()
        return cls(device, threads, [_point(number, one) for number, one in enumerate(listed)])

    def to_json(self) -> str:
        """Canonical JSON, which `from_json` reads: sorted keys, two spaces, a final newline."""
        points = [asdict(point) for point in self.points]
        content = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "device": self.device, "threads": self.threads}
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
    yield DENSE if size.num_nonzeros is None else SPARSE
    if space.depth > 1:
        yield DENSE  # of the features, or of a block
    for name in space.attentions:
        attention = ATTENTIONS.get(name)
        if attention.score is not None and attention.score.node_weights:
            yield SCORE
        yield from (aggregate_kind(name, space.aggregation(attention, kind)) for kind in space.aggregations)
    if space.depth > 1 and space.tables():
        yield LOOKUP


def _point(number: int, raw: object) -> Point:
    reader = JsonObject(f"points[{number}]", raw, LatencyTableError)
    operation = reader.take("operation", str)
    size, columns, bits, nanoseconds = (reader.take(name, int) for name in ("size", "columns", "bits", "nanoseconds"))
    reader.finish()
    return Point(operation, size, columns, bits, nanoseconds)


def _check_point(number: int, point: Point) -> None:
    if point.operation not in known_kinds():
        known = ", ".join(known_kinds())
        raise LatencyTableError(f"points[{number}]: unknown operation {point.operation!r}; known: {known}")
    for name in ("size", "columns", "bits", "nanoseconds"):
        if getattr(point, name) < 1:
            raise LatencyTableError(f"points[{number}]: {name} is {getattr(point, name)}; it must be at least 1")


def _named(kind: str, place: Place) -> str:
    return f"{kind} with size {place[0]}, columns {place[1]} and bits {place[2]}"


def _grid(kind: str, measured: Mapping[Place, int]) -> _Grid:
    """The grid of one kind, its times lifted to the largest at no greater size, columns and bits."""
    sizes, columns, bits = (tuple(sorted({place[axis] for place in measured})) for axis in range(3))
    times: dict[Place, int] = {}
    for place in product(sizes, columns, bits):
        if place not in measured:
            raise LatencyTableError(
                f"the latency table lacks {_named(kind, place)}: the points of an operation lie on every combination "
                "of its sizes, columns and bits"
            )
        below = [(axis.index(value), axis) for axis, value in zip((sizes, columns, bits), place, strict=True)]
        smaller = [
            times[_replaced(place, k, axis[position - 1])] for k, (position, axis) in enumerate(below) if position
        ]
        times[place] = max(measured[place], *smaller) if smaller else measured[place]
    return _Grid((sizes, columns, bits), times)


def _replaced(place: Place, axis: int, value: int) -> Place:
    size, columns, bits = (value if k == axis else old for k, old in enumerate(place))
    return size, columns, bits
