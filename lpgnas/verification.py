"""The chain of equalities: every form of a model gives the same codes on every graph.

Forms, in order: fake-quantised model (float64), NumPy reference, Numba kernels, integer ONNX in onnxruntime and in
onnx.reference, QDQ ONNX in onnxruntime, QONNX in onnxruntime and in the qonnx executor, C code built by gcc. A mismatch
is a differing code on any node and class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lpgnas.errors import CheckFailed, LpgnasError
from lpgnas.export.c_build import QUICK_FLAGS, CProgram, compiled, find_compiler
from lpgnas.export.c_code import CSource
from lpgnas.export.feeding import run_onnx_reference, run_onnxruntime, run_qonnx_executor, with_sizes
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.reference import run_reference

CodeArray = npt.NDArray[np.float64]
Form = Callable[[Graph], CodeArray]
C_FORM = "C code, gcc"
NO_COMPILER = "no C compiler (gcc or cc) on the PATH whose programs run here"
SPARSE_SAMPLES = 10_000_000
"""Random features beyond so many are made sparse."""
REFERENCE_EVALUATOR_LIMIT = 3_000_000
"""Edges times columns beyond which onnx.reference (a Python loop an element) runs on a part of the graph."""


@dataclass(frozen=True)
class Comparison:
    """One form on one graph against the first form.

    Attributes:
        form: what was run.
        graph: on what.
        compared: number of codes.
        mismatches: how many differ.
        note: why a form did not give codes, or what it ran on instead; empty otherwise.
        failed: whether the form differs or broke.
    """

    form: str
    graph: str
    compared: int
    mismatches: int
    note: str = ""
    failed: bool = False

    @property
    def told(self) -> str:
        """A failure in words."""
        return f"{self.form} on {self.graph}: {self.note or f'{self.mismatches} of {self.compared} codes differ'}"


def unseen_graphs(graph: Graph, max_degree: int, seed: int = 0) -> list[Graph]:
    """Small graphs that no model was trained on, with rows of `graph` as features: the shapes that break executors."""
    rng = np.random.default_rng(seed)

    def rows(count: int) -> npt.NDArray[np.float32]:
        picked = graph.x[rng.integers(0, graph.num_nodes, count)]
        dense: npt.NDArray[np.float32] = np.asarray(picked) if isinstance(picked, np.ndarray) else picked.toarray()
        return dense

    none = np.zeros((2, 0), dtype=np.int64)
    hub_edges = min(max_degree, 5000)
    hub = np.stack([rng.integers(0, 40, hub_edges), np.zeros(hub_edges, dtype=np.int64)]).astype(np.int64)
    extremes = np.concatenate([np.full((4, graph.num_features), 3e38), np.full((4, graph.num_features), -3e38)])
    several = rng.integers(0, min(max_degree, 50) + 1, 1)[0] * 4
    return [
        Graph("one node", rows(1), none),
        Graph("no edges", rows(5), none),
        Graph("isolated nodes", rows(8), np.array([[0, 1, 2], [1, 2, 3]], dtype=np.int64)[:, : max_degree * 3]),
        Graph("duplicates and self-loops", rows(40), _multigraph(rng, 40, int(several), max_degree)),
        Graph(f"hub of {hub_edges}", rows(40), hub),
        Graph("extreme features", extremes.astype(np.float32), _multigraph(rng, 8, 24, max_degree)),
    ]


def _multigraph(rng: np.random.Generator, nodes: int, edges: int, max_degree: int) -> npt.NDArray[np.int64]:
    """Random edges with some doubled and some self-loops, no node beyond `max_degree`."""
    source, target = rng.integers(0, nodes, (2, edges))
    source, target = np.concatenate([source, source[:5], target[:5]]), np.concatenate([target, target[:5], target[:5]])
    rank = np.zeros(len(target), dtype=np.int64)
    seen: dict[int, int] = {}
    for position, node in enumerate(target.tolist()):
        rank[position] = seen.get(node, 0)
        seen[node] = int(rank[position]) + 1
    keep = rank < max_degree
    return np.stack([source[keep], target[keep]]).astype(np.int64)


def forms_of(
    program: IntegerProgram,
    *,
    fake_quant: Form | None,
    onnx_int: bytes | None,
    qonnx: bytes | None,
    c_code: CProgram | None = None,
    onnx_qdq: bytes | None = None,
) -> dict[str, Form]:
    """Every form that can be run, by name, in the order of the chain.

    Args:
        program: the integer program.
        fake_quant: the trained model as a form, or None on a machine without torch.
        onnx_int: the bytes of `model.int.onnx`, or None.
        qonnx: the bytes of `model.qonnx.onnx`, or None where that target refused the program.
        c_code: the compiled C files, or None without them or without a compiler.
        onnx_qdq: the bytes of `model.qdq.onnx`, or None likewise.
    """
    executor = Executor(program)
    forms: dict[str, Form] = {} if fake_quant is None else {"fake-quant": fake_quant}
    forms["numpy"] = lambda graph: run_reference(program, graph.x, graph.edge_index).astype(np.float64)
    forms["numba"] = lambda graph: executor.run(graph.x, graph.edge_index).codes.astype(np.float64)
    if onnx_int is not None:
        content = onnx_int
        forms["int ONNX in onnxruntime"] = _decoded(program, lambda x, edges: run_onnxruntime(content, x, edges))
        forms["int ONNX in onnx.reference"] = _decoded(program, lambda x, edges: run_onnx_reference(content, x, edges))
    if onnx_qdq is not None:
        quantized = onnx_qdq
        forms["QDQ ONNX in onnxruntime"] = _decoded(program, lambda x, edges: run_onnxruntime(quantized, x, edges))
    if qonnx is not None:
        dynamic = qonnx
        forms["QONNX in onnxruntime"] = _decoded(program, lambda x, edges: run_onnxruntime(dynamic, x, edges))
        forms["QONNX in qonnx"] = _decoded(
            program,
            lambda x, edges: run_qonnx_executor(with_sizes(dynamic, len(x), edges.shape[1]), x, edges),
        )
    if c_code is not None:
        machine_code = c_code
        forms[C_FORM] = lambda graph: machine_code.run(graph.x, graph.edge_index).astype(np.float64)
    return forms


def check_c_code(
    program: IntegerProgram, source: CSource, graph: CsrGraph | None = None, most: int | None = None
) -> str:
    """Build C files and compare their codes with the kernels' on graphs that were never seen, or on their own.

    Args:
        program: what the files were made from.
        source: the files.
        graph: the graph that is compiled in, None for one that is an argument.
        most: the most nodes that the files take, None for any number.

    Returns:
        Why nothing was checked; empty where it was.

    Raises:
        ExportError: the compiler refuses the files, or the code breaks.
        CheckFailed: a code differs.
    """
    compiler = find_compiler()
    if compiler is None:
        return NO_COMPILER
    executor = Executor(program)
    with compiled(program, source, compiler, QUICK_FLAGS) as machine_code:
        for one in _check_graphs(program, graph):
            if most is not None and one.num_nodes > most:
                continue
            wanted = executor.run(one.x, one.edge_index).codes
            different = int((machine_code.run(one.x, one.edge_index) != wanted).sum())
            if different:
                raise CheckFailed(
                    f"the C code differs from the kernels on {one.name}: {different} of {wanted.size} codes"
                )
    return ""


def _check_graphs(program: IntegerProgram, graph: CsrGraph | None) -> list[Graph]:
    """Graphs with random features, dense and sparse; or those features on one given graph."""
    rng = np.random.default_rng(0)
    if graph is None:
        graphs = unseen_graphs(_random_features(program, 64, rng), program.max_degree)
    else:
        targets = np.repeat(np.arange(graph.num_nodes), graph.degree)
        edges = np.stack([graph.sources, targets]).astype(np.int64)
        made = _random_features(program, graph.num_nodes, rng)
        graphs = [Graph("the graph that is compiled in", made.x, edges)]
    dense = [one for one in graphs if isinstance(one.x, np.ndarray)]
    return graphs + [Graph(f"{one.name}, sparse", sparse.csr_array(one.x), one.edge_index) for one in dense]


def _random_features(program: IntegerProgram, nodes: int, rng: np.random.Generator) -> Graph:
    """Features over the whole range of the input's codes, a third of them 0; no edges."""
    shape, x = (nodes, program.num_features), program.input
    none = np.zeros((2, 0), dtype=np.int64)

    def values(size: int | tuple[int, int]) -> npt.NDArray[np.float32]:
        return np.ldexp(rng.uniform(x.low - 1, x.high + 1, size), -x.fraction).astype(np.float32)

    if nodes * program.num_features > SPARSE_SAMPLES:
        count = 8 * nodes
        rows, columns = np.repeat(np.arange(nodes), 8), rng.integers(0, program.num_features, count)
        made = sparse.csr_array((values(count), (rows, columns)), shape=shape)
        made.sum_duplicates()
        return Graph("random features", made, none)
    return Graph("random features", values(shape) * (rng.random(shape) < 0.67), none)


