"""Runs that are killed with SIGKILL and started again: the same bytes in the end, and only whole files on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import runs

import lpgnas
from lpgnas.results import is_leftover

SERVER = """
import os, signal, sys, time
import lpgnas.api
from lpgnas.cli import main

for line in sys.stdin:
    seconds, *arguments = line.rstrip("\\n").split("\\t")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(arguments))
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() - started < float(seconds):
        time.sleep(0.0005)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
"""Reads `seconds TAB arguments` lines: runs a command in a fork of itself, kills it then, and says its exit code."""


@contextmanager
def server() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(runs.ROOT)}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, env=environment, cwd=runs.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def command_of(dataset: Path, folder: Path) -> tuple[str, ...]:
    return ("run", "--dataset", str(dataset), *runs.QUICK, *runs.BUDGETS, "--out", str(folder))


def check_finished(folder: Path, whole: Path) -> None:
    assert runs.bytes_of(folder, runs.FINAL) == runs.bytes_of(whole, runs.FINAL)
    assert sorted(runs.paths_of(folder)) == sorted(runs.FILES)


def test_a_run_killed_at_four_moments(small_run: Path, small_npz: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stages = json.loads((small_run / "record.json").read_text())["stages"]
    writing = sum(stages[name]["seconds"] for name in ("search", "train", "lower", "export"))
    kills, finished, code = 0, 0, -9
    with server() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while kills < 4 or code != 0:
            folder = tmp_path / f"run{finished}"  # one that was faster than its kill leaves the rest to another folder
            seconds = 600.0 if kills == 4 else rng.uniform(0.05, writing)
            process.stdin.write("\t".join((str(seconds), *command_of(small_npz, folder), "--quiet")) + "\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            assert code in (0, -9)
            runs.check_whole(folder, small_run)
            if code == 0:
                check_finished(folder, small_run)
            kills, finished = kills + (code == -9), finished + (code == 0)
        process.stdin.close()


def test_a_run_killed_within_its_first_write_starts_again(small_npz: Path, tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from lpgnas.results import write_atomic
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), "half")
"""
    done = runs.python("-c", code, tmp_path / "run/config.toml")
    assert done.returncode == -9
    assert [is_leftover(path) for path in (tmp_path / "run").iterdir()] == [True]
    result = lpgnas.search(small_npz, out=tmp_path / "run", epochs=5, candidates=2, distillation=False)
    names = {path.name for path in (tmp_path / "run").iterdir()}  # the leftover is gone
    assert names == {"record.json", *result.record["stages"]["search"]["files"]}


def start(arguments: tuple[str, ...]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(runs.ROOT)}
    command = [sys.executable, "-m", "lpgnas.cli", *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=runs.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def killed(arguments: tuple[str, ...], seconds: float, *, at_work: bool) -> bool:
    """Start a run and kill it after `seconds`, counted from its first line of progress if `at_work`."""
    with start(arguments) as process:
        assert process.stderr is not None
        if at_work:
            process.stderr.readline()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stderr.read()
    assert process.returncode in (0, -9)
    return process.returncode == -9


@pytest.mark.slow
def test_runs_killed_at_fifty_moments(small_npz: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    started = time.monotonic()
    with start(command_of(small_npz, whole)) as process:
        assert process.stderr is not None
        process.stderr.readline()
        at_work = time.time()
        process.stderr.read()
    assert process.returncode == 0
    duration, writing = time.monotonic() - started, (whole / "model.qonnx.onnx").stat().st_mtime - at_work
    rng = np.random.default_rng(1)
    kills = folders = 0
    while kills < 50:
        folder = tmp_path / f"run{folders}"
        folders += 1
        while True:
            aimed = bool(rng.random() < 0.7)  # most of the time goes by with imports and verification
            seconds = float(rng.uniform(0, writing if aimed else duration))
            died = killed(command_of(small_npz, folder), seconds, at_work=aimed)
            runs.check_whole(folder, whole)
            kills += died
            if not died:
                break
            if kills == 50:
                assert not killed(command_of(small_npz, folder), 600.0, at_work=False)
                break
        check_finished(folder, whole)


@pytest.mark.slow
def test_sweeps_killed_at_eight_moments(small_npz: Path, tmp_path: Path) -> None:
    limits = ("--weight-budgets", "20B", "100B", "400B", "--seeds", "0")

    def command(out: Path) -> tuple[str, ...]:
        return ("sweep", "--dataset", str(small_npz), *runs.QUICK, *limits, "--out", str(out))

    started = time.monotonic()
    assert not killed(command(tmp_path / "whole"), 600.0, at_work=True)
    duration = time.monotonic() - started
    rng, kills, folders = np.random.default_rng(2), 0, 0
    names = ("sweep.toml", "sweep.csv", "sweep.md", "sweep.json", "pareto.png", "teacher-0.npz", "supernet-0.csv")
    while kills < 8:
        folder, left = tmp_path / f"sweep{folders}", 4
        folders += 1
        while left and killed(command(folder), float(rng.uniform(0, duration / 2)), at_work=True):
            kills, left = kills + 1, left - 1
        assert not killed(command(folder), 600.0, at_work=False)
        assert runs.bytes_of(folder, names) == runs.bytes_of(tmp_path / "whole", names)
        for run in ("weight-100B_seed-0", "weight-400B_seed-0"):
            assert runs.bytes_of(folder / run, runs.FINAL) == runs.bytes_of(tmp_path / "whole" / run, runs.FINAL)
