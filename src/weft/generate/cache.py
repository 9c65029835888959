"""A key/value cache with room to grow: a decoded token is written behind the others instead of copying them all.

transformers' own layer concatenates at every step, which for long prompts costs more than the step's arithmetic.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 128
"""Tokens that a layer leaves free behind what it must hold."""


class RoomyLayer(DynamicLayer):
    """Keys and values are views of larger buffers; they look like an ordinary layer's from outside."""

    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, K, T, D) and return all that is held, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        whole = held + key_states.shape[-2]
        if self._buffers is None or whole > self._buffers[0].shape[-2]:
            self._buffers = (self._grown(self.keys, key_states, whole), self._grown(self.values, value_states, whole))
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., held:whole, :] = new
        self._show(whole)
        return self.keys, self.values  # type: ignore[return-value]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        if self._buffers is not None:
            held = self.get_seq_length()
            self._buffers = (self._buffers[0].index_select(0, indices), self._buffers[1].index_select(0, indices))
            self._show(held)

    def _show(self, length: int) -> None:
        assert self._buffers is not None
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    @staticmethod
    def _grown(held: Tensor | None, new: Tensor, whole: int) -> Tensor:
        buffer = new.new_empty(*new.shape[:-2], whole + ROOM, new.shape[-1])
        if held is not None and held.numel():
            buffer[..., : held.shape[-2], :] = held
        return buffer


def empty_cache() -> Cache:
    """A cache whose layers are made as the model writes them."""
    return Cache(layer_class_to_replicate=RoomyLayer)
