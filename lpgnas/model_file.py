"""`model.safetensors`: the trained parameters and fractions of a model (no pickle)."""

from __future__ import annotations

import json

import safetensors.torch
import torch
from safetensors import SafetensorError

from lpgnas.errors import RunFolderError
from lpgnas.layers import QuantizedModel
from lpgnas.results import sha256
from lpgnas.spec import ModelSpec


def model_bytes(model: QuantizedModel) -> bytes:
    """The file's bytes: the state dict, with the input fraction and the spec's hash as metadata."""
    metadata = {"input_fraction": str(model.input_fraction), "spec_sha256": sha256(model.spec.to_json().encode())}
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
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        fraction = int(metadata["input_fraction"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"model.safetensors is not a model of lpgnas: {error}") from error
    if metadata.get("spec_sha256") != sha256(spec.to_json().encode()):
        raise RunFolderError("model.safetensors belongs to another spec.json; train again")
    torch.manual_seed(0)
    model = QuantizedModel(spec, fraction)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunFolderError(f"model.safetensors does not fit its spec: {error}") from error
    return model
