"""A key/value cache that does not copy itself at every token."""

from copy import deepcopy

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64


class RoomyLayer(DynamicLayer):
    """A :class:`DynamicLayer` with room for tokens to come; ``keys`` and ``values`` are views of what is filled.

    The original joins old and new at every token, which is half the time of a batched step on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[torch.Tensor] = []
        self._length = 0

    @classmethod
    def repeated(cls, layer: DynamicLayer, rows: int) -> "RoomyLayer":
        """``rows`` copies of a layer's one row."""
        roomy = cls()
        if layer.is_initialized:
            assert layer.keys is not None
            assert layer.values is not None
            roomy.lazy_initialization(layer.keys, layer.values)
            roomy._fill(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
        return roomy

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append ``(B, heads, new, d)`` keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self._length + key_states.shape[-2]
        if not self._buffers:
            self._fill(key_states, value_states)
        else:
            if length > self._buffers[0].shape[-2]:
                assert self.keys is not None
                assert self.values is not None
                self._fill(self.keys, self.values, length - self._length)
            for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[..., self._length : length, :] = new
            self._show(length)
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Go on with these rows only."""
        if self._buffers:
            assert self.keys is not None
            assert self.values is not None
            self._fill(self.keys[indices], self.values[indices])

    def _fill(self, keys: torch.Tensor, values: torch.Tensor, room: int = 0) -> None:
        """New buffers that begin with ``keys`` and ``values``, and have ``room`` and more behind."""
        length = keys.shape[-2]
        self._buffers = []
        for filled in (keys, values):
            buffer = filled.new_empty(*filled.shape[:2], length + room + _ROOM, filled.shape[-1])
            buffer[..., :length, :] = filled
            self._buffers.append(buffer)
        self._show(length)

    def _show(self, length: int) -> None:
        self._length = length
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)


def repeated(prefix: DynamicCache, rows: int) -> DynamicCache:
    """A cache of ``rows`` rows that each begin with the one row of ``prefix``, which stays as it is."""
    if all(type(layer) is DynamicLayer for layer in prefix.layers):
        cache = DynamicCache()
        cache.layers = [RoomyLayer.repeated(layer, rows) for layer in prefix.layers]  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        return cache
    # sliding windows, linear attention: as transformers keeps them
    cache = deepcopy(prefix)
    cache.batch_repeat_interleave(rows)
    return cache
