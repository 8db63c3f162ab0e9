"""Latency of a run's integer program beside the same model in other runtimes: `bench.json` and `bench.png`.

One process. Every contender is called twice a round, and the second call is timed, with its own arrays in the caches;
the order turns from round to round. First calls, which compile and prepare, are timed apart, and what they give is
checked: integers must have the codes of the executor, floats the logits of the trained model without quantisation.
Times depend on the machine, so the files are no part of the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lpgnas import __version__
from lpgnas.bench_plot import bench_png
from lpgnas.errors import CheckFailed, ConfigError, RunFolderError
from lpgnas.export.feeding import onnxruntime_session, run_session
from lpgnas.export.targets import ONNX_INT, ONNX_QDQ
from lpgnas.float_rivals import csr_rival, float_logits, pyg_rival, scipy_refusal, scipy_rival
from lpgnas.graph import Features, Graph
from lpgnas.integer_program import IntegerProgram, writes
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor, Prediction, check_inputs, decode
from lpgnas.kernels.quantize import quantize_input
from lpgnas.layers import QuantizedModel
from lpgnas.machine import cpu_name
from lpgnas.pipeline import PROGRAM, Run
from lpgnas.report import markdown_table
from lpgnas.results import package_versions, read_file, sha256, to_json, write_atomic

BENCH, PLOT = "bench.json", "bench.png"
SCHEMA_VERSION = 2
WARM_UP = 3
"""Untimed calls of each contender after its first one."""
TOLERANCE = 1e-4
"""How far float32 logits may be from those in float64, times the largest one."""
PREPARED = "integers, prepared"
CODES, LOGITS = "equal codes", "close logits"
"""How a contender was checked."""
FILES = {"onnx-int": (ONNX_INT, "integers"), "onnx-qdq": (ONNX_QDQ, "quantised")}
"""Exported files that onnxruntime runs here, by target, and how a table calls them."""


@dataclass(frozen=True)
class Contender:
    """Something that is timed.

    Attributes:
        name: of it.
        what: what its call takes in.
        call: one call.
        check: raises if the result of a call is not what it should be; None to check nothing.
        checked: what `check` is, for people.
    """

    name: str
    what: str
    call: Callable[[], object]
    check: Callable[[object], None] | None = None
    checked: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Something that is not timed, and why."""

    name: str
    reason: str


def contenders(program: IntegerProgram, model: QuantizedModel, graph: Graph) -> list[Contender]:
    """Whole inferences on one graph: ours, and float32 ones of the same architecture."""
    executor = Executor(program)
    prepared = executor.prepare(graph.x, graph.edge_index)
    codes, logits = executor.run(graph.x, graph.edge_index).codes, float_logits(model, graph)
    ours = partial(_check_codes, codes, "integers")
    floats: list[tuple[str, str, Callable[[], object]]] = [
        ("PyG, float32", "PyG's layers, dense features, prepared", pyg_rival(model, graph)),
        ("torch CSR, float32", "sparse CSR features and adjacency, prepared", csr_rival(model, graph)),
    ]
    if not scipy_refusal(model):
        what = "sparse CSR features and adjacency, prepared; 1 thread"
        floats.append(("scipy, float32", what, scipy_rival(model, graph)))
    return [
        Contender(
            "integers, whole",
            "Numba executor: checks, quantised features, CSR, arena, operations; 1 thread",
            lambda: executor.run(graph.x, graph.edge_index),
            ours,
            CODES,
        ),
        Contender(PREPARED, "Numba executor: its operations; 1 thread", prepared.predict, ours, CODES),
        *(Contender(name, what, call, partial(_check_logits, logits, name), LOGITS) for name, what, call in floats),
    ]


