"""Latency of a run's integer program beside the same architecture in float32: `bench.json`.

One process; every contender is called once a round, the order turns from round to round; first calls, which compile
and prepare, are timed apart. Times depend on the machine, so `bench.json` is no part of the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lpgnas import __version__
from lpgnas.errors import ConfigError, RunFolderError
from lpgnas.float_rivals import csr_rival, pyg_rival
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram, writes
from lpgnas.kernels.executor import Executor
from lpgnas.layers import QuantizedModel
from lpgnas.machine import cpu_name
from lpgnas.pipeline import PROGRAM, Run
from lpgnas.report import markdown_table
from lpgnas.results import package_versions, read_file, sha256, to_json, write_atomic

BENCH = "bench.json"
SCHEMA_VERSION = 1
WARM_UP = 3
"""Untimed calls of each contender after its first one."""


@dataclass(frozen=True)
class Contender:
    """Something that is timed, with what its call takes in."""

    name: str
    what: str
    call: Callable[[], object]


def contenders(program: IntegerProgram, model: QuantizedModel, graph: Graph) -> list[Contender]:
    """Whole inferences on one graph."""
    executor = Executor(program)
    prepared = executor.prepare(graph.x, graph.edge_index)
    return [
        Contender(
            "integers, whole",
            "Numba executor: checks, quantised features, CSR, arena, operations; 1 thread",
            lambda: executor.run(graph.x, graph.edge_index),
        ),
        Contender("integers, prepared", "Numba executor: its operations; 1 thread", prepared.predict),
        Contender("PyG, float32", "PyG's layers, dense features, prepared", pyg_rival(model, graph)),
        Contender("torch CSR, float32", "sparse CSR features and adjacency, prepared", csr_rival(model, graph)),
    ]


def interleaved(
    timed: Sequence[Contender], rounds: int, clock: Callable[[], int] = time.perf_counter_ns
) -> list[dict[str, Any]]:
    """Time every contender in turns: milliseconds of the first call, and the quartiles of `rounds` later ones.

    Args:
        timed: what is called.
        rounds: how often each is timed.
        clock: gives nanoseconds; `time.process_time_ns` leaves out what other processes take.
    """
    first = [_milliseconds(one.call, clock) for one in timed]
    for _ in range(WARM_UP):
        for one in timed:
            one.call()
    times = np.empty((len(timed), rounds))
    for turn in range(rounds):
        for position in range(len(timed)):
            chosen = (position + turn) % len(timed)
            times[chosen, turn] = _milliseconds(timed[chosen].call, clock)
    return [
        {"name": one.name, "what": one.what, "first_ms": round(start, 4), **_quartiles(row)}
        for one, start, row in zip(timed, first, times, strict=True)
    ]


def by_operation(program: IntegerProgram, graph: Graph, rounds: int) -> list[dict[str, Any]]:
    """Quartiles of every operation of the program, timed one by one on a prepared graph."""
    prepared = Executor(program).prepare(graph.x, graph.edge_index)
    prepared.predict()
    times = np.empty((len(program.operations), rounds))
    for turn in range(rounds):
        for row, operation in zip(times, program.operations, strict=True):
            row[turn] = _milliseconds(partial(prepared.step, operation))
    return [
        {
            "block": operation.layer,
            "operation": type(operation).__name__.lower(),
            "writes": ", ".join(name.rsplit("/", 1)[-1] for name in writes(operation)),
            **_quartiles(row),
        }
        for operation, row in zip(program.operations, times, strict=True)
    ]


def bench_run(folder: Path, data_root: Path | None, *, threads: int = 1, rounds: int = 30) -> dict[str, Any]:
    """Measure a run's program, write `bench.json` into its folder and return what it says.

    Raises:
        ConfigError: no rounds or no threads.
        RunFolderError: the run has not been lowered.
        CheckFailed: a file of the run was changed.
    """
    for name, value in (("rounds", rounds), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    run = Run(folder, None, data_root)
    if "lower" not in run.record()["stages"]:
        raise RunFolderError(f"{folder}: bench needs 'lower' to be done first")
    run.check_hashes()
    program, model, graph = run.program(), run.model(), run.prepared.graph
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measured = interleaved(contenders(program, model, graph), rounds)
        operations = by_operation(program, graph, rounds)
    finally:
        torch.set_num_threads(before)
    result = {
        "schema_version": SCHEMA_VERSION,
        "lpgnas_version": __version__,
        "versions": package_versions(),
        "cpu": cpu_name(),
        "threads": threads,
        "rounds": rounds,
        "dataset": graph.name,
        "num_nodes": graph.num_nodes,
        "num_edges": graph.num_edges,
        "program_sha256": sha256(read_file(folder / PROGRAM)),
        "contenders": measured,
        "operations": operations,
    }
    write_atomic(folder / BENCH, to_json(result))
    return result


def bench_table(result: dict[str, Any]) -> str:
    """What `bench_run` returned, as Markdown."""
    head = (
        f"{result['dataset']}: {result['num_nodes']:,} nodes, {result['num_edges']:,} edges. {result['cpu']}, "
        f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}, {result['rounds']} interleaved rounds; "
        "milliseconds, median and quartiles.\n\n"
    )
    rows = [[one["name"], *_cells(one), f"{one['first_ms']:.1f}", one["what"]] for one in result["contenders"]]
    whole = markdown_table(["inference", "median", "quartiles", "first call", ""], rows)
    rows = [[one["block"], one["operation"], one["writes"], *_cells(one)] for one in result["operations"]]
    return head + whole + "\n" + markdown_table(["block", "operation", "writes", "median", "quartiles"], rows)


def _cells(one: dict[str, Any]) -> list[str]:
    return [f"{one['median_ms']:.3f}", f"{one['q1_ms']:.3f} to {one['q3_ms']:.3f}"]


def _milliseconds(call: Callable[[], object], clock: Callable[[], int] = time.perf_counter_ns) -> float:
    started = clock()
    call()
    return (clock() - started) / 1e6


def _quartiles(times: np.ndarray) -> dict[str, float]:
    names = ("q1_ms", "median_ms", "q3_ms")
    return {name: round(float(np.quantile(times, q)), 4) for name, q in zip(names, (0.25, 0.5, 0.75), strict=True)}
