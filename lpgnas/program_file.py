"""`program.npz`: an integer program as a deterministic, checksummed archive without pickle.

Members: `header` (UTF-8 JSON), `array_<k>` (the packed codes of the k-th constant). The archive's comment, its last 64
bytes, is the SHA-256 of every byte before it, in hexadecimal; nothing of a damaged file is parsed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from lpgnas.components import Component
from lpgnas.errors import LpgnasError, ProgramError
from lpgnas.integer_program import Aggregate, Array, Codes, IntegerProgram, Operation, Tensor, Transform, narrow
from lpgnas.number_formats import Rounding
from lpgnas.proofs import check_program

SCHEMA_VERSION = 4
OLDEST_VERSION = 1
CHECKSUM_LENGTH = 64
PACKING = "little-endian bits: element k holds bits [k*b, (k+1)*b), least significant first; binary code c as (c+1)/2"
_OPERATIONS: dict[str, type] = {kind.__name__.lower(): kind for kind in get_args(Operation)}


def pack_codes(values: Codes, bits: int, kind: str) -> npt.NDArray[np.uint8]:
    """Codes of any shape as packed bytes, `ceil(size * bits / 8)` uint8; see `PACKING`."""
    flat = values.astype(np.int64).ravel()
    raw = (flat + 1) >> 1 if kind == "binary" else flat & ((1 << bits) - 1)
    planes = (raw[:, None] >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little")


def unpack_codes(
    packed: npt.NDArray[np.uint8], shape: tuple[int, ...], bits: int, kind: str, *, signed: bool
) -> npt.NDArray[np.int64]:
    """The codes that `pack_codes` packed, int64 of `shape`."""
    size = int(np.prod(shape))
    planes = np.unpackbits(packed, count=size * bits, bitorder="little").reshape(size, bits).astype(np.int64)
    raw = planes @ (np.int64(1) << np.arange(bits, dtype=np.int64))
    if kind == "binary":
        return (2 * raw - 1).reshape(shape)
    if signed or kind == "ternary":
        raw = np.where(raw >> (bits - 1) == 1, raw - (1 << bits), raw)
    return raw.reshape(shape)


def to_bytes(program: IntegerProgram) -> bytes:
    """The bytes of `program.npz`: equal programs give equal bytes."""
    header = {
        "format": "lpgnas integer program",
        "schema_version": SCHEMA_VERSION,
        "packing": PACKING,
        "num_features": program.num_features,
        "num_classes": program.num_classes,
        "rounding": program.rounding.value,
        "row_normalize": program.row_normalize,
        "max_degree": program.max_degree,
        "input": asdict(program.input),
        "output": program.output,
        "tensors": [asdict(tensor) for tensor in program.tensors],
        "operations": [{"op": type(op).__name__.lower(), **asdict(op)} for op in program.operations],
        "arrays": [_array_header(array) for array in program.arrays],
        "metadata": program.metadata,
    }
    members = {"header": np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)}
    members |= {f"array_{k}": pack_codes(a.values, a.bits, a.kind) for k, a in enumerate(program.arrays)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * CHECKSUM_LENGTH
    content = buffer.getvalue()[:-CHECKSUM_LENGTH]
    return content + _checksum(content)


def from_bytes(content: bytes) -> IntegerProgram:
    """The program in the bytes of a `program.npz`.

    Raises:
        ProgramError: not such a file, damaged, of another schema, or with a proof that does not hold.
    """
    if _checksum(content[:-CHECKSUM_LENGTH]) != content[-CHECKSUM_LENGTH:]:
        raise ProgramError("not a program.npz, or damaged: its last 64 bytes are not the checksum of the others")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
        program = _from_header(json.loads(members["header"].tobytes()), members)
        check_program(program)
    except LpgnasError:
        raise
    except Exception as error:  # only a file made to deceive comes here, with whatever error it provokes
        raise ProgramError(f"program.npz is malformed: {error!r}") from error
    return program


def load_program(path: Path) -> IntegerProgram:
    """Read and check `program.npz`.

    Raises:
        ProgramError: the file is missing, or as `from_bytes`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProgramError(f"cannot read {path}: {error.strerror}") from error
    try:
        return from_bytes(content)
    except ProgramError as error:
        raise ProgramError(f"{path}: {error}") from error


