"""`RunFacts`: what the files of a run folder say, read once for every form of its report."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpgnas.budget import COUNT, QUANTITIES, Budget, Quantity
from lpgnas.cost_models.energy import format_energy
from lpgnas.errors import RunFolderError
from lpgnas.results import STAGES, read_record, read_text
from lpgnas.spec import ModelSpec

REFERENCE_NAMES = {"gcn16_fp32": "GCN-16, float32", "gcn16_fp32_distilled": "GCN-16, float32, distilled"}


@dataclass(frozen=True)
class CandidateFacts:
    """One candidate of a search at the last rung that it reached.

    Attributes:
        number: its number in `candidates.csv`.
        rung: from 0.
        epochs: of training on that rung.
        accuracy: on the selection nodes, 0 to 1; negative without an exact integer form.
        score: what candidates are ranked by, 0 to 1; negative likewise.
        weight_bits: weight size.
        buffer_bits: buffer size.
        note: why it has no exact integer form, or empty.
    """

    number: int
    rung: int
    epochs: int
    accuracy: float
    score: float
    weight_bits: int
    buffer_bits: int
    note: str


@dataclass(frozen=True)
class SizeFacts:
    """One quantity of the lowered model beside its budget, both in the quantity's unit; no limit is None."""

    quantity: Quantity
    amount: int
    limit: int | None

    @property
    def what(self) -> str:
        """Its name for people."""
        return self.quantity.title

    @property
    def share(self) -> str:
        """Of the budget, in percent; empty without one."""
        return "" if self.limit is None else percent(self.amount / self.limit)

    @property
    def text(self) -> str:
        """The amount for people."""
        return self.quantity.format(self.amount)

    @property
    def limit_text(self) -> str:
        """The budget for people."""
        return "none" if self.limit is None else self.quantity.format(self.limit)


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as it has come.

    Attributes:
        record: `record.json`.
        spec: `spec.json`, None before the search has ended.
        costs: rows of `costs.csv`; empty before lowering.
        candidates: best first (the longer trained before the others); empty for a spec that was given.
    """

    record: dict[str, Any]
    spec: ModelSpec | None
    costs: tuple[dict[str, str], ...]
    candidates: tuple[CandidateFacts, ...]

    @property
    def dataset(self) -> dict[str, Any]:
        """The record's facts about graph and split."""
        found: dict[str, Any] = self.record["dataset"]
        return found

    @property
    def stages(self) -> dict[str, Any]:
        """The record's stages, in their order."""
        return {name: self.record["stages"][name] for name in STAGES if name in self.record["stages"]}

    @property
    def winner(self) -> int | None:
        """Number of the chosen candidate; None for a spec that was given."""
        number: int | None = self.stages.get("search", {}).get("winner")
        return number

    @property
    def budget(self) -> Budget:
        """What the run had to fit."""
        return Budget.of_options(self.record["config"])

    @property
    def sizes(self) -> tuple[SizeFacts, ...]:
        """Sizes of the lowered model, and whatever else is limited or timed; empty before lowering."""
        lowered, budget = self.stages.get("lower", {}), self.budget
        shown = (one for one in QUANTITIES if one.name in lowered and (one.scale is not COUNT or one.name in budget))
        return tuple(SizeFacts(one, lowered[one.name], budget.get(one.name)) for one in shown)

    @property
    def energy(self) -> str:
        """The estimated energy of an inference as a part of a sentence; empty in folders of earlier versions."""
        amount = self.stages.get("lower", {}).get("energy_aj")
        return "" if amount is None else f", an estimated {format_energy(amount)} in 45 nm"

    @property
    def verified(self) -> bool:
        """Whether the forms were compared and none failed."""
        stage = self.stages.get("verify", {"comparisons": [{"failed": True}]})
        return not any(item["failed"] for item in stage["comparisons"])

    @property
    def accuracies(self) -> tuple[tuple[str, str, str], ...]:
        """Name, test accuracy and number of trainings of the model and of its references; empty before evaluation."""
        if "evaluate" not in self.stages:
            return ()
        evaluation = self.stages["evaluate"]
        own = evaluation["accuracy"]["test"]
        rows = [("this model, integers", "no test nodes" if own is None else percent(own), "1 program")]
        for name, reference in evaluation["references"].items():
            spread = f"{percent(reference['test_mean'])} ± {100 * reference['test_std']:.1f}"
            how = f"{_counted(reference['seeds'], 'seed')}, learning rate {reference['learning_rate']}"
            rows.append((REFERENCE_NAMES.get(name, name), spread, how))
        return tuple(rows)

    @property
    def mode(self) -> str:
        """What training saw of the nodes without labels."""
        return (
            "inductive" if self.dataset["inductive"] else "transductive: all features and edges take part in training"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def percent(value: float) -> str:
    """A share of 1 with one decimal."""
    return f"{100 * value:.1f} %"


def read_run(folder: Path) -> RunFacts:
    """What the files of `folder` say.

    Raises:
        RunFolderError: no record in the folder, or a missing or damaged file.
        CheckFailed: a record that was changed.
    """
    record = read_record(folder / "record.json")
    files = {name for stage in record["stages"].values() for name in stage["files"]}
    candidates: tuple[CandidateFacts, ...] = ()
    if "candidates.csv" in files:
        candidates = _candidates(folder / "candidates.csv")
    return RunFacts(
        record=record,
        spec=ModelSpec.from_json(read_text(folder / "spec.json")) if "spec.json" in files else None,
        costs=tuple(_csv_rows(folder / "costs.csv")) if "costs.csv" in files else (),
        candidates=candidates,
    )


def _csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_text(path), newline="")))


def _candidates(path: Path) -> tuple[CandidateFacts, ...]:
    last: dict[int, CandidateFacts] = {}
    try:
        for row in _csv_rows(path):
            made = CandidateFacts(
                number=int(row["candidate"]),
                rung=int(row["rung"]),
                epochs=int(row["epochs"]),
                accuracy=float(row["accuracy"]),
                score=float(row["score"]),
                weight_bits=int(row["weight_bits"]),
                buffer_bits=int(row["buffer_bits"]),
                note=row["note"],
            )
            if made.number not in last or last[made.number].rung <= made.rung:
                last[made.number] = made
    except (KeyError, ValueError, TypeError) as error:
        raise RunFolderError(f"{path} is damaged ({error!r})") from error
    return tuple(sorted(last.values(), key=lambda one: (-one.rung, -one.score, one.number)))
