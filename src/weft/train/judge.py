"""Validation answers drawn greedily and graded, for a training that stops by what is wanted instead of by its loss.

The scores are those of the task's graders, each a mean over the same rows at every look, and of each more is better.
The sealed test rows are not the affair of this file; intervals and tables are those of `evaluate/`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.errors import UsageError
from weft.generate.sampling_config import Sampling
from weft.models.load import Base
from weft.records import Conversation
from weft.tasks import Task
from weft.train.answering import only_answering
from weft.train.sft_config import SftConfig
from weft.train.too_long import in_words

ROOM = 1.1
"""Answers may be this much longer than the longest training answer before they are cut."""


@dataclass(frozen=True)
class Judge:
    """The rows to answer, and who grades the answers."""

    task: Task
    rows: tuple[Conversation, ...]
    limit: int
    """Most tokens of an answer."""

    @classmethod
    def of(
        cls, base: Base, task: Task, train: Sequence[Conversation], validation: Sequence[Conversation], config: Any
    ) -> Judge | None:
        """The judge that `config.stop_on` asks for; None where that is the loss.

        `config`: an SftConfig. Raises UsageError for a score that the task's graders do not give.
        """
        if config.stop_on == "loss":
            return None
        known = list(task.grade(task.constant, task.constant).scores)
        if config.stop_on not in known:
            raise UsageError(
                f"--stop-on {config.stop_on}: no score of these answers, which are judged by {', '.join(known)}. "
                "Choose one of them, or loss."
            )
        if lines := [example.line for example in (*train, *validation) if example.tools]:
            raise UsageError(
                f"--stop-on {config.stop_on}: {len(lines)} of the examples have tools ({in_words(lines)}), and whether "
                "a call is right is not judged yet. Choose loss, or leave these rows out."
            )
        longest = max(sum(base.chat.example(example.messages).learn) for example in train)
        limit = min(math.ceil(longest * ROOM) + 4, base.context // 2)
        return cls(task, tuple(validation[: config.stop_rows]), limit)

    def scores(self, base: Base, config: SftConfig) -> dict[str, float]:
        """The mean of each score over the rows, answered by `base` as it is now.

        A prompt that leaves no room for an answer counts as an empty answer. A score that some rows lack (a field that
        their ideal answer has not) is a mean over the others.
        """
        from weft.generate.engine import Request, answer  # which most trainings have no need to load

        prompts = [tuple(base.chat.prompt(row.prompt)) for row in self.rows]
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) + self.limit <= base.context]
        with only_answering(base, config):
            results = answer(base, [Request(prompts[place]) for place in fitting], Sampling(max_tokens=self.limit))
        texts = dict(zip(fitting, (base.chat.decode(result.ids) for result in results), strict=True))
        graded = [self.task.grade(texts.get(place, ""), row.answer).scores for place, row in enumerate(self.rows)]
        found: dict[str, list[float]] = {}
        for scores in graded:
            for name, score in scores.items():
                found.setdefault(name, []).append(score)
        return {name: sum(own) / len(own) for name, own in found.items()}
