"""Which rows of the vocabulary learn beside an adapter: an end token's that was never learned, or those of all words
that the examples use.

A small base knows few words well, and LoRA learns between the embeddings and the output, so it cannot mend them. With
weft-nano on banking77, one epoch, the validation loss was 0.299 with LoRA alone, 0.114 with all rows of the vocabulary
beside it, 0.097 with every parameter (docs/training.md). How rows learn is the affair of `models/token_rows.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weft.errors import UsageError
from weft.models import lora
from weft.models.end_token import never_learned
from weft.models.load import Base
from weft.models.quant import is_quantized
from weft.models.token_rows import require_vocabulary, vocabulary
from weft.records import Tokens
from weft.train import auto
from weft.train.ending import written_end
from weft.train.tuning_config import TuningConfig

RATE = 0.25
"""Rate of the rows over the adapter's: they are weights of the base, which take the rate of full fine-tuning."""


def train_tokens(base: Base, config: TuningConfig) -> tuple[str, str]:
    """Which rows `auto` means, and why."""
    if config.full:
        return "none", "auto: every parameter is trained"
    if base.parameters >= auto.SMALL:
        return "none", f"auto: {base.name} has {base.parameters:,} parameters, {auto.SMALL:,} or more"
    if lora.adapts_head(base.model, config.lora) or vocabulary(base.model) is None or is_quantized(base.model):
        return "none", "auto: rows of this base's vocabulary cannot learn beside this adapter"
    return "seen", f"auto: {base.name} has {base.parameters:,} parameters, under {auto.SMALL:,}"


def require_tokens(base: Base, config: TuningConfig) -> None:
    """Raise UsageError where the rows that `config` asks for cannot learn. `config` must be settled."""
    if config.train_tokens != "seen":
        return
    if lora.adapts_head(base.model, config.lora):
        raise UsageError("lora.targets names the output head: its rows learn already. Leave out --train-tokens seen.")
    require_vocabulary(base.model)


def in_words(base: Base, config: TuningConfig, tokens: Sequence[int]) -> str:
    """What `tokens_to_train` found, as a line for the run's progress."""
    if config.train_tokens == "seen":
        return f"    the rows of {len(tokens):,} tokens of the vocabulary are trained too: those that the examples use"
    sign = never_learned(base.model, base.chat.end_id)
    why = f"the base never learned it ({sign})" if sign else "as --train-end-token says"
    return f"    the row of the end token {written_end(base)!r} is trained too: {why}"


def tokens_to_train(base: Base, config: TuningConfig, rows: Iterable[Tokens]) -> tuple[int, ...]:
    """The tokens whose rows learn beside the adapter, rising. `config` must be settled."""
    if config.full:
        return ()
    tokens = {base.chat.end_id} if config.train_end_token == "always" else set()
    if config.train_tokens == "seen":
        tokens |= {token for row in rows for token in row.ids}
    return tuple(sorted(tokens))
