"""`program.npz`: the same bytes for the same program, and a named error for everything else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from lpgnas import program_file
from lpgnas.errors import ProgramError
from lpgnas.integer_program import Aggregate, IntegerProgram, Transform
from lpgnas.operators import ATTENTIONS
from lpgnas.program_file import CHECKSUM_LENGTH, from_bytes, load_program, pack_codes, to_bytes, unpack_codes

COLUMNS = 12
"""Words of programs with an index."""


def program(seed: int = 0) -> IntegerProgram:
    return samples.random_program(np.random.default_rng(seed), 7, 3, 20)[1]


def forged(change: Callable[[dict[str, Any]], object], seed: int = 0) -> bytes:
    """The file of a program whose header was changed, with a checksum that holds."""
    content = to_bytes(program(seed))
    with np.load(io.BytesIO(content)) as archive:
        members = {name: archive[name] for name in archive.files}
    header = json.loads(members["header"].tobytes())
    change(header)
    members["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    return sealed(members)


def sealed(members: dict[str, np.ndarray]) -> bytes:
    """An archive of `members` with a checksum that holds."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **members)
    content = buffer.getvalue()
    end = content[:-2] + CHECKSUM_LENGTH.to_bytes(2, "little")  # the length of the archive's comment
    return end + program_file._checksum(end)


@pytest.mark.parametrize("seed", range(40))
def test_round_trip_is_identical(seed: int) -> None:
    made = program(seed)
    content = to_bytes(made)
    read = from_bytes(content)
    assert read == made
    for mine, theirs in zip(made.arrays, read.arrays, strict=True):
        assert mine.values.dtype == theirs.values.dtype
        assert np.array_equal(mine.values, theirs.values)
    assert to_bytes(read) == content


def test_other_tools_can_open_it() -> None:
    with np.load(io.BytesIO(to_bytes(program()))) as archive:
        assert json.loads(archive["header"].tobytes())["schema_version"] == 4


def as_version_3(header: dict[str, Any]) -> None:
    """What an older lpgnas wrote: no index of kept words, in any program that has none."""
    assert all(array["role"] != "index" for array in header["arrays"])
    header["schema_version"] = 3


def as_version_2(header: dict[str, Any]) -> None:
    """Before that: transforms of one input."""
    as_version_3(header)
    header["schema_version"] = 2
    for operation in header["operations"]:
        if operation["op"] == "transform":
            (operation["input"],) = operation.pop("inputs")
            assert operation.pop("aligns") == [0]


def as_version_1(header: dict[str, Any]) -> None:
    """Before that: aggregations without weights and tables in the formula of a score."""
    as_version_2(header)
    header["schema_version"] = 1
    for operation in header["operations"]:
        if operation["op"] == "aggregate":
            for name in ("edge_weights", "argument_table", "argument_shift", "argument_fraction"):
                del operation[name]


def chains(count: int = 120) -> Iterator[tuple[int, IntegerProgram]]:
    """Programs without an index in which every transform has one input, with their seeds."""
    for seed in range(count):
        made = program(seed)
        if made.index is None and all(len(one.inputs) == 1 for one in made.operations if isinstance(one, Transform)):
            yield seed, made


def attentions_of(made: IntegerProgram) -> set[str]:
    return {one.attention for one in made.operations if isinstance(one, Aggregate)}


@pytest.mark.parametrize(
    ("older", "known"), [(as_version_1, {"const", "gcn", "gat"}), (as_version_2, set(ATTENTIONS) - {"self"})]
)
def test_an_older_file_still_reads(older: Callable[[dict[str, Any]], None], known: set[str]) -> None:
    seen = set()
    for seed, made in chains():
        if attentions_of(made) <= known:
            assert from_bytes(forged(older, seed)) == made
            seen |= attentions_of(made)
    assert seen == known


def test_an_older_file_cannot_hold_a_newer_attention() -> None:
    seed = next(seed for seed, made in chains() if "cos" in attentions_of(made))
    with pytest.raises(ProgramError, match="cos lacks its scores, its weights or a table"):
        from_bytes(forged(as_version_1, seed))


