"""The report: its numbers are those of the run folder, as far as the run has come."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import runs

from lpgnas.budget import format_bits
from lpgnas.errors import CheckFailed, RunFolderError
from lpgnas.report import markdown_table, run_report
from lpgnas.results import STAGES
from lpgnas.verification import C_FORM


def table_after(report: str, heading: str) -> list[list[str]]:
    """The cells of the first table of a section, header first."""
    lines = report.split(f"## {heading}\n")[1].split("\n## ", maxsplit=1)[0].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def test_sizes_and_shares(small_run: Path) -> None:
    lowered = json.loads((small_run / "record.json").read_text())["stages"]["lower"]
    rows = {row[0]: row[1:] for row in table_after((small_run / "report.md").read_text(), "Sizes")}
    for what, name, limit in (
        ("weights", "weight_bits", 3200),
        ("buffers", "buffer_bits", 3 << 13),
        ("peak", "peak_bits", 20480),
    ):
        bits = lowered[name]
        assert rows[what] == [format_bits(bits), format_bits(limit), f"{100 * bits / limit:.1f} %"]


def test_candidates_are_ranked(small_run: Path) -> None:
    with (small_run / "candidates.csv").open(newline="") as stream:
        last = {row["candidate"]: row for row in csv.DictReader(stream)}
    rows = table_after((small_run / "report.md").read_text(), "Candidates")[1:]
    assert {row[0] for row in rows} == set(last)
    scores = [float(last[row[0]]["score"]) for row in rows]
    ranks = [(int(last[row[0]]["rung"]), score) for row, score in zip(rows, scores, strict=True)]
    assert ranks == sorted(ranks, reverse=True)  # those that were trained longer first
    assert [row[2] for row in rows] == [f"{100 * score:.1f}" for score in scores]
    assert [row[3] for row in rows] == [f"{100 * float(last[row[0]]['accuracy']):.1f} %" for row in rows]


def test_accuracies_and_verification(small_run: Path) -> None:
    record = json.loads((small_run / "record.json").read_text())
    report = (small_run / "report.md").read_text()
    test = record["stages"]["evaluate"]["accuracy"]["test"]
    assert f"| this model, integers | {100 * test:.1f} % | 1 program |" in report
    rows = table_after(report, "Verification")
    assert rows[0] == ["form", "graph", "codes", "mismatches", "result"]
    comparisons = record["stages"]["verify"]["comparisons"]
    assert [row[:2] for row in rows[1:]] == [[entry["form"], entry["graph"]] for entry in comparisons]
    assert [row[4] for row in rows[1:]] == [entry["note"] or "equal" for entry in comparisons]
    assert {row[4] for row in rows[1:] if row[0] != C_FORM} == {"equal"}
    assert [row[0] for row in table_after(report, "Stages")[1:]] == list(STAGES)


@pytest.mark.parametrize("done", range(1, 7))
def test_an_unfinished_run_has_a_report(done: int, small_run: Path, tmp_path: Path) -> None:
    report = run_report(runs.first_stages(runs.copied(small_run, tmp_path / "run"), done))
    assert ("## Sizes" in report) == (done >= 3)
    assert ("## Verification" in report) == (done >= 5)
    assert ("this model, integers" in report) == (done >= 6)
    assert "## Candidates" in report


def test_folders_that_are_refused(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot read .*record\.json"):
        run_report(tmp_path)
    run = runs.copied(small_run, tmp_path / "run")
    (run / "costs.csv").unlink()
    with pytest.raises(RunFolderError, match=r"cannot read .*costs\.csv"):
        run_report(run)
    (run / "record.json").write_text("{}")
    with pytest.raises(CheckFailed, match=r"record\.json was changed"):
        run_report(run)


def test_markdown_table() -> None:
    assert markdown_table(["a", "b"], [[1, "x|y"]]) == "| a | b |\n|---|---|\n| 1 | x/y |\n"
