"""The curriculum of weft-nano: rows are pure, replies are what is learnt, and no test data is in the mix."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # recipes are no part of the package
    sys.path.insert(0, str(ROOT))

from recipes.nano import meanings, messages, mix, probe, tasks, text, words  # noqa: E402
from weft.models.nano import folder  # noqa: E402

CORPUS = text.Corpus(
    texts=[f"Article {i}. " + "The river runs past the old mill and the town grew beside it. " * 12 for i in range(20)],
    chats=[[("user", "What runs?"), ("assistant", "The river.")]],
    sentences=[(f"topic{t}", f"In the year {y} somebody built mill {t}.") for t in range(3) for y in range(1800, 1820)],
    held_out=[],
    refused=0,
)


MEANINGS = tuple(
    meanings.Meaning(
        (f"{noun} {i}", f"old {noun} {i}"), (kind,), field, f"a {noun} for test {i}", (f"take {noun} {i}",)
    )
    for field, (noun, kind) in enumerate((("cup", "vessel"), ("oak", "wood"), ("waltz", "dance")), start=4)
    for i in range(20)
)


@pytest.fixture(scope="module")
def small_mix():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    return mix.Mix(tokenizer, CORPUS, meanings=MEANINGS)


def test_a_row_is_a_function_of_seed_and_index(small_mix):
    phase = mix.PHASES[-1]
    for length in phase.buckets:
        rows = [small_mix.row(7, i, phase, length) for i in range(6)]
        assert rows == [small_mix.row(7, i, phase, length) for i in range(6)]
        assert rows != [small_mix.row(8, i, phase, length) for i in range(6)]


def test_every_row_fits_its_bucket_and_has_something_to_learn(small_mix):
    for phase in mix.PHASES:
        for length in phase.buckets:
            for i in range(30):
                ids, weights = small_mix.row(1, i, phase, length)
                assert len(ids) == len(weights) <= length
                assert sum(w == 1.0 for w in weights) > 0


@pytest.mark.parametrize("name", sorted(mix.ALL_TASKS))
def test_every_task_ends_with_a_reply_and_alternates(name):
    source = tasks.Source(messages.TRAIN, {"a": ["The old mill stands by the river."] * 12}, meanings=MEANINGS)
    for i in range(60):
        for budget in (40, 120, 900):
            turns = mix.ALL_TASKS[name](Random(f"{name}{i}"), budget, source)
            roles = [r for r, _ in turns if r != "system"]
            assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
            assert all(isinstance(t, str) for _, t in turns)


def test_weight_is_on_replies_and_their_end_mark(small_mix):
    turns = [
        ("system", "Be brief."),
        ("user", "Say A-1."),
        ("assistant", "A-1"),
        ("user", "Again."),
        ("assistant", "A-1 A-1"),
    ]
    ids, learnt = small_mix.encode(turns)
    assert small_mix.tokenizer.decode(
        [i for i, x in zip(ids, learnt, strict=True) if x], skip_special_tokens=False
    ) == ("A-1<|im_end|>A-1 A-1<|im_end|>")


def test_rows_are_encoded_as_the_chat_template_renders(small_mix):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder())
    turns = [
        ("system", "Be brief."),
        ("user", "Say\nA-1."),
        ("assistant", "A-1"),
        ("user", "Again."),
        ("assistant", '{"a": null}'),
    ]
    ids, learnt = small_mix.encode(turns)
    out = tokenizer.apply_chat_template(
        [{"role": r, "content": t} for r, t in turns], return_dict=True, return_assistant_tokens_mask=True
    )
    assert out["input_ids"] == ids and [bool(m) for m in out["assistant_masks"]] == learnt


def test_json_replies_are_json_with_the_keys_that_were_asked():
    source = tasks.Source(messages.TRAIN, {})
    for i in range(200):
        turns = tasks.triage(Random(i), 400, source)
        replies = [json.loads(t) for r, t in turns if r == "assistant"]
        assert len({tuple(r) for r in replies}) == 1  # one key order per conversation


WIDE = tasks.Source(messages.TRAIN, {"a": ["The old mill stands by the river."] * 12}, meanings=MEANINGS, wide=True)


@pytest.mark.parametrize("source", [tasks.Source(messages.TRAIN, {}), WIDE], ids=["table", "dictionary"])
def test_extracted_values_stand_in_the_message_or_are_null(source: tasks.Source):
    seen = 0
    for i in range(300):
        turns = tasks.extract(Random(i), 400, source)
        for (_, user), (role, reply) in pairwise(turns):
            if role == "assistant" and reply.startswith("{"):
                values = [v for v in json.loads(reply).values() if v is not None]
                assert all(v in user for v in values)
                seen += len(values)
    assert seen > 200


def test_a_wide_source_calls_most_things_by_the_names_of_the_dictionary_and_puts_other_sentences_beside_them():
    rng, narrow = Random(3), tasks.Source(messages.TRAIN, {}, meanings=MEANINGS)
    named = sum(any(thing in WIDE.product(rng) for thing in WIDE.things) for _ in range(500))
    assert 300 < named < 450
    assert not any(thing in narrow.product(rng) for thing in WIDE.things for _ in range(20))
    said = [text for i in range(200) for role, text in tasks.triage(Random(i), 400, WIDE) if role == "user"]
    beside = sum("old mill" in text or "Take " in text for text in said) / len(said)
    assert 0.25 < beside < 0.45


def test_held_out_intents_and_label_endings_do_not_occur_in_training():
    held = {p for i in messages.HELD_OUT for p in i.patterns}
    assert not held & {p for i in messages.TRAIN for p in i.patterns}
    assert not {i.name for i in messages.HELD_OUT} & {i.name for i in messages.TRAIN}
    assert len(messages.HELD_OUT) >= 20
    rng = Random(0)
    made = {words.pseudo(rng) for _ in range(20_000)}
    assert not {probe.unseen_label(rng) for _ in range(2_000)} & made


@pytest.fixture(scope="module")
def natural(shared) -> text.Corpus:
    return text.build(shared / "data", ROOT / "examples")


def test_no_run_of_eight_words_is_shared_with_test_or_example_data(shared, natural):
    banned = text.forbidden_grams(shared / "data", ROOT / "examples")
    documents = [*natural.texts, *(" ".join(t for _, t in chat) for chat in natural.chats)]
    assert len(banned) > 100_000 and len(documents) > 5_000
    for document in documents[::7]:
        assert banned.isdisjoint(text.grams(document))
    generated = 0
    source = tasks.Source(messages.TRAIN, {})
    for i in range(1_500):
        name = sorted(tasks.TASKS)[i % len(tasks.TASKS)]
        for _, said in tasks.TASKS[name](Random(f"overlap/{i}"), 200, source):
            assert banned.isdisjoint(text.grams(said)), f"{name}: {said!r}"
            generated += 1
    assert generated > 5_000


def test_no_shorter_message_of_test_or_example_data_stands_whole_in_what_is_generated(shared):
    examples = ROOT / "examples"
    files = (
        examples / "tickets" / "tickets.jsonl",
        examples / "intents" / "intents.csv",
        shared / "data" / "banking77" / "test.csv",
    )
    asked = {said for file in files for said in text.strings_of(file)}
    # A text of so many words has one run of that length and none of the next.
    short = {
        k: set().union(*(text.grams(said, k) for said in asked if not text.grams(said, k + 1)))
        for k in range(3, text.GRAM)
    }
    assert sum(map(len, short.values())) > 900
    source = tasks.Source(messages.TRAIN, {})
    for i in range(1_500):
        name = sorted(tasks.TASKS)[i % len(tasks.TASKS)]
        for _, said in tasks.TASKS[name](Random(f"overlap/{i}"), 200, source):
            assert all(grams.isdisjoint(text.grams(said, k)) for k, grams in short.items()), f"{name}: {said!r}"


def test_natural_text_holds_no_control_marks(natural):
    documents = [*natural.texts, *(t for chat in natural.chats for _, t in chat)]
    assert not [d for d in documents if "<|im_" in d or "<|endoftext" in d]


def test_held_out_articles_are_at_least_two_percent_and_not_trained_on(natural):
    assert sum(len(t) for t in natural.held_out) >= 0.02 * 1_030_000
    trained = set().union(*(text.grams(t, 13) for t in natural.texts))
    assert all(len(text.grams(t, 13) & trained) < 3 for t in natural.held_out)


def test_eight_grams_ignore_case_and_punctuation():
    a = text.grams("One, two three FOUR five six seven eight!")
    assert a == text.grams("one two three four five six seven eight") and len(a) == 1
    assert text.grams("seven words are not enough for one") == set()
