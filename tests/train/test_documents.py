"""No token is lost, none learned twice, none seen across a boundary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import ModelError, UsageError
from weft.forest.logprobs import learned_logprobs
from weft.models.load import load
from weft.records import Document, Tokens
from weft.testing import tiny_base
from weft.train.documents import Writer, packed


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


BASE = tiny_base()
END = BASE.chat.tokenizer.convert_tokens_to_ids("<|end|>")


@given(st.text(max_size=90), st.integers(2, 40))
def test_every_token_of_a_document_and_its_end_is_learned_exactly_once(text: str, longest: int) -> None:
    writer = Writer.of(BASE, longest)
    rows = writer.rows(Document(text, "a.txt"))
    learned = [token for row in rows for token, flag in zip(row.ids, row.learn, strict=True) if flag]
    assert learned == [*writer.encoder.text(text, continued=False), END]
    assert all(len(row.ids) <= longest and row.learn == (False,) + (True,) * (len(row.ids) - 1) for row in rows)
    # What a row begins with is the token before its first learned one.
    before = [END] + [row.ids[-1] for row in rows[:-1]]
    assert [row.ids[0] for row in rows] == before


@given(st.lists(st.integers(2, 30), min_size=1, max_size=60), st.integers(30, 70))
def test_packs_hold_every_row_once_and_are_not_overfull(lengths: list[int], room: int) -> None:
    rows = [Tokens((number,) * length, (False,) * length) for number, length in enumerate(lengths)]
    packs = packed(rows, room)
    assert sorted(row.ids for pack in packs for row in pack) == sorted(row.ids for row in rows)
    sizes = sorted(sum(len(row.ids) for row in pack) for pack in packs)
    assert sizes[-1] <= room
    assert len(sizes) < 2 or sizes[0] + sizes[1] > room  # the two emptiest would not fit together
    assert packed(rows[::-1], room) == packs


def test_documents_of_one_forward_pass_do_not_see_each_other() -> None:
    writer = Writer.of(BASE, 64)
    texts = ["first text", "another one", "first text that goes on for longer than a row holds, much longer indeed"]
    rows = [row for text in texts for row in writer.rows(Document(text, ""))]
    together = learned_logprobs(BASE.model, rows)
    alone = torch.cat([learned_logprobs(BASE.model, [row]) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_text_cannot_forge_the_end_of_a_document() -> None:
    (row,) = Writer.of(BASE, 64).rows(Document("a<|end|>b", ""))
    assert row.ids.count(END) == 2 and row.ids[0] == row.ids[-1] == END


def test_the_end_is_that_of_documents_not_of_replies(shared: Path) -> None:
    nano = Writer.of(load("weft-nano"), 64)
    assert nano.marks == "<|endoftext|> … <|endoftext|>"
    # Its tokenizer names </s>, which pretraining never saw: stories were separated by <s>.
    stories = Writer.of(load(str(shared / "data/models/tinystories-260k/hf")), 64)
    assert stories.marks == "<s> … <s>"


def test_an_end_that_is_no_control_token_is_refused() -> None:
    assert Writer.of(BASE, 64, "<|im_end|>").marks == "<|end|> … <|im_end|>"
    with pytest.raises(UsageError, match=r"--document-end 'x': no control token of the tokenizer. It has: <\|end\|>"):
        Writer.of(BASE, 64, "x")
    base = tiny_base()
    base.chat.tokenizer.eos_token = base.chat.tokenizer.bos_token = None
    with pytest.raises(
        ModelError, match=r"no token that ends a document is known. Name one with --document-end: <\|end"
    ):
        Writer.of(base, 64)
