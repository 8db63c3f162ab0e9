"""The forms that a program can be exported to, by the name that `lpgnas export --target` takes.

A target is one row here: its files, what makes them, and its emitters by kind of operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lpgnas.errors import ExportError
from lpgnas.export import c_steps, finn, hls4ml_files, hls4ml_graph, onnx_int, onnx_qdq, qonnx
from lpgnas.export.c_code import HEADER, SOURCE, CSource, export_c
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.registry import Registry


@dataclass(frozen=True)
class Target:
    """One form of a program.

    Attributes:
        name: on the command line.
        files: paths of all its files in a run folder.
        export: the contents of the files, by path. Equal programs give equal bytes; a program that the target cannot
            hold exactly is refused with `ExportError`.
        emitters: has an entry for every kind of operation that the target can hold.
        by_default: whether it is exported where no target is named.
        on_graph: for a target that compiles a graph in: the contents of the files for a program and its graph. Such a
            target's `export` refuses every program, and says how to give a graph.
    """

    name: str
    files: tuple[str, ...]
    export: Callable[[IntegerProgram], Mapping[str, bytes]]
    emitters: Registry[Callable[..., Any]]
    by_default: bool = True
    on_graph: Callable[[IntegerProgram, Graph], Mapping[str, bytes]] | None = None


ONNX_INT, ONNX_QDQ, QONNX = "model.int.onnx", "model.qdq.onnx", "model.qonnx.onnx"
C = "c"
"""Target and folder."""
C_HEADER, C_SOURCE = f"{C}/{HEADER}", f"{C}/{SOURCE}"
TARGETS: Registry[Target] = Registry("target")


def _one_file(
    name: str, file: str, export: Callable[[IntegerProgram], bytes], emitters: Registry[Callable[..., Any]]
) -> None:
    TARGETS.add(name, Target(name, (file,), lambda program: {file: export(program)}, emitters))


_one_file("onnx-int", ONNX_INT, onnx_int.export_onnx_int, onnx_int.EMITTERS)
_one_file("onnx-qdq", ONNX_QDQ, onnx_qdq.export_onnx_qdq, onnx_qdq.EMITTERS)
_one_file("qonnx", QONNX, qonnx.export_qonnx, qonnx.EMITTERS)


def c_files(made: CSource) -> dict[str, bytes]:
    """Paths and contents of C code, as they lie in a run folder."""
    return {f"{C}/{name}": content for name, content in made.files().items()}


def c_source(files: Mapping[str, bytes]) -> CSource | None:
    """The C code among exported files, or None."""
    return CSource(files[C_HEADER], files[C_SOURCE]) if files.keys() >= {C_HEADER, C_SOURCE} else None


TARGETS.add(C, Target(C, (C_HEADER, C_SOURCE), lambda program: c_files(export_c(program)), c_steps.EMITTERS))


def _without_graph(name: str) -> Callable[[IntegerProgram], Mapping[str, bytes]]:
    def export(program: IntegerProgram) -> Mapping[str, bytes]:
        raise ExportError(
            f"{name} files have their graph compiled in; give a small one (--graph GRAPH.npz), or the neighbourhood of "
            f"a node (--node N)"
        )

    return export


def _on_graph(
    name: str,
    files: tuple[str, ...],
    export: Callable[[IntegerProgram, Graph], Mapping[str, bytes]],
    emitters: Registry[Callable[..., Any]],
) -> None:
    """Add a target that compiles a graph in."""
    TARGETS.add(name, Target(name, files, _without_graph(name), emitters, by_default=False, on_graph=export))


HLS4ML = "hls4ml"
"""Target and folder."""
_on_graph(
    HLS4ML, tuple(f"{HLS4ML}/{file}" for file in hls4ml_files.FILES), hls4ml_files.export_files, hls4ml_graph.EMITTERS
)
FINN = "finn"
"""Target and folder."""
_on_graph(FINN, tuple(f"{FINN}/{file}" for file in finn.FILES), finn.export_files, finn.EMITTERS)


def default_targets() -> tuple[str, ...]:
    """Names of the targets that are exported where none is named."""
    return tuple(name for name in TARGETS if TARGETS.get(name).by_default)
