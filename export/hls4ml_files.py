"""The folder `hls4ml/`: the file and the settings that hls4ml is given, and the graph that they were made for."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lpgnas.export.hls4ml_graph import Hls4mlFile, export_hls4ml
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph

MODEL, CONFIG, GRAPH = "model.onnx", "config.json", "graph.npz"
FILES = (MODEL, CONFIG, GRAPH)
DEFAULT_PRECISION = "fixed<16,6>"
"""hls4ml wants one; no layer of ours has it, since each has its own."""


def hls4ml_config(file: Hls4mlFile) -> dict[str, object]:
    """The `hls_config` of hls4ml: fully parallel, one multiplication a multiplier, every type set by name."""
    model = {"Precision": {"default": DEFAULT_PRECISION}, "ReuseFactor": 1, "Strategy": "Latency"}
    return {"Model": model, "LayerName": {name: {"Precision": dict(one)} for name, one in file.precisions.items()}}


def export_files(program: IntegerProgram, graph: Graph) -> Mapping[str, bytes]:
    """The files by path in a run folder; equal arguments give equal bytes.

    `graph.npz` is a graph file like a user's own, with the features as they were given.

    Raises:
        ExportError: the program cannot be held exactly (see `export_hls4ml`).
        DegreeError: a node beyond `max_degree`.
    """
    csr = CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False)
    made = export_hls4ml(program, csr)
    config = json.dumps(hls4ml_config(made), indent=2, sort_keys=True) + "\n"
    contents = {MODEL: made.model, CONFIG: config.encode(), GRAPH: _graph_bytes(graph)}
    return {f"hls4ml/{name}": content for name, content in contents.items()}


def _graph_bytes(graph: Graph) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, x=_dense(graph), edge_index=graph.edge_index)
    return buffer.getvalue()


def _dense(graph: Graph) -> npt.NDArray[np.float32]:
    return graph.x if isinstance(graph.x, np.ndarray) else np.asarray(graph.x.toarray(), dtype=np.float32)
