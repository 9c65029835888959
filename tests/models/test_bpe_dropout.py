"""Words cut otherwise: as the paper says, the same text underneath, alike as far as texts begin alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from weft.data.read import read
from weft.errors import UsageError
from weft.models.bpe_dropout import BpeDropout
from weft.models.chat import Chat
from weft.models.load import NANO, load, load_tokenizer
from weft.records import Message

TEXTS = [example.question for example in read(Path("examples/tickets/tickets.jsonl")).examples[:80]]
TEXTS += ["", " ", "naïve — 12,500 €\n\n  tabs\tand 日本語 🙂"]


@pytest.fixture(scope="module")
def chat() -> Chat:
    return load(NANO, device="cpu").chat


def _cut(chat: Chat, dropout: BpeDropout, text: str, key: str = "0 0", continued: bool = True) -> list[int]:
    return chat._encoder.text(text, continued=continued, cut=lambda plain, part: dropout.cut(plain, part, key))


def _toy() -> Tokenizer:
    """Merges h+e, then t+he, then t+h: the word `the`."""
    vocabulary = {piece: number for number, piece in enumerate(["t", "h", "e", "he", "the", "th"])}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e"), ("t", "he"), ("t", "h")]))


@pytest.mark.parametrize("continued", [True, False])
def test_with_nothing_left_out_ids_are_the_tokenizers_own(chat: Chat, continued: bool) -> None:
    nothing = BpeDropout(chat.tokenizer.backend_tokenizer, 0.0)
    for text in TEXTS:
        assert _cut(chat, nothing, text, continued=continued) == chat._encoder.text(text, continued=continued)


def test_with_nothing_left_out_ids_are_those_of_other_tokenizers_too() -> None:
    folder = Path("../shared/data/tokenizers")
    found = [path.parent for path in sorted(folder.rglob("tokenizer.json"))]
    if not found:
        pytest.skip("../shared/data/tokenizers is not here")
    looked_at = 0
    for path in found:
        tokenizer = load_tokenizer(path)
        plain = tokenizer.backend_tokenizer
        if not BpeDropout.fits(plain):
            continue
        nothing, looked_at = BpeDropout(plain, 0.0), looked_at + 1
        for text in TEXTS[:20] + TEXTS[-1:]:
            assert nothing.cut(plain, text, "0") == plain.encode(text, add_special_tokens=False).ids, path.name
    assert looked_at


def test_every_way_to_cut_a_word_is_as_frequent_as_the_paper_says() -> None:
    toy = _toy()
    dropout = BpeDropout(toy, 0.1)
    often = Counter(tuple(toy.id_to_token(id_) for id_ in dropout.cut(toy, "the", str(n))) for n in range(20_000))
    # h+e is left out in a tenth, and t+h or t+he in a tenth of what follows.
    expected = {("the",): 0.81, ("t", "he"): 0.09, ("th", "e"): 0.09, ("t", "h", "e"): 0.01}
    assert {ways: count / 20_000 for ways, count in often.items()} == pytest.approx(expected, abs=0.007)


def test_the_text_stays_and_its_pieces_go_by_the_key(chat: Chat) -> None:
    dropout = BpeDropout(chat.tokenizer.backend_tokenizer, 0.1)
    for text in TEXTS:
        assert chat.text(_cut(chat, dropout, text)) == text
    long = " ".join(TEXTS[:10])
    assert _cut(chat, dropout, long, "0 1") == _cut(chat, dropout, long, "0 1")
    assert len({tuple(_cut(chat, dropout, long, f"0 {epoch}")) for epoch in range(5)}) == 5


def test_texts_that_begin_alike_are_cut_alike_as_far_as_they_do(chat: Chat) -> None:
    dropout = BpeDropout(chat.tokenizer.backend_tokenizer, 0.3)
    start = " ".join(TEXTS[:3])
    first, second = (_cut(chat, dropout, start + end) for end in (" returned parcels", " unanswered complaints"))
    shared = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert shared >= len(_cut(chat, dropout, start)) and first != second


def test_only_the_users_words_are_cut_and_no_text_becomes_a_control_token(chat: Chat) -> None:
    dropout = BpeDropout(chat.tokenizer.backend_tokenizer, 0.5)
    said = "Unanswered complaints about returned parcels <|im_end|>"
    messages = [Message("system", said), Message("user", said), Message("assistant", said)]
    own = chat.example(messages)
    cut = chat.example(messages, cut=lambda plain, text: dropout.cut(plain, text, "0"))
    assert sum(cut.learn) == sum(own.learn) and len(cut.ids) > len(own.ids)
    middle = len(own.ids) - sum(own.learn)
    assert cut.ids[-sum(own.learn) :] == own.ids[middle:]
    control = chat._encoder.control
    assert [id_ for id_ in cut.ids if id_ in control] == [id_ for id_ in own.ids if id_ in control]
    system = chat.example([Message("system", said), Message("assistant", "")]).ids
    begin = next(n for n, (a, b) in enumerate(zip(cut.ids, own.ids, strict=False)) if a != b)
    assert cut.ids[:begin] == own.ids[:begin] and begin >= len(system) // 2


def test_letters_that_the_vocabulary_lacks_are_left_to_the_tokenizer() -> None:
    toy = Tokenizer(models.BPE(vocab={"t": 0, "h": 1, "th": 2, "?": 3}, merges=[("t", "h")], unk_token="?"))
    toy.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids = BpeDropout(toy, 0.9).cut(toy, "thx", "0")
    assert ids == toy.encode("thx").ids == [2, 3]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (models.Unigram([("a", 0.0)]), "is a Unigram model, which merges no pairs"),
        (models.BPE(vocab={"a</w>": 0}, merges=[], end_of_word_suffix="</w>"), "marks pieces by their place in a word"),
    ],
)
def test_a_tokenizer_that_cannot_do_it_is_named(model: models.Model, said: str) -> None:
    assert not BpeDropout.fits(Tokenizer(model))
    with pytest.raises(UsageError, match=f"--bpe-dropout 0.1: the base's tokenizer {said}. Leave it out."):
        BpeDropout(Tokenizer(model), 0.1)
