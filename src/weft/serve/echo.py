"""A prompt that is given back before its completion, with its tokens' log-probabilities where those are asked for.

A text stands behind the base's beginning of a document, which is no part of it: each of its tokens is predicted. Of
token ids the first one is not, since nothing stands before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from weft.generate.requests import Step
from weft.serve.replies import Token

UNPREDICTED = math.nan
"""In place of the log-probability of a token that nothing stands before."""


class Echo:
    """One prompt on its way back."""

    def __init__(self, text: str, ids: Sequence[int], *, begun: bool, scored: bool) -> None:
        """`begun`: the first of `ids` is no part of `text`. `scored`: log-probabilities will be heard."""
        self.text = text
        self.tokens: list[Token] = [Token(ids[0], UNPREDICTED, ())] if scored and not begun else []
        self._coming = list(ids[1:]) if scored else []

    @property
    def complete(self) -> bool:
        """Whether all that will be heard was heard."""
        return not self._coming

    def hear(self, step: Step) -> bool:
        """Take what a step tells of the prompt; whether it is complete with this one."""
        if not step.prompt_logprobs:
            return False
        ids = self._coming[: len(step.prompt_logprobs)]
        del self._coming[: len(ids)]
        self.tokens += [Token(*each) for each in zip(ids, step.prompt_logprobs, step.prompt_top, strict=True)]
        return self.complete