def _decoded(
    program: IntegerProgram,
    run: Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], npt.NDArray[np.float32]],
) -> Form:
    """Codes of a file's float32 logits."""

    def form(graph: Graph) -> CodeArray:
        dense = graph.x if isinstance(graph.x, np.ndarray) else graph.x.toarray()
        return np.ldexp(run(dense, graph.edge_index).astype(np.float64), program.logits.fraction)

    return form


def verify_forms(
    program: IntegerProgram,
    forms: dict[str, Form],
    graphs: Iterable[Graph],
    on_form: Callable[[str], None] | None = None,
) -> list[Comparison]:
    """Run every form on every graph and compare each with the first one.

    Args:
        program: the program that all forms came from.
        forms: by name; the first is what the others must equal.
        graphs: within the program's `max_degree`.
        on_form: called with the name of each form before it runs.
    """
    results = []
    for graph in graphs:
        expected: CodeArray | None = None
        for name, form in forms.items():
            if on_form is not None:
                on_form(name)
            part, wanted = graph, expected
            if name.endswith("onnx.reference") and _too_large(program, graph):
                part = _part(graph)
                wanted = next(iter(forms.values()))(part)
            try:
                codes = form(part)
            except LpgnasError as error:
                results.append(Comparison(name, part.name, 0, 0, f"{type(error).__name__}: {error}", failed=True))
                continue
            if expected is None:
                expected = wanted = codes
            results.append(_compare(name, part.name, codes, wanted if wanted is not None else codes))
    return results


def _compare(name: str, graph: str, codes: CodeArray, expected: CodeArray) -> Comparison:
    if codes.shape != expected.shape:
        note = f"shape {codes.shape} instead of {expected.shape}"
        return Comparison(name, graph, expected.size, expected.size, note, failed=True)
    different = int((codes != expected).sum())  # NaN differs from everything, as it should
    return Comparison(name, graph, expected.size, different, failed=different > 0)


def _too_large(program: IntegerProgram, graph: Graph) -> bool:
    widest = max(tensor.columns for tensor in program.tensors)
    return (graph.num_edges + graph.num_nodes) * widest > REFERENCE_EVALUATOR_LIMIT


def _part(graph: Graph, nodes: int = 1000) -> Graph:
    """The subgraph of the first nodes."""
    inside = (graph.edge_index < nodes).all(axis=0)
    name = f"{graph.name}, first {nodes} nodes"
    return Graph(name, graph.x[:nodes], np.ascontiguousarray(graph.edge_index[:, inside]))
