"""What the builder of ONNX files refuses and how it names nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpgnas.errors import ExportError
from lpgnas.export import graph_builder
from lpgnas.export.graph_builder import LOGITS, GraphBuilder, to_bytes


def small_model(*, all_named: bool = False) -> onnx.ModelProto:
    b = GraphBuilder(all_named=all_named)
    weight = b.initializer("weight", np.ones((2, 2), dtype=np.float32))
    scaled = b.add("Mul", "x/scaled", "x", b.constant(2.0**-9, np.float32))
    b.add("MatMul", LOGITS, scaled, weight)
    value = onnx.helper.make_tensor_value_info
    ends = [value("x", onnx.TensorProto.FLOAT, ["n", 2])], [value(LOGITS, onnx.TensorProto.FLOAT, ["n", 2])]
    return b.model("small", *ends, doc="", metadata={})


def test_arithmetic_has_no_name_of_its_own() -> None:
    assert [node.name for node in small_model().graph.node] == ["", LOGITS]
    assert [node.name for node in small_model(all_named=True).graph.node] == ["x/scaled", LOGITS]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((1.0, "1"), (2.0, "2"), (2.0**20, "1048576"), (2.0**32, "2^32"), (0.5, "2^-1"), (2.0**-15, "2^-15")),
        *((0.0, "0"), (0.75, "0.75"), (3.5, "3.5"), (-2.0, "-2"), (-0.5, "-0.5"), (np.inf, "inf")),
    ],
)
def test_scales_are_called_by_powers_of_two(value: float, name: str) -> None:
    assert GraphBuilder().constant(value, np.float64) == f"float64:{name}"


def test_a_name_taken_twice_is_refused() -> None:
    b = GraphBuilder()
    b.add("Identity", "y", "x")
    with pytest.raises(ExportError, match="would be called 'y'"):
        b.add("Identity", "y", "x")


def test_more_than_a_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    assert to_bytes(model)
    monkeypatch.setattr(graph_builder, "MAX_FILE_BYTES", 19)
    with pytest.raises(ExportError, match="would hold constants of 20 bytes, and an ONNX file holds 19"):
        to_bytes(model)
