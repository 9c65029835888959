"""Cheap numbers to watch while nano trains, and the cases that measure.py uses: nothing here occurs in a training row.

Classes are intents held out from the curriculum; label words are pseudo-words with an ending (`-ux`, `-izh`, …) that the training
maker cannot produce. A case counts when every token of the last reply, `<|im_end|>` included, is the most likely one given
the true tokens before it, which is greedy decoding reaching exactly that reply.
"""

# ruff: noqa: E501 (tables and their small makers read better in long lines)

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import nn

from weft.forest.logprobs import learned_logprobs, learned_tokens
from weft.records import Tokens
from weft.train.batches import MICRO_TOKENS, micro_batches

from . import messages as m
from . import words as w
from .mix import Mix
from .tasks import Turn

WINDOW = 512
"""Tokens that are scored together for bits per byte; each window begins with nothing behind it."""


def unseen_label(rng: Random) -> str:
    return w.pseudo(rng, rng.choice((1, 2))) + rng.choice(("ux", "izh", "ovv", "yq", "ukl"))


@dataclass(frozen=True)
class Case:
    turns: list[Turn]
    """The last turn is the reply that is judged."""
    pattern: str = ""
    """What a reply in the shown format matches as a whole, for format cases."""


def label_case(rng: Random, shots: int, named: bool, k: int = 4, new_wording: bool = False) -> Case:
    """k-way classification of held-out intents, `shots` examples per class; labels: their names or unseen words.

    With `new_wording` no example is made from the sentence pattern of the message that is asked; otherwise one may be, with
    other values in it.
    """
    intents = rng.sample(list(m.HELD_OUT), k)
    labels = [i.name.replace(" ", "_") for i in intents] if named else [unseen_label(rng) for _ in intents]
    head = "Classify the message. Options: " + ", ".join(rng.sample(labels, k))
    turns: list[Turn] = [("system", head)]
    order = [c for c in range(k) for _ in range(shots)]
    rng.shuffle(order)
    target = rng.randrange(k)
    asked = rng.choice(intents[target].patterns)
    for last, c in [*((False, c) for c in order), (True, target)]:
        pattern = asked if last else rng.choice([p for p in intents[c].patterns if p != asked or not new_wording])
        text = m.fill(rng, pattern)
        turns += [("user", text[0].upper() + text[1:]), ("assistant", labels[c])]
    return Case(turns, "|".join(re.escape(x) for x in labels))


def json_case(rng: Random) -> Case:
    """One example, then a message of a held-out intent whose two fields are copied into JSON with unseen key names."""
    rows = []
    keys = [unseen_label(rng), unseen_label(rng)]
    frames = (
        "Parcel {code} for {name} is at the desk.",
        "{name} asked about {code} again.",
        "I, {name}, lost file {code}!",
        "Who has {code}? {name} wants it.",
    )
    for frame in rng.sample(frames, 2):
        slots: list[tuple[str, str]] = []
        text = m.fill(rng, frame, slots)
        values = dict(slots)
        rows.append(
            (text, json.dumps(dict(zip(keys, (values["code"], values["name"]), strict=True)), ensure_ascii=False))
        )
    shape = r'\{"%s": "[^"]+", "%s": "[^"]+"\}' % tuple(re.escape(k) for k in keys)  # noqa: UP031 (braces)
    return Case([t for text, reply in rows for t in (("user", text), ("assistant", reply))], shape)


def format_case(rng: Random) -> Case:
    """Three examples show a format made up of unseen marks; the reply must have it around the copied word."""
    left, right = rng.choice((("<<", ">>"), ("[*", "*]"), ("--", "--"), ("##", "##"), ("{", "}"))), unseen_label(rng)
    turns: list[Turn] = []
    for _ in range(4):
        thing = w.word(rng)
        turns += [("user", thing), ("assistant", f"{right}: {left[0]}{thing}{left[1]}")]
    return Case(turns, f"{re.escape(right)}: {re.escape(left[0])}[^\\n]+{re.escape(left[1])}")


@torch.inference_mode()
def judge(model: nn.Module, mix: Mix, cases: Sequence[Case]) -> list[bool]:
    """True where greedy decoding gives exactly the last reply and the end mark."""
    rows = []
    for case in cases:
        ids, _ = mix.encode(case.turns)
        ids = ids[: len(ids) - len(mix.newline)]
        prompt, _ = mix.encode(case.turns[:-1])
        begin = len(prompt) + len(mix.roles["assistant"])
        rows.append(Tokens(tuple(ids), tuple(place >= begin for place in range(len(ids)))))
    verdicts: dict[int, bool] = {}
    for part in micro_batches(model, range(len(rows)), MICRO_TOKENS, lambda case: (rows[case],)):
        right = learned_tokens(model, [rows[case] for case in part]).right
        counts = [sum(rows[case].learn) for case in part]
        verdicts |= {case: bool(own.all()) for case, own in zip(part, right.split(counts), strict=True)}
    return [verdicts[case] for case in range(len(rows))]


@torch.inference_mode()
def bits_per_byte(model: nn.Module, mix: Mix, texts: Sequence[str], limit: int = 40_000) -> float:
    """Bits per UTF-8 byte on windows of 512 tokens of the held-out text."""
    ids: list[int] = []
    size = 0
    for text in texts:
        if size > limit:
            break
        ids += [mix.end, *mix.ids(text)]
        size += len(text.encode())
    windows = [ids[start : start + WINDOW + 1] for start in range(0, len(ids) - 1, WINDOW)]
    rows = [Tokens(tuple(window), (False, *[True] * (len(window) - 1))) for window in windows]
    nats = -sum(float(learned_logprobs(model, part).sum()) for part in micro_batches(model, rows, MICRO_TOKENS))
    return nats / math.log(2) / size


def watch(model: nn.Module, mix: Mix, held_out: Sequence[str], n: int = 60) -> dict[str, float]:
    """The numbers of one checkpoint, in a few seconds."""
    rng = Random("watch")
    sets = {
        "named 0-shot": [label_case(rng, 0, True) for _ in range(n)],
        "named 4-shot": [label_case(rng, 4, True) for _ in range(n // 2)],
        "unseen 4-shot": [label_case(rng, 4, False) for _ in range(n)],
        "format": [format_case(rng) for _ in range(n)],
        "json copy": [json_case(rng) for _ in range(n)],
    }
    numbers = {name: sum(judge(model, mix, cases)) / len(cases) for name, cases in sets.items()}
    return {"bits/byte": bits_per_byte(model, mix, held_out, 12_000), **numbers}
