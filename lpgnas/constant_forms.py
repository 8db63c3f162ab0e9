"""Exports that have their graph compiled in: which graph that is, and whether they give the kernels' codes on it.

They take one graph and no other, so that `verification.verify_forms` cannot run them on unseen ones; features are what
varies here.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lpgnas.errors import CheckFailed, ExportError, LpgnasError
from lpgnas.export.constant_graph import MAX_NODES, IntArray, constant_program
from lpgnas.export.feeding import run_constant_graph
from lpgnas.export.finn import run_finn_file
from lpgnas.export.hls4ml_files import CONFIG, GRAPH, MODEL
from lpgnas.export.hls4ml_graph import Hls4mlFile
from lpgnas.export.hls4ml_project import check_conversion, emulation, installed, missing_tools, write_project
from lpgnas.export.neighbourhoods import NeighbourSampler, hops_of
from lpgnas.export.targets import FINN, HLS4ML, TARGETS
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.verification import Comparison

PROJECT_FOLDER = "project"
RANDOM_FEATURES = 3
"""Matrices of random features beside the graph's own."""
FEW_WORDS, MOST_WORDS = 8, 0.3
"""Words that random rows have about where they are normalised, and their largest share of all words."""


@dataclass(frozen=True)
class GraphChoice:
    """What of a graph is compiled in.

    Attributes:
        node: the node whose neighbourhood it is; None for the whole graph.
        fan_out: most incoming edges of a node that are kept; None for all.
        num_nodes: rows that the neighbourhood is padded to; None for no padding.
        seed: of the sampled edges.

    Raises:
        ExportError: options of a neighbourhood without a node, or too many nodes.
    """

    node: int | None = None
    fan_out: int | None = None
    num_nodes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.node is None and (self.fan_out is not None or self.num_nodes is not None):
            raise ExportError("a fan-out and a number of nodes go with a neighbourhood; say of which node (--node N)")
        if self.num_nodes is not None and self.num_nodes > MAX_NODES:
            raise ExportError(f"a compiled graph has at most {MAX_NODES} nodes, not {self.num_nodes}; pad to fewer")

    def of(self, graph: Graph, program: IntegerProgram) -> Graph:
        """The graph to compile in.

        Raises:
            GraphError: no such node, or a neighbourhood that does not fit.
        """
        if self.node is None:
            return graph
        sampler = NeighbourSampler(graph, hops_of(program), self.fan_out, self.seed)
        return sampler.around(self.node, self.num_nodes).graph


def compare_compiled(program: IntegerProgram, files: Mapping[str, bytes]) -> list[Comparison]:
    """Every form of the exported files that have a graph compiled in, against the kernels.

    Args:
        program: what the files were made from.
        files: contents by path in a run folder; other targets' files are not read.
    """
    results: list[Comparison] = []
    for target, check in _CHECKS.items():
        if all(name in files for name in TARGETS.get(target).files):
            results += check(program, {name.removeprefix(f"{target}/"): content for name, content in files.items()})
    return results


def check_compiled(program: IntegerProgram, files: Mapping[str, bytes]) -> str:
    """The same before files are written; returns what could not be run, or an empty text.

    Raises:
        CheckFailed: a code differs, or a form breaks.
    """
    results = compare_compiled(program, files)
    failed = [one for one in results if one.failed]
    if failed:
        raise CheckFailed("; ".join(one.told for one in failed))
    return "; ".join(f"{one.form}: {one.note}" for one in results if one.note)