def test_truncated_anywhere() -> None:
    content = to_bytes(program())
    cuts = {*range(0, len(content), 37), *range(80), *range(len(content) - 150, len(content))}
    for cut in cuts:
        with pytest.raises(ProgramError, match=r"not a program\.npz, or damaged"):
            from_bytes(content[:cut])


def test_one_byte_flipped_anywhere() -> None:
    content = to_bytes(program())
    rng = np.random.default_rng(0)
    for position in {*range(0, len(content), 23), *range(120), *range(len(content) - 200, len(content))}:
        changed = bytearray(content)
        changed[position] ^= int(rng.integers(1, 256))
        with pytest.raises(ProgramError, match=r"not a program\.npz, or damaged"):
            from_bytes(bytes(changed))


def test_foreign_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", x=np.ones(3))
    np.save(tmp_path / "foreign.npy", np.ones(3))
    (tmp_path / "empty").touch()
    for name in ("foreign.npz", "foreign.npy", "empty"):
        with pytest.raises(ProgramError, match=r"not a program\.npz, or damaged"):
            load_program(tmp_path / name)
    with pytest.raises(ProgramError, match="cannot read"):
        load_program(tmp_path / "missing.npz")


def test_load_program_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "program.npz").write_bytes(to_bytes(program()))
    assert load_program(tmp_path / "program.npz") == program()


def test_a_forged_checksum_alone_changes_nothing() -> None:
    assert from_bytes(forged(lambda header: None)) == program()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(schema_version=5), "schema version 5, this lpgnas reads 1 to 4"),
        (lambda h: h.update(schema_version=0), "schema version 0, this lpgnas reads 1 to 4"),
        (lambda h: h.update(packing="other"), "unknown packing"),
        (lambda h: h.update(max_degree="9"), "max_degree must be int"),
        (lambda h: h.update(max_degree=True), "max_degree must be int"),
        (lambda h: h.update(max_degree=21), "not the proved ones"),
        (lambda h: h.update(rounding="up"), "malformed"),
        (lambda h: h.pop("output"), "malformed"),
        (lambda h: h.update(operations=[{"op": "other"}]), "unknown operation 'other'"),
        (lambda h: h.update(operations=[{"op": []}]), "malformed"),
        (lambda h: h.update(operations=[]), "not a computed tensor"),
        (lambda h: h["operations"][0].update(shift="1"), "shift must be int"),
        (lambda h: h["operations"][0].update(more=1), "malformed"),
        (lambda h: h["operations"][0].update(inputs="x"), "inputs must be tuple"),
        (lambda h: h["operations"][0].update(inputs=[0]), "inputs must hold str, got"),
        (lambda h: h["operations"][0].update(aligns=[False]), "aligns must hold int, got"),
        (lambda h: h["tensors"][0].update(bits=1.5), "bits must be int"),
        (lambda h: h["tensors"][0].update(component="other"), "malformed"),
        (lambda h: h["arrays"][0].update(role="other"), "unknown role"),
        (lambda h: h["arrays"][0].update(kind="other"), "impossible format"),
        (lambda h: h["arrays"][0].update(bits=17), "impossible format"),
        (lambda h: h["arrays"][0].update(fraction=0.5), "fraction must be int"),
        (lambda h: h["arrays"][0].update(shape=[1 << 70, 1]), "malformed|not those of its shape"),
        (lambda h: h["arrays"][0].update(shape=[1]), "not those of its shape"),
        (lambda h: h["arrays"].append(h["arrays"][0]), "malformed"),
        (lambda h: h.update(metadata=3), "malformed"),
    ],
)
def test_a_forged_header_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        from_bytes(forged(change))


def indexed(count: int = 6, **changes: Any) -> IntegerProgram:
    """A program of 12 words with an index that keeps this many, or with other fields of it."""
    for seed in range(1000):
        made = samples.random_program(np.random.default_rng(seed), COLUMNS, 3, 20)[1]
        if made.index is not None and int(made.index.values.sum()) == count:
            arrays = tuple(replace(one, **changes) if one.role == "index" else one for one in made.arrays)
            return replace(made, arrays=arrays)
    raise AssertionError("no such program")


