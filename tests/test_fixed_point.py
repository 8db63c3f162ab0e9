"""Fixed-point checks of a run: the command, the file, the sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs

import lpgnas
from lpgnas.errors import DegreeError, RunFolderError
from lpgnas.fixed_point import FixedPointReport
from lpgnas.graph import Graph
from lpgnas.kernels.fixed_point import Reached, SiteCounts
from lpgnas.program_file import load_program


def test_the_command_prints_and_writes(rich_run: Path, tmp_path: Path) -> None:
    run = runs.copied(rich_run, tmp_path / "run")
    done = runs.lpgnas("verify", "--quiet", run, "--fixed-point")
    assert (done.code, done.err) == (0, "")
    report = lpgnas.fixed_point_checks(load_program(run / "program.npz"), runs.small_graph())
    assert done.out == "verify: done\n\n" + report.to_text()
    assert (run / "fixed_point.json").read_text() == report.to_json()
    written = json.loads(report.to_json())
    assert written["sentences"] == report.sentences()
    assert [one["name"] for one in written["components"]] == [site.name for site in report.sites]
    operations = {"weight", "bias", "input", "transform", "score", "aggregate", "lookup"}
    assert {one["operation"] for one in written["components"]} == operations
    message = report.site("layer0/message")
    entry = next(one for one in written["components"] if one["name"] == "layer0/message")
    assert entry["accumulator_bits_needed"] <= entry["accumulator_bits_proved"]
    assert (entry["saturations"], entry["bits_to_hold"]) == (message.saturations, message.bits_to_hold)
    assert report.frame()["component"].tolist() == [site.name for site in report.sites]
    runs.lpgnas("verify", "--quiet", rich_run)
    assert runs.bytes_of(run) == runs.bytes_of(rich_run)  # the record is what it was


def test_the_python_call_writes_the_same(small_run: Path, tmp_path: Path) -> None:
    run = runs.copied(small_run, tmp_path / "run")
    result = lpgnas.open_run(run)
    assert "fixed_point.json" not in result.verify().files
    assert "fixed_point.json" in result.verify(fixed_point=True).files
    assert result.files["fixed_point.json"].read_text() == result.check_fixed_point().to_json()


def test_refusals(small_run: Path, tmp_path: Path) -> None:
    early = runs.first_stages(runs.copied(small_run, tmp_path / "early"), 2)
    with pytest.raises(RunFolderError, match="need 'lower' to be done first"):
        lpgnas.open_run(early)._run.check_fixed_point()
    spoiled = runs.copied(small_run, tmp_path / "spoiled")
    (spoiled / "program.npz").write_bytes(b"spoiled")
    assert runs.lpgnas("verify", spoiled, "--fixed-point").code == 1
    assert not (spoiled / "fixed_point.json").exists()
    hub = np.stack([np.arange(50) % 3, np.zeros(50, dtype=np.int64)])
    graph = Graph("hub", np.ones((3, runs.FEATURES), dtype=np.float32), hub)
    with pytest.raises(DegreeError, match="node 0 has 50 incoming edges"):
        lpgnas.fixed_point_checks(load_program(small_run / "program.npz"), graph)


def site(**facts: Any) -> SiteCounts:
    """A signed 4-bit component that needs all its bits, but for what is said."""
    usual: dict[str, Any] = {
        "name": "layer0/message", "operation": "transform", "layer": 0, "component": "message", "kind": "fixed",
        "bits": 4, "fraction": 2, "low": -8, "high": 7, "values": 1000, "codes": Reached(-8, 7), "codes_used": 16,
        "codes_in_format": 16, "common_places": 0, "nonzero": 900, "rounded": Reached(-8, 7),
    }  # fmt: skip
    return SiteCounts(**{**usual, **facts})


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, []),
        ({"saturated_high": 9, "rounded": Reached(-8, 8)}, []),
        (
            {"saturated_high": 10, "rounded": Reached(-8, 30)},
            ["lacks bits: 1.0 % of the values saturate; 2 bits more, or as many binary places fewer, hold all"],
        ),
        (
            {"low": 0, "high": 15, "codes": Reached(0, 15), "saturated_low": 250, "rounded": Reached(-9, 15)},
            ["lacks a sign: 25.0 % of the values are negative and become 0"],
        ),
        ({"underflows": 450}, ["lacks binary places: 50.0 % of the non-zero values are rounded to 0"]),
        ({"codes": Reached(-3, 3)}, ["wastes 1 bit of 4: codes -3..3 fit 3"]),
        (
            {"codes": Reached(-2, 1), "underflows": 1},
            ["wastes 2 bits of 4: codes -2..1 fit 2 or hold as many binary places more"],
        ),
        ({"codes": Reached(0, 7)}, ["wastes its sign: codes 0..7 are never negative"]),
        ({"common_places": 2}, ["wastes 2 bits at the lower end: every code is a multiple of 4"]),
        ({"codes": Reached(3, 3), "codes_used": 1}, ["constant: only code 3 comes up, so its 4 bits carry nothing"]),
        (
            {"kind": "ternary", "low": -1, "high": 1, "codes": Reached(-1, 1), "codes_used": 2, "operation": "weight"},
            ["wastes a code: -1..1 leaves one of the three out, so binary weights could hold it"],
        ),
        (
            {"accumulator": Reached(-9, 9, 1 << 40), "accumulator_bits": 64},
            ["its 64-bit accumulator needs 5 bits on this graph; 42 are proved for any graph"],
        ),
        ({"operation": "bias", "codes": Reached(-3, 3)}, []),
        ({"name": "layer0/probability", "codes": Reached(0, 3)}, []),
    ],
)
def test_sentences(facts: dict[str, Any], told: list[str]) -> None:
    made = site(**facts)
    report = FixedPointReport("small", 3, 2, 9, (made,))
    assert report.sentences() == [f"{made.name}: {text}" for text in told]
    ending = "".join(f"- {line}\n" for line in report.sentences()) or "- no format wastes or lacks bits\n"
    assert report.to_text().endswith("\n\n" + ending)