def _array_header(array: Array) -> dict[str, Any]:
    described = {f.name: getattr(array, f.name) for f in fields(array) if f.name != "values"}
    return {**described, "shape": list(array.values.shape)}


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _from_header(header: dict[str, Any], members: dict[str, npt.NDArray[np.uint8]]) -> IntegerProgram:
    version = _typed(header, "schema_version", int)
    if not OLDEST_VERSION <= version <= SCHEMA_VERSION:
        raise ProgramError(
            f"program.npz has schema version {version}, this lpgnas reads {OLDEST_VERSION} to {SCHEMA_VERSION}"
        )
    if header["packing"] != PACKING:
        raise ProgramError(f"program.npz states an unknown packing: {header['packing']!r}")
    return IntegerProgram(
        num_features=_typed(header, "num_features", int),
        num_classes=_typed(header, "num_classes", int),
        rounding=Rounding(header["rounding"]),
        row_normalize=_typed(header, "row_normalize", bool),
        max_degree=_typed(header, "max_degree", int),
        input=_tensor(header["input"]),
        output=_typed(header, "output", str),
        tensors=tuple(_tensor(raw) for raw in header["tensors"]),
        operations=tuple(_operation(_migrated(raw, version)) for raw in header["operations"]),
        arrays=tuple(_array(raw, members[f"array_{k}"]) for k, raw in enumerate(header["arrays"])),
        metadata={str(key): str(value) for key, value in header["metadata"].items()},
    )


def _typed(raw: dict[str, Any], key: str, kind: type) -> Any:  # noqa: ANN401 - a JSON value of the type asked for
    if type(raw[key]) is not kind:
        raise ProgramError(f"program.npz: {key} must be {kind.__name__}, got {raw[key]!r}")
    return raw[key]


def _component(raw: str | None) -> Component | None:
    return None if raw is None else Component(raw)


def _check_field_types(kind: type, raw: dict[str, Any]) -> None:
    expected = {
        "int": (int,),
        "str": (str,),
        "bool": (bool,),
        "str | None": (str, type(None)),
        "tuple[str, ...]": (list,),
        "tuple[int, ...]": (list,),
    }
    for item in fields(kind):
        allowed = expected.get(str(item.type))
        if allowed is not None and type(raw[item.name]) not in allowed:
            raise ProgramError(f"program.npz: {item.name} must be {item.type}, got {raw[item.name]!r}")


def _tensor(raw: dict[str, Any]) -> Tensor:
    _check_field_types(Tensor, raw)
    return Tensor(**{**raw, "component": _component(raw["component"])})


def _migrated(raw: dict[str, Any], version: int) -> dict[str, Any]:
    """An operation of an older file in today's fields.

    Version 1 had no weights and tables in a score's formula; until version 2 a transform had one input; until version 3
    there was no index of kept words.
    """
    kind = raw["op"]
    if version < 2 and kind == Aggregate.__name__.lower():
        raw = {"edge_weights": [], "argument_table": None, "argument_shift": 0, "argument_fraction": 0, **raw}
    if version < 3 and kind == Transform.__name__.lower():
        rest = {key: value for key, value in raw.items() if key != "input"}
        raw = {**rest, "inputs": [raw["input"]], "aligns": [0]}
    return raw


def _operation(raw: dict[str, Any]) -> Operation:
    kind = _OPERATIONS.get(raw["op"])
    if kind is None:
        raise ProgramError(f"program.npz holds an unknown operation {raw['op']!r}; update lpgnas")
    arguments = {key: value for key, value in raw.items() if key != "op"}
    _check_field_types(kind, arguments)
    for item in fields(kind):
        if str(item.type).startswith("tuple["):
            arguments[item.name] = _entries(item.name, arguments[item.name], int if "int" in str(item.type) else str)
    operation: Operation = kind(**arguments)
    return operation


def _entries(name: str, values: list[object], kind: type) -> tuple[Any, ...]:
    if any(type(value) is not kind for value in values):
        raise ProgramError(f"program.npz: {name} must hold {kind.__name__}, got {values!r}")
    return tuple(values)


def _array(raw: dict[str, Any], packed: npt.NDArray[np.uint8]) -> Array:
    described = {key: value for key, value in raw.items() if key != "shape"}
    _check_field_types(Array, described)
    if described["role"] not in ("weight", "bias", "table", "index"):
        raise ProgramError(f"program.npz: array {described['name']!r} has an unknown role {described['role']!r}")
    shape = tuple(int(size) for size in raw["shape"])
    kind, bits, signed = described["kind"], int(described["bits"]), bool(described["signed"])
    if kind not in ("fixed", "binary", "ternary") or not 1 <= bits <= 16 or any(size < 1 for size in shape):
        raise ProgramError(f"program.npz: array {described['name']!r} has an impossible format or shape")
    if packed.dtype != np.uint8 or packed.size != (int(np.prod(shape)) * bits + 7) // 8:
        raise ProgramError(f"program.npz: array {described['name']!r} has {packed.size} bytes, not those of its shape")
    if np.unpackbits(packed, bitorder="little")[int(np.prod(shape)) * bits :].any():
        raise ProgramError(f"program.npz: array {described['name']!r} has bits set beyond its {np.prod(shape)} codes")
    described["component"] = _component(described["component"])
    codes = unpack_codes(packed, shape, bits, kind, signed=signed)
    array = Array(**described, values=narrow(codes, int(codes.min()), int(codes.max())))
    return Array(**{**described, "values": narrow(codes, array.low, array.high)})
