"""Naive integers = NumPy reference = Numba executor, to the last code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import naive
import numpy as np
import numpy.typing as npt
import pytest
import samples
from scipy import sparse

from lpgnas.errors import DegreeError
from lpgnas.integer_program import IntegerProgram, Transform
from lpgnas.kernels.executor import BLOCK_NODES, Executor
from lpgnas.kernels.reference import run_reference
from lpgnas.number_formats import Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, SHORTCUTS
from lpgnas.spec import ModelSpec

FEATURES, CLASSES, MAX_DEGREE = 12, 5, 40
WITHOUT_JIT = """
import naive, numpy as np, samples
from lpgnas.kernels.executor import Executor
rng = np.random.default_rng(3)
for _ in range(40):
    spec, program = samples.random_program(rng, 12, 5, 40)
    graph = samples.random_graph(rng, 12, 30, 12)
    expected = naive.run(program, graph.x, graph.edge_index)
    assert np.array_equal(Executor(program).run(graph.x, graph.edge_index).codes, expected)
"""


def check_equal(program: IntegerProgram, graph: samples.SampleGraph) -> npt.NDArray[np.int64]:
    """The codes of all three, on dense and sparse features."""
    expected = np.array(naive.run(program, graph.x, graph.edge_index), dtype=np.int64)
    executor = Executor(program)
    for x in (graph.x, sparse.csr_array(graph.x)):
        assert np.array_equal(run_reference(program, x, graph.edge_index), expected), graph.name
        prediction = executor.run(x, graph.edge_index)
        assert prediction.codes.dtype == np.int64
        assert np.array_equal(prediction.codes, expected), graph.name
        assert prediction.logits.dtype == np.float32
        assert np.array_equal(prediction.logits, np.ldexp(expected.astype(np.float32), -program.logits.fraction))
    return expected


def facts(spec: ModelSpec) -> set[str]:
    """Every operator, format and mode of a spec."""
    seen = {f"rounding {spec.rounding}", f"input {spec.input_format}", f"row_normalize {spec.row_normalize}"}
    for layer in spec.layers:
        seen |= {f"{layer.attention}/{layer.aggregation}", layer.activation, f"shortcut {layer.shortcut}"}
        seen |= {f"heads {layer.heads}", f"self_loops {layer.self_loops}"}
        seen |= {f"{component} {choice}" for component, choice in layer.formats.items()}
    return seen


def required_facts() -> set[str]:
    """What has to come up, from the registries."""
    needed = {f"{a}/{g}" for a in ATTENTIONS for g in AGGREGATIONS if g in ATTENTIONS.get(a).aggregations}
    needed |= {*ACTIVATIONS, "heads 1", "heads 2", "heads 4", "self_loops True", "self_loops False"}
    needed |= {f"shortcut {name}" for name in SHORTCUTS} | {f"rounding {mode}" for mode in Rounding}
    needed |= {f"linear_weight {name}" for name in samples.WEIGHT_FORMATS}
    needed |= {f"attention_weight {name}" for name in samples.WEIGHT_FORMATS}
    for component in ("message", "aggregate", "score", "activation", "output"):
        needed |= {f"{component} fixed{bits}" for bits in samples.CODE_BITS}
    needed -= {"activation fixed3", "output fixed3"}
    needed |= {f"input fixed{bits}" for bits in (1, 2, 4, 8)} | {"row_normalize True", "row_normalize False"}
    return needed


def test_random_programs_on_random_graphs() -> None:
    hits: Counter[str] = Counter()
    for seed in range(700):
        rng = np.random.default_rng(seed)
        spec, program = samples.random_program(rng, FEATURES, CLASSES, MAX_DEGREE)
        graph = samples.random_graph(rng, int(rng.integers(5, 24)), int(rng.integers(0, 70)), FEATURES)
        codes = check_equal(program, graph)
        if len(np.unique(codes, axis=0)) >= 3:  # a program of nearly constant logits tests little
            hits.update(facts(spec))
    rare = {fact: hits[fact] for fact in required_facts() if hits[fact] < 20}
    assert not rare


@pytest.mark.parametrize("graph", samples.adversarial_graphs(6, hub_edges=700), ids=lambda graph: graph.name)
def test_adversarial_graphs(graph: samples.SampleGraph) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        check_equal(samples.random_program(rng, 6, 3, graph.max_degree)[1], graph)


def test_several_blocks_of_nodes() -> None:
    """The totals of a transform of several inputs are held for a block of nodes at a time."""
    routed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        program = samples.random_program(rng, 6, 3, 40)[1]
        if any(isinstance(one, Transform) and len(one.inputs) > 1 for one in program.operations):
            check_equal(program, samples.random_graph(rng, 2 * BLOCK_NODES + 3, 900, 6))
            routed += 1
    assert routed > 5


def test_all_extreme_weights_and_features() -> None:
    """Every accumulator at its bound: extreme codes on a hub of exactly max_degree edges."""
    checked = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        spec = samples.random_spec(rng, 6, 3)
        codes = samples.random_codes(rng, spec, 0)
        sign = 1 if seed % 2 else -1
        program = samples.extreme_program(spec, codes, sign=sign, max_degree=300)
        hub = np.stack([rng.integers(0, 5, 300), np.zeros(300, dtype=np.int64)])
        x = np.full((5, 6), 1e30 * sign if spec.input_signed else 1e30, dtype=np.float32)
        check_equal(program, samples.SampleGraph("extreme", x, hub))
        checked += 1
    assert checked == 60


def test_degree_boundary() -> None:
    rng = np.random.default_rng(0)
    program = samples.random_program(rng, 4, 3, max_degree=9)[1]
    for degree in (8, 9):
        edges = np.stack([np.arange(degree) % 5, np.full(degree, 2)])
        check_equal(program, samples.SampleGraph("boundary", samples.random_features(rng, 5, 4), edges))
    edges = np.stack([np.arange(10) % 5, np.full(10, 2)])
    x = samples.random_features(rng, 5, 4)
    for execute in (Executor(program).run, lambda x, edges: run_reference(program, x, edges)):
        with pytest.raises(DegreeError, match="node 2 has 10 incoming edges, but the program is proved for at most 9"):
            execute(x, edges)


def test_without_compilation() -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-W", "error", "-c", WITHOUT_JIT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
