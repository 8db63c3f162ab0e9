"""The committed tables: their reports come from their rows, and a row that is measured again says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import runs

from lpgnas.dataset_sources import LAYOUTS, missing_files
from lpgnas.datasets import resolve_data_root
from lpgnas.reproduce import Reproduction, entry_of
from lpgnas.reproduce_report import report
from lpgnas.reproduce_tables import TABLES

COMMITTED = runs.ROOT / "benchmarks/results/reproduce"
TOLERANCE = 0.03
"""Of a test accuracy: another CPU rounds floats differently, so that a training ends like one of another seed, whose
standard deviation is a point at most."""
SIZES = ("weight_bits", "buffer_bits", "macs", "bops", "steps", "formats")


def committed() -> list[Path]:
    """The rows of every committed table."""
    found = sorted(COMMITTED.glob("*.csv"))
    if not found:
        pytest.skip(f"no table is committed in {COMMITTED.relative_to(runs.ROOT)} yet")
    return found


def cheapest(files: list[Path]) -> tuple[str, pd.Series]:
    """Table and row: the quickest one whose graph is here and whose architecture nothing chose.

    A search on another CPU may choose another one.
    """
    root = resolve_data_root()
    found = []
    for path in files:
        for _, row in pd.read_csv(path).iterrows():
            read = json.loads(row["settings"])
            dataset, fixed = row["dataset"], read["kind"] == "run" and read["options"]["strategy"] == "uniform"
            if fixed and (dataset not in LAYOUTS or not missing_files(dataset, root)):
                found.append((float(row["seconds"]), path.stem, row))
    if not found:
        pytest.skip("no committed row has a fixed architecture and a graph that is here")
    _, name, row = min(found, key=lambda one: one[:2])
    return name, row


def test_committed_reports_are_those_of_their_rows() -> None:
    for path in committed():
        table, rows = TABLES.get(path.stem), Reproduction(path.stem, COMMITTED, COMMITTED / "none").rows()
        assert len(rows), f"{path} has no row of the settings of this version"
        assert path.with_suffix(".md").read_text() == report(table, rows)
        assert path.with_suffix(".png").exists()


@pytest.mark.slow
def test_a_committed_row_is_measured_again(tmp_path: Path) -> None:
    name, row = cheapest(committed())
    measured = Reproduction(name, tmp_path, tmp_path / "runs").measure(
        entry_of(row["model"], row["settings"]), int(row["seed"])
    )
    assert {what: getattr(measured, what) for what in SIZES} == {what: row[what] for what in SIZES}
    assert measured.test_accuracy == pytest.approx(float(row["test_accuracy"]), abs=TOLERANCE)
    assert measured.selection_accuracy == pytest.approx(float(row["selection_accuracy"]), abs=TOLERANCE)


def test_the_cheapest_row_that_can_be_measured_is_taken(tmp_path: Path) -> None:
    def row(dataset: str, seconds: float, strategy: str, kind: str = "run") -> dict[str, object]:
        settings = {"kind": kind, "blocks": 2, "options": {"dataset": dataset, "strategy": strategy}}
        return {
            "dataset": dataset,
            "model": f"{dataset} {seconds}",
            "seconds": seconds,
            "settings": json.dumps(settings),
        }

    rows = [
        row("cora", 9.0, "uniform"), row("cora", 3.0, "uniform"), row("cora", 1.0, "feasible"),
        row("cora", 2.0, "uniform", "manual"), row("ogbn-products", 0.5, "uniform"),
    ]  # fmt: skip
    path = tmp_path / "citation.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    name, found = cheapest([path])
    assert (name, found["model"]) == ("citation", "cora 3.0")
    pd.DataFrame(rows[2:3]).to_csv(path, index=False)
    with pytest.raises(pytest.skip.Exception, match="no committed row"):
        cheapest([path])


@pytest.mark.parametrize(
    ("document", "start", "end", "sources"),
    [
        ("README.md", "## Numbers", "## What is the paper's", ("reproduce/public.md", "run_time.md")),
        ("docs/search.md", "## The teacher", "## Numbers of blocks", ("teachers.md",)),
    ],
)
def test_documents_show_committed_tables(document: str, start: str, end: str, sources: tuple[str, ...]) -> None:
    root = Path(__file__).parents[1]
    text = (root / document).read_text()
    shown = [line for line in text[text.index(start) : text.index(end)].splitlines() if line.startswith("|")]
    measured = {line for one in sources for line in (root / "benchmarks/results" / one).read_text().splitlines()}
    assert len(shown) > 10 and set(shown) <= measured
