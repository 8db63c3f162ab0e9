"""The files of a program, each where its target can hold the program exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lpgnas.errors import ExportError
from lpgnas.export.targets import TARGETS, default_targets
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram


@dataclass(frozen=True)
class ExportedFiles:
    """Contents of the exported files.

    Attributes:
        files: contents by path.
        refused: why a target has no files, by its name.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def export_files(program: IntegerProgram, targets: Iterable[str] = (), graph: Graph | None = None) -> ExportedFiles:
    """Export `program`.

    Args:
        program: what to export.
        targets: names of `lpgnas.export.targets.TARGETS`; each has to hold the program. None for the default ones,
            where they can.
        graph: the graph that is compiled in, for the targets that do so; others do not read it.

    Raises:
        ExportError: a target that was named cannot hold the program exactly, or needs a graph.
        DegreeError: the graph has a node beyond `max_degree`.
        UnknownName: there is no such target, or it has no emitter for an operation of the program.
    """
    named = tuple(dict.fromkeys(targets))
    made = ExportedFiles()
    for target in [TARGETS.get(name) for name in named or default_targets()]:
        try:
            if target.on_graph is not None and graph is not None:
                made.files.update(target.on_graph(program, graph))
            else:
                made.files.update(target.export(program))
        except ExportError as error:
            if named:
                raise ExportError(f"target {target.name}: {error}") from error
            made.refused[target.name] = str(error)
    return made
