"""Time of the aggregation against the number of edges, and what checking the edges costs beside it.

    python -m benchmarks.edges

Random graphs of a fixed number of nodes, so that the messages stay in one cache while the edges grow; 64 columns, sums
of int8 with a rounded shift. One thread, processor time, median of calls in turns; the line is the least-squares fit
of time over edges. `checks` are those of `CsrGraph`, done once a graph, at 64 and 256 columns.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import RESULTS
from benchmarks.kernels import Comparison, Task, random_graph
from lpgnas.kernels.aggregation import aggregate
from lpgnas.kernels.csr import CsrGraph
from lpgnas.machine import cpu_name
from lpgnas.report import markdown_table
from lpgnas.results import write_atomic

COLUMNS, WIDE = 64, 256
STEPS = 10


@dataclass(frozen=True)
class Regime:
    """Where the messages of so many nodes lie; edges grow in equal steps to `edges`."""

    where: str
    nodes: int
    edges: int
    rounds: int
    steps: int = STEPS


REGIMES = (
    Regime("second-level cache", 4_000, 800_000, 61),
    Regime("third-level cache", 40_000, 2_000_000, 41),
    Regime("memory", 1_000_000, 16_000_000, 5),
)
QUICK = (Regime("second-level cache", 300, 3_000, 2, 3),)


def median_ms(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Medians of calls that take turns, each timed right after an untimed one."""
    times = np.empty((len(calls), rounds))
    for turn in range(rounds):
        for k in np.roll(np.arange(len(calls)), turn).tolist():
            calls[k]()
            started = time.process_time_ns()
            calls[k]()
            times[k, turn] = (time.process_time_ns() - started) / 1e6
    return [float(one) for one in np.median(times, axis=1)]


def aggregation(graph: CsrGraph, columns: int) -> Callable[[], None]:
    """The kernel on a graph, with the checks of its arguments."""
    arguments = Task(Comparison("sum", "random", columns, 0), graph).arguments()
    return lambda: aggregate(*arguments)


def checked(graph: CsrGraph) -> Callable[[], CsrGraph]:
    """The checks of a graph's edges."""
    return lambda: CsrGraph(graph.indptr, graph.sources, graph.self_loops, owned=True)  # without copying them


def measure(regime: Regime) -> list[dict[str, Any]]:
    """One row a number of edges."""
    numbers = [regime.edges * (k + 1) // regime.steps for k in range(regime.steps)]
    graphs = [random_graph(regime.nodes, edges) for edges in numbers]
    times = median_ms([aggregation(graph, COLUMNS) for graph in graphs], regime.rounds)
    last: list[Callable[[], object]] = [
        aggregation(graphs[-1], COLUMNS),
        aggregation(graphs[-1], WIDE),
        checked(graphs[-1]),
    ]
    wide, checks = median_ms(last, regime.rounds)[1:]
    facts = {"where": regime.where, "nodes": regime.nodes, "rounds": regime.rounds}
    rows = [
        {**facts, "edges": edges, "median_ms": round(taken, 4)} for edges, taken in zip(numbers, times, strict=True)
    ]
    rows[-1] |= {"wide_ms": round(wide, 4), "checks_ms": round(checks, 4)}
    return rows


def fit(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Nanoseconds an edge, milliseconds without any, and R^2 of the line."""
    edges, times = rows["edges"].to_numpy(float), rows["median_ms"].to_numpy(float)
    slope, start = np.polyfit(edges, times, 1)
    left = float(((times - slope * edges - start) ** 2).sum())
    return float(slope) * 1e6, float(start), 1.0 - left / float(((times - times.mean()) ** 2).sum())


def summary(table: pd.DataFrame) -> str:
    """The tables as Markdown."""
    lines, shares = [], []
    for where, rows in table.groupby("where", sort=False):
        slope, start, square = fit(rows)
        nodes, last = int(rows["nodes"].iloc[0]), rows.iloc[-1]
        span = f"{rows['edges'].min():,} to {rows['edges'].max():,}"
        ends = f"{rows['median_ms'].iloc[0]:.3f} to {last['median_ms']:.3f}"
        size = f"{nodes * COLUMNS / 2**20:.2g} MiB"
        lines.append([where, f"{nodes:,}", size, span, ends, f"{slope:.2f}", f"{start:.3f}", f"{square:.4f}"])
        share = [f"{100 * last['checks_ms'] / last[name]:.1f} %" for name in ("median_ms", "wide_ms")]
        times = [f"{last[name]:.3f}" for name in ("checks_ms", "median_ms", "wide_ms")]
        shares.append([where, f"{last['edges']:,}", *times, *share])
    header = ["messages in", "nodes", "size", "edges", "ms", "ns an edge", "ms without edges", "R^2"]
    kernel = [f"kernel, {columns} columns, ms" for columns in (COLUMNS, WIDE)]
    checks = ["messages in", "edges", "checks, ms", *kernel, f"share of {COLUMNS} columns", f"of {WIDE}"]
    told = f"Made by `python -m benchmarks.edges` on {cpu_name()}; {COLUMNS} columns, one thread, processor time.\n\n"
    told += "![time against edges](edges.png)\n"
    once = f"Checks of the edges, once a graph:\n\n{markdown_table(checks, shares)}"
    return f"{told}\n{markdown_table(header, lines)}\n{once}"


def figure(table: pd.DataFrame) -> bytes:
    """A panel for each regime: medians over edges, and the line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    regimes = list(table.groupby("where", sort=False))
    made = Figure(figsize=(3.6 * len(regimes), 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(made)
    for position, (where, rows) in enumerate(regimes):
        axes, (slope, start, square) = made.add_subplot(1, len(regimes), position + 1), fit(rows)
        edges = rows["edges"].to_numpy(float) / 1e6
        axes.plot([0, edges.max()], [start, start + slope * edges.max()], color="#8a94a0", linewidth=1.0)
        axes.scatter(edges, rows["median_ms"], s=22, color="#2f6fb0", zorder=3)
        axes.set_title(f"{where}: R² {square:.4f}, {slope:.2f} ns an edge", fontsize=9)
        axes.set_xlabel("edges, millions", fontsize=9)
        axes.set_ylabel("ms" if position == 0 else "", fontsize=9)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
    content = io.BytesIO()
    made.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def main() -> None:
    """Measure, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small graphs, few turns")
    parser.add_argument("--out", type=Path, default=RESULTS / "edges.csv")
    options = parser.parse_args()
    if options.quick and options.out == parser.get_default("out"):
        parser.error("--quick measures too little for the committed table; say where its own goes with --out")
    table = pd.DataFrame([row for regime in (QUICK if options.quick else REGIMES) for row in measure(regime)])
    write_atomic(options.out, table.to_csv(index=False, lineterminator="\n"))
    write_atomic(options.out.with_suffix(".md"), summary(table))
    write_atomic(options.out.with_suffix(".png"), figure(table))


if __name__ == "__main__":
    main()
