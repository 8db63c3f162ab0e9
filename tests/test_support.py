"""The committed support matrix is what the emitters do, and `exact` in it means exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import runs

from lpgnas.export import onnx_qdq
from lpgnas.export.c_build import QUICK_FLAGS, compiled, find_compiler
from lpgnas.export.c_code import export_c
from lpgnas.export.feeding import OPTIMIZATIONS, run_onnxruntime
from lpgnas.export.files import export_files
from lpgnas.export.real_values import Emitter
from lpgnas.export.targets import TARGETS
from lpgnas.integer_program import Score
from lpgnas.kernels.executor import Executor
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, SHORTCUTS
from lpgnas.registry import Registry
from lpgnas.support import MAX_DEGREE, Probe, probes, refusal, support_page

PROBES = {f"{probe.group} {probe.name}": probe for probe in probes()}
ONNX = tuple(name for name in TARGETS if all(file.endswith(".onnx") for file in TARGETS.get(name).files))
OPERATORS = ("attention, aggregation", "activation", "shortcut")
"""Groups that the everyday suite runs through every form elsewhere (`test_conformance.py`)."""


def test_the_committed_page_is_up_to_date() -> None:
    committed = (runs.ROOT / "docs/targets/support.md").read_text()
    assert committed == support_page(PROBES.values()), "run: python -m lpgnas.support > docs/targets/support.md"


def test_every_operator_has_a_row() -> None:
    names = {probe.name for probe in PROBES.values()}
    pairs = {f"{a}, {g}" for a in ATTENTIONS for g in AGGREGATIONS if g in ATTENTIONS.get(a).aggregations}
    assert pairs | set(ACTIVATIONS) | set(SHORTCUTS) <= names


def test_a_hole_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target without an emitter is a number in the row of what needs it, and an error for who asks for it."""
    holed: Registry[Emitter] = Registry("onnx_qdq emitter of operation")
    for name in onnx_qdq.EMITTERS:
        if name != Score.__name__:
            holed.add(name, onnx_qdq.EMITTERS.get(name))
    monkeypatch.setattr(onnx_qdq, "EMITTERS", holed)
    rows = [PROBES[f"attention, aggregation {name}, sum"] for name in ("gcn", "gat")]
    reason = refusal(rows[1].program, "onnx-qdq")
    assert reason.startswith("UnknownName: unknown onnx_qdq emitter of operation 'Score'")
    page = support_page(rows)
    assert "| gcn, sum | exact | exact | exact |" in page
    assert "| gat, sum | exact | 1 | exact |" in page
    assert f"1. `{reason}`" in page


def graph_of(probe: Probe) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Features and edges, random, within the degree of the probes."""
    rng = np.random.default_rng(2)
    nodes, edges = 40, 90
    x = rng.normal(size=(nodes, probe.program.num_features)).astype(np.float32)
    edge_index = rng.integers(0, nodes, (2, edges)).astype(np.int64)
    assert np.bincount(edge_index[1]).max() <= MAX_DEGREE
    return x, edge_index


def is_exact(probe: Probe, target: str, optimizations: tuple[str, ...]) -> None:
    """The file of a probe gives the codes of the kernels, which vary."""
    program, (x, edge_index) = probe.program, graph_of(probe)
    codes = Executor(program).run(x, edge_index).codes
    assert len(np.unique(codes, axis=0)) >= 3
    (content,) = export_files(program, [target]).files.values()
    for optimization in optimizations:
        logits = run_onnxruntime(content, x, edge_index, optimization=optimization)
        np.testing.assert_array_equal(np.ldexp(logits.astype(np.float64), program.logits.fraction), codes)


@pytest.mark.parametrize("name", [name for name in PROBES if PROBES[name].group not in OPERATORS])
def test_exact_cells_are_exact(name: str) -> None:
    for target in ONNX:
        if not refusal(PROBES[name].program, target):
            is_exact(PROBES[name], target, ("all",))


@pytest.mark.slow
@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("name", PROBES)
def test_exact_cells_of_c_code_are_exact(name: str) -> None:
    compiler, (x, edge_index) = find_compiler(), graph_of(PROBES[name])
    assert compiler is not None
    program = PROBES[name].program
    with compiled(program, export_c(program), compiler, QUICK_FLAGS) as built:
        np.testing.assert_array_equal(built.run(x, edge_index), Executor(program).run(x, edge_index).codes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_exact_cells_are_exact_at_every_level(name: str) -> None:
    for target in ONNX:
        if not refusal(PROBES[name].program, target):
            is_exact(PROBES[name], target, OPTIMIZATIONS)
