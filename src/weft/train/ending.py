"""The end-token trap, before training: LoRA learns below the output head, so an end token that the base never learned
stays at its old probability and the tuned model never stops, although the loss looks fine.

Which sign there is for that is the affair of `models/end_token.py`, how a row learns that of `models/token_rows.py`.
"""

from __future__ import annotations

from weft.errors import UsageError
from weft.models import lora
from weft.models.end_token import never_learned
from weft.models.load import Base
from weft.models.token_rows import require_vocabulary
from weft.train.tuning_config import TuningConfig


def train_end_token(base: Base, config: TuningConfig) -> tuple[bool, str]:
    """Whether the end token's row has to be trained, and why: what `auto` means."""
    if config.full:
        return False, "auto: every parameter is trained"
    if lora.adapts_head(base.model, config.lora):
        return False, "auto: the output head has an adapter"
    if config.train_tokens == "seen":
        return False, "auto: the rows of all tokens that the examples use are trained"
    if sign := never_learned(base.model, base.chat.end_id):
        return True, f"auto: {base.name} never learned its end token {written_end(base)!r}: {sign}"
    return False, f"auto: {base.name} knows its end token {written_end(base)!r}"


def require_ending(base: Base, config: TuningConfig) -> None:
    """Raise UsageError where the tuned model would never end a reply, or its end token's row cannot be trained.

    `config` must be settled.
    """
    if config.train_end_token == "always":
        require_vocabulary(base.model)
        return
    needed, why = train_end_token(base, config)
    if needed:
        raise UsageError(
            f"{why.removeprefix('auto: ')}. LoRA alone would leave it so, and the tuned model would never stop. Leave "
            "out --train-end-token never, so that this row is trained too and travels with the adapter, or take --full."
        )


def written_end(base: Base) -> str:
    """The end token as the tokenizer writes it."""
    return str(base.chat.tokenizer.convert_ids_to_tokens(base.chat.end_id))
