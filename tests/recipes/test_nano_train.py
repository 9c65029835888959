"""The recipe on weft's engine: the same weights in both classes, and numbers to watch that mean what they say."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from random import Random

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # recipes are no part of the package
    sys.path.insert(0, str(ROOT))

from recipes.nano import measure, messages, mix, probe, text, train  # noqa: E402
from weft.models.load import load  # noqa: E402

CORPUS = text.Corpus(
    texts=["The river runs past the old mill and the town grew beside it. " * 90],
    chats=[[("user", "What runs?"), ("assistant", "The river.")]],
    sentences=[],
    held_out=[],
    refused=0,
)


@pytest.fixture(scope="module")
def nano():
    return load("weft-nano", device="cpu")


@pytest.fixture(scope="module")
def theirs():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(train.NANO, dtype=torch.float32, local_files_only=True).eval()


@pytest.fixture(scope="module")
def small_mix():
    from tokenizers import Tokenizer

    return mix.Mix(Tokenizer.from_file(str(train.NANO / "tokenizer.json")), CORPUS, messages.TRAIN)


def test_the_engine_begins_with_the_values_that_transformers_drew_and_gives_them_back(tmp_path):
    drawn = train.untrained()
    model = train.on_engine(drawn)
    back = train.as_transformers(model).state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in drawn.state_dict().items())
    train.export(model, tmp_path / "nano")
    written = load_weights(tmp_path / "nano")
    assert all(torch.equal(written[name], p.to(torch.bfloat16)) for name, p in model.named_parameters())
    assert (tmp_path / "nano" / "config.json").read_bytes() == (train.NANO / "config.json").read_bytes()


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_first_batches_of_the_run_are_a_function_of_their_step(small_mix):
    batches = train.schedule_of_batches(small_mix, train.FIRST)
    one, again = batches(3), batches(3)
    assert len(one) == train.FIRST[0].micro_batches
    assert [batch.rows for batch in one] == [batch.rows for batch in again]
    assert all(batch.tokens <= train.MICRO_TOKENS for batch in one)
    assert batches(4)[0].rows != one[0].rows


def test_the_second_part_reads_on_where_the_first_one_ended(small_mix):
    ended = train.micro_batches_before(train.FIRST[-1].until, train.FIRST)
    assert ended * train.MICRO_TOKENS == mix.PHASES[-2].until_tokens
    assert mix.phase_at(ended * train.MICRO_TOKENS) is mix.PHASES[-1]
    early = train.schedule_of_batches(small_mix, train.FIRST, ended - 4)
    late = train.schedule_of_batches(small_mix, train.FIRST, ended - 2)
    assert [batch.rows for batch in early(1)] == [batch.rows for batch in late(0)]  # two micro-batches a step


def test_a_model_folder_is_where_the_second_part_begins(nano):
    begun = train.loaded(train.NANO)
    published = dict(nano.model.named_parameters())
    assert all(torch.equal(p, published[name].float()) for name, p in begun.named_parameters())


def test_bits_per_byte_are_those_of_transformers(nano, theirs, small_mix):
    said = ["The river runs past the old mill. " * 60, "Naïve café: £3.50."]
    ids = [token for one in said for token in (small_mix.end, *small_mix.ids(one))]
    assert len(ids) > probe.WINDOW  # so that a second window begins
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, probe.WINDOW):
            window = torch.tensor([ids[start : start + probe.WINDOW + 1]])
            logits = theirs(input_ids=window).logits[0, :-1]
            nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    expected = nats / math.log(2) / sum(len(one.encode()) for one in said)
    assert probe.bits_per_byte(nano.model, small_mix, said) == pytest.approx(expected, rel=1e-6)


def test_a_case_counts_where_greedy_decoding_gives_exactly_its_reply(nano, small_mix):
    rng = Random(5)
    cases = [probe.format_case(rng) for _ in range(12)] + [probe.label_case(rng, 1, False) for _ in range(12)]
    replies = measure.replies(nano, small_mix, cases)
    expected = [reply == case.turns[-1][1] for reply, case in zip(replies, cases, strict=True)]
    assert probe.judge(nano.model, small_mix, cases) == expected
    assert 0 < sum(expected) < len(expected)
