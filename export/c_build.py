"""Compile exported C files with the host's compiler and run them on graphs, in a process of their own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lpgnas.errors import ExportError, GraphError
from lpgnas.export.c_code import SOURCE, STATUSES, CSource
from lpgnas.graph import Features
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import check_inputs
from lpgnas.kernels.quantize import SparseCodes, code_dtype, quantize_features
from lpgnas.requantize import AnyCodes

COMPILERS = ("gcc", "cc")
FLAGS = ("-std=c99", "-O1")
QUICK_FLAGS = ("-std=c99", "-O0")
"""For small graphs, where building takes longer than running."""
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion")
"""What the files build with."""
_LIMIT_SECONDS = 600


def find_compiler() -> str | None:
    """The path of a C compiler whose programs run here, or None.

    One without the C library's headers builds none, a cross-compiler's programs do not run, and none does in a folder
    of temporary files that forbids it.
    """
    found = (path for name in COMPILERS if (path := shutil.which(name)) is not None)
    return next(filter(_works, found), None)


def _works(compiler: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="lpgnas-c-") as name:
        source = Path(name) / "empty.c"
        source.write_text("#include <stdint.h>\n#include <stdio.h>\nint main(void) { return 0; }\n")
        program = source.with_suffix("")
        try:
            for command in ([compiler, *QUICK_FLAGS, "-o", str(program), str(source)], [str(program)]):
                if subprocess.run(command, capture_output=True, timeout=_LIMIT_SECONDS, check=False).returncode != 0:
                    return False
            return True
        except (OSError, subprocess.TimeoutExpired):
            return False


@dataclass(frozen=True)
class CProgram:
    """An executable of exported files; it lives in the folder that `compiled` made."""

    path: Path
    program: IntegerProgram
    constant_graph: bool

    def run(self, x: Features, edge_index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Codes of the logits [N, C] of a graph (the compiled-in one, if there is one: `edge_index` is not read).

        Raises:
            GraphError: arrays that are not a graph, or that the C code refuses.
            DegreeError: a node with more incoming edges than the program is proved for.
            ExportError: the code broke.
        """
        check_inputs(self.program, x)
        codes = quantize_features(x, self.program.input_format, self.program.rounding)
        graph = None
        if not self.constant_graph:
            graph = CsrGraph.from_edges(edge_index, int(x.shape[0]), self_loops=False)
            graph.check_degree(self.program.max_degree)
        return self.run_codes(codes, graph)

    def run_codes(self, codes: AnyCodes | SparseCodes, graph: CsrGraph | None) -> npt.NDArray[np.int64]:
        """The same for codes of the input [N, F], dense or sparse, and a graph without added loops."""
        nodes = int(codes.indptr.size - 1) if isinstance(codes, SparseCodes) else int(codes.shape[0])
        none = np.zeros(0, dtype=np.int64)
        indptr, sources = (none, none) if graph is None else (graph.indptr, graph.sources)
        status, made = self.call(nodes, indptr, sources, codes)
        if status:
            name, why = STATUSES[status] if 0 < status < len(STATUSES) else (str(status), "an unknown status")
            raise GraphError(f"the C code returned LPGNAS_{name}: {why}")
        return made

    def call(
        self,
        nodes: int,
        indptr: npt.NDArray[np.integer],
        sources: npt.NDArray[np.integer],
        codes: AnyCodes | SparseCodes,
        *,
        arena_shortage: int = 0,
    ) -> tuple[int, npt.NDArray[np.int64]]:
        """The status and the codes of a call with whatever arrays; nothing is checked here.

        Args:
            nodes: what the call says of its number of nodes.
            indptr: [N + 1] of the graph.
            sources: [E] of the graph.
            codes: the input, dense [N, F] or sparse.
            arena_shortage: bytes that the arena is too small by.
        """
        kind = code_dtype(self.program.input.bits, signed=self.program.input.signed)
        numbers: list[npt.NDArray[np.integer]] = [np.asarray(indptr), np.asarray(sources)]
        dense: AnyCodes = np.zeros(0, dtype=kind)
        entries: AnyCodes = np.zeros(0, dtype=kind)
        if isinstance(codes, SparseCodes):
            numbers += [codes.indptr, codes.indices]
            entries = codes.codes
        else:
            numbers += [np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)]
            dense = codes
        binary = bool(isinstance(codes, SparseCodes) and codes.codes.size and (codes.codes == 1).all())
        head = [nodes, arena_shortage, int(binary), *(one.size for one in numbers), dense.size, entries.size]
        message = b"".join(np.asarray(one, dtype="<i4").tobytes() for one in (np.array(head), *numbers))
        message += dense.astype(kind).tobytes() + entries.astype(kind).tobytes()
        return self._answer(message)

    def _answer(self, message: bytes) -> tuple[int, npt.NDArray[np.int64]]:
        try:
            done = subprocess.run([self.path], input=message, capture_output=True, timeout=_LIMIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"the compiled C code could not be run: {error}") from error
        if done.returncode or len(done.stdout) < 4:
            text = done.stderr.decode(errors="replace")[-2000:]
            raise ExportError(f"the compiled C code ended with {done.returncode}: {text}")
        logits = self.program.logits
        codes = np.frombuffer(done.stdout[4:], dtype=code_dtype(logits.bits, signed=logits.signed)).astype(np.int64)
        status = int(np.frombuffer(done.stdout[:4], dtype=np.int32)[0])
        return status, codes.reshape(-1, self.program.num_classes)


