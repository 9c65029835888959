"""Real public data → files that `weft run` reads. What is changed on the way is counted and said in `notes`.

    banking77        train.csv, byte for byte: text → one of 77 labels
    restaurants8k    train_2.json: a guest's words, what was asked → {"people","date","time","first_name","last_name"}
    pypa             advisories.jsonl: the prose of a security advisory → {"package","fixed"}

The sources are described in the data folder's own README. Nothing is drawn at random: same sources, same bytes.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import DataError, UsageError, WeftError
from weft.runs import write_whole

DATA = Path("../shared/data")
SLOTS = ("people", "date", "time", "first_name", "last_name")
"""Keys of a restaurant answer, always in this order."""
MOST_TOKENS = 900
"""Longest advisory with its answer, in tokens of weft-nano, whose context is 1,024."""

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Converted:
    """A file ready for `weft run PATH *arguments`, its rows, and what was done to them."""

    name: str
    path: Path
    arguments: tuple[str, ...]
    rows: int
    notes: tuple[str, ...] = ()


def convert(name: str, data: Path, into: Path) -> Converted:
    """One data set of `data`, written into the folder `into`.

    Raises UsageError for an unknown name or a source that is not there, DataError for a row that breaks its format.
    """
    if name not in CONVERTERS:
        raise UsageError(f"data set {name!r} is unknown; there are {', '.join(CONVERTERS)}.")
    if not data.is_dir():
        raise UsageError(f"{data}: no such folder. Name the folder of public data with --data DIR.")
    into.mkdir(parents=True, exist_ok=True)
    return CONVERTERS[name](data, into)


def banking77(data: Path, into: Path) -> Converted:
    """The training file as it is; weft makes its own split of it."""
    path = into / "banking77.csv"
    shutil.copyfile(_source(data / "banking77" / "train.csv"), path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    return Converted("banking77", path, ("--input", "text", "--output", "category"), rows)


def restaurants8k(data: Path, into: Path) -> Converted:
    """Every row of train_2.json as prompt and completion."""
    source = _source(data / "restaurants8k" / "train_2.json")
    rows = []
    for number, row in enumerate(json.loads(source.read_text(encoding="utf-8")), 1):
        try:
            rows.append(_pair(*restaurant(row)))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{source}: row {number}: {error}; expected userInput.text and labelled spans.") from None
    path = into / "restaurants8k.jsonl"
    _write(path, rows)
    return Converted("restaurants8k", path, (), len(rows))


def restaurant(row: Mapping[str, Any]) -> tuple[str, dict[str, str | None]]:
    """The prompt, and all five slots: their text as it stands there (spaces at its ends left out), or None.

    Before: {"userInput": {"text": "8pm"}, "context": {"requestedSlots": ["time"]},
             "labels": [{"slot": "time", "valueSpan": {"endIndex": 3}}]}
    After:  "8pm\\n(asked for: time)" → {"people": None, "date": None, "time": "8pm", …}
    """
    text = row["userInput"]["text"]
    slots: dict[str, str | None] = dict.fromkeys(SLOTS)
    for label in row.get("labels", ()):
        span = label["valueSpan"]
        # The source leaves startIndex out where it is 0.
        value = text[span.get("startIndex", 0) : span["endIndex"]].strip()
        if label["slot"] not in slots or not value:
            raise ValueError(f"slot {label['slot']!r} with the text {value!r}")
        slots[label["slot"]] = value
    asked = row.get("context", {}).get("requestedSlots")
    return (f"{text}\n(asked for: {', '.join(asked)})" if asked else text), slots


def pypa(data: Path, into: Path, count: CountTokens | None = None, most: int = MOST_TOKENS) -> Converted:
    """One row per distinct text: advisories filed for several packages with the same text are merged.

    `count` measures a text in tokens (weft-nano's, unless given); prompt and answer together have at most `most`.
    """
    source = _source(data / "pypa-advisories" / "advisories.jsonl")
    count = count or nano_tokens()
    with source.open(encoding="utf-8") as file:
        advisories = [advisory(json.loads(line)) for line in file]
    texts: dict[str, dict[str, str | None]] = {}
    for text, answer in advisories:
        known = texts.get(text)
        # The text speaks of `tensorflow`; `tensorflow-cpu` and `tensorflow-gpu` are filed with the same words.
        if known is None or len(str(answer["package"])) < len(str(known["package"])):
            texts[text] = answer
    rows, cut, left_out = [], 0, 0
    for text, answer in texts.items():
        prompt = beginning(text, most - count(_compact(answer)), count)
        cut += 0 < len(prompt) < len(text)
        left_out += not prompt
        if prompt:
            rows.append(_pair(prompt, answer))
    path = into / "pypa-advisories.jsonl"
    _write(path, rows)
    return Converted("pypa", path, (), len(rows), _advisory_notes(advisories, rows, cut, left_out, most))


def advisory(row: Mapping[str, Any]) -> tuple[str, dict[str, str | None]]:
    """The prose, and the package with the highest version in which it is fixed (None where there is no such version).

    An advisory may be fixed on several branches; who installs the highest of these versions is safe.
    """
    (affected,) = row["affected"]
    ranges = [part for part in affected.get("ranges", ()) if part["type"] == "ECOSYSTEM"]
    fixed = [event["fixed"] for part in ranges for event in part["events"] if "fixed" in event]
    newest = max(fixed, key=lambda text: [int(digits) for digits in re.findall(r"\d+", text)], default=None)
    return row["details"].strip(), {"package": affected["package"]["name"], "fixed": newest}


def beginning(text: str, room: int, count: CountTokens) -> str:
    """The text where it has at most `room` tokens, else as many of its first whole sentences as fit (maybe none)."""
    if count(text) <= room:
        return text
    kept = ""
    for end in re.finditer(r"(?<=[.!?])\s+|\n+", text):
        if count(text[: end.start()]) > room:
            break
        kept = text[: end.start()]
    return kept.strip()


def nano_tokens() -> CountTokens:
    """Counts a text in tokens of the embedded base."""
    from tokenizers import Tokenizer

    from weft.models import nano

    tokenizer = Tokenizer.from_file(str(nano.folder() / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text).ids)


def _advisory_notes(
    advisories: list[tuple[str, dict[str, str | None]]], rows: list[dict[str, str]], cut: int, left_out: int, most: int
) -> tuple[str, ...]:
    answers = [(row["prompt"], json.loads(row["completion"])) for row in rows]
    versions = [(text, answer["fixed"]) for text, answer in answers if answer["fixed"]]
    merged = len(advisories) - len({text for text, _ in advisories})
    return (
        f"{merged} advisories merged into another with the same text (the shortest package name was kept)",
        f"{cut} texts cut after a sentence to at most {most} tokens with the answer, {left_out} left out",
        f"{len(rows) - len(versions)} of {len(rows)} have no fixed version (null)",
        f"the fixed version stands in {sum(_stands(version, text) for text, version in versions)} of the other "
        f"{len(versions)} texts, the package in {sum(a['package'].lower() in t.lower() for t, a in answers)} "
        f"of {len(rows)}: what is not there cannot be extracted",
    )


def _stands(version: str, text: str) -> bool:
    """Whether the version is there as a whole: 1.1 is not in 1.1.5."""
    return re.search(rf"(?<![\d.]){re.escape(version)}(?!\w|\.\d)", text) is not None


def _pair(prompt: str, answer: Mapping[str, str | None]) -> dict[str, str]:
    return {"prompt": prompt, "completion": _compact(answer)}


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _source(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(f"{path}: no such file. Name the folder of public data with --data DIR.")
    return path


CONVERTERS: dict[str, Callable[[Path, Path], Converted]] = {
    "banking77": banking77,
    "restaurants8k": restaurants8k,
    "pypa": pypa,
}


def main() -> None:
    """Convert all data sets into a folder and say what was done."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datasets", description=main.__doc__)
    parser.add_argument("into", type=Path, help="folder for the files")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of public data (default: %(default)s)")
    given = parser.parse_args()
    try:
        for name in CONVERTERS:
            made = convert(name, given.data, given.into)
            print(" ".join(["weft run", str(made.path), *made.arguments]), f"# {made.rows:,} rows", sep="  ")
            for note in made.notes:
                print(f"    {note}")
    except WeftError as error:
        print(f"datasets: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
