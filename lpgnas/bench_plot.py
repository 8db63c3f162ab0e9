"""The plot of `lpgnas bench`: whole inferences, and where the integer program's time goes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _GRID = "#1f2933", "#8a94a0", "#e4e7eb"
_OURS, _THEIRS = "#d9480f", "#2f6fb0"


def bench_png(result: Mapping[str, Any]) -> bytes:
    """Medians with quartiles of every contender, and of every step of the program; `result` as in `bench.json`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    whole = [(one["name"], one, one["name"].startswith("integers")) for one in result["contenders"]]
    steps = [(f"{one['operation']} {one['writes']}".strip(), one, True) for one in result["preparation"]]
    steps += [(f"{one['block']}: {one['operation']} {one['writes']}", one, True) for one in result["operations"]]
    figure = Figure(figsize=(11.0, 1.2 + 0.3 * max(len(whole), len(steps))), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    figure.suptitle(f"{result['dataset']}, {result['cpu']}, {threads}", color=_INK, fontsize=10)
    for position, (title, rows) in enumerate((("whole inference", whole), ("steps of the integer program", steps))):
        _bars(figure.add_subplot(1, 2, position + 1), title, rows)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _bars(axes: Axes, title: str, rows: Sequence[tuple[str, Mapping[str, float], bool]]) -> None:
    medians = [row["median_ms"] for _, row, _ in rows]
    spread = [
        [row["median_ms"] - row["q1_ms"] for _, row, _ in rows],
        [row["q3_ms"] - row["median_ms"] for _, row, _ in rows],
    ]
    colours = [_OURS if ours else _THEIRS for _, _, ours in rows]
    style = {"ecolor": _INK, "elinewidth": 1.0, "capsize": 2.0}
    axes.barh(range(len(rows)), medians, xerr=spread, color=colours, error_kw=style, height=0.65)
    for at, median in enumerate(medians):
        axes.annotate(f" {median:.3g}", (rows[at][1]["q3_ms"], at), va="center", fontsize=8, color=_INK)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.5 * max(min(medians), 1e-4), 4.0 * max(medians))
    axes.set_xlabel("ms, median and quartiles", color=_INK, fontsize=9)
    axes.set_title(title, color=_INK, fontsize=10)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_MUTED, labelcolor=_INK, labelsize=8)
