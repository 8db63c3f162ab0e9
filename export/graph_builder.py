"""`GraphBuilder`: collects the nodes, constants and local functions of one ONNX file, under names that read well.

Every node has one output, with a name such as `layer0/message/accumulator`. Nodes that profiles and pictures are read
by (products, gathers, scatters, quantisers, calls of functions) have the name of their output; small arithmetic has
none of its own, which would be a tenth of a small model's file. Constants are shared: one value is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from lpgnas import __version__
from lpgnas.errors import ExportError

FUNCTION_DOMAIN = "lpgnas"
LOGITS = "logits"
"""The output of every file."""
BASE_OPSET = 18
"""`ScatterElements` takes the maximum, and `BitwiseAnd` exists, from this opset on."""
BASE_IR_VERSION = 8
"""The first version with local functions."""
NAMED_NODES = frozenset({"MatMul", "MatMulInteger", "Gather", "ScatterElements", "QuantizeLinear", "DequantizeLinear"})
"""Nodes of these kinds have a name."""
MAX_FILE_BYTES = (1 << 31) - (1 << 20)
"""Protobuf's 2 GiB, less what stands beside the constants."""
MOST_PLACES = 20
"""Powers of two up to this one are called by their decimal digits."""


def tensor_type(dtype: npt.DTypeLike) -> int:
    """The ONNX element type of a NumPy dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _number(value: np.generic) -> str:
    """A number as constants are called: scales read best as powers of two."""
    mantissa, exponent = np.frexp(float(value))
    if mantissa == 0.5 and not 0 <= exponent - 1 <= MOST_PLACES:
        return f"2^{exponent - 1}"
    return str(value).removesuffix(".0")


class GraphBuilder:
    """One graph in the making; see the module's page.

    Args:
        all_named: every node has a name, for a consumer that goes by them.
    """

    def __init__(self, *, all_named: bool = False) -> None:
        self._all_named = all_named
        self._opset = BASE_OPSET
        self._ir_version = BASE_IR_VERSION
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._functions: dict[tuple[str, str], str] = {}
        self._annotations: list[onnx.TensorAnnotation] = []
        self._names = {"x", "edge_index"}

    def require(self, opset: int, ir_version: int) -> None:
        """Raise the file's opset and IR version to what a node or a tensor type needs."""
        self._opset = max(self._opset, opset)
        self._ir_version = max(self._ir_version, ir_version)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def free_name(self, name: str) -> str:
        """`name`, or with the first number from 2 on that makes it new."""
        count, free = 1, name
        while free in self._names:
            count += 1
            free = f"{name}_{count}"
        return free

    def _claim(self, name: str) -> str:
        if name in self._names:
            raise ExportError(f"two parts of the exported graph would be called {name!r}; rename the program's tensors")
        self._names.add(name)
        return name

    def add(self, op_type: str, name: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Add a node with the output `name` and return `name`.

        Raises:
            ExportError: the name is taken.
        """
        self._claim(name)
        own_name = name if self._all_named or domain or op_type in NAMED_NODES else None
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=own_name, domain=domain, **attributes))
        return name

    def cast(self, value: str, dtype: npt.DTypeLike) -> str:
        """`value` as `dtype`; one node a value and type, however often it is asked for."""
        name = f"{value}/{np.dtype(dtype).name}"
        return name if name in self else self.add("Cast", name, value, to=tensor_type(dtype))

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """A small constant of any shape, stored once a value, type and shape."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            text = "x".join(_number(item) for item in array.ravel()) or "empty"
            shape = "" if array.ndim == 0 else f"[{'x'.join(map(str, array.shape))}]"
            self._constants[key] = self.initializer(f"{array.dtype.name}{shape}:{text}", array)
        return self._constants[key]

    def initializer(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """Store `array` under `name`."""
        return self.tensor(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))

    def tensor(self, proto: onnx.TensorProto) -> str:
        """Store a tensor under the name it has."""
        self._initializers[self._claim(str(proto.name))] = proto
        return str(proto.name)

    def call(self, function: str, name: str, *inputs: str, domain: str = FUNCTION_DOMAIN, **attributes: object) -> str:
        """Add a call of the local function whose text is `function` (see `local_functions`) under `name`."""
        op_type = function.strip().split("(", 1)[0].split("<", 1)[0].strip()
        self._functions[(domain, op_type)] = function
        return self.add(op_type, name, *inputs, domain=domain, **attributes)

    def annotate(self, name: str, datatype: str) -> None:
        """State the QONNX datatype of a tensor, once."""
        if any(one.tensor_name == name for one in self._annotations):
            return
        entry = onnx.StringStringEntryProto(key="finn_datatype", value=datatype)
        self._annotations.append(onnx.TensorAnnotation(tensor_name=name, quant_parameter_tensor_names=[entry]))

    def _local_functions(self) -> Iterable[onnx.FunctionProto]:
        for (domain, _), text in sorted(self._functions.items()):
            header = f'<domain: "{domain}", opset_import: ["" : {self._opset}]>'
            yield onnx.parser.parse_function(header + text)

    def model(
        self,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        *,
        doc: str,
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The finished model; the default domain is listed first, and initialisers are no graph inputs."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, initializer=list(self._initializers.values()))
        graph.quantization_annotation.extend(self._annotations)
        functions = list(self._local_functions())
        domains = sorted({str(function.domain) for function in functions})
        model = helper.make_model(
            graph,
            functions=functions,
            ir_version=self._ir_version,
            opset_imports=[helper.make_opsetid("", self._opset), *(helper.make_opsetid(d, 1) for d in domains)],
            producer_name="lpgnas",
            producer_version=__version__,
            doc_string=doc,
        )
        helper.set_model_props(model, dict(metadata))
        return model


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The checked model as bytes; equal models give equal bytes.

    Raises:
        ExportError: more bytes than one file holds.
        onnx.checker.ValidationError: the model is malformed, a defect of the exporter.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)  # ByteSize stops working where it matters
    if size > MAX_FILE_BYTES:
        raise ExportError(
            f"the file would hold constants of {size} bytes, and an ONNX file holds {MAX_FILE_BYTES}; "
            f"compile in a smaller graph, or take the target c"
        )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
