"""Rows of the pretraining mix: `row(seed, index)` gives token ids and loss weights, and nothing else decides them.

A row is a window of plain text or conversations packed until its bucket is full. Weights: 1 on plain text and on replies (with
`<|im_end|>`), `PROMPT_WEIGHT` on prompts in one row of `PROMPT_EVERY`, else 0, since random prompts cannot be predicted.
"""

# ruff: noqa: E501 (tables and their small makers read better in long lines)

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from tokenizers import Tokenizer

from . import messages, tasks, word_tasks
from .meanings import Meaning, pages
from .text import Corpus, Turn

PROMPT_WEIGHT = 0.2
PROMPT_EVERY = 4


@dataclass(frozen=True)
class Phase:
    """A stretch of the curriculum."""

    until_tokens: int
    """The phase ends when so many tokens (padding included) were seen."""
    buckets: dict[int, float]
    """Row length in tokens → share of batches."""
    text: float
    """Share of rows that are windows of plain text."""
    natural: float
    """Share of the other rows that start from a natural conversation."""
    tasks: dict[str, float]
    """Generated task → weight."""
    varied: bool = False
    """Class names altered at random; see tasks.Source."""
    wide: bool = False
    """Things are called by any of the dictionary's names; see tasks.Source."""
    pages: float = 0.0
    """Share of rows that are windows of dictionary pages."""


PHASES = (
    Phase(
        2_000_000,
        {128: 1.0},
        0.15,
        0.05,
        {
            "recall": 3,
            "copy": 2,
            "operate": 1.5,
            "classify": 3,
            "extract": 1,
            "yes_no": 0.5,
            "answer": 1,
            "convert": 0.5,
        },
    ),
    Phase(
        5_000_000,
        {128: 0.5, 256: 0.45, 512: 0.05},
        0.2,
        0.1,
        {
            "recall": 2,
            "copy": 1,
            "operate": 1,
            "classify": 4,
            "classify_prompt": 0.7,
            "extract": 2,
            "triage": 1,
            "convert": 0.7,
            "answer": 1,
            "yes_no": 0.5,
            "tone": 0.5,
            "lookup": 0.5,
            "translate": 0.5,
        },
    ),
    Phase(
        5_079_040,
        {128: 0.22, 256: 0.48, 512: 0.18, 1024: 0.12},
        0.2,
        0.12,
        {
            "recall": 1,
            "copy": 0.5,
            "operate": 1,
            "classify": 4.5,
            "classify_prompt": 1,
            "extract": 2.5,
            "triage": 2,
            "convert": 0.7,
            "answer": 1,
            "yes_no": 0.6,
            "tone": 0.8,
            "lookup": 0.7,
            "translate": 0.5,
        },
    ),
    Phase(
        7_364_608,
        {128: 0.22, 256: 0.5, 512: 0.16, 1024: 0.12},
        0.2,
        0.1,
        {
            "recall": 0.8,
            "copy": 0.7,
            "operate": 0.5,
            "classify": 5,
            "classify_prompt": 1,
            "extract": 3.5,
            "triage": 2.5,
            "convert": 0.7,
            "answer": 0.8,
            "yes_no": 0.3,
            "tone": 0.8,
            "lookup": 0.5,
            "translate": 0.3,
        },
    ),
    Phase(
        9_699_328,
        {128: 0.22, 256: 0.5, 512: 0.16, 1024: 0.12},
        0.18,
        0.08,
        {
            "recall": 0.6,
            "copy": 0.5,
            "operate": 0.4,
            "classify": 5.5,
            "classify_prompt": 1,
            "extract": 3.5,
            "triage": 2.5,
            "convert": 0.6,
            "frame": 1.2,
            "answer": 0.7,
            "yes_no": 0.2,
            "tone": 0.7,
            "lookup": 0.4,
            "translate": 0.2,
        },
        varied=True,
    ),
    Phase(
        11_739_136,
        {128: 0.22, 256: 0.52, 512: 0.16, 1024: 0.1},
        0.15,
        0.06,
        {
            "recall": 0.5,
            "copy": 0.4,
            "operate": 0.2,
            "match": 5,
            "classify": 4,
            "classify_prompt": 0.7,
            "extract": 3.5,
            "triage": 2.5,
            "convert": 0.4,
            "frame": 0.8,
            "answer": 0.5,
            "tone": 0.4,
            "lookup": 0.2,
        },
        varied=True,
    ),
    Phase(
        19_243_008,
        {128: 0.22, 256: 0.52, 512: 0.16, 1024: 0.1},
        0.15,
        0.06,
        {
            "recall": 0.4,
            "copy": 0.4,
            "operate": 0.2,
            "match": 5,
            "classify": 3,
            "classify_prompt": 0.7,
            "extract": 6,
            "triage": 4,
            "convert": 0.6,
            "frame": 0.8,
            "answer": 0.5,
            "tone": 0.5,
            "lookup": 0.2,
        },
        varied=True,
    ),
    Phase(
        10**12,
        {128: 0.2, 256: 0.5, 512: 0.2, 1024: 0.1},
        0.12,
        0.15,
        {
            "recall": 0.4,
            "copy": 0.4,
            "operate": 0.2,
            "match": 3.5,
            "classify": 4,
            "classify_prompt": 0.7,
            "extract": 7.5,
            "triage": 6.5,
            "convert": 0.5,
            "frame": 0.8,
            "answer": 0.6,
            "tone": 0.4,
            "lookup": 0.2,
            "closest": 3,
            "define": 2,
            "kinds": 2.5,
        },
        varied=True,
        wide=True,
        pages=0.28,
    ),
)
ALL_TASKS = {**tasks.TASKS, **word_tasks.TASKS}


