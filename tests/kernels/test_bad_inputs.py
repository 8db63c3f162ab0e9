"""Random bad inputs to every public entry point of `lpgnas.kernels`: named errors, and never a crash.

A case is a valid call with one to three of its arguments, or parts of them, changed. What is still valid has to run;
what is not has to be refused by an error of `lpgnas.errors` that the entry point documents. Cases run in processes of
their own, so that a crash shows as their exit code. The memory around results has to stay as it is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from scipy import sparse

from lpgnas.errors import DegreeError, GraphError, KernelError, LpgnasError, ProgramError
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.aggregation import Bounds, aggregate
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.fixed_point import count_fixed_point
from lpgnas.kernels.packed import PackedCodes, aggregate_packed, pack_codes
from lpgnas.kernels.reference import run_reference
from lpgnas.kernels.spmm import Epilogue
from lpgnas.number_formats import Rounding
from lpgnas.requantize import Rescale, rescale

NODES, ROWS, EDGES, COLUMNS, GUARD = 5, 6, 14, 9, 64
ROOT = Path(__file__).parents[2]
OTHERS: tuple[Any, ...] = (
    None, [], [1, 2], "3", b"x", {}, object, 1.5, float("nan"), float("inf"), -1, 0, 1 << 40, 1 << 63, -(1 << 63),
    10**30, True, np.float32(1), np.int64(-5), np.array(3), np.array([]), np.array([None]), np.datetime64("2020"),
    (1, 2), 2j, [[1], [1, 2]], np.uint8(255), np.int8(127),
)  # fmt: skip
"""Values of any kind."""
INTEGERS = (
    -1,
    -(1 << 40),
    1 << 40,
    1 << 53,
    1 << 62,
    1 << 63,
    10**30,
    None,
    1.0,
    float("nan"),
    "1",
    True,
    [1],
    np.array([1]),
)
WRONG_DTYPES = (
    "float32",
    "float64",
    "int32",
    "bool",
    "object",
    "complex64",
    "M8[s]",
    "S2",
    ">i2",
    ">i8",
    "u8",
    "i4,i4",
)
SPARSE_PARTS = ("data", "indices", "indptr")


@dataclass(frozen=True)
class Entry:
    """A public entry point: a valid call, the errors that it documents, and how often it is drawn."""

    call: Callable[..., Any]
    arguments: dict[str, Any]
    errors: tuple[type[LpgnasError], ...]
    weight: float = 1.0


def guarded(rng: np.random.Generator) -> np.ndarray:
    """Memory of a result, with bytes around it that are no part of it."""
    memory = np.full(NODES * COLUMNS + 2 * GUARD, 99, dtype=np.int8)
    return memory[GUARD:-GUARD].reshape(NODES, COLUMNS)


def entries() -> dict[str, Entry]:
    """Every public entry point with valid arguments."""
    rng = np.random.default_rng(0)
    graph = samples.rectangular_graph(rng.integers(0, NODES, EDGES), rng.integers(0, ROWS, EDGES), NODES, ROWS)
    message = rng.integers(-128, 128, (ROWS, COLUMNS), dtype=np.int8)
    shortcut = rng.integers(-128, 128, (NODES, COLUMNS), dtype=np.int8)
    by = rescale(3, Rounding.HALF_EVEN, -128, 127)
    factor, bias = rng.integers(1, 9, NODES), rng.integers(-50, 50, COLUMNS)
    epilogue = Epilogue(factor, 1, bias, shortcut, 2, by, np.zeros(2, dtype=np.int64))
    bounds = Bounds(128, 128 * EDGES * 127, 1 << 24)
    out, codes = guarded(rng), rng.integers(-8, 8, (ROWS, COLUMNS), dtype=np.int8)
    weights = rng.integers(0, 128, EDGES, dtype=np.uint8)
    summed = {"graph": graph, "message": message, "epilogue": epilogue, "bounds": bounds, "out": out}
    narrow = pack_codes(codes, 4, signed=True)
    packed = {"graph": graph, "message": narrow, "epilogue": epilogue}
    targets = np.arange(EDGES) % NODES  # an edge more into any node passes the degree that the program is proved for
    edges = {"edge_index": np.stack([rng.integers(0, NODES, EDGES), targets])}
    program = samples.random_program(rng, 4, 3, -(-EDGES // NODES))[1]
    x = rng.random((NODES, 4)).astype(np.float32)
    dense, thin = (
        {"program": program, "x": x, **edges},
        {"program": program, "x": sparse.csr_array(x * (x > 0.5)), **edges},
    )
    reads = (GraphError, DegreeError, ProgramError)
    return {
        "CsrGraph": Entry(
            CsrGraph,
            {"indptr": graph.indptr, "sources": graph.sources, "self_loops": False, "num_sources": ROWS},
            (GraphError,),
            3.0,
        ),
        "CsrGraph.from_edges": Entry(
            CsrGraph.from_edges, {**edges, "num_nodes": NODES, "self_loops": True}, (GraphError,), 3.0
        ),
        "CsrGraph.check_degree": Entry(graph.check_degree, {"max_degree": EDGES}, (GraphError, DegreeError)),
        "aggregate": Entry(aggregate, {**summed, "maximum": False, "threads": 1}, (KernelError,), 8.0),
        "aggregate, weighted": Entry(aggregate, {**summed, "weights": weights}, (KernelError,), 5.0),
        "pack_codes": Entry(pack_codes, {"codes": codes, "bits": 4, "signed": True}, (KernelError,), 3.0),
        "PackedCodes": Entry(
            PackedCodes,
            {"data": narrow.data, "columns": COLUMNS, "bits": 4, "signed": True},
            (KernelError,),
            3.0,
        ),
        "aggregate_packed": Entry(
            aggregate_packed, {**packed, "total_bound": 1 << 24, "out": out}, (KernelError,), 5.0
        ),
        "Executor": Entry(Executor, {"program": program}, (ProgramError,), 0.3),
        "Executor.run": Entry(_run, dense, reads, 1.0),
        "Executor.run, sparse": Entry(_run, thin, reads, 0.6),
        "run_reference": Entry(run_reference, dense, reads, 0.3),
        "run_reference, sparse": Entry(run_reference, thin, reads, 0.2),
        "count_fixed_point": Entry(count_fixed_point, dense, reads, 0.4),
    }


_EXECUTORS: dict[int, Executor] = {}


def _run(program: Any, x: Any, edge_index: Any) -> Any:
    """`Executor.run`; an executor is made once a program."""
    if id(program) not in _EXECUTORS:
        executor = Executor(program)
        if len(_EXECUTORS) > 0:
            return executor.run(x, edge_index)
        _EXECUTORS[id(program)] = executor
    return _EXECUTORS[id(program)].run(x, edge_index)


def pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def changed_array(rng: np.random.Generator, array: np.ndarray) -> Any:
    """The array with another shape, dtype, layout or content, or something that is no array."""
    kind = int(rng.integers(12))
    if kind == 0:
        return array.astype(pick(rng, [one for one in WRONG_DTYPES if array.dtype != one]))
    if kind == 1:
        return pick(rng, (array.T, array[::-1], array[..., ::-1], array[::2], np.asfortranarray(array)))
    if kind == 2:
        return pick(
            rng, (array[:-1], array[..., :-1], array[None], array.ravel(), array[..., None], array[:0], array[..., :0])
        )
    if kind == 3:
        return np.concatenate([array, array[:1]], axis=0) if array.ndim else array[None]
    if kind == 4:
        array = array.copy()
        array.flags.writeable = False
        return array
    if kind == 5:  # starts at an odd address
        memory = np.zeros(array.nbytes + 1, dtype=np.uint8)
        memory[1:] = np.ascontiguousarray(array).view(np.uint8).ravel()
        return memory[1:].view(array.dtype).reshape(array.shape) if array.size else array
    if kind in (6, 7, 8) and array.size and array.dtype.kind in "iuf":
        array, place = array.copy(), int(rng.integers(array.size))
        limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
        wrong = (
            limits.min,
            limits.max,
            0,
            int(rng.integers(-9, 9)) % 128,
            *([np.nan, np.inf, -np.inf] if array.dtype.kind == "f" else []),
        )
        array.reshape(-1)[place] = pick(rng, wrong)
        return array
    if kind == 9:
        return pick(rng, (array.tolist(), memoryview(array.tobytes()), np.ma.masked_array(array)))
    if kind == 10 and array.ndim == 2:
        return np.asmatrix(array)
    return pick(rng, OTHERS)


def changed(rng: np.random.Generator, value: Any) -> Any:
    """A value that is wrong, or at least another one."""
    if rng.random() < 0.05:
        return pick(rng, OTHERS)
    if isinstance(value, np.ndarray):
        return changed_array(rng, value)
    if sparse.issparse(value):
        made = value.copy()
        if rng.random() < 0.8:
            part = pick(rng, SPARSE_PARTS)
            setattr(made, part, changed_array(rng, getattr(made, part)))
            return made
        return pick(
            rng,
            (
                made.tocsc(),
                made.tocoo(),
                made.astype(np.float64),
                sparse.csr_matrix(made),
                made[:, :3],
                made[:0],
                sparse.csr_array(np.ones(5, np.float32)),
            ),
        )
    if isinstance(value, Epilogue | Rescale):
        name = pick(rng, value._fields)
        part = {name: changed(rng, getattr(value, name))}
        return tuple(value) if rng.random() < 0.02 else value._replace(**part)
    if isinstance(value, IntegerProgram):
        return dataclasses.replace(value, max_degree=pick(rng, (-1, 0, 1 << 40, value.max_degree)))
    if isinstance(value, Bounds | CsrGraph | PackedCodes):
        name = pick(rng, [field.name for field in dataclasses.fields(value)])
        part = {name: changed(rng, getattr(value, name))}
        return dataclasses.replace(value, **part)
    if isinstance(value, bool):
        return pick(rng, (None, 2, "yes", [], np.array([True, False]), np.bool_(value), value))
    return pick(rng, (*INTEGERS, value, int(rng.integers(0, 4)))) if isinstance(value, int) else pick(rng, OTHERS)


def one_case(rng: np.random.Generator, entry: Entry) -> str:
    """Call with some arguments changed: the name of the error, or `fine`.

    A part that refuses to be made (a graph, packed codes) counts as its own entry point does.
    """
    arguments, errors = dict(entry.arguments), entry.errors
    try:
        for name in rng.permutation(list(arguments))[: pick(rng, (1, 1, 1, 2, 3))]:
            arguments[name] = changed(rng, arguments[name])
    except (GraphError, KernelError) as error:
        return type(error).__name__
    try:
        entry.call(**arguments)
    except LpgnasError as error:
        if type(error) not in errors or len(str(error)) < 10:
            raise AssertionError(f"{type(error).__name__} is not documented: {error}") from error
        return type(error).__name__
    return "fine"


def fuzz(seed: int, count: int) -> dict[str, dict[str, int]]:
    """Outcomes of random cases by entry point; the first that breaks raises, with its number."""
    known = entries()
    names, weights = list(known), np.array([entry.weight for entry in known.values()])
    drawn = np.random.default_rng([seed, 1]).choice(len(names), count, p=weights / weights.sum())
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in names}
    memory = known["aggregate"].arguments["out"].base
    np.seterr(all="ignore")
    for number, which in enumerate(drawn):
        name = names[which]
        rng = np.random.default_rng([seed, number])
        try:
            outcomes[name][one_case(rng, known[name])] += 1
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, case {number}: {type(error).__name__}: {error}") from error
        if (memory[:GUARD] != 99).any() or (memory[-GUARD:] != 99).any():
            raise AssertionError(f"{name}, seed {seed}, case {number}: written outside of the result")
    return {name: dict(counter) for name, counter in outcomes.items()}


def worker(seed: int, count: int) -> subprocess.Popen[str]:
    """`fuzz` in a process of its own, which prints its outcomes."""
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests", ROOT / "tests/kernels"))
    code = f"import json, test_bad_inputs as t; print(json.dumps(t.fuzz({seed}, {count})))"
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", code]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcomes_of(processes: list[subprocess.Popen[str]]) -> dict[str, Counter[str]]:
    """The outcomes of all workers; a crash is a negative exit code."""
    together: dict[str, Counter[str]] = {}
    printed_by = [process.communicate(timeout=1800) for process in processes]  # all of them, so that none is left
    for process, (printed, complained) in zip(processes, printed_by, strict=True):
        assert process.returncode == 0, f"exit code {process.returncode}: {complained[-4000:]}"
        for name, counts in json.loads(printed).items():
            together.setdefault(name, Counter()).update(counts)
    return together


def check(outcomes: dict[str, Counter[str]], count: int) -> None:
    """Every entry point ran, was refused, and every class of error was met where it is documented."""
    assert sum(counts.total() for counts in outcomes.values()) == count
    for name, entry in entries().items():
        assert outcomes[name]["fine"] > 0, name
        for error in entry.errors:
            assert outcomes[name][error.__name__] > 0, (name, error.__name__)


def test_bad_inputs_are_refused_by_name() -> None:
    check(outcomes_of([worker(0, 20_000)]), 20_000)


@pytest.mark.slow
def test_a_million_bad_inputs() -> None:
    check(outcomes_of([worker(seed, 125_000) for seed in range(1, 3)]), 250_000)
    for first in (3, 5, 7):
        outcomes_of([worker(seed, 125_000) for seed in (first, first + 1)])