def onnx_contenders(
    folder: Path, program: IntegerProgram, graph: Graph, threads: int
) -> tuple[list[Contender], list[LeftOut]]:
    """The exported files of a run in onnxruntime, and those that it does not have."""
    x = graph.x if isinstance(graph.x, np.ndarray) else graph.x.toarray()
    codes = Executor(program).run(graph.x, graph.edge_index).codes
    made: list[Contender] = []
    left_out: list[LeftOut] = []
    for target, (file, kind) in FILES.items():
        name = f"onnxruntime, {kind}"
        if not (folder / file).exists():
            left_out.append(LeftOut(name, f"the run has no {file}: its record says why, or lpgnas export writes it"))
            continue
        session = onnxruntime_session(read_file(folder / file), threads=threads)
        made.append(
            Contender(
                name,
                f"{file} ({target}): dense features, quantised in the file, and edges",
                partial(run_session, session, x, graph.edge_index),
                partial(_check_scaled, codes, program.logits.fraction, name),
                CODES,
            )
        )
    left_out.append(LeftOut("onnxruntime, float32", "there is no target for models in float32"))
    return made, left_out


def _check_codes(codes: np.ndarray, name: str, result: object) -> None:
    found = result.codes if isinstance(result, Prediction) else np.asarray(result)
    different = int((found != codes).sum()) if found.shape == codes.shape else codes.size
    if different:
        raise CheckFailed(f"{name}: {different} of {codes.size} codes are not the executor's; nothing was timed")


def _check_scaled(codes: np.ndarray, fraction: int, name: str, result: object) -> None:
    _check_codes(codes, name, np.ldexp(np.asarray(result).astype(np.float64), fraction))


def _check_logits(logits: np.ndarray, name: str, result: object) -> None:
    found, tolerance = np.asarray(result), TOLERANCE * max(1.0, float(np.abs(logits).max()))
    if found.shape != logits.shape or not np.allclose(found, logits, rtol=0.0, atol=tolerance):
        worst = float(np.abs(found - logits).max()) if found.shape == logits.shape else float("inf")
        raise CheckFailed(f"{name}: logits differ from the float32 model's by {worst:.3g}; nothing was timed")


def interleaved(
    timed: Sequence[Contender], rounds: int, clock: Callable[[], int] = time.perf_counter_ns
) -> list[dict[str, Any]]:
    """Time every contender in turns: milliseconds of the first call, and the quartiles of `rounds` later ones.

    Args:
        timed: what is called.
        rounds: how often each is timed.
        clock: gives nanoseconds; `time.process_time_ns` leaves out what other processes take.

    Raises:
        CheckFailed: a first call gave something wrong.
    """
    first = [_checked_first(one, clock) for one in timed]
    for _ in range(WARM_UP):
        for one in timed:
            one.call()
    times = np.empty((len(timed), rounds))
    for turn in range(rounds):
        for position in range(len(timed)):
            chosen = (position + turn) % len(timed)
            timed[chosen].call()  # its own arrays come back into the caches
            times[chosen, turn] = _milliseconds(timed[chosen].call, clock)
    return [
        {"name": one.name, "what": one.what, "checked": one.checked, "first_ms": round(start, 4), **_quartiles(row)}
        for one, start, row in zip(timed, first, times, strict=True)
    ]


def _checked_first(one: Contender, clock: Callable[[], int]) -> float:
    """Milliseconds of the first call, whose result is checked."""
    results: list[object] = []
    taken = _milliseconds(lambda: results.append(one.call()), clock)
    if one.check is not None:
        one.check(results[0])
    return taken


def by_preparation(program: IntegerProgram, graph: Graph, rounds: int) -> list[dict[str, Any]]:
    """Quartiles of what a whole inference does beside the operations."""
    loops = any(getattr(operation, "self_loops", False) for operation in program.operations)
    codes = Executor(program).run(graph.x, graph.edge_index).codes
    x: Features = graph.x
    steps: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("check", "", partial(check_inputs, program, x)),
        ("quantise", "input", partial(quantize_input, x, program.input_format, program.rounding)),
        ("CSR", "edges", partial(CsrGraph.from_edges, graph.edge_index, graph.num_nodes, self_loops=loops)),
        ("decode", "logits", partial(decode, program, codes)),
    )
    timed = interleaved([Contender(what, writes, call) for what, writes, call in steps], rounds)
    keep = ("q1_ms", "median_ms", "q3_ms")
    return [{"operation": one["name"], "writes": one["what"]} | {name: one[name] for name in keep} for one in timed]