def write_projects(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the project that hls4ml makes of its files into `hls4ml/project` of a folder, where hls4ml is installed.

    It is made anew from the files whenever these are written, and no part of the record.
    """
    content = files.get(f"{HLS4ML}/{MODEL}")
    if content is None:
        return
    drop_projects(folder)
    if installed():
        with tempfile.TemporaryDirectory(prefix=".project-", dir=folder / HLS4ML) as place:  # whole or not at all
            write_project(content, json.loads(files[f"{HLS4ML}/{CONFIG}"]), Path(place) / PROJECT_FOLDER)
            (Path(place) / PROJECT_FOLDER).rename(folder / HLS4ML / PROJECT_FOLDER)


def drop_projects(folder: Path) -> None:
    """Remove the project of a folder, for files that are no longer there."""
    shutil.rmtree(folder / HLS4ML / PROJECT_FOLDER, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class _Samples:
    """Features for one graph, and the kernels' codes of the logits of each."""

    graph: Graph
    csr: CsrGraph
    features: tuple[npt.NDArray[np.float32], ...]
    expected: tuple[IntArray, ...]

    @classmethod
    def draw(cls, program: IntegerProgram, graph: Graph) -> _Samples:
        """The graph's own features, and random ones over the whole range of the input's codes."""
        rng, x = np.random.default_rng(0), program.input
        shape = (graph.num_nodes, program.num_features)
        own = graph.x if isinstance(graph.x, np.ndarray) else graph.x.toarray()
        drawn = [np.ldexp(rng.uniform(x.low - 1, x.high + 1, shape), -x.fraction) for _ in range(RANDOM_FEATURES)]
        if program.row_normalize:  # few words a row, so that their shares are large and codes vary
            share = min(MOST_WORDS, FEW_WORDS / program.num_features)
            drawn = [one * (rng.random(shape) < share) for one in drawn]
        features = (own, *(one.astype(np.float32) for one in drawn))
        executor = Executor(program)
        expected = tuple(executor.run(one, graph.edge_index).codes for one in features)
        csr = CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False)
        return cls(graph, csr, features, expected)

    def compare(self, form: str, run: Callable[[], Iterable[IntArray]]) -> Comparison:
        """One form against the kernels."""
        name = f"its graph of {self.graph.num_nodes} nodes"
        compared = sum(one.size for one in self.expected)
        try:
            made = tuple(run())
        except LpgnasError as error:
            return Comparison(form, name, 0, 0, f"{type(error).__name__}: {error}", failed=True)
        different = sum(int((a != b).sum()) for a, b in zip(made, self.expected, strict=True))
        return Comparison(form, name, compared, different, failed=different > 0)

    def skipped(self, form: str, missing: str) -> Comparison:
        """A form that cannot be run here."""
        return Comparison(form, f"its graph of {self.graph.num_nodes} nodes", 0, 0, f"not run: it needs {missing}")


def _check_hls4ml(program: IntegerProgram, files: Mapping[str, bytes]) -> list[Comparison]:
    samples = _Samples.draw(program, _graph(files[GRAPH]))
    constant = constant_program(program, samples.csr)
    inputs = [constant.input_codes(x) for x in samples.features]

    def in_onnxruntime() -> Iterable[IntArray]:
        return [run_constant_graph(files[MODEL], constant, codes) for codes in inputs]

    def emulated() -> Iterable[IntArray]:
        precisions = {name: one["Precision"] for name, one in json.loads(files[CONFIG])["LayerName"].items()}
        with emulation(Hls4mlFile(files[MODEL], precisions, constant)) as built:
            return list(built.run(np.stack(inputs)))

    def converted() -> Iterable[IntArray]:
        check_conversion(files[MODEL], json.loads(files[CONFIG]))
        return samples.expected

    emulator, missing = "hls4ml's C++ emulation", missing_tools()
    results = [samples.compare("hls4ml's ONNX in onnxruntime", in_onnxruntime)]
    if missing and installed():  # without a compiler its types can be looked at nevertheless
        results += [one for one in [samples.compare("hls4ml's conversion", converted)] if one.failed]
    return [*results, samples.skipped(emulator, missing) if missing else samples.compare(emulator, emulated)]


def _check_finn(program: IntegerProgram, files: Mapping[str, bytes]) -> list[Comparison]:
    samples = _Samples.draw(program, _graph(files[GRAPH]))
    constant = constant_program(program, samples.csr)

    def executed() -> Iterable[IntArray]:
        return [run_finn_file(files[MODEL], constant, x) for x in samples.features]

    return [samples.compare("FINN's ONNX in qonnx", executed)]


def _graph(content: bytes) -> Graph:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Graph("the graph that is compiled in", arrays["x"], arrays["edge_index"])


_CHECKS: dict[str, Callable[[IntegerProgram, Mapping[str, bytes]], list[Comparison]]] = {
    HLS4ML: _check_hls4ml,
    FINN: _check_finn,
}
"""The forms of each target's files, by target."""
