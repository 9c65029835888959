"""What the engine asks of a pass over a model: rows that read some ids, logits behind those that ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from weft.models.lora_files import Adapter


@dataclass(slots=True, eq=False)
class Work:
    """What one row does in a step: it reads these ids behind what its seat holds."""

    seat: Any
    adapter: Any
    """What `Pass.pack` made; None: the base."""
    ids: Sequence[int]
    asks: bool
    """Whether the logits behind the last id are wanted."""
    answering: bool
    """Whether the prompt was read before; then there is one id. A row that answers takes part in every step."""
    scores: bool = False
    """Whether the logits behind each of the ids are wanted."""

    @property
    def wanted(self) -> int:
        """How many rows of logits."""
        return len(self.ids) if self.scores else int(self.asks)


class Pass(Protocol):
    """A model that serves rows. Only the engine's thread calls it, but for `pack`."""

    token_bytes: int
    """Keys and values of one token."""
    block_bytes: int
    """Those of a block of the prefix cache; 0 where there is none."""

    def pack(self, identity: str, adapter: Adapter) -> tuple[Any, int]:
        """An adapter, ready, and its bytes. Raises ModelError where it cannot be served."""
        ...

    def open(self, prompt: int) -> Any:
        """A seat for a row whose prompt is so long."""
        ...

    def close(self, seat: Any) -> None:
        """Let go what the seat holds."""
        ...

    def fill(self, seat: Any, blocks: list[Any]) -> None:
        """Begin with blocks of the prefix cache."""
        ...

    def block(self, seat: Any, place: int) -> Any:
        """A copy of block number `place` of what the seat holds."""
        ...

    def forward(self, works: Sequence[Work]) -> Tensor:
        """Logits (n, V) float32: so many rows of each work as it wants, in order. The seats hold the ids afterwards."""
        ...
