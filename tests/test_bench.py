"""`lpgnas bench`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs

from lpgnas.bench import Contender, bench_run, bench_table, interleaved
from lpgnas.errors import RunFolderError
from lpgnas.results import sha256


def test_a_bench_is_written_and_printed(rich_run: Path, tmp_path: Path) -> None:
    run = runs.copied(rich_run, tmp_path / "run")
    done = runs.lpgnas("bench", run, "--rounds", 3)
    assert (done.code, done.err) == (0, "")
    result = json.loads((run / "bench.json").read_text())
    assert done.out == bench_table(result)
    assert (result["threads"], result["rounds"], result["dataset"]) == (1, 3, "small")
    assert result["cpu"]
    assert result["program_sha256"] == sha256((run / "program.npz").read_bytes())
    names = [one["name"] for one in result["contenders"]]
    assert names == ["integers, whole", "integers, prepared", "PyG, float32", "torch CSR, float32"]
    assert [one["operation"] for one in result["operations"]] == [
        "transform", "aggregate", "lookup", "transform", "transform", "score", "aggregate",
    ]  # fmt: skip
    for one in (*result["contenders"], *result["operations"]):
        assert 0 < one["q1_ms"] <= one["median_ms"] <= one["q3_ms"]
    assert runs.bytes_of(run) == runs.bytes_of(rich_run)


def test_rounds_are_interleaved_and_turned() -> None:
    calls: list[str] = []
    timed = [Contender(name, "", lambda name=name: calls.append(name)) for name in "abc"]  # type: ignore[misc]
    rows = interleaved(timed, 3)
    assert "".join(calls) == "abc" * 4 + "abc" + "bca" + "cab"
    assert [row["name"] for row in rows] == ["a", "b", "c"]


def test_refusals(small_run: Path, tmp_path: Path) -> None:
    for flags in (("--rounds", 0), ("--threads", 0)):
        done = runs.lpgnas("bench", small_run, *flags)
        assert (done.code, done.err.split(":")[0]) == (2, "ConfigError")
    with pytest.raises(RunFolderError, match="bench needs 'lower'"):
        bench_run(runs.first_stages(runs.copied(small_run, tmp_path / "run"), 2), None)
    spoiled = runs.copied(small_run, tmp_path / "spoiled")
    (spoiled / "program.npz").write_bytes(b"spoiled")
    assert runs.lpgnas("bench", spoiled).code == 1
    assert not (small_run / "bench.json").exists()
