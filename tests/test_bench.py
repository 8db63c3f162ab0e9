"""`lpgnas bench`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import runs

from lpgnas.bench import Contender, bench_run, bench_table, contenders, interleaved, onnx_contenders
from lpgnas.bench_plot import bench_png
from lpgnas.errors import CheckFailed, RunFolderError
from lpgnas.kernels.executor import Prediction
from lpgnas.pipeline import Run
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
    assert names == [
        "integers, whole", "integers, prepared", "PyG, float32", "torch CSR, float32",
        "onnxruntime, integers", "onnxruntime, quantised",
    ]  # fmt: skip
    exact = {"equal codes": ("integers", "onnxruntime"), "close logits": ("PyG", "torch")}
    assert all(one["name"].startswith(exact[one["checked"]]) for one in result["contenders"])
    left_out = {one["name"]: one["reason"] for one in result["left_out"]}
    assert list(left_out) == ["scipy, float32", "onnxruntime, float32"]
    assert "softmax (gat)" in left_out["scipy, float32"]
    assert "Not timed: scipy, float32: block 1 weighs edges by a softmax" in done.out
    assert (run / "bench.png").read_bytes() == bench_png(result)
    assert [one["operation"] for one in result["preparation"]] == ["check", "quantise", "CSR", "decode"]
    assert [one["operation"] for one in result["operations"]] == [
        "transform", "aggregate", "lookup", "transform", "transform", "score", "aggregate",
    ]  # fmt: skip
    for one in (*result["contenders"], *result["preparation"], *result["operations"]):
        assert 0 < one["q1_ms"] <= one["median_ms"] <= one["q3_ms"]
    assert runs.bytes_of(run) == runs.bytes_of(rich_run)


def test_rounds_are_interleaved_and_turned() -> None:
    calls: list[str] = []
    timed = [Contender(name, "", lambda name=name: calls.append(name)) for name in "abc"]  # type: ignore[misc]
    rows = interleaved(timed, 3)
    assert "".join(calls) == "abc" * 4 + "aabbcc" + "bbccaa" + "ccaabb"
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


def test_wrong_results_are_not_timed(rich_run: Path) -> None:
    """One code or logit off, a row less, and one that is not a number."""

    def same(result: object) -> object:
        return result

    run = Run(rich_run)
    program, graph = run.program(), run.prepared.graph
    exported, left_out = onnx_contenders(rich_run, program, graph, 1)
    assert [one.name for one in left_out] == ["onnxruntime, float32"]
    for one in (*contenders(program, run.model(), graph), *exported):
        result = one.call()
        interleaved([replace(one, call=partial(same, result))], 1)
        right = np.asarray(result.codes if isinstance(result, Prediction) else result).astype(np.float64)
        off, unknown = right.copy(), right.copy()
        off[-1, -1] += np.ldexp(1.0, -program.logits.fraction) if one.name.startswith("onnx") else 1.0
        unknown[0, 0] = np.nan
        for wrong in (off, unknown, right[:-1]):
            with pytest.raises(CheckFailed, match=f"{one.name.split(',')[0]}.*nothing was timed"):
                interleaved([replace(one, call=partial(same, wrong))], 1)


def test_files_that_a_run_lacks_are_named(rich_run: Path, tmp_path: Path) -> None:
    shutil.copy(rich_run / "model.int.onnx", tmp_path)
    run = Run(rich_run)
    exported, left_out = onnx_contenders(tmp_path, run.program(), run.prepared.graph, 2)
    assert [one.name for one in exported] == ["onnxruntime, integers"]
    assert left_out[0].name == "onnxruntime, quantised"
    assert "the run has no model.qdq.onnx" in left_out[0].reason
