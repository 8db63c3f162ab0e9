"""The named errors of lpgnas: each says what is wrong, the value seen, and the way out.

Every error derives from `LpgnasError`. The command line turns a `CheckFailed` (a verification that found a
difference) into exit code 1 and any other (bad input, an infeasible budget) into exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LpgnasError(Exception):
    """Base of every error that lpgnas raises on purpose."""


class InputError(LpgnasError):
    """Something given from outside cannot be used."""


class GraphError(InputError):
    """A graph with wrong shapes, types, values or indices."""


class DatasetError(InputError):
    """A dataset that is unknown, missing, or impossible to load or to split as asked."""


class SpecError(InputError):
    """A model specification that is malformed, of a newer schema, or asks for what is not built."""


class ConfigError(InputError):
    """An option, a budget or a configuration file that cannot be used."""


class RunFolderError(InputError):
    """A run folder that lacks a file, belongs to another run, or cannot be written."""


class ProgramError(InputError):
    """An integer program whose file is damaged, foreign, or of another schema."""


class KernelError(InputError):
    """Arrays or bounds that a kernel cannot take."""


class LoweringError(InputError):
    """A trained model that cannot become an exact integer program."""


class LatencyTableError(InputError):
    """A latency table that is malformed, or lacks what is asked of it."""


class ExportError(InputError):
    """A program that a target cannot hold exactly."""


class InteropError(InputError):
    """A model that layers of another library, or ours, cannot hold exactly."""


class UnknownName(InputError):
    """A name that a registry does not hold."""

    def __init__(self, what: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}")


class DegreeError(InputError):
    """A graph with a node beyond the `max_degree` that an integer program was proved for."""

    def __init__(self, degree: int, max_degree: int, node: int) -> None:
        super().__init__(
            f"node {node} has {degree} incoming edges, but the program is proved for at most {max_degree}; "
            f"lower the model again with --max-degree {degree} or more"
        )


class InfeasibleBudget(InputError):
    """A budget that no model of the search space can meet.

    Attributes:
        smallest: flags of the smallest feasible budget, or empty where it is not known.
    """

    def __init__(self, message: str, smallest: str = "") -> None:
        super().__init__(message)
        self.smallest = smallest


class CheckFailed(LpgnasError):
    """A check ran to its end and found a difference."""
