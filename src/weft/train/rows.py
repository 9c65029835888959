"""Examples as tokens: rendered once, and with BPE-dropout anew in every epoch.

A small base has met few words often enough to know their pieces; other pieces of the same words are like further
examples (decision 13 has what was measured). Answers are never cut otherwise, and what an epoch is like depends on the
seed and its number alone, so a training that goes on after a stop sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from weft.errors import TrainError
from weft.models.bpe_dropout import BpeDropout
from weft.models.encode import Cut
from weft.models.load import Base
from weft.records import Conversation, Tokens
from weft.train import auto
from weft.train.sft_config import SftConfig


def bpe_dropout(base: Base, labels: bool) -> tuple[float, str]:
    """The share of merges that `auto` means to leave out, and why. `labels`: whether the answers are labels."""
    share, why = auto.bpe_dropout(base.parameters, labels)
    if share and not BpeDropout.fits(base.chat.tokenizer.backend_tokenizer):
        return 0.0, f"auto: the tokenizer of {base.name} cannot cut words otherwise"
    return share, why


class Rows:
    """The examples that fit, as tokens. `config` must be settled.

    Raises UsageError where the tokenizer cannot do what `config` asks for, TrainError where nothing is left to learn.
    """

    def __init__(self, base: Base, examples: Sequence[Conversation], config: SftConfig) -> None:
        self._base, self._config = base, config
        share = config.merges_left_out
        self._dropout = BpeDropout(base.chat.tokenizer.backend_tokenizer, share) if share else None
        self._most = min(int(config.max_tokens), base.context)
        rendered = [self._shown(example) for example in examples]
        fits = [len(row.ids) <= self._most for row in rendered]
        self._examples = [example for example, fit in zip(examples, fits, strict=True) if fit]
        self.as_served = [row for row, fit in zip(rendered, fits, strict=True) if fit]
        """As the tuned model will be asked."""
        self.skipped = [example.line for example, fit in zip(examples, fits, strict=True) if not fit]
        """The lines of those that are too long."""
        if examples and not sum(sum(row.learn) for row in self.as_served):
            raise TrainError(
                f"none of the {len(examples)} examples leaves a token to learn within {self._most} tokens. "
                "Raise --max-tokens, use a base with a longer context, or shorten the examples."
            )

    def of(self, numbers: Sequence[int], epoch: int) -> list[Tokens]:
        """These examples as they are learned in this epoch."""
        return [self._cut(number, epoch) for number in numbers]

    def _cut(self, number: int, epoch: int) -> Tokens:
        whole = self.as_served[number]
        if self._dropout is None:
            return whole
        row = self._shown(self._examples[number], partial(self._dropout.cut, key=f"{self._config.seed} {epoch}"))
        return row if len(row.ids) <= self._most else whole

    def _shown(self, example: Conversation, cut: Cut | None = None) -> Tokens:
        learn = example.learned(self._config.learn)
        return self._base.chat.example(example.messages, example.offered, learn=learn, cut=cut)
