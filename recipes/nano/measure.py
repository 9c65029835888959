"""The figures of the model card: `python -m recipes.nano.measure [--json] [--model DIR] [--text DIR] [--n 250]`.

Each figure stands beside that of an untrained model of the same shape. Replies are decoded greedily by weft's engine in
float32, at most 48 tokens; intervals are Wilson's at 95 %. What is measured: bits per byte on held-out Wikipedia
articles; accuracy (the whole reply is right) on 4-way classification of intents that training never saw, with 0, 1 and
4 examples per class, once with the intents' own names as labels and once with pseudo-words whose endings training never
saw; the share of replies that have the shown format; and the share that also copy the right values into it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from recipes.nano import probe, text, train
from recipes.nano.mix import Mix
from weft.evaluate.compare import wilson
from weft.generate.engine import Request, answer
from weft.generate.sampling_config import Sampling
from weft.models.load import Base, load

MAX_NEW = 48


def replies(base: Base, mix: Mix, asked: Sequence[probe.Case]) -> list[str | None]:
    """Greedy replies to all turns of each case but the last; None when the end mark does not come within MAX_NEW."""
    prompts = [mix.encode(case.turns[:-1])[0] + mix.roles["assistant"] for case in asked]
    results = answer(base, [Request(tuple(prompt)) for prompt in prompts], Sampling(max_tokens=MAX_NEW))
    return [
        mix.tokenizer.decode(list(result.ids), skip_special_tokens=False) if result.finish_reason == "stop" else None
        for result in results
    ]


def cases(n: int) -> dict[str, list[probe.Case]]:
    """The same cases for every model."""
    made: dict[str, list[probe.Case]] = {}
    for shots in (0, 1, 4):
        rng = Random(f"measure/named/{shots}")
        made[f"named labels, {shots}-shot"] = [probe.label_case(rng, shots, True) for _ in range(n)]
    for shots in (1, 4):
        rng = Random(f"measure/unseen/{shots}")
        made[f"pseudo-word labels, {shots}-shot"] = [probe.label_case(rng, shots, False) for _ in range(n)]
    for kind, named in (("named", True), ("pseudo-word", False)):
        rng = Random(f"measure/new wording/{kind}")
        made[f"{kind} labels, 4-shot, new wording"] = [
            probe.label_case(rng, 4, named, new_wording=True) for _ in range(n)
        ]
    rng = Random("measure/format")
    made["line format"] = [probe.format_case(rng) for _ in range(n)]
    made["json format"] = [probe.json_case(rng) for _ in range(n)]
    return made


def measure(base: Base, mix: Mix, held_out: list[str], n: int) -> dict[str, object]:
    """All figures of one model."""
    accuracy, formats = {}, {}
    for name, group in cases(n).items():
        judged = list(zip(replies(base, mix, group), group, strict=True))
        right = sum(reply == case.turns[-1][1] for reply, case in judged)
        shaped = sum(reply is not None and re.fullmatch(case.pattern, reply) is not None for reply, case in judged)
        accuracy[name] = _share(right, n)
        formats[name] = _share(shaped, n)
        print(f"{name}: right {right / n:.3f}, in format {shaped / n:.3f}", file=sys.stderr, flush=True)
    return {
        "bits_per_byte": round(probe.bits_per_byte(base.model, mix, held_out, 10**9), 4),
        "accuracy": accuracy,
        "format": formats,
    }


def _share(hits: int, n: int) -> dict[str, float]:
    return {**wilson(hits, n).to_json(), "n": n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=train.NANO)
    parser.add_argument("--text", type=Path, default=train.HERE.parent.parent.parent / "shared" / "data")
    parser.add_argument("--n", type=int, default=250)
    parser.add_argument(
        "--untrained-n", type=int, default=50, help="the untrained model is right by chance alone; fewer cases do"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    corpus = text.build(args.text, train.HERE.parent.parent / "examples")
    mix = Mix(Tokenizer.from_file(str(args.model / "tokenizer.json")), corpus)
    base = load(str(args.model), device="cpu")
    untrained = replace(base, model=train.on_engine(train.untrained()).eval())
    figures = {
        "parameters": base.parameters,
        "held_out_bytes": sum(len(t.encode()) for t in corpus.held_out),
        "nano": measure(base, mix, corpus.held_out, args.n),
        "untrained": measure(untrained, mix, corpus.held_out, args.untrained_n),
    }
    print(json.dumps(figures, indent=1) if args.json else figures)


if __name__ == "__main__":
    main()
