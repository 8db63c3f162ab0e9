"""Give hls4ml a file, check what it made of it, build its C++ emulation with g++ and run it.

hls4ml (1.3 was tried) is imported where it is used. Its headers of fixed-point types come in its package: nothing is
fetched. The emulation is a shared library that is loaded into this process, as hls4ml's own `predict` does.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lpgnas.errors import ExportError
from lpgnas.export.constant_graph import ConstantProgram, IntArray
from lpgnas.export.hls4ml_files import hls4ml_config
from lpgnas.export.hls4ml_graph import Hls4mlFile

COMPILER, PROJECT, BACKEND = "g++", "lpgnas", "Vivado"
OPTIMIZATION = "-O0"
"""Of the emulation: almost all of its time goes into building it."""
_STACK_BYTES = 1 << 28
_Model = Any
"""hls4ml's `ModelGraph`; the package has no types."""


def installed() -> bool:
    """Whether hls4ml is here."""
    return find_spec("hls4ml") is not None


def missing_tools() -> str:
    """What the emulation needs and is not here; empty where all is."""
    missing = [] if installed() else ["hls4ml (pip install hls4ml==1.3.0)"]
    return ", ".join(missing + ([] if shutil.which(COMPILER) else [f"{COMPILER} (Debian: g++)"]))


class Emulation:
    """A built project; `run` gives codes."""

    def __init__(self, model: _Model, constant: ConstantProgram) -> None:
        self._model, self._constant = model, constant

    def run(self, codes: IntArray) -> IntArray:
        """Codes of the logits [B, N, C] int64 of codes of the input [B, N, columns] (`ConstantProgram.input_codes`).

        Raises:
            ExportError: a value that is no code of the logits.
        """
        constant = self._constant
        x = np.ldexp(codes.astype(np.float64), -constant.input.fraction)
        values = _on_a_large_stack(lambda: self._model.predict(np.ascontiguousarray(x)))
        scaled = np.ldexp(values, constant.program.logits.fraction)
        made: IntArray = scaled.astype(np.int64)
        if not np.array_equal(made, scaled):
            raise ExportError("hls4ml's emulation gave values between the codes of the logits")
        return made.reshape(len(codes), constant.num_nodes, constant.program.num_classes)


def _on_a_large_stack(run: Callable[[], npt.ArrayLike]) -> npt.NDArray[np.float64]:
    """Values of the emulation, which keeps every layer's results on the stack, in a thread with a stack for them.

    Raises:
        ExportError: there is no memory for such a stack, or hls4ml breaks.
    """
    made: list[npt.NDArray[np.float64]] = []
    broken: list[Exception] = []

    def call() -> None:
        try:
            made.append(np.asarray(run(), dtype=np.float64))
        except Exception as error:
            broken.append(error)

    before = threading.stack_size(_STACK_BYTES)
    try:
        with _silent():
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
    except RuntimeError as error:
        broken.append(error)
    finally:
        threading.stack_size(before)
    if broken:
        raise ExportError(f"hls4ml's emulation could not be run: {broken[0]}") from broken[0]
    return made[0]


@contextlib.contextmanager
def emulation(file: Hls4mlFile) -> Iterator[Emulation]:
    """The C++ emulation of a file, in a temporary folder for as long as the context lasts.

    Raises:
        ExportError: hls4ml or g++ is missing, refuses the file, or hls4ml gives a layer another type.
    """
    if missing := missing_tools():
        raise ExportError(f"the emulation of hls4ml needs {missing}")
    with tempfile.TemporaryDirectory(prefix="lpgnas-hls4ml-") as name:
        model = write_project(file.model, hls4ml_config(file), Path(name))
        check_types(model, file.precisions)
        script = Path(name) / "build_lib.sh"
        script.write_text(script.read_text().replace('CFLAGS="-O3', f'CFLAGS="-w {OPTIMIZATION}'))
        with _silent() as told:
            try:
                model._compile()  # `compile` would write the script anew
            except Exception as error:
                raise ExportError(f"{COMPILER} refused hls4ml's project: {error}: {told.getvalue()[-1000:]}") from error
        yield Emulation(model, file.constant)


def write_project(content: bytes, config: Mapping[str, Any], folder: Path) -> _Model:
    """Write the project that hls4ml makes of a file and its settings; returns its model.

    Raises:
        ExportError: hls4ml is missing or refuses the file.
    """
    import onnx

    if not installed():
        raise ExportError("the project is made by hls4ml, which is not installed: pip install hls4ml==1.3.0")
    with _silent() as told:
        try:
            from hls4ml.converters import convert_from_onnx_model

            model = convert_from_onnx_model(
                onnx.load_from_string(content),
                output_dir=str(folder),
                project_name=PROJECT,
                backend=BACKEND,
                io_type="io_parallel",
                hls_config=json.loads(json.dumps(config)),
            )
            model.write()
        except OSError:
            raise
        except Exception as error:
            raise ExportError(f"hls4ml refused the file: {error}: {told.getvalue()[-500:]}") from error
    return model


def check_conversion(content: bytes, config: Mapping[str, Any]) -> None:
    """Let hls4ml convert a file with its settings, and look at the types that it gives.

    Raises:
        ExportError: hls4ml is missing, refuses the file, or gives a layer another type.
    """
    precisions = {name: one["Precision"] for name, one in config["LayerName"].items()}
    with tempfile.TemporaryDirectory(prefix="lpgnas-hls4ml-") as name:
        check_types(write_project(content, config, Path(name)), precisions)


def check_types(model: _Model, precisions: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a model in which hls4ml gave a result, an accumulator or a constant another type than it was told.

    Raises:
        ExportError: the message names the layer and both types.
    """
    origin = {made: name for name in precisions for made in (name, f"Conv1D_{name}", f"bn_{name}", f"{name}_act")}
    seen = set()
    for layer in model.get_layers():
        name = origin.get(layer.name)
        if name is None:
            raise ExportError(f"hls4ml made a layer {layer.name!r} of its own")
        seen.add(name)
        for kind, wanted in precisions[name].items():
            if f"{kind}_t" not in layer.types:
                raise ExportError(f"hls4ml gave layer {layer.name!r} no type of its {kind}; take hls4ml 1.3")
            found = _type(layer.types[f"{kind}_t"].precision)
            if not f"{found},".startswith(f"{wanted.removesuffix('>')},"):
                raise ExportError(f"hls4ml gave {kind} of layer {layer.name!r} the type {found}>, not {wanted}")
    if lost := set(precisions) - seen:
        raise ExportError(f"hls4ml left out the layers {', '.join(sorted(lost))}")


def _type(precision: Any) -> str:  # noqa: ANN401 - a type of hls4ml
    """One of hls4ml's types as the settings write it, without the last bracket."""
    sign, width = "" if precision.signed else "u", precision.width
    modes = [str(getattr(precision, name, "")) for name in ("rounding_mode", "saturation_mode")]
    return ",".join([f"{sign}fixed<{width},{getattr(precision, 'integer', width)}", *modes])


@contextlib.contextmanager
def _silent() -> Iterator[io.StringIO]:
    """Keep what hls4ml prints; its warnings are about what `check_types` looks at."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield told
