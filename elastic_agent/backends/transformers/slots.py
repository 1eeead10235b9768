"""The key/value cache of a `BatchDecoder`: slots for rows, which move, are copied, and grow together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class Slots:
    """Keys and values, [slots, heads, room, dim] a layer; transformers' `Cache` for a forward."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    slots: int = 0
    room: int = 0
    # The forward in progress: which slots, and where each row's new tokens go
    first: int = 0
    positions: Tensor | None = None  # [rows, new]
    span: int = 0

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values ([rows, heads, new, dim]); returns all that the rows have."""
        assert self.positions is not None
        found = []
        for store, new in ((self.keys, key), (self.values, value)):
            if layer not in store or store[layer].shape[0] < self.slots or store[layer].shape[2] < self.room:
                store[layer] = self._grown(store.get(layer), new)
            rows = store[layer][self.first : self.first + new.shape[0]]
            if len(self.positions) == 1:
                rows[:, :, self.span - new.shape[2] : self.span] = new
            else:
                index = self.positions[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
                rows.scatter_(2, index, new)
            found.append(rows[:, :, : self.span])
        return found[0], found[1]

    def _grown(self, old: Tensor | None, like: Tensor) -> Tensor:
        new = like.new_zeros(self.slots, like.shape[1], self.room, like.shape[3])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def swap(self, a: int, b: int, span: int) -> None:
        """Exchange two slots' first `span` tokens."""
        self.slots = max(self.slots, power_of_two(max(a, b) + 1))
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                if tensor.shape[0] < self.slots:
                    tensor = store[layer] = self._grown(tensor, tensor)
                kept = tensor[a, :, :span].clone()
                tensor[a, :, :span] = tensor[b, :, :span]
                tensor[b, :, :span] = kept

    def copy(self, source: int, targets: Sequence[int], span: int) -> None:
        """Give the slots `targets` the first `span` tokens of the slot `source`."""
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                if tensor.shape[0] < self.slots:
                    tensor = store[layer] = self._grown(tensor, tensor)
                tensor[list(targets), :, :span] = tensor[source, :, :span].clone()

    def get_seq_length(self, *_: Any) -> int:
        return 0


def power_of_two(n: int) -> int:
    """The least power of two that holds `n`, at least 16."""
    return 1 << max(4, (n - 1).bit_length())
