"""How many bytes autograd keeps alive: the tensors that a forward pass saves for its backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Peak:
    """The most bytes of saved tensors that were alive at once; a storage that several share counts once.

    Attributes:
        bytes: the peak.
        alive: bytes now.
    """

    bytes: int = 0
    alive: int = 0
    _holders: Counter[int] = field(default_factory=Counter)

    def add(self, tensor: Tensor) -> int:
        """Another holder of a tensor's storage; returns the storage's key."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        self._holders[key] += 1
        if self._holders[key] == 1:
            self.alive += storage.nbytes()
            self.bytes = max(self.bytes, self.alive)
        return key

    def drop(self, key: int, size: int) -> None:
        """A holder less."""
        self._holders[key] -= 1
        if not self._holders[key]:
            self.alive -= size


class _Held:
    """A saved tensor; autograd lets it go with its graph."""

    def __init__(self, tensor: Tensor, peak: Peak) -> None:
        self.tensor, self._peak = tensor, peak
        self._key, self._size = peak.add(tensor), tensor.untyped_storage().nbytes()

    def __del__(self) -> None:
        self._peak.drop(self._key, self._size)


@contextmanager
def saved_tensors() -> Iterator[Peak]:
    """Count what is saved inside the context."""
    peak = Peak()

    def pack(tensor: Tensor) -> _Held:
        return _Held(tensor, peak)

    def unpack(held: _Held) -> Tensor:
        return held.tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield peak
