"""The aggregation kernel on one and two threads, where messages are in a cache and where they are not.

    python -m benchmarks.threads

Random graphs with 64 columns, sums of int8 with a rounded shift; one and two threads in turns, the second of two calls
is timed. `wall` is what a clock on the wall says. `longest thread` is the processor time of the thread that computed
for longest: what the wall would say if both cores were free, but for starting and joining the threads. Codes are
compared first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import RESULTS
from benchmarks.kernels import Comparison, Task, random_graph
from lpgnas.kernels.aggregation import row_calls, run_together
from lpgnas.machine import cpu_name
from lpgnas.report import markdown_table
from lpgnas.results import write_atomic

COLUMNS = 64


@dataclass(frozen=True)
class Case:
    """A random graph, where its messages lie, and how often it is timed."""

    where: str
    nodes: int
    edges: int
    rounds: int


CASES = (
    Case("small graph, second-level cache", 2_708, 13_264, 201),
    Case("second-level cache", 4_000, 400_000, 61),
    Case("third-level cache", 100_000, 2_500_000, 21),
    Case("memory", 1_000_000, 25_000_000, 7),
)
QUICK = (Case("second-level cache", 500, 5_000, 3),)


def timed(calls: Sequence[Callable[[], None]]) -> tuple[float, float]:
    """Milliseconds of the wall and of the thread that computed for longest."""
    spent: list[int] = []

    def watched(call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            started = time.thread_time_ns()
            call()
            spent.append(time.thread_time_ns() - started)

        return run

    watching = [watched(call) for call in calls]
    started = time.perf_counter_ns()
    run_together(watching)
    return (time.perf_counter_ns() - started) / 1e6, max(spent) / 1e6


def measure(case: Case) -> dict[str, Any]:
    """Quartiles for one and two threads."""
    task = Task(Comparison("sum", case.where, COLUMNS, case.rounds), random_graph(case.nodes, case.edges))
    calls = {threads: row_calls(*task.arguments(), threads=threads) for threads in (1, 2)}
    codes = []
    for one in calls.values():
        task.out[:] = 0
        run_together(one)
        codes.append(task.out.copy())
    if not np.array_equal(codes[0], codes[1]):
        raise AssertionError(f"{case.where}: two threads give other codes")
    seen: dict[str, list[float]] = {f"{what}_{n}": [] for n in calls for what in ("wall", "longest")}
    for turn in range(case.rounds):
        for threads in (1, 2) if turn % 2 else (2, 1):
            run_together(calls[threads])
            wall, longest = timed(calls[threads])
            seen[f"wall_{threads}"].append(wall)
            seen[f"longest_{threads}"].append(longest)
    row: dict[str, Any] = {"where": case.where, "nodes": case.nodes, "edges": case.edges, "rounds": case.rounds}
    for name, times in seen.items():
        row |= {f"{name}_{q}_ms": round(float(np.quantile(times, at)), 4) for q, at in QUARTILES.items()}
    return row


QUARTILES = {"q1": 0.25, "median": 0.5, "q3": 0.75}


def summary(rows: pd.DataFrame) -> str:
    """The table as Markdown."""
    lines = []
    for _, row in rows.iterrows():
        size = f"{row['nodes'] * COLUMNS / 2**20:.2g} MiB"
        cells = [_spread(row, f"{what}_{threads}") for what in ("wall", "longest") for threads in (1, 2)]
        gains = [f"{row[f'{w}_1_median_ms'] / row[f'{w}_2_median_ms']:.2f}" for w in ("wall", "longest")]
        place = [row["where"], f"{row['nodes']:,}", f"{row['edges']:,}", size]
        lines.append([*place, cells[0], cells[1], gains[0], cells[2], cells[3], gains[1]])
    header = ["messages in", "nodes", "edges", "size", "wall, 1 thread", "2 threads", "gain"]
    table = markdown_table([*header, "longest thread, of 1", "of 2", "gain"], lines)
    told = f"Made by `python -m benchmarks.threads` on {cpu_name()}; {COLUMNS} columns, ms, median and quartiles.\n"
    return f"{told}\n{table}"


def _spread(row: pd.Series, name: str) -> str:
    return f"{row[f'{name}_median_ms']:.3f} ({row[f'{name}_q1_ms']:.3f} to {row[f'{name}_q3_ms']:.3f})"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small graph, few turns")
    parser.add_argument("--out", type=Path, default=RESULTS / "threads.csv")
    options = parser.parse_args()
    if options.quick and options.out == parser.get_default("out"):
        parser.error("--quick measures too little for the committed table; say where its own goes with --out")
    rows = pd.DataFrame([measure(case) for case in (QUICK if options.quick else CASES)])
    write_atomic(options.out, rows.to_csv(index=False, lineterminator="\n"))
    write_atomic(options.out.with_suffix(".md"), summary(rows))


if __name__ == "__main__":
    main()
