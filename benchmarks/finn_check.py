"""FINN's own conversion of `finn/model.onnx`: every product becomes an MVAU, and the converted model gives our codes.

FINN pins other versions of onnx than this project, so that two environments take turns (`bash tests/finn/check.sh`):

    python -m benchmarks.finn_check write FOLDER    models on small graphs, with inputs and the kernels' codes
    python benchmarks/finn_check.py read FOLDER     in FINN's environment: convert, execute, compare; a table
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from qonnx.core.modelwrapper import ModelWrapper

Codes = npt.NDArray[np.int64]
WEIGHTS = ("binary", "ternary", "fixed4", "fixed8")
OPERATORS = (("const", "sum", False), ("const", "mean", False), ("gcn", "sum", False), ("gcn", "sum", True))
"""Attention, aggregation, whether rows are normalised."""
SHAPES = ((6, 10), (12, 30), (24, 60))
"""Nodes and edges."""
INPUTS = 4


def write(folder: Path) -> None:
    """One model for every weight format, operator and shape of graph."""
    from lpgnas.export.constant_graph import constant_program
    from lpgnas.export.finn import circuit_inputs, export_finn
    from lpgnas.kernels.csr import CsrGraph
    from lpgnas.kernels.executor import Executor
    from lpgnas.number_formats import Rounding
    from lpgnas.spec import LayerSpec
    from lpgnas.support import small_program

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for weights in WEIGHTS:
        for attention, aggregation, normalized in OPERATORS:
            for (nodes, edges), rounding in zip(SHAPES, Rounding, strict=True):
                layer = LayerSpec(attention, aggregation, "relu", 6)
                options = {"input_signed": False, "row_normalize": True} if normalized else {}
                program = small_program(layer, weights=weights, rounding=rounding, **options)  # type: ignore[arg-type]
                edge_index = rng.integers(0, nodes, (2, edges)).astype(np.int64)
                graph = CsrGraph.from_edges(edge_index, nodes, self_loops=False)
                constant, source = constant_program(program, graph), program.input
                low, high = np.ldexp([source.low, source.high], -source.fraction)
                x = [rng.uniform(low, high, (nodes, source.columns)).astype(np.float32) for _ in range(INPUTS)]
                if normalized:  # few words a row, so that their shares are large
                    x = [one * (rng.random(one.shape) < 0.3).astype(np.float32) for one in x]
                codes = np.stack([Executor(program).run(one, edge_index).codes for one in x])
                if len(np.unique(codes)) < 4:
                    raise SystemExit(f"{weights} {attention} {aggregation}: these codes hardly vary and show nothing")
                rows = "-normalised" if normalized else ""
                place = folder / f"{weights}-{attention}-{aggregation}{rows}-{nodes}-{rounding.value}"
                place.with_suffix(".onnx").write_bytes(export_finn(program, graph))
                np.savez(
                    place.with_suffix(".npz"),
                    allow_pickle=False,
                    inputs=np.stack([codes_in for one in x for codes_in in circuit_inputs(constant, one).values()]),
                    codes=codes,
                )


def read(folder: Path) -> bool:
    """Convert and execute every model of a folder; whether all is as it should be."""
    lines = [
        "Codes that differ, by `bash tests/finn/check.sh` (finn-plus 1.6.1, qonnx 1.0.0):",
        "",
        "| model | MatMul | MVAU | others | codes | QONNX | FINN-ONNX | streamlined | hardware layers |",
        "|---" * 9 + "|",
    ]
    fine = True
    for path in sorted(folder.glob("*.onnx")):
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            inputs, codes = arrays["inputs"], arrays["codes"]
        row, good = _checked(path, inputs, codes)
        lines.append(f"| {path.stem} | {row} |")
        fine &= good
    sys.stdout.write("\n".join(lines) + "\n")
    return fine and len(lines) > 4


def _checked(path: Path, inputs: Codes, codes: Codes) -> tuple[str, bool]:
    """One line of the table, and whether every product is an MVAU and no code differs."""
    from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
    from finn.transformation.streamline import Streamline
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(ModelWrapper(str(path)))
    products = _kinds(model).count("MatMul")
    stages = [model]
    for transformation in (ConvertQONNXtoFINN(), Streamline()):
        stages.append(stages[-1].transform(transformation))
    stages.append(_hardware(stages[-1]))
    different = [_different(stage, inputs, codes) for stage in stages]
    kinds = _kinds(stages[-1])
    units = kinds.count("MVAU")
    others = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds) - {"MVAU"}))
    row = " | ".join(map(str, (products, units, others, codes.size, *different)))
    return row, units == products and not any(different)


def _hardware(model: ModelWrapper) -> ModelWrapper:
    from finn.transformation.fpgadataflow.convert_to_hw.quantized_matrix_vector_activation import (
        InferQuantizedMatrixVectorActivation,
    )
    from finn.transformation.fpgadataflow.convert_to_hw.thresholding import InferThresholdingLayer
    from qonnx.transformation.infer_data_layouts import InferDataLayouts
    from qonnx.transformation.infer_datatypes import InferDataTypes

    for step in (InferDataLayouts, InferDataTypes, InferQuantizedMatrixVectorActivation, InferThresholdingLayer):
        model = model.transform(step())
    return model


def _kinds(model: ModelWrapper) -> list[str]:
    return [str(node.op_type) for node in model.graph.node]


def _different(model: ModelWrapper, inputs: Codes, codes: Codes) -> int:
    """How many codes differ, over all inputs."""
    from qonnx.core.onnx_exec import execute_onnx

    count = 0
    name, out = model.graph.input[0].name, model.graph.output[0].name
    for one, wanted in zip(inputs, codes, strict=True):
        count += int((execute_onnx(model, {name: one.astype(np.float32)})[out] != wanted).sum())
    return count


if __name__ == "__main__":
    verb, place = sys.argv[1], Path(sys.argv[2])
    if verb == "write":
        write(place)
    else:
        warnings.simplefilter("ignore")
        sys.exit(0 if read(place) else 1)
