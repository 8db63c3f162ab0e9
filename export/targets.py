"""The forms that a program can be exported to, by the name that `lpgnas export --target` takes.

A target is one row here: its files, what makes them, and its emitters by kind of operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lpgnas.export import onnx_int, onnx_qdq, qonnx
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
    """

    name: str
    files: tuple[str, ...]
    export: Callable[[IntegerProgram], Mapping[str, bytes]]
    emitters: Registry[Callable[..., None]]
    by_default: bool = True


ONNX_INT, ONNX_QDQ, QONNX = "model.int.onnx", "model.qdq.onnx", "model.qonnx.onnx"
TARGETS: Registry[Target] = Registry("target")


def _one_file(
    name: str, file: str, export: Callable[[IntegerProgram], bytes], emitters: Registry[Callable[..., None]]
) -> None:
    TARGETS.add(name, Target(name, (file,), lambda program: {file: export(program)}, emitters))


_one_file("onnx-int", ONNX_INT, onnx_int.export_onnx_int, onnx_int.EMITTERS)
_one_file("onnx-qdq", ONNX_QDQ, onnx_qdq.export_onnx_qdq, onnx_qdq.EMITTERS)
_one_file("qonnx", QONNX, qonnx.export_qonnx, qonnx.EMITTERS)


def default_targets() -> tuple[str, ...]:
    """Names of the targets that are exported where none is named."""
    return tuple(name for name in TARGETS if TARGETS.get(name).by_default)
