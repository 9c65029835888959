"""The examples keep what their READMEs promise: sizes, rules, and nothing of a test row known from a train row."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from weft.data import near
from weft.data.read import read
from weft.data.split import split
from weft.records import Conversation, Dataset, Split

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TICKETS = EXAMPLES / "tickets" / "tickets.jsonl"
INTENTS = EXAMPLES / "intents" / "intents.csv"
NOT_OURS = ("banking77", "bitext-customer-support", "restaurants8k", "e2e-nlg", "self-instruct-seed")
SEEDS = (0, 1, 2)


def maker(name: str) -> ModuleType:
    path = EXAMPLES / name / "make.py"
    spec = importlib.util.spec_from_file_location(f"make_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """message → ticket, as the maker knows it (who signed is not in the file)."""
    return {ticket.message: ticket for ticket in maker("tickets").tickets()}


@pytest.fixture(scope="module")
def tickets() -> Dataset:
    return read(TICKETS)


@pytest.fixture(scope="module")
def intents() -> Dataset:
    return read(INTENTS, input="text", output="label")


def answer(example: Conversation) -> dict[str, str | None]:
    return json.loads(example.answer)


def splits(dataset: Dataset) -> Iterator[Split]:
    """With and without labels, for several seeds: however a run cuts the file, the promise must hold."""
    labels = [e.answer if dataset.path.endswith(".csv") else str(answer(e)["category"]) for e in dataset.examples]
    for seed in SEEDS:
        yield split(dataset.examples, seed=seed)
        yield split(dataset.examples, labels=labels, seed=seed)


def masked(ticket: Any) -> str:
    text = ticket.message
    for value, name in ((ticket.name, "NAME"), (ticket.product, "PRODUCT"), (ticket.order_number, "ORDER")):
        text = text.replace(value, name) if value else text
    return text


def sentences(text: str) -> set[str]:
    """Lower-case sentences of a masked message, without its sign-off and bare references to an order."""
    whole = {part.strip(" .!?").lower() for part in re.split(r"(?<=[.!?])\s+", text)}
    bare = r"(- |regards, |kind regards, |thanks, |yours, |sincerely, |best, )?name"
    return {s for s in whole if not re.fullmatch(bare, s) and not ("order" in s and len(s.split()) <= 8)}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def grams(text: str, length: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


def test_both_files_are_read_without_a_finding(tickets: Dataset, intents: Dataset) -> None:
    assert not tickets.findings and not intents.findings
    assert len(tickets.examples) >= 600
    assert len(intents.examples) >= 400


def test_makers_write_exactly_the_committed_files(tmp_path: Path) -> None:
    for name, file in (("tickets", TICKETS), ("intents", INTENTS)):
        module = maker(name)
        before = file.read_bytes()
        for source in (EXAMPLES / name).glob("*.txt"):
            (tmp_path / source.name).write_bytes(source.read_bytes())
        module.main(tmp_path)
        assert (tmp_path / file.name).read_bytes() == before, f"{file.name} is stale: run examples/{name}/make.py"


def test_a_contradictory_priority_is_refused_by_line(tmp_path: Path) -> None:
    module = maker("tickets")
    (tmp_path / "messages.txt").write_text("= refund\nn I need it tomorrow.\nx [one] and [two]\n")
    (tmp_path / "requests.txt").write_text("")
    (tmp_path / "names.txt").write_text("")
    with pytest.raises(SystemExit, match=r"line 2: priority is 'n', expected 'h'[\s\S]*line 3"):
        module.tickets(tmp_path)


def test_every_answer_is_one_compact_object_whose_values_stand_in_the_message(tickets: Dataset) -> None:
    for example in tickets.examples:
        fields = answer(example)
        assert list(fields) == ["category", "priority", "order_number", "product", "reply"]
        assert example.answer == json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        for value in (fields["product"], fields["order_number"]):
            assert value is None or example.question.count(value) == 1, example.question
        assert fields["order_number"] is None or re.fullmatch(r"#\d{5}|WX-\d{5}", fields["order_number"])
        assert fields["order_number"] is not None or not re.search(r"#\d|WX-\d", example.question)
        assert str(fields["reply"]).count(".") == 1 and str(fields["reply"]).endswith(".")


def test_categories_priorities_and_nulls_are_all_well_represented(tickets: Dataset) -> None:
    answers = [answer(e) for e in tickets.examples]
    assert min(Counter(a["category"] for a in answers).values()) >= 70
    assert min(Counter(a["priority"] for a in answers).values()) >= 70
    assert 0.3 < sum(a["order_number"] is None for a in answers) / len(answers) < 0.5
    assert 0.1 < sum(a["product"] is None for a in answers) / len(answers) < 0.25


def test_names_products_and_order_numbers_occur_in_one_row_only(made: dict[str, Any]) -> None:
    rows = made.values()
    for values in (
        [t.product for t in rows if t.product],
        [t.order_number for t in rows if t.order_number],
        [part for t in rows if t.name for part in t.name.split()],
    ):
        assert len(values) == len(set(values)), [v for v, n in Counter(values).items() if n > 1]
    assert sum(t.product is not None for t in rows) >= 500


def test_nothing_of_a_test_ticket_is_known_from_training(tickets: Dataset, made: dict[str, Any]) -> None:
    for parts in splits(tickets):
        known = [made[e.question] for e in parts.train + parts.validation]
        text = "\n".join(t.message for t in known).lower()
        phrases = set[str]().union(*(sentences(masked(t)) for t in known))
        for ticket in (made[e.question] for e in parts.test):
            for value in (ticket.product, ticket.order_number, ticket.name):
                assert value is None or not re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", text), value
            assert not sentences(masked(ticket)) & phrases, ticket.message


def test_hardly_any_six_words_of_tickets_occur_twice(made: dict[str, Any]) -> None:
    found = Counter(gram for t in made.values() for gram in grams(masked(t), 6))
    assert sum(n > 1 for n in found.values()) / len(found) < 0.003
    assert max(found.values()) <= 8


def test_no_two_rows_are_near_duplicates(tickets: Dataset, intents: Dataset) -> None:
    for dataset in (tickets, intents):
        assert len(set(near.clusters([e.question for e in dataset.examples]))) == len(dataset.examples)


def test_no_test_intent_is_worded_like_a_train_intent(intents: Dataset) -> None:
    for parts in splits(intents):
        known = {" ".join(words(e.question)) for e in parts.train + parts.validation}
        assert not known & {" ".join(words(e.question)) for e in parts.test}


def test_six_intents_are_balanced() -> None:
    with INTENTS.open(encoding="utf-8", newline="") as file:
        counts = Counter(row["label"] for row in csv.DictReader(file))
    assert len(counts) == 6
    assert max(counts.values()) < 1.3 * min(counts.values())


def test_a_linear_classifier_learns_the_intents_but_not_perfectly(intents: Dataset) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = [e.answer for e in intents.examples]
    right = total = 0
    for seed in SEEDS:
        parts = split(intents.examples, labels=labels, seed=seed)
        known = parts.train + parts.validation
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10))
        model.fit([e.question for e in known], [e.answer for e in known])
        guessed = model.predict([e.question for e in parts.test])
        right += sum(g == e.answer for g, e in zip(guessed, parts.test, strict=True))
        total += len(parts.test)
    assert 0.85 < right / total < 0.98


def test_no_eight_words_are_taken_from_a_public_data_set(shared: Path, tickets: Dataset, intents: Dataset) -> None:
    ours = set[tuple[str, ...]]().union(*(grams(e.question, 8) for d in (tickets, intents) for e in d.examples))
    taken: list[tuple[str, str]] = []
    for name in NOT_OURS:
        for path in sorted((shared / "data" / name).rglob("*")):
            if path.suffix in {".csv", ".json", ".jsonl", ".tsv", ".txt"} and "LICENSE" not in path.name:
                for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                    taken += [(path.name, " ".join(gram)) for gram in grams(line, 8) & ours]
    assert not taken


def test_rows_shown_in_the_readmes_are_rows_of_the_files(tickets: Dataset, intents: Dataset) -> None:
    for dataset, name in ((tickets, "tickets"), (intents, "intents")):
        rows = {(e.question, e.answer) for e in dataset.examples}
        shown = re.findall(r"^\| (.+?) \| `?(.+?)`? \|$", (EXAMPLES / name / "README.md").read_text(), re.MULTILINE)
        shown = [pair for pair in shown if "---" not in pair[0]][1:]
        assert shown and set(shown) <= rows
