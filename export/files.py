"""The files of a program, each where its target can hold the program exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lpgnas.errors import ExportError
from lpgnas.export.c_code import CSource, export_c
from lpgnas.export.onnx_int import export_onnx_int
from lpgnas.export.qonnx import export_qonnx
from lpgnas.integer_program import IntegerProgram

C_FOLDER = "c"
"""Of a run folder."""
Made = TypeVar("Made")


@dataclass(frozen=True)
class ExportedFiles:
    """Contents of the exported files.

    Attributes:
        onnx_int: `model.int.onnx`.
        qonnx: `model.qonnx.onnx`, or None where it could not be exact.
        qonnx_refused: why there is none.
        c: the files of `c/`, with the graph as an argument, or None where C code could not hold the program.
        c_refused: why there are none.
    """

    onnx_int: bytes
    qonnx: bytes | None
    qonnx_refused: str = ""
    c: CSource | None = None
    c_refused: str = ""


def export_files(program: IntegerProgram) -> ExportedFiles:
    """Export `program` to every dialect."""
    qonnx, qonnx_refused = _unless_refused(export_qonnx, program)
    c, c_refused = _unless_refused(export_c, program)
    return ExportedFiles(export_onnx_int(program), qonnx, qonnx_refused, c, c_refused)


def _unless_refused(export: Callable[[IntegerProgram], Made], program: IntegerProgram) -> tuple[Made | None, str]:
    """What a target makes of a program, or why it refuses it."""
    try:
        return export(program), ""
    except ExportError as error:
        return None, str(error)
