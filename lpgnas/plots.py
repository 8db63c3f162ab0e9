"""The Pareto plot of a search: its data, and two drawings of it, a PNG for files and an SVG for the report.

Candidates stand at the accuracy of the last rung that they reached; those without an exact integer form are left out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lpgnas.budget import format_bits
from lpgnas.markup import Html, element, joined
from lpgnas.run_facts import CandidateFacts, RunFacts, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind = Literal["early", "final", "chosen"]
KINDS: dict[Kind, str] = {
    "early": "left on an earlier rung, or derived earlier in a round",
    "final": "trained to the end",
    "chosen": "chosen",
}


@dataclass(frozen=True)
class Axis:
    """A linear axis: its label, range and ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Point:
    """One candidate: `x` in the unit of the axis, `y` in percent, and what a reader is told."""

    number: int
    x: float
    y: float
    kind: Kind
    label: str


@dataclass(frozen=True)
class Panel:
    """Accuracy over one size.

    Attributes:
        title: which size.
        x: the size's axis.
        y: the accuracy's axis, in percent.
        points: every candidate with an exact integer form; the chosen one last, so that it lies on top.
        front: corners of the Pareto front, from the smallest to the most accurate.
        limit: the budget, None without one or far to the right of every point.
        limit_label: the budget for people.
        kinds: what each kind of point means, for the legend.
    """

    title: str
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    front: tuple[tuple[float, float], ...]
    limit: float | None
    limit_label: str
    kinds: Mapping[Kind, str] = field(default_factory=lambda: KINDS)


@dataclass(frozen=True)
class Mark:
    """What becomes a point: its size in bits, its accuracy (0 to 1), how it is drawn, and what a reader is told."""

    number: int
    bits: int
    accuracy: float
    kind: Kind
    told: str


def pareto_front(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The points that no other one beats: none is as small and as accurate, and better in one of the two."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return tuple(front)


def pareto_panels(facts: RunFacts) -> tuple[Panel, ...]:
    """Accuracy over weights and over buffers; none where nothing was searched or nothing has an integer form."""
    shown = [one for one in facts.candidates if one.accuracy >= 0.0]
    if not shown:
        return ()
    shown.sort(key=lambda one: (one.number == facts.winner, one.rung, one.number))
    last_rung = max(one.rung for one in shown)

    def mark(one: CandidateFacts, title: str, bits: int) -> Mark:
        ended = one.rung == last_rung and one.epochs > 0
        kind: Kind = "chosen" if one.number == facts.winner else "final" if ended else "early"
        told = f"candidate {one.number}: {percent(one.accuracy)} after {one.epochs} epochs, {title} {format_bits(bits)}"
        return Mark(one.number, bits, one.accuracy, kind, told)

    label = "selection accuracy, %"
    return (
        size_panel(
            "weights", label, [mark(a, "weights", a.weight_bits) for a in shown], facts.budget.get("weight_bits")
        ),
        size_panel(
            "buffers", label, [mark(a, "buffers", a.buffer_bits) for a in shown], facts.budget.get("buffer_bits")
        ),
    )


def front_panel(title: str, label: str, sizes: Sequence[int], accuracies: Sequence[float], what: str) -> Panel:
    """Accuracies (0 to 1) over sizes in bits, those that no other one beats drawn full; `what` is a point's name."""
    pairs = [(float(bits), accuracy) for bits, accuracy in zip(sizes, accuracies, strict=True)]
    front = set(pareto_front(pairs))
    marks = [
        Mark(k, bits, accuracy, "final" if (float(bits), accuracy) in front else "early", f"{what} {k}")
        for k, (bits, accuracy) in enumerate(zip(sizes, accuracies, strict=True))
    ]
    marks.sort(key=lambda mark: mark.kind == "final")
    kinds: dict[Kind, str] = {"early": what, "final": f"{what} on the front"}
    return replace(size_panel(title, label, marks, None), kinds=kinds)


def size_panel(title: str, label: str, marks: Sequence[Mark], limit: int | None) -> Panel:
    """Marks over a size; the last one lies on top."""
    sizes = [mark.bits for mark in marks]
    near = limit is not None and limit <= 2 * max(sizes)
    reach = max(sizes) if limit is None or not near else max(limit, *sizes)
    unit = format_bits(reach).split()[1]
    scale = {"B": 8, "KiB": 8 << 10, "MiB": 8 << 20, "GiB": 8 << 30}[unit]
    points = [Point(one.number, one.bits / scale, 100 * one.accuracy, one.kind, one.told) for one in marks]
    return Panel(
        title=title,
        x=_axis(f"{title}, {unit}", [min(sizes) / scale, reach / scale]),
        y=_axis(label, [point.y for point in points], most=100.0),
        points=tuple(points),
        front=pareto_front([(point.x, point.y) for point in points]),
        limit=limit / scale if limit is not None and near else None,
        limit_label="" if limit is None else f"budget {format_bits(limit)}",
    )


def _axis(label: str, values: list[float], most: float = math.inf) -> Axis:
    """An axis with round ticks and a little room around `values`, which are not negative."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.1 * high or 1.0
    low, high = max(0.0, low - room), max(high + room, low + 1e-6)
    rough = (high - low) / 5
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(round(k * step, 9) for k in range(first, last + 1) if k * step <= most)
    return Axis(label, low, high, ticks)


# --- PNG ---

_INK, _MUTED, _GRID = "#1f2933", "#8a94a0", "#e4e7eb"
_COLOURS: dict[Kind, str] = {"early": "#aab4be", "final": "#2f6fb0", "chosen": "#d9480f"}
_BUDGET = "#b42318"


def pareto_png(panels: tuple[Panel, ...]) -> bytes:
    """The panels side by side; the same bytes for the same panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.2), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for position, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), position + 1)
        _draw(axes, panel, first=position == 0)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9, labelcolor=_INK)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _draw(axes: Axes, panel: Panel, *, first: bool) -> None:
    axes.set_xlim(panel.x.low, panel.x.high)
    axes.set_ylim(panel.y.low, panel.y.high)
    axes.set_xticks(panel.x.ticks)
    axes.set_yticks(panel.y.ticks)
    axes.set_xlabel(panel.x.label, color=_INK)
    axes.set_ylabel(panel.y.label, color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, labelcolor=_INK, labelsize=9)
    if panel.limit is not None:
        axes.axvline(panel.limit, color=_BUDGET, linestyle=(0, (5, 3)), linewidth=1.2)
        axes.annotate(
            panel.limit_label,
            (panel.limit, 1.015),
            xycoords=("data", "axes fraction"),
            ha="right" if panel.x.place(panel.limit) > 0.5 else "left",
            fontsize=9,
            color=_BUDGET,
        )
    x, y = zip(*panel.front, strict=True)
    axes.step(x, y, where="post", color=_INK, linewidth=1.2, alpha=0.7, label="Pareto front" if first else None)
    for kind, what in panel.kinds.items():
        part = [point for point in panel.points if point.kind == kind]
        style: dict[str, Any] = {"s": 34, "color": _COLOURS[kind], "zorder": 3}
        if kind == "early":
            style |= {"facecolors": "white", "linewidths": 1.3}
        elif kind == "chosen":
            style |= {"marker": "*", "s": 230, "edgecolors": "white", "linewidths": 0.9, "zorder": 4}
        axes.scatter([p.x for p in part], [p.y for p in part], label=what if first else None, **style)


