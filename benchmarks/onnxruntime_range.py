"""Which versions of onnxruntime run the exported files, with the right codes, at all optimisation levels.

`python -m benchmarks.onnxruntime_range write FILE` writes the files of the support matrix's programs, a graph for each
and the codes of the kernels; `python benchmarks/onnxruntime_range.py read FILE` runs them in any environment that has
onnxruntime and NumPy, lpgnas or not, and prints a line a target and opset.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

NODES, EDGES = 40, 90


def write(path: Path) -> None:
    """Files, graphs and expected logits, as one .npz."""
    import onnx

    from lpgnas.export.files import export_files
    from lpgnas.export.targets import TARGETS
    from lpgnas.kernels.executor import Executor
    from lpgnas.support import probes

    arrays: dict[str, Any] = {}
    for number, probe in enumerate(probes()):
        rng = np.random.default_rng(number)
        x = rng.normal(size=(NODES, probe.program.num_features)).astype(np.float32)
        edges = rng.integers(0, NODES, (2, EDGES)).astype(np.int64)
        arrays[f"{number}/x"], arrays[f"{number}/edges"] = x, edges
        arrays[f"{number}/logits"] = Executor(probe.program).run(x, edges).logits
        made = export_files(probe.program).files
        for target in TARGETS:
            for file in TARGETS.get(target).files:
                if file in made and file.endswith(".onnx"):
                    opset = onnx.load_from_string(made[file]).opset_import[0].version
                    arrays[f"{number}/{target}, opset {opset}"] = np.frombuffer(made[file], dtype=np.uint8)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read(path: Path) -> None:
    """Run every file and count its levels that give the codes, refuse it, or differ."""
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    found: dict[str, Counter[str]] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            number, what = name.split("/")
            if "opset" not in what:
                continue
            inputs = {"x": arrays[f"{number}/x"], "edge_index": arrays[f"{number}/edges"]}
            counts = found.setdefault(what, Counter(files=0, right=0, refused=0, wrong=0))
            counts["files"] += 1
            for level in (
                levels.ORT_DISABLE_ALL,
                levels.ORT_ENABLE_BASIC,
                levels.ORT_ENABLE_EXTENDED,
                levels.ORT_ENABLE_ALL,
            ):
                options = onnxruntime.SessionOptions()
                options.log_severity_level, options.graph_optimization_level = 4, level
                try:
                    session = onnxruntime.InferenceSession(
                        arrays[name].tobytes(), options, providers=["CPUExecutionProvider"]
                    )
                    (logits,) = session.run(None, inputs)
                except Exception:
                    counts["refused"] += 1
                else:
                    counts["right" if np.array_equal(logits, arrays[f"{number}/logits"]) else "wrong"] += 1
    for what, counts in sorted(found.items()):
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        sys.stdout.write(f"onnxruntime {onnxruntime.__version__}, {what}: {told}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("write", "read"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    (write if options.what == "write" else read)(options.file)