def phase_at(tokens: int) -> Phase:
    return next(p for p in PHASES if tokens < p.until_tokens)


def _mark(tokenizer: Tokenizer, mark: str) -> int:
    found = tokenizer.token_to_id(mark)
    assert found is not None, f"{mark} is not in the vocabulary; make the tokenizer with recipes.nano.tokenizer"
    return found


class Mix:
    """The tokenizer and the corpus, tokenised once; `row` is pure."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        corpus: Corpus,
        intents: Sequence[messages.Intent] = messages.TRAIN,
        meanings: Sequence[Meaning] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.end = _mark(tokenizer, "<|endoftext|>")
        self.im_start = _mark(tokenizer, "<|im_start|>")
        self.im_end = _mark(tokenizer, "<|im_end|>")
        self.newline = tokenizer.encode("\n", add_special_tokens=False).ids
        self.roles = {r: [self.im_start, *self.ids(f"{r}\n")] for r in ("system", "user", "assistant")}
        self.texts: list[int] = []
        for text in corpus.texts:
            self.texts += [*self.ids(text), self.end]
        self.pages: list[int] = []
        for page in Random(len(meanings)).sample(dictionary := pages(meanings), len(dictionary)):
            self.pages += [*self.ids(page), self.end]
        self.chats = corpus.chats
        grouped: dict[str, list[str]] = defaultdict(list)
        for topic, sentence in corpus.sentences:
            grouped[topic].append(sentence)
        self.source = tasks.Source(
            intents, {t: s for t, s in sorted(grouped.items()) if len(s) >= 12}, meanings=meanings
        )
        self.varied = replace(self.source, varied=True)
        self.wide = replace(self.varied, wide=True)

    def ids(self, text: str) -> list[int]:
        """Text without control tokens: `<|im_end|>` in a text stays text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation in the chat template and True where a reply is learnt."""
        ids: list[int] = []
        learnt: list[bool] = []
        for role, text in turns:
            head, body = self.roles[role], self.ids(text)
            reply = role == "assistant"
            ids += head + body + [self.im_end] + self.newline
            learnt += [False] * len(head) + [reply] * (len(body) + 1) + [False] * len(self.newline)
        return ids, learnt

    def conversation(self, rng: Random, phase: Phase, budget: int) -> list[Turn]:
        if rng.random() < phase.natural:
            start = rng.choice(self.chats)
            if len(start) > 8 and rng.random() < 0.5:
                start = start[: 2 * rng.randint(1, 4)]
            return start
        name = rng.choices(list(phase.tasks), weights=list(phase.tasks.values()))[0]
        source = self.wide if phase.wide else self.varied if phase.varied else self.source
        return ALL_TASKS[name](rng, budget, source)

    def row(self, seed: int, index: int, phase: Phase, length: int) -> tuple[list[int], list[float]]:
        """At most `length` ids and as many weights; `weights[i]` belongs to predicting `ids[i]`."""
        rng = Random(f"{seed}/{index}/{length}")
        if rng.random() < phase.text:
            start = rng.randrange(len(self.texts) - length)
            return self.texts[start : start + length], [1.0] * length
        if phase.pages and rng.random() < phase.pages:
            start = rng.randrange(len(self.pages) - length)
            return self.pages[start : start + length], [1.0] * length
        prompt = PROMPT_WEIGHT if rng.randrange(PROMPT_EVERY) == 0 else 0.0
        ids: list[int] = []
        weights: list[float] = []
        misses = 0
        while length - len(ids) >= 32 and misses < 4:
            room = length - len(ids)
            # In long rows half of the conversations aim at the whole room, the others are as long as chance has it.
            budget = room if rng.random() < 0.6 else rng.randint(min(60, room), room)
            new, learnt = self.encode(self.conversation(rng, phase, int(budget * (0.9 - 0.2 * misses))))
            if len(new) > room:
                cut = self._cut(new, learnt, room)
                if cut == 0:
                    misses += 1
                    continue
                new, learnt = new[:cut], learnt[:cut]
            ids += new
            weights += [1.0 if x else prompt for x in learnt]
            if len(ids) < length:
                ids.append(self.end)
                weights.append(prompt)
        if not ids:
            return self.row(seed, index + (1 << 40), phase, length)
        return ids, weights

    def _cut(self, ids: list[int], learnt: list[bool], room: int) -> int:
        """Longest prefix within `room` that ends after a whole reply, or 0."""
        tail = 1 + len(self.newline)
        for end in range(min(room, len(ids)), 0, -1):
            if ids[end - 1] == self.im_end and learnt[end - 1] and end + tail - 1 <= room:
                return min(end + len(self.newline), room)
        return 0