def test_the_index_is_one_bit_a_word() -> None:
    made = indexed()
    with np.load(io.BytesIO(to_bytes(made))) as archive:
        header = json.loads(archive["header"].tobytes())
        place = next(k for k, one in enumerate(header["arrays"]) if one["role"] == "index")
        packed = archive[f"array_{place}"]
    assert made.index is not None
    assert header["arrays"][place]["name"] == "input_words"
    assert (header["arrays"][place]["shape"], header["arrays"][place]["bits"]) == ([COLUMNS], 1)
    assert np.unpackbits(packed, bitorder="little")[:COLUMNS].tolist() == made.index.values.tolist()
    assert from_bytes(to_bytes(made)).index == made.index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bits: bits ^ np.array([1, 0], np.uint8), "the index keeps [57] of 12 words"),
        (lambda bits: bits * 0, "index 'input_words' keeps 0 of 12 words"),
        (lambda bits: bits | np.array([255, 15], np.uint8), "keeps 12 of 12 words; where all are kept, leave it out"),
        (lambda bits: bits[:1], "'input_words' has 1 bytes, not those of its shape"),
        (lambda bits: bits | np.array([0, 16], np.uint8), "'input_words' has bits set beyond its 12 codes"),
        (lambda bits: bits | np.array([0, 128], np.uint8), "'input_words' has bits set beyond its 12 codes"),
    ],
)
def test_a_forged_index_is_refused(change: Callable[[Any], Any], message: str) -> None:
    made = indexed()
    place = next(k for k, one in enumerate(made.arrays) if one.role == "index")
    with np.load(io.BytesIO(to_bytes(made))) as archive:
        members = {name: archive[name] for name in archive.files}
    members[f"array_{place}"] = change(members[f"array_{place}"])
    with pytest.raises(ProgramError, match=message):
        from_bytes(sealed(members))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 2}, "must have one unsigned bit for each of 12 words, not 2 of shape"),
        ({"values": np.array([1, 0] * 5, np.int8)}, "must have one unsigned bit for each of 12 words, not 1 of shape"),
        ({"role": "weight"}, "weight has shape"),
        ({"kind": "ternary", "bits": 2}, "must have one unsigned bit"),
    ],
)
def test_an_index_of_another_kind_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        from_bytes(to_bytes(indexed(**changes)))


def test_two_indices_are_refused() -> None:
    made = indexed()
    assert made.index is not None
    twice = replace(made, arrays=(*made.arrays, replace(made.index, name="other")))
    with pytest.raises(ProgramError, match="two indices of kept words: input_words, other"):
        from_bytes(to_bytes(twice))


def test_forged_members_are_refused() -> None:
    for members in ({}, {"header": np.zeros(3, np.uint8)}, {"header": np.array([{}], dtype=object)}):
        with pytest.raises(ProgramError, match="malformed"):
            from_bytes(sealed(members))


@given(data=st.data(), kind=st.sampled_from(["fixed", "binary", "ternary"]), signed=st.booleans())
def test_packing_round_trip(data: st.DataObject, kind: str, signed: bool) -> None:
    bits = {"binary": 1, "ternary": 2}.get(kind) or data.draw(st.integers(2, 16))
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    element = {"binary": st.sampled_from([-1, 1]), "ternary": st.integers(-1, 1)}.get(kind, st.integers(low, high))
    values = np.array(data.draw(st.lists(element, min_size=1, max_size=30)))
    packed = pack_codes(values, bits, kind)
    assert packed.nbytes == -(-values.size * bits // 8)
    assert unpack_codes(packed, values.shape, bits, kind, signed=signed).tolist() == values.tolist()


def test_packing_order_is_the_stated_one() -> None:
    assert pack_codes(np.array([1, -1, 1, 1]), 1, "binary").tolist() == [0b1101]
    assert pack_codes(np.array([1, -1, 0]), 2, "ternary").tolist() == [0b001101]
    assert pack_codes(np.array([-1, 2, -4]), 3, "fixed").tolist() == [0b00010111, 0b1]
