"""`model.safetensors`: round trip, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import runs
import safetensors.torch
import torch

from lpgnas.errors import ConfigError, RunFolderError
from lpgnas.layers import QuantizedModel
from lpgnas.model_file import model_bytes, model_from_bytes
from lpgnas.number_formats import Rounding
from lpgnas.results import sha256

SPEC = runs.every_operation()


def model(input_fraction: int = 3) -> QuantizedModel:
    torch.manual_seed(4)
    made = QuantizedModel(SPEC, input_fraction)
    for number, (name, buffer) in enumerate(made.named_buffers()):
        assert name.endswith("_fraction")
        buffer.fill_(number)
    return made


def test_round_trip() -> None:
    original = model()
    content = model_bytes(original)
    read = model_from_bytes(content, SPEC)
    assert (read.input_fraction, read.spec) == (3, SPEC)
    for (name, value), (other, kept) in zip(read.state_dict().items(), original.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, kept)
        assert value.dtype == kept.dtype
    assert {model_bytes(model()) for _ in range(20)} == {content} == {model_bytes(read)}


def test_a_file_of_an_older_spec_is_read() -> None:
    """Before routes, specs had schema version 1, before kept words 2; a chain of all words is the same model in all."""
    *older, new = (sha256(SPEC.to_json(version).encode()).encode() for version in (1, 2, 3))
    content = model_bytes(model())
    assert content.count(new) == 1
    for old in older:
        read = model_from_bytes(content.replace(new, old), SPEC)
        assert model_bytes(read) == content


def test_kept_words_are_in_the_file() -> None:
    spec, words = replace(SPEC, input_words=3), torch.tensor([0, 4, 11])
    content = model_bytes(QuantizedModel(spec, 0, words))
    read = model_from_bytes(content, spec)
    assert model_bytes(read) == content
    assert read.words is not None and read.words.equal(words)
    assert read.blocks[0].whole("weight").shape[1] == 3


@pytest.mark.parametrize("words", [[0, 4], [0, 4, 12], [-1, 4, 11], [4, 4, 11], [4, 0, 11], None])
def test_words_that_are_not_those_of_the_spec_are_refused(words: list[int] | None) -> None:
    spec = replace(SPEC, input_words=3)
    made = QuantizedModel(spec, 0, torch.tensor([0, 4, 11]))
    made.words = None if words is None else torch.tensor(words)
    with pytest.raises(RunFolderError, match="a model that keeps 3 of 12 words needs their int64 numbers, rising; got"):
        model_from_bytes(model_bytes(made), spec)
    with pytest.raises(ConfigError, match="a model that keeps 12 of 12 words"):
        QuantizedModel(SPEC, 0, torch.arange(12))


def test_routed_blocks_keep_their_parts() -> None:
    made = QuantizedModel(runs.jumping_spec(), 0)
    content = model_bytes(made)
    read = model_from_bytes(content, runs.jumping_spec())
    assert model_bytes(read) == content
    assert "layers.2.weight_from_x" in read.state_dict()


def test_foreign_files_are_refused() -> None:
    content = model_bytes(model())
    foreign = safetensors.torch.save({"weight": torch.zeros(3)}, {"format": "pt"})
    bare = safetensors.torch.save({"weight": torch.zeros(3)})
    for spoiled in (b"", b"no tensors", content[:50], content[:-1], foreign, bare):
        with pytest.raises(RunFolderError, match=r"model\.safetensors is not a model of lpgnas"):
            model_from_bytes(spoiled, SPEC)


def test_a_model_of_another_spec_is_refused() -> None:
    with pytest.raises(RunFolderError, match=r"belongs to another spec\.json; train again"):
        model_from_bytes(model_bytes(model()), replace(SPEC, rounding=Rounding.FLOOR))


def test_a_model_without_a_tensor_is_refused() -> None:
    short = model()
    del short.layers[0].bias
    with pytest.raises(RunFolderError, match="does not fit its spec"):
        model_from_bytes(model_bytes(short), SPEC)
