"""The arms: what a model is shown, that it fits, and that nothing of a test row's answer is in it."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from weft import tasks
from weft.errors import UsageError
from weft.evaluate.arms import classical, few_shot, instructed, prompted, rag
from weft.evaluate.arms.zero_shot import zero_shot
from weft.evaluate.retrieve import Index
from weft.records import Conversation, Message
from weft.testing import tiny_base

CHAT = tiny_base().chat
TEXTS = [
    "how do I top up my card",
    "my card was stolen, card card",
    "the exchange rate is wrong",
    "where is my parcel",
    "top up failed with an exchange error at the counter of the shop",
    "a",
]


def _example(question: str, answer: str, system: str | None = None, line: int = 1) -> Conversation:
    head = (Message("system", system),) if system else ()
    return Conversation((*head, Message("user", question), Message("assistant", answer)), line)


TRAIN = [_example(text, "AB"[n % 2], line=n + 1) for n, text in enumerate(TEXTS * 2)]


def _bm25(texts: list[str], query: str, k1: float = 1.5, b: float = 0.75) -> list[int]:
    """BM25 as Lucene computes it, worked out term by term (Robertson & Zaragoza 2009)."""
    documents = [re.findall(r"\b\w+\b", text.lower()) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in re.findall(r"\b\w+\b", query.lower()):
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            norm = k1 * (1 - b + b * len(document) / mean)
            score += idf * counts[word] / (counts[word] + norm)
        scores.append(score)
    return sorted(range(len(texts)), key=lambda i: (-scores[i], i))


@pytest.mark.parametrize("query", ["top up card", "Where is the EXCHANGE?", "a", "card", "shop counter rate parcel"])
def test_the_nearest_texts_are_those_of_bm25_by_hand(query: str) -> None:
    assert Index(TEXTS).nearest(query, 4) == _bm25(TEXTS, query)[:4]


def test_a_query_of_unknown_words_takes_the_first_texts_and_signs_alone_do_no_harm() -> None:
    assert Index(TEXTS).nearest("zzz", 2) == [0, 1]
    assert Index(["?", "!"]).nearest("what?", 5) == [0, 1]


def test_zero_shot_shows_the_examples_own_messages_and_never_the_answer() -> None:
    example = _example("q", "the answer", "Be kind.")
    assert zero_shot().messages(example) == example.messages[:-1]
    assert zero_shot("tuned").name == "tuned"


def test_an_instruction_joins_the_system_message_that_is_there() -> None:
    assert instructed(CHAT, (Message("user", "q"),), "Do.") == (Message("system", "Do."), Message("user", "q"))
    asked = (Message("system", "Be kind."), Message("user", "q"))
    assert instructed(CHAT, asked, "Do.") == (Message("system", "Be kind.\n\nDo."), Message("user", "q"))


def test_a_template_without_system_messages_gets_the_instruction_in_the_first_turn() -> None:
    template = (
        "{%- for m in messages -%}{%- if m.role == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}"
        "{{ '<|im_start|>' + m.role + '\n' }}"
        "{%- if m.role == 'assistant' -%}{%- generation -%}{{ m.content + '<|im_end|>' }}{%- endgeneration -%}"
        "{%- else -%}{{ m.content + '<|im_end|>' }}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )
    chat = tiny_base(template=template).chat
    assert not chat.accepts_system
    assert instructed(chat, (Message("user", "q"),), "Do.") == (Message("user", "Do.\n\nq"),)


def test_prompts_name_every_option_and_grow_from_terse_to_detailed() -> None:
    task = tasks.infer(TRAIN)
    arms = prompted.candidates(CHAT, task, TRAIN)
    texts = [arm.details["system_prompt"] for arm in arms]
    assert [len(text) for text in texts] == sorted(len(text) for text in texts)
    assert all(label in text for text in texts for label in task.labels)
    example = _example("unseen question", "unseen answer")
    for arm in arms:
        shown = arm.messages(example)
        assert shown[-1] == Message("user", "unseen question")
        assert not any("unseen answer" in message.content for message in shown)


def test_shots_are_the_nearest_training_examples_the_nearest_last_as_many_as_fit() -> None:
    example = _example("top up card", "?", "Be kind.")
    order = Index([row.question for row in TRAIN]).nearest(example.question, 32)
    for room in (10_000, 400, 250, 100, 80):
        shown = few_shot.candidates(CHAT, TRAIN, room, None)[0].messages(example)
        assert shown[0] == Message("system", "Be kind.") and shown[-1] == Message("user", "top up card")
        shots = [message.content for message in shown[1:-1] if message.role == "user"]
        assert shots == [TRAIN[i].question for i in order[: len(shots)]][::-1]
        assert len(CHAT.prompt(shown)) <= room
        if room == 10_000:
            assert len(shots) == len(TRAIN)
    assert not shots


def test_shots_never_take_more_room_than_there_is() -> None:
    example = _example("top up card", "?")
    least = len(CHAT.prompt(example.prompt))
    sizes = {
        room: len(CHAT.prompt(few_shot.candidates(CHAT, TRAIN, room, None)[0].messages(example)))
        for room in range(least, least + 300, 7)
    }
    assert all(size <= room for room, size in sizes.items())
    assert len(set(sizes.values())) > 3


def test_shots_behind_the_chosen_system_prompt_are_tried_too() -> None:
    alone, behind = few_shot.candidates(CHAT, TRAIN, 10_000, "Answer A or B.")
    example = _example("top up", "?")
    assert behind.messages(example) == (Message("system", "Answer A or B."), *alone.messages(example))
    assert len(few_shot.candidates(CHAT, TRAIN, 10_000, None)) == 1


def test_passages_are_the_nearest_and_fit(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("Cards are blocked in the app.\n\n" + "long " * 200)
    (tmp_path / "a.txt").write_text("A top up takes a day.")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    passages = rag.read_passages(tmp_path)
    assert passages[:2] == ["A top up takes a day.", "Cards are blocked in the app."]
    assert [len(passage.split()) for passage in passages[2:]] == [80, 80, 40]
    example = _example("how long is a top up", "?")
    (arm,) = rag.candidates(CHAT, passages, 250, None)
    shown = arm.messages(example)
    assert "- A top up takes a day." in shown[0].content and len(CHAT.prompt(shown)) <= 250
    assert rag.candidates(CHAT, passages, 20, None)[0].messages(example) == example.prompt


def test_documents_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no text"):
        rag.read_passages(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        rag.read_passages(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"a\.txt: not UTF-8 at byte 3"):
        rag.read_passages(tmp_path)


def test_the_classifier_learns_what_words_tell_and_says_what_was_chosen() -> None:
    rows = [_example(f"{'card' if n % 2 else 'parcel'} number {n}", "AB"[n % 2]) for n in range(40)]
    model, details = classical.fit(rows[:30], rows[30:])
    assert list(model.predict(["my parcel 99", "this card 98"])) == ["A", "B"]
    assert (details["validation_right"], details["validation_rows"]) == (10, 10)
    assert details["C"] in classical.STRENGTHS
    assert classical.fit(rows, [])[1] == {"C": 10.0}


def test_the_classifier_reads_questions_without_words() -> None:
    rows = [_example("?" if n % 2 else "!!", "AB"[n % 2]) for n in range(20)]
    model, _ = classical.fit(rows[:16], rows[16:])
    assert list(model.predict(["?", "!!"])) == ["B", "A"]
