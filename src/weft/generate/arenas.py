"""Where running rows keep their keys and values: rows of similar length side by side, one product for all of them.

A row reads its prompt into storage of its own (`Reading`). While it answers it sits in an `Arena`, a table of rows with
the same room; when it outgrows that it moves to one with twice as much. Rows lie without gaps, so a step takes the
first n of a table; what a shorter row must not see is masked. Keys are stored transposed: (head, width, places).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LEAST = 128
"""Places of the smallest arena's rows."""
ROWS = 4
"""Rows that an arena begins with."""


class Shape(NamedTuple):
    """What one token keeps: layers · 2 · heads · width numbers."""

    layers: int
    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize


class Block(NamedTuple):
    """Keys (layers, K, D, n) and values (layers, K, n, D) of n tokens."""

    keys: Tensor
    values: Tensor


@dataclass(eq=False, slots=True)
class Seat:
    """A row's place: storage of its own while it reads, then a slot of an arena."""

    reading: Block | None = None
    arena: Arena | None = None
    slot: int = -1
    length: int = 0
    """Tokens held."""

    def tokens(self, start: int, stop: int) -> Block:
        """Views of what is held for these places."""
        if self.reading is not None:
            keys, values = self.reading
        else:
            assert self.arena is not None
            keys, values = self.arena.keys[:, self.slot], self.arena.values[:, self.slot]
        return Block(keys[..., start:stop], values[:, :, start:stop])


class Arena:
    """Rows with `room` places each; seat i has slot i."""

    def __init__(self, shape: Shape, room: int) -> None:
        self.shape, self.room = shape, room
        self.seats: list[Seat] = []
        self.keys, self.values = self._tables(ROWS)

    def _tables(self, rows: int) -> Block:
        layers, heads, width, dtype, device = self.shape
        # Zeros rather than whatever lies there: a masked place is multiplied by zero, and that must not be NaN.
        return Block(
            torch.zeros(layers, rows, heads, width, self.room, dtype=dtype, device=device),
            torch.zeros(layers, rows, heads, self.room, width, dtype=dtype, device=device),
        )

    def take(self, seat: Seat) -> None:
        """Move `seat` in, with what it holds."""
        held, slot = seat.tokens(0, seat.length), len(self.seats)
        if slot == self.keys.shape[1]:
            keys, values = self._tables(2 * slot)
            keys[:, :slot], values[:, :slot] = self.keys, self.values
            self.keys, self.values = keys, values
        self.keys[:, slot, :, :, : seat.length] = held.keys
        self.values[:, slot, :, : seat.length] = held.values
        if seat.arena is not None:
            seat.arena.release(seat)
        seat.reading, seat.arena, seat.slot = None, self, slot
        self.seats.append(seat)

    def release(self, seat: Seat) -> None:
        """Let the seat go; the last row takes its slot."""
        last = self.seats.pop()
        if last is not seat:
            held = last.tokens(0, last.length)
            self.keys[:, seat.slot, :, :, : last.length] = held.keys
            self.values[:, seat.slot, :, : last.length] = held.values
            self.seats[seat.slot], last.slot = last, seat.slot
        seat.arena, seat.slot = None, -1


class Arenas:
    """All seats of one engine."""

    def __init__(self, shape: Shape, context: int) -> None:
        self.shape, self.context = shape, context
        self._by_room: dict[int, Arena] = {}

    @classmethod
    def of(cls, block: Block, context: int) -> Arenas:
        """Arenas for rows like this one."""
        layers, heads, width, _ = block.keys.shape
        return cls(Shape(layers, heads, width, block.keys.dtype, block.keys.device), context)

    def seated(self, block: Block) -> Seat:
        """A seat that holds a prompt which was read elsewhere."""
        seat = Seat(block, length=block.values.shape[2])
        self.settle(seat)
        return seat

    def open(self, places: int) -> Seat:
        """A seat that reads a prompt of so many tokens."""
        layers, heads, width, dtype, device = self.shape
        keys = torch.zeros(layers, heads, width, places, dtype=dtype, device=device)
        values = torch.zeros(layers, heads, places, width, dtype=dtype, device=device)
        return Seat(Block(keys, values))

    def settle(self, seat: Seat) -> Arena:
        """An arena with room for one more token of this seat, which sits in it from then on."""
        if seat.arena is None or seat.length >= seat.arena.room:
            room = LEAST
            while room <= seat.length:
                room *= 2
            room = max(min(room, self.context), seat.length + 1)
            if room not in self._by_room:
                self._by_room[room] = Arena(self.shape, room)
            self._by_room[room].take(seat)
        assert seat.arena is not None
        return seat.arena

    def close(self, seat: Seat) -> None:
        """Let go what the seat holds."""
        seat.reading = None
        if seat.arena is not None:
            arena = seat.arena
            arena.release(seat)
            if not arena.seats:  # an idle engine gives its memory back
                del self._by_room[arena.room]

    def fill(self, seat: Seat, blocks: list[Block]) -> None:
        """Begin a reading seat with these blocks."""
        assert seat.reading is not None
        stop = sum(block.values.shape[2] for block in blocks)
        seat.reading.keys[..., :stop] = torch.cat([block.keys for block in blocks], 3)
        seat.reading.values[:, :, :stop] = torch.cat([block.values for block in blocks], 2)
        seat.length = stop
