"""The files of a program, each where its target can hold the program exactly."""

from __future__ import annotations

from dataclasses import dataclass

from lpgnas.errors import ExportError
from lpgnas.export.onnx_int import export_onnx_int
from lpgnas.export.qonnx import export_qonnx
from lpgnas.integer_program import IntegerProgram


@dataclass(frozen=True)
class ExportedFiles:
    """Contents of the exported files.

    Attributes:
        onnx_int: `model.int.onnx`.
        qonnx: `model.qonnx.onnx`, or None where it could not be exact.
        qonnx_refused: why there is none.
    """

    onnx_int: bytes
    qonnx: bytes | None
    qonnx_refused: str = ""


def export_files(program: IntegerProgram) -> ExportedFiles:
    """Export `program` to every dialect."""
    onnx_int = export_onnx_int(program)
    try:
        return ExportedFiles(onnx_int, export_qonnx(program))
    except ExportError as error:
        return ExportedFiles(onnx_int, None, str(error))
