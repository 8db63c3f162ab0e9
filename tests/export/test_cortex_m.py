"""The C code on an emulated Cortex-M: the host's codes, and flash and RAM that the program's own sizes explain."""

from __future__ import annotations

import re
from pathlib import Path

import naive
import numpy as np
import numpy.typing as npt
import pytest
from export_cases import case, cora_program

from benchmarks.cortex_m import neighbourhood
from lpgnas.datasets import load_dataset
from lpgnas.errors import ExportError
from lpgnas.export import cortex_m
from lpgnas.export.c_code import CodeOptions, CSource, arena_bytes, export_c
from lpgnas.export.cortex_m import BOARDS, INSTRUCTIONS_PER_TICK, MachineRun, missing_tools, run_on_cortex_m
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.quantize import quantize_features

needs_tools = pytest.mark.skipif(
    bool(missing_tools()), reason=f"not on the PATH: {missing_tools()} (Debian: gcc-arm-none-eabi, qemu-system-arm)"
)


def with_graph(program: IntegerProgram, graph: Graph) -> CSource:
    return export_c(
        program, CodeOptions(graph=CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False))
    )


def on_machine(program: IntegerProgram, graph: Graph, processor: str = "cortex-m3") -> MachineRun:
    codes = quantize_features(graph.x, program.input_format, program.rounding)
    return run_on_cortex_m(program, with_graph(program, graph), codes, processor=processor)


def rows(graph: Graph) -> npt.NDArray[np.float32]:
    return graph.x if isinstance(graph.x, np.ndarray) else np.asarray(graph.x.toarray())


@pytest.mark.slow
@needs_tools
@pytest.mark.parametrize("weights", ["binary", "ternary", "fixed4", "fixed8"])
def test_a_neighbourhood_of_cora(weights: str) -> None:
    graph = neighbourhood(load_dataset("cora"), 5, 24)
    program = cora_program(weights, 168)
    wanted = naive.run(program, rows(graph), graph.edge_index)
    assert graph.num_nodes == 24
    assert len(np.unique(wanted, axis=0)) > 5
    processor = {"binary": "cortex-m4", "fixed8": "cortex-m7"}.get(weights, "cortex-m3")
    made = on_machine(program, graph, processor)
    np.testing.assert_array_equal(made.codes, wanted)
    packed = sum(-(-array.values.size * array.bits // 8) for array in program.arrays)
    small = graph.num_nodes + 1 + graph.num_edges + 64  # the graph in bytes, the offsets, and what the compiler adds
    assert packed <= made.constant_bytes <= packed + small
    arena = arena_bytes(program, graph.num_nodes)
    assert arena <= made.ram_bytes <= arena + 64
    assert 0 < made.stack_bytes < 1024
    assert made.code_bytes + made.constant_bytes < made.flash_bytes
    assert made.code_bytes < 4096
    assert made.instructions > np.count_nonzero(rows(graph)) * 16


@pytest.mark.slow
@needs_tools
@pytest.mark.parametrize("index", range(0, 60, 4))
def test_random_programs(index: int) -> None:
    sample = case(index)
    one = sample.graphs[0]
    made = on_machine(sample.program, Graph(one.name, one.x, one.edge_index))
    np.testing.assert_array_equal(
        made.codes, np.ldexp(sample.expected[0].astype(float), sample.program.logits.fraction)
    )


LOOPS = 3_000_000


@pytest.mark.slow
@needs_tools
@pytest.mark.parametrize("processor", BOARDS)
def test_the_clock_counts_instructions(processor: str) -> None:
    """A model that is a loop of two instructions takes twice as many as its rounds."""
    sample = case(0)
    one = sample.graphs[0]
    graph = Graph(one.name, one.x, one.edge_index)
    made = with_graph(sample.program, graph)
    head = re.search(rb"lpgnas_status lpgnas_run\([^)]*\)", made.header)
    assert head
    body = (
        '\n#include "lpgnas_model.h"\n%s\n{\n'
        "    static const lpgnas_logit none[LPGNAS_NUM_NODES * LPGNAS_NUM_CLASSES];\n"
        '    uint32_t left = %d;\n    __asm__ volatile("1: subs %%0, #1\\n bne 1b" : "+l"(left) : : "cc");\n'
        "    (void)input; (void)arena; (void)arena_bytes;\n    *logits = none;\n    return LPGNAS_OK;\n}\n"
    )
    counting = CSource(made.header, (body % (head[0].decode(), LOOPS)).encode())
    codes = quantize_features(graph.x, sample.program.input_format, sample.program.rounding)
    counted = run_on_cortex_m(sample.program, counting, codes, processor=processor).instructions
    assert abs(counted - 2 * LOOPS) <= 2 * INSTRUCTIONS_PER_TICK


def test_what_cannot_be_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = case(0)
    codes = np.zeros((12, sample.program.num_features), dtype=np.int8)
    with pytest.raises(ExportError, match="export them with a graph"):
        run_on_cortex_m(sample.program, export_c(sample.program), codes)
    one = sample.graphs[0]
    made = with_graph(sample.program, Graph(one.name, one.x, one.edge_index))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ExportError, match=r"not on the PATH: .*qemu-system-arm"):
        run_on_cortex_m(sample.program, made, codes)


def test_the_page_shows_the_committed_table() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/targets/c.md").read_text()
    measured = (root / "benchmarks/results/cortex_m.md").read_text().splitlines()
    assert measured == [
        line for line in page.splitlines() if line.startswith(("| processor", "| cortex", "|---|---|---|---|"))
    ]


@pytest.mark.slow
@needs_tools
def test_a_refusal_of_the_code_is_told() -> None:
    sample = case(next(k for k in range(60) if case(k).program.input.bits == 4))
    one = sample.graphs[0]
    made = with_graph(sample.program, Graph(one.name, one.x, one.edge_index))
    codes = np.full(one.x.shape, 100, dtype=np.int8)
    with pytest.raises(ExportError, match="returned the status 7"):
        run_on_cortex_m(sample.program, made, codes)
    with pytest.raises(ExportError, match="no board for 'cortex-m9'"):
        cortex_m._emulate(None, "cortex-m9")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="failed"):
        run_on_cortex_m(sample.program, CSource(made.header, b"#error"), codes)
