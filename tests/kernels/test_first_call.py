"""With compiled kernels on disk a process waits for its first result for less than a second of processor time."""

from __future__ import annotations

import json

import runs

FIRST_CALLS = """
import json, sys, time
import numpy as np
import samples
from lpgnas.kernels.aggregation import Bounds, aggregate
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.spmm import Epilogue
from lpgnas.number_formats import Rounding
from lpgnas.requantize import rescale

assert not {"torch", "torch_geometric", "brevitas"} & set(sys.modules), "imported"
program = samples.random_program(np.random.default_rng(1), 4, 3, 5)[1]
executor, x, edges = Executor(program), np.ones((3, 4), dtype=np.float32), np.array([[0, 1], [1, 2]])
graph = CsrGraph(np.array([0, 1]), np.zeros(1, dtype=np.int32), self_loops=False)
by, nothing = rescale(1, Rounding.HALF_EVEN, -128, 127), np.zeros((1, 0), dtype=np.int8)
epilogue = Epilogue(np.zeros(0, dtype=np.int64), 0, np.zeros(64, dtype=np.int64), nothing, 0, by)
message, out = np.full((1, 64), 5, dtype=np.int8), np.empty((1, 64), dtype=np.int8)
calls = (lambda: aggregate(graph, message, epilogue, Bounds(128, 128, 1000), out), lambda: executor.run(x, edges))
taken = []
for call in calls:
    started = time.process_time()
    call()
    taken.append(time.process_time() - started)
assert (out == 2).all()
assert not {"torch", "torch_geometric", "brevitas"} & set(sys.modules), "imported by a call"
print(json.dumps(taken))
"""


def first_calls() -> list[float]:
    """Seconds of the first aggregation, numba's import in it, and of the first run of a program, in a new process."""
    code = f"import sys; sys.path.insert(0, {str(runs.ROOT / 'tests')!r})\n{FIRST_CALLS}"
    done = runs.python("-c", code)
    assert done.returncode == 0, done.stderr
    taken: list[float] = json.loads(done.stdout)
    return taken


def test_first_calls_take_less_than_a_second() -> None:
    """The first process fills the cache; of three others the fastest counts, since other work shares the caches."""
    first_calls()
    for kind in zip(*(first_calls() for _ in range(3)), strict=True):
        assert min(kind) < 1.0, kind
