"""`model.safetensors`: the trained parameters and fractions of a model (no pickle)."""

from __future__ import annotations

import json

import safetensors.torch
import torch
from safetensors import SafetensorError

from lpgnas.errors import ConfigError, RunFolderError
from lpgnas.layers import QuantizedModel
from lpgnas.results import sha256
from lpgnas.spec import SCHEMA_VERSION, ModelSpec


def model_bytes(model: QuantizedModel) -> bytes:
    """The file's bytes: the state dict, with the input fraction and the spec's hash as metadata.

    Equal models give equal bytes: the metadata is one JSON text, since safetensors writes several in any order.
    """
    facts = {"input_fraction": model.input_fraction, "spec_sha256": sha256(model.spec.to_json().encode())}
    metadata = {"lpgnas": json.dumps(facts, sort_keys=True)}
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    content: bytes = safetensors.torch.save(state, metadata)
    return content


def model_from_bytes(content: bytes, spec: ModelSpec) -> QuantizedModel:
    """The model that `model_bytes` wrote.

    Raises:
        RunFolderError: not such a file, or of another spec.
    """
    try:
        state = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["lpgnas"])
        fraction, spec_sha256 = int(facts["input_fraction"]), facts["spec_sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"model.safetensors is not a model of lpgnas: {error}") from error
    if spec_sha256 not in _hashes(spec):
        raise RunFolderError("model.safetensors belongs to another spec.json; train again")
    torch.manual_seed(0)
    try:
        model = QuantizedModel(spec, fraction, state.get("words"))
        model.load_state_dict(state)
    except (RuntimeError, ConfigError) as error:
        raise RunFolderError(f"model.safetensors does not fit its spec: {error}") from error
    return model


def _hashes(spec: ModelSpec) -> set[str]:
    """Those of the spec's JSON: today's, and those of files that an older lpgnas wrote of the same model."""
    chain = not any(layer.sources for layer in spec.layers)
    oldest = SCHEMA_VERSION if spec.input_words is not None else 1 if chain else 2
    return {sha256(spec.to_json(version).encode()) for version in range(oldest, SCHEMA_VERSION + 1)}
