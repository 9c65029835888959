"""With BPE-dropout questions are new in every epoch, answers and looks are not, and a stop changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram

from tests.train import small
from weft.errors import Stopped, UsageError
from weft.models.load import NANO, Base, load
from weft.progress import Silent
from weft.records import Conversation, Message
from weft.runs import Run
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import auto, sft
from weft.train.rows import Rows
from weft.train.sft_config import SftConfig
from weft.train.steps import Steps
from weft.train.stop import Stop

WORDS = ("returned parcels", "unanswered complaints", "cancelled subscriptions", "damaged headphones")


def _questions(count: int, answers: tuple[str, ...] = ("refund", "question")) -> list[Conversation]:
    return [
        Conversation(
            (
                Message("user", f"{WORDS[n % 4]} and {WORDS[n // 4 % 4]}"),
                Message("assistant", answers[n % len(answers)]),
            ),
            line=n + 1,
        )
        for n in range(count)
    ]


def _config(**values: Any) -> SftConfig:
    return small.config(**{"max_tokens": 64, "bpe_dropout": 0.3, "train_tokens": "none", **values})


@pytest.fixture(scope="module")
def nano() -> Base:
    return load(NANO, device="cpu")


def _pieces_without_merges() -> Base:
    """A base whose tokenizer has likely pieces instead of merges."""
    chat: Any = SimpleNamespace(tokenizer=SimpleNamespace(backend_tokenizer=Tokenizer(Unigram([("a", 0.0)]))))
    return replace(tiny_base(), name="tiny", chat=chat)


def test_each_epoch_has_its_own_pieces_of_the_same_text(nano: Base) -> None:
    rows = Rows(nano, _questions(8), _config())
    epochs = [rows.of(range(8), epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != rows.as_served and epochs[1] == rows.of(range(8), 1)
    for learned, served in zip(epochs[0], rows.as_served, strict=True):
        answer = sum(served.learn)
        assert learned.ids[-answer:] == served.ids[-answer:] and sum(learned.learn) == answer
        assert nano.chat.text(learned.ids) == nano.chat.text(served.ids)
    assert Rows(nano, _questions(8), _config(seed=1)).of(range(8), 0) != epochs[0]
    plain = Rows(nano, _questions(8), _config(bpe_dropout=0))
    assert plain.of(range(8), 2) == plain.as_served == rows.as_served


def test_a_row_that_pieces_would_make_too_long_stays_as_it_is_served(nano: Base) -> None:
    longest = max(len(row.ids) for row in Rows(nano, _questions(8), _config()).as_served)
    rows = Rows(nano, _questions(8), _config(max_tokens=longest, bpe_dropout=0.9))
    assert not rows.skipped
    for learned, served in zip(rows.of(range(8), 0), rows.as_served, strict=True):
        assert len(learned.ids) <= longest and (learned == served or len(served.ids) < longest)


def test_training_that_was_stopped_ends_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Steps.update

    def train(folder: Path, last: int = 8, **values: Any) -> dict[str, bytes]:
        """`last`: the step after which it is told to stop."""
        stop = Stop()

        def updated(steps: Steps, **told: Any) -> None:
            update(steps, **told)
            if steps.state.step == last < 8:
                stop.order()

        monkeypatch.setattr(Steps, "update", updated)
        run = Run.open(folder) if folder.exists() else Run.create(folder, {"run": {}})
        rows = _questions(16)
        config = _config(validate_every=100, **values)
        sft.train(run, load(NANO, device="cpu"), rows, rows[:2], config, Silent(), stop)
        return small.published(run)

    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped, match="told to stop, and stopped after step 5 of 8"):
        train(tmp_path / "parts", last=5)
    assert train(tmp_path / "parts") == whole
    assert train(tmp_path / "other", bpe_dropout=0) != whole


def test_auto_cuts_questions_for_labels_on_small_bases_alone(nano: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def settled(base: Base, answers: tuple[str, ...], **flags: Any) -> tuple[Any, str]:
        ready = sft.settle(resolve(SftConfig, flags, environment={}), base, _questions(24, answers))
        return ready.config.bpe_dropout, ready.origins["bpe_dropout"]

    labels = ("refund", "question")
    share, why = settled(nano, labels)
    assert share == 0.1 and why == f"auto: labels, on {nano.parameters:,} parameters, under 50,000,000"
    objects = tuple(f'{{"order": "{n}"}}' for n in range(24))
    assert settled(nano, objects) == (0.0, "auto: the answers are no labels")
    assert settled(nano, labels, bpe_dropout=0.2) == (0.2, "flag")
    share, why = settled(_pieces_without_merges(), labels)
    assert share == 0.0 and why == "auto: the tokenizer of tiny cannot cut words otherwise"
    monkeypatch.setattr(auto, "SMALL", 10)
    share, why = settled(nano, labels)
    assert share == 0.0 and why.endswith("parameters, 10 or more")


def test_labels_in_new_pieces_are_seen_more_often(nano: Base) -> None:
    rows = _questions(24)
    settled = sft.settle(resolve(SftConfig, {}, environment={}), nano, rows)
    assert settled.config.epochs == 12 and "in other pieces each time" in settled.origins["epochs"]
    plain = sft.settle(resolve(SftConfig, {"bpe_dropout": 0}, environment={}), nano, rows)
    assert plain.config.epochs == 10
    assert [auto.epochs_anew(count)[0] for count in (100, 7_058, 8_500, 17_000, 10**6)] == [12, 12, 10, 5, 4]


def test_the_pieces_of_words_learn_beside_the_adapter_too(tmp_path: Path) -> None:
    def learned(share: float) -> int:
        run = Run.create(tmp_path / f"{share}", {"run": {}})
        rows = _questions(16)
        config = _config(bpe_dropout=share, train_tokens="seen", epochs=1, validate_every=100)
        return sft.train(run, load(NANO, device="cpu"), rows, rows[:2], config, Silent()).trainable_parameters

    width = 256
    assert (learned(0.3) - learned(0)) % width == 0 and learned(0.3) > learned(0) + 10 * width


def test_a_base_whose_tokenizer_cannot_do_it_is_refused_before_training() -> None:
    with pytest.raises(UsageError, match=r"--bpe-dropout 0\.3: the base's tokenizer is a Unigram model"):
        sft.rehearse(_pieces_without_merges(), _questions(8), _questions(2), _config())


@pytest.mark.parametrize("share", [-0.1, 1, "some"])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match="bpe_dropout"):
        SftConfig.model_validate({"bpe_dropout": share})