# --- SVG ---

_WIDTH, _HEIGHT = 460.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 12.0, 24.0, 44.0


def pareto_svg(panel: Panel) -> Html:
    """A panel as an inline SVG; its colours are those of the page's classes."""
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + across * panel.x.place(value)

    def y_of(value: float) -> float:
        return _TOP + up * (1.0 - panel.y.place(value))

    parts = [element("title", f"Selection accuracy over {panel.title} of {len(panel.points)} candidates")]
    for tick in panel.x.ticks:
        parts.append(_line("grid", x_of(tick), _TOP, x_of(tick), _TOP + up))
        parts.append(_text(f"{tick:g}", x_of(tick), _TOP + up + 17, text_anchor="middle"))
    for tick in panel.y.ticks:
        parts.append(_line("grid", _LEFT, y_of(tick), _LEFT + across, y_of(tick)))
        parts.append(_text(f"{tick:g}", _LEFT - 7, y_of(tick) + 4, text_anchor="end"))
    parts.append(_text(panel.x.label, _LEFT + across / 2, _HEIGHT - 8, text_anchor="middle", class_="axis"))
    turned = f"rotate(-90 12 {_TOP + up / 2:.1f})"
    parts.append(_text(panel.y.label, 12, _TOP + up / 2, text_anchor="middle", class_="axis", transform=turned))
    if panel.limit is not None:
        at = x_of(panel.limit)
        parts.append(_line("budget", at, _TOP, at, _TOP + up))
        side = "end" if panel.x.place(panel.limit) > 0.5 else "start"
        parts.append(_text(panel.limit_label, at, _TOP - 6, text_anchor=side, class_="budget"))
    path = f"M{x_of(panel.front[0][0]):.1f} {y_of(panel.front[0][1]):.1f}"
    for x, y in panel.front[1:]:
        path += f"H{x_of(x):.1f}V{y_of(y):.1f}"
    parts.append(element("path", d=path, class_="front"))
    parts += [_mark(point, x_of(point.x), y_of(point.y)) for point in panel.points]
    box = f"0 0 {_WIDTH:g} {_HEIGHT:g}"
    return element("svg", *parts, viewBox=box, role="img", class_="pareto", id=f"pareto-{panel.title}")


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Html:
    return element("line", class_=kind, x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}")


def _text(text: str, x: float, y: float, **attributes: str) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", **attributes)


def _mark(point: Point, x: float, y: float) -> Html:
    told = element("title", point.label)
    if point.kind != "chosen":
        return element("circle", told, class_=f"point {point.kind}", cx=f"{x:.1f}", cy=f"{y:.1f}", r="4.5")
    return element("path", told, class_="point chosen", d=_star(x, y))


def _star(x: float, y: float) -> str:
    corners = []
    for k in range(10):
        radius, angle = (10.0 if k % 2 == 0 else 4.2), math.pi * (k / 5 - 0.5)
        corners.append(f"{x + radius * math.cos(angle):.1f} {y + radius * math.sin(angle):.1f}")
    return "M" + "L".join(corners) + "Z"


def svg_legend() -> Html:
    """What the marks of the panels mean."""
    entries = []
    for kind, what in KINDS.items():
        mark = _mark(Point(0, 0.0, 0.0, kind, what), 11, 11)
        entries.append(element("span", element("svg", mark, viewBox="0 0 22 22", class_="key"), what))
    front = element("svg", element("path", class_="front", d="M1 15H11V7H21"), viewBox="0 0 22 22", class_="key")
    entries.append(element("span", front, "Pareto front"))
    return element("p", joined(*entries), class_="legend")