def by_operation(
    program: IntegerProgram, graph: Graph, rounds: int, clock: Callable[[], int] = time.perf_counter_ns
) -> list[dict[str, Any]]:
    """Quartiles of every operation of the program, timed one by one on a prepared graph."""
    prepared = Executor(program).prepare(graph.x, graph.edge_index)
    prepared.predict()
    times = np.empty((len(program.operations), rounds))
    for turn in range(rounds):
        for row, operation in zip(times, program.operations, strict=True):
            row[turn] = _milliseconds(partial(prepared.step, operation), clock)
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
    """Measure a run's program, write `bench.json` and `bench.png` into its folder and return what the first says.

    Raises:
        ConfigError: no rounds or no threads.
        RunFolderError: the run has not been lowered.
        CheckFailed: a file of the run was changed, or a contender gives something else than the model.
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
        exported, left_out = onnx_contenders(folder, program, graph, threads)
        measured = interleaved([*contenders(program, model, graph), *exported], rounds)
        preparation, operations = by_preparation(program, graph, rounds), by_operation(program, graph, rounds)
    finally:
        torch.set_num_threads(before)
    if scipy_refusal(model):
        left_out.insert(0, LeftOut("scipy, float32", scipy_refusal(model)))
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
        "left_out": [asdict(one) for one in left_out],
        "preparation": preparation,
        "operations": operations,
    }
    write_atomic(folder / BENCH, to_json(result))
    write_atomic(folder / PLOT, bench_png(result))
    return result


def bench_table(result: dict[str, Any]) -> str:
    """What `bench_run` returned, as Markdown."""
    head = (
        f"{result['dataset']}: {result['num_nodes']:,} nodes, {result['num_edges']:,} edges. {result['cpu']}, "
        f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}, {result['rounds']} interleaved rounds; "
        "milliseconds, median and quartiles; `times` is the median over that of `integers, prepared`.\n\n"
    )
    parts = [head + _whole_table(result["contenders"])]
    steps = [["", one["operation"], one["writes"], *_cells(one)] for one in result["preparation"]]
    steps += [[one["block"], one["operation"], one["writes"], *_cells(one)] for one in result["operations"]]
    parts.append(markdown_table(["block", "operation", "writes", "median", "quartiles"], steps))
    parts.append("".join(f"Not timed: {one['name']}: {one['reason']}.\n" for one in result["left_out"]))
    return "\n".join(parts)


def _whole_table(measured: list[dict[str, Any]]) -> str:
    base = next(one["median_ms"] for one in measured if one["name"] == PREPARED)
    rows = [
        [
            one["name"],
            *_cells(one),
            f"{one['median_ms'] / base:.2f}",
            f"{one['first_ms']:.1f}",
            one["checked"],
            one["what"],
        ]
        for one in measured
    ]
    return markdown_table(["inference", "median", "quartiles", "times", "first call", "checked", ""], rows)


def _cells(one: dict[str, Any]) -> list[str]:
    return [f"{one['median_ms']:.3f}", f"{one['q1_ms']:.3f} to {one['q3_ms']:.3f}"]


def _milliseconds(call: Callable[[], object], clock: Callable[[], int] = time.perf_counter_ns) -> float:
    started = clock()
    call()
    return (clock() - started) / 1e6


def _quartiles(times: np.ndarray) -> dict[str, float]:
    names = ("q1_ms", "median_ms", "q3_ms")
    return {name: round(float(np.quantile(times, q)), 4) for name, q in zip(names, (0.25, 0.5, 0.75), strict=True)}
