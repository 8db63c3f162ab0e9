"""`candidates.csv` and `supernet.csv`: what a search trained, kept so that an interrupted search resumes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lpgnas.errors import LpgnasError, RunFolderError
from lpgnas.results import read_text, sha256, write_atomic
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import Candidate, Trial
from lpgnas.supernet import SupernetStep


class TrialTable:
    """`candidates.csv`: every trial of a search, rewritten after each one so that an interrupted search resumes."""

    COLUMNS = (
        "candidate", "rung", "epochs", "accuracy", "loss", "score", "weight_bits", "buffer_bits",
        "peak_bits", "macs", "bops", "latency_ns", "note", "spec",
    )  # fmt: skip

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            RunFolderError: a file that this class did not write.
        """
        self._path = path
        self._rows: dict[tuple[int, int], dict[str, str]] = {}
        self._known: dict[tuple[str, int], Trial] = {}
        if path.exists():
            try:
                for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
                    self._remember(row)
            except (KeyError, ValueError, TypeError, csv.Error, LpgnasError) as error:
                raise RunFolderError(f"{path} is damaged ({error!r}); delete it to search again") from error

    def _remember(self, row: dict[str, str]) -> None:
        key = int(row["candidate"]), int(row["rung"])
        accuracy, loss, score = (float(row[name]) for name in ("accuracy", "loss", "score"))
        trial = Trial(*key, int(row["epochs"]), accuracy, loss, score, row["note"])
        self._known[ModelSpec.from_json(row["spec"]).to_json(), trial.rung] = trial
        self._rows[key] = {name: row[name] for name in self.COLUMNS}

    def known(self) -> dict[tuple[str, int], Trial]:
        """Trials of an earlier, interrupted call by (spec as JSON, rung)."""
        return dict(self._known)

    def add(self, candidate: Candidate, trial: Trial) -> None:
        """Keep a trial."""
        key = (trial.candidate, trial.rung)
        cost = candidate.cost
        values = (
            trial.candidate, trial.rung, trial.epochs, repr(trial.accuracy), repr(trial.loss),
            repr(trial.score), cost.weight_bits,
            cost.buffer_bits, cost.peak_bits, cost.macs, cost.bops,
            "" if cost.latency_ns is None else cost.latency_ns, trial.note,
            " ".join(candidate.spec.to_json().split()),
        )  # fmt: skip
        row = {name: str(value) for name, value in zip(self.COLUMNS, values, strict=True)}
        if self._rows.get(key) == row:
            return  # remembered
        self._rows[key] = row
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows.values())
        write_atomic(self._path, text.getvalue())


def supernet_csv(space: SearchSpace, steps: Sequence[SupernetStep]) -> str:
    """One row a step of the supernet: its loss, and the option that was sampled for every gene."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(space))
    writer.writerows([repr(step.loss), *step.choices] for step in steps)
    return text.getvalue()


def _header(space: SearchSpace) -> list[str]:
    # genes of two spaces can have the same names and mean other options
    return [f"loss in space {sha256(repr(space).encode())[:12]}", *(name for name, _ in space.genes())]


def read_supernet(path: Path, space: SearchSpace) -> list[SupernetStep] | None:
    """The steps in a `supernet.csv`; None where there is no such file, or it is of another space.

    Raises:
        RunFolderError: a file that `supernet_csv` did not make.
    """
    if not path.exists():
        return None
    counts = [count for _, count in space.genes()]
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
        if not rows or rows[0] != _header(space):
            return None
        steps = [SupernetStep(tuple(map(int, row[1:])), float(row[0])) for row in rows[1:]]
    except (ValueError, IndexError, csv.Error) as error:
        raise RunFolderError(f"{path} is damaged ({error!r}); delete it to search again") from error
    for step in steps:
        inside = len(step.choices) == len(counts) and all(0 <= c < n for c, n in zip(step.choices, counts, strict=True))
        if not inside:
            raise RunFolderError(f"{path} is damaged (step {step}); delete it to search again")
    return steps