@contextmanager
def compiled(
    program: IntegerProgram, source: CSource, compiler: str, flags: Sequence[str] = FLAGS
) -> Iterator[CProgram]:
    """An executable of exported files, in a temporary folder for as long as the context lasts.

    Raises:
        ExportError: the compiler refuses the files; the message holds its first words.
    """
    with tempfile.TemporaryDirectory(prefix="lpgnas-c-") as name:
        folder = Path(name)
        for file, content in {**source.files(), "harness.c": HARNESS.encode()}.items():
            (folder / file).write_bytes(content)
        made = folder / "harness"
        command = [compiler, *flags, "-o", str(made), str(folder / "harness.c"), str(folder / SOURCE)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_LIMIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"{compiler} could not be run: {error}") from error
        if done.returncode:
            raise ExportError(f"{compiler} refused the C code: {done.stderr.decode(errors='replace')[:2000]}")
        yield CProgram(made, program, b"LPGNAS_CONSTANT_GRAPH" in source.header)


HARNESS = """\
/* Reads one call from standard input (32-bit integers, then codes) and writes the status and the logits' codes. */
#include <stdio.h>
#include <stdlib.h>
#include "lpgnas_model.h"

enum { NODES, SHORTAGE, BINARY, INDPTR, SOURCES, ROWS, COLUMNS, DENSE, ENTRIES, FIELDS };

static void *read_items(size_t count, size_t size)
{
    void *items = malloc(count * size + 1);
    if (items == NULL || fread(items, size, count, stdin) != count)
        exit(3);
    return items;
}

int main(void)
{
    int32_t *head = read_items(FIELDS, sizeof *head);
    int32_t *indptr = read_items((size_t)head[INDPTR], sizeof *indptr);
    int32_t *sources = read_items((size_t)head[SOURCES], sizeof *sources);
    int32_t *rows = read_items((size_t)head[ROWS], sizeof *rows);
    int32_t *columns = read_items((size_t)head[COLUMNS], sizeof *columns);
    lpgnas_code *dense = read_items((size_t)head[DENSE], sizeof *dense);
    lpgnas_code *entries = read_items((size_t)head[ENTRIES], sizeof *entries);
    lpgnas_input input = { NULL, 0, NULL, NULL, NULL };
    const lpgnas_logit *logits = NULL;
    size_t bytes = lpgnas_arena_bytes(head[NODES]) - (size_t)head[SHORTAGE];
    void *arena = malloc(bytes + 1);
    int32_t status;
    if (arena == NULL)
        return 3;
    if (head[ROWS] == 0) {
        input.dense = dense;
    } else {
        input.num_entries = head[COLUMNS];
        input.indptr = rows;
        input.indices = columns;
        input.codes = head[BINARY] ? NULL : entries;
    }
#ifdef LPGNAS_CONSTANT_GRAPH
    status = lpgnas_run(&input, arena, bytes, &logits);
#else
    {
        lpgnas_graph graph = { 0, 0, NULL, NULL };
        graph.num_nodes = head[NODES];
        graph.num_edges = head[SOURCES];
        graph.indptr = indptr;
        graph.sources = sources;
        status = lpgnas_run(&graph, &input, arena, bytes, &logits);
    }
#endif
    if (fwrite(&status, sizeof status, 1, stdout) != 1)
        return 3;
    if (status == LPGNAS_OK
        && fwrite(logits, sizeof *logits, (size_t)head[NODES] * LPGNAS_NUM_CLASSES, stdout)
            != (size_t)head[NODES] * LPGNAS_NUM_CLASSES)
        return 3;
    free(arena);
    free(entries);
    free(dense);
    free(columns);
    free(rows);
    free(sources);
    free(indptr);
    free(head);
    return 0;
}
"""
