"""The natural part of the mix: public English text whose licence allows it, minus everything that touches test or example data.

A document is refused when it shares one run of eight words with a forbidden set. About one Wikipedia article in twenty-five (by hash) is kept
out of training to measure bits per byte. The sources and licences are listed in README.md and on the model card.
"""

# ruff: noqa: E501 (tables and their small makers read better in long lines)

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

FORBIDDEN = (
    "banking77",
    "restaurants8k",
    "pypa-advisories",
    "bitext-customer-support",
    "hate-offensive-tweets",
    "wnut17-ner",
    "hh-rlhf-harmless",
    "e2e-nlg",
    "format-samples",
)
GRAM = 8
_WORD = re.compile(r"[a-z0-9]+")
Turn = tuple[str, str]


@dataclass(frozen=True)
class Corpus:
    """Everything natural that a row may use."""

    texts: list[str]
    """Plain documents of at least 200 characters."""
    chats: list[list[Turn]]
    """Conversations as (role, text)."""
    sentences: list[tuple[str, str]]
    """(topic, sentence) with 5 to 30 words; the topic is an article, a service or a class."""
    held_out: list[str]
    """Wikipedia paragraphs that no row may use."""
    refused: int
    """Documents left out because of a shared run of eight words."""


def grams(text: str, n: int = GRAM) -> set[int]:
    """Hashes of all runs of `n` words, lower case, punctuation ignored."""
    words = _WORD.findall(text.lower())
    return {hash(tuple(words[i : i + n])) for i in range(len(words) - n + 1)}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def strings_of(path: Path) -> Iterator[str]:
    """Every text field of a JSON, JSONL, gzip JSONL, CSV or plain file."""
    name = path.name
    if name.endswith(".gz"):
        import gzip

        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield from _strings(json.loads(line))
    elif name.endswith(".jsonl"):
        for line in path.open(encoding="utf-8"):
            yield from _strings(json.loads(line))
    elif name.endswith(".json"):
        yield from _strings(json.loads(path.read_text("utf-8")))
    elif name.endswith(".csv"):
        csv.field_size_limit(1 << 30)
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                yield from row
    elif (
        name.endswith((".txt", ".tsv", ".conll", ".md"))
        and "LICENSE" not in name
        and "README" not in name
        and "TAGS" not in name
    ):
        yield path.read_text("utf-8")


def forbidden_grams(text_dir: Path, examples: Path | None = None) -> set[int]:
    """8-grams of every test set below `text_dir` and of every example file; absent parts are skipped."""
    found: set[int] = set()
    folders = [text_dir / name for name in FORBIDDEN]
    if examples is not None and examples.is_dir():
        folders += [p for p in sorted(examples.iterdir()) if p.is_dir()]
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file() and path.suffix in (".json", ".jsonl", ".csv", ".txt", ".gz", ".tsv", ".conll"):
                for text in strings_of(path):
                    found |= grams(text)
    return found


def _jsonl(path: Path) -> Iterator[dict]:
    for line in path.open(encoding="utf-8"):
        if line.strip():
            yield json.loads(line)


def _sentences(text: str) -> list[str]:
    return [s.strip() for s in re.split(r"(?<=[.!?])\s+", text) if 5 <= len(s.split()) <= 30 and "\n" not in s]


def _squeeze(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text.replace("\r\n", "\n")).strip()


def build(text_dir: Path, examples: Path | None = None) -> Corpus:
    """Read all sources below `text_dir` in a fixed order."""
    banned = forbidden_grams(text_dir, examples)
    texts: list[str] = []
    chats: list[list[Turn]] = []
    sentences: list[tuple[str, str]] = []
    held_out: list[str] = []
    refused = 0

    def clean(text: str) -> bool:
        nonlocal refused
        bad = not banned.isdisjoint(grams(text))
        refused += bad
        return not bad

    for number, article in enumerate((text_dir / "wikipedia-sample" / "wiki_demo.txt").read_text("utf-8").split("\n")):
        # The collection glues the paragraphs of an article together without a space: cut there, then at every third seam.
        seams = re.sub(r"([a-z)\]][.!?])([A-Z])", r"\1\n\2", _squeeze(article)).split("\n")
        sealed = int(hashlib.sha256(article[:200].encode()).hexdigest(), 16) % 25 == 0
        for start in range(0, len(seams), 3):
            paragraph = "\n".join(seams[start : start + 3])
            if len(paragraph) < 200 or not clean(paragraph):
                continue
            if sealed:
                held_out.append(paragraph)
                continue
            texts.append(paragraph)
            sentences += [(f"wiki{number}", s) for s in _sentences(paragraph.replace("\n", " "))]
    for row in _jsonl(text_dir / "gsm8k" / "train.jsonl"):
        answer = re.sub(r"<<[^>]*>>", "", row["answer"])
        if clean(row["question"] + " " + answer):
            chats.append([("user", row["question"]), ("assistant", answer)])
    for path in sorted((text_dir / "p3-prompted-tasks").glob("*.jsonl")):
        for row in _jsonl(path):
            prompt, completion = _squeeze(row["prompt"]), row["completion"].replace("<|endoftext|>", "").strip()
            if completion and clean(prompt + " " + completion):
                chats.append([("user", prompt), ("assistant", completion)])
    for row in _jsonl(text_dir / "self-instruct-seed" / "seed_tasks.jsonl"):
        for case in row["instances"]:
            ask = row["instruction"] + ("\n" + case["input"] if case["input"] else "")
            if clean(ask + " " + case["output"]):
                chats.append([("user", ask), ("assistant", case["output"])])
    for row in _jsonl(text_dir / "schema-guided-dialogue" / "dialogues.jsonl"):
        if row["services"] == ["Banks_1"]:  # banking is a test domain
            continue
        turns = [("user" if t["speaker"] == "USER" else "assistant", t["utterance"]) for t in row["turns"]]
        if clean(" ".join(t for _, t in turns)):
            chats.append(turns)
            sentences += [(row["services"][0], t) for role, t in turns if role == "user" and 5 <= len(t.split()) <= 30]
    with (text_dir / "mts-dialog" / "MTS-Dialog-TrainingSet.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            note, talk = _squeeze(row["section_text"]), _squeeze(row["dialogue"])
            if clean(note + " " + talk):
                chats.append([("user", f"Write the note of this talk.\n{talk}"), ("assistant", note)])
                texts.append(talk if len(talk) >= 200 else talk + "\n" + note)
                sentences += [("mts" + row["section_header"], s) for s in _sentences(note)]
    return Corpus([t for t in texts if len(t) >= 200], chats, sentences, held_out, refused)


def load_or_build(cache: Path, text_dir: Path, examples: Path | None = None) -> Corpus:
    """The corpus, built once and kept as JSON at `cache`."""
    if cache.is_file():
        data = json.loads(cache.read_text("utf-8"))
        return Corpus(
            data["texts"],
            [[(r, t) for r, t in c] for c in data["chats"]],
            [(a, b) for a, b in data["sentences"]],
            data["held_out"],
            data["refused"],
        )
    corpus = build(text_dir, examples)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(asdict(corpus)), "utf-8")
    return corpus
