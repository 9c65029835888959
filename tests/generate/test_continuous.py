"""The serving engine: right in any company, fair, bounded, and alive whatever one row does."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.generate.conftest import KINDS, PATIENCE, Heard, Served, alone, ask, prompts
from weft.errors import RunError, UsageError
from weft.generate.continuous import Engine
from weft.generate.engine import Request, answer
from weft.generate.prefixes import BLOCK
from weft.generate.requests import Draw, Full, Generation, Limits, Step
from weft.generate.sampling_config import Sampling
from weft.models import lora
from weft.models.load import Base
from weft.models.lora_config import LoraConfig


def until(true: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def truth(base: Base, adapters: Path) -> list[tuple[str | None, list[int], list[int]]]:
    """Adapter, prompt and greedy reply of requests that share a beginning by twos."""
    names: list[str | None] = [*KINDS, None]
    asked = [(names[i % 6], prompt) for i, prompt in enumerate(prompts(8) + prompts(8, shared=70))]
    return [(n, p, alone(base, p, 8, adapters / n if n else None)[0]) for n, p in asked]


@pytest.mark.parametrize("limits", [{}, {"cache_bytes": 0}, {"rows": 3, "chunk": 33}], ids=str)
def test_replies_are_those_of_each_request_alone(served: Served, truth: Any, limits: dict[str, int]) -> None:
    engine = served.engine(**limits)
    heard = [ask(engine, prompt, 8, name) for name, prompt, _ in truth]
    assert [one.wait().ids for one in heard] == [reply for *_, reply in truth]
    assert {one.finish for one in heard} == {"length"}
    assert engine.counts().running == engine.counts().waiting == 0


def test_greedy_replies_are_those_of_the_batch_engine(served: Served, base: Base) -> None:
    asked, ends = prompts(6, seed=3), base.chat.end_ids
    expected = answer(base, [Request(tuple(prompt)) for prompt in asked], Sampling(max_tokens=20))
    heard = [ask(served.engine(), prompt, 20, end_ids=ends).wait() for prompt in asked]
    assert [tuple(one.ids) for one in heard] == [result.ids for result in expected]
    assert [one.finish for one in heard] == [result.finish_reason for result in expected]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_of_arrival_gives_the_same_replies(served: Served, truth: Any, data: st.DataObject) -> None:
    limits = {"rows": data.draw(st.integers(1, 9)), "chunk": data.draw(st.integers(1, 200))}
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(range(len(truth))), st.integers(1, 8)), max_size=10))
    engine = served.engine(**limits)
    heard = [(number, most, ask(engine, truth[number][1], most, truth[number][0])) for number, most in chosen]
    for number, most, one in heard:
        assert one.wait().ids == truth[number][2][:most]
    engine.close()


def word_adapter(base: Base, folder: Path, token: int, seed: int) -> None:
    """An adapter trained to say one token, whatever comes before."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(lora.wrap(base.model, WORDY, seed), 3e-2)
    for _ in range(60):
        logits = base.model(torch.randint(0, 256, (4, 16))).logits.flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, torch.full((64,), token))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    lora.save_adapter(base.model, folder, base_name="tiny", config=WORDY)
    lora.unwrap(base.model)


WORDY = LoraConfig(r=4, alpha=32)
WORD_PREFIX = torch.randint(0, 256, (2 * BLOCK + 3,), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def words(base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    folder = tmp_path_factory.mktemp("words")
    spoken = {name: [10 * number + 1] * 3 for number, name in enumerate("abcd")}
    for number, (name, word) in enumerate(spoken.items()):
        word_adapter(base, folder / name, word[0], number)
    return folder, spoken


@pytest.mark.parametrize("cache", [2**20, 0], ids=["cached", "not cached"])
@pytest.mark.parametrize("count", [48, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_adapter_ever_says_the_word_of_another(served: Served, words: Any, cache: int, count: int) -> None:
    folder, spoken = words
    engine = served.engine(folder=lambda identity: folder / identity, cache_bytes=cache, waiting=count, rows=24)
    rng, heard = random.Random(0), list[tuple[str, Heard]]()
    for number in range(count):
        name = "abcd"[number % 4]
        prompt = WORD_PREFIX.tolist() + [rng.randrange(256) for _ in range(6)]
        heard.append((name, ask(engine, prompt, 3, name)))
    told = [(name, one.wait().ids) for name, one in heard]
    foreign = [name for name, ids in told if ids in [word for other, word in spoken.items() if other != name]]
    own = [name for name, ids in told if ids == spoken[name]]
    assert foreign == [] and len(own) == count
    assert (sum(one.cached for _, one in heard) > 0) == (cache > 0)


def test_a_shared_beginning_is_read_once(served: Served) -> None:
    engine, asked = served.engine(), prompts(6, shared=3 * BLOCK, most=5)
    heard = [
        ask(engine, prompt, 2).wait() if not number else ask(engine, prompt, 2) for number, prompt in enumerate(asked)
    ]
    assert [one.wait().cached for one in heard] == [0] + [3 * BLOCK] * 5
    counts = engine.counts()
    assert counts.reused == 15 * BLOCK and counts.read == sum(map(len, asked)) - 15 * BLOCK


def test_rows_that_come_together_wait_for_the_first_to_read_their_beginning(served: Served) -> None:
    engine, asked = served.engine(chunk=BLOCK), prompts(4, shared=3 * BLOCK, most=5)
    heard = [ask(engine, prompt, 2) for prompt in asked]
    assert sorted(one.wait().cached for one in heard) == [0] + [3 * BLOCK] * 3


def test_another_owner_or_adapter_finds_nothing_in_the_cache(served: Served) -> None:
    engine, prompt = served.engine(), prompts(1, shared=2 * BLOCK, most=5)[0]
    assert ask(engine, prompt, 1, owner="one").wait().cached == 0
    assert ask(engine, prompt, 1, owner="two").wait().cached == 0
    assert ask(engine, prompt, 1, "plain", owner="one").wait().cached == 0
    assert ask(engine, prompt, 1, owner="one").wait().cached == 2 * BLOCK


def test_a_conversation_goes_on_from_its_reply(served: Served) -> None:
    engine, prompt = served.engine(), prompts(1, shared=BLOCK)[0]
    reply = ask(engine, prompt, 2 * BLOCK).wait().ids
    follow = [*prompt, *reply, 1, 2, 3]
    again = ask(engine, follow, 4).wait()
    assert again.cached == (len(prompt) + len(reply) - 1) // BLOCK * BLOCK
    assert again.ids == alone(served.base, follow, 4)[0]


def test_a_seed_draws_the_same_reply_in_any_company(served: Served) -> None:
    engine, prompt = served.engine(), prompts(1)[0]
    first = ask(engine, prompt, 12, temperature=1.0, seed=11).wait().ids
    others = [
        ask(engine, other, 12, name, temperature=1.0) for other, name in zip(prompts(6), [*KINDS, None], strict=True)
    ]
    assert ask(engine, prompt, 12, temperature=1.0, seed=11).wait().ids == first
    assert ask(engine, prompt, 12, temperature=1.0, seed=12).wait().ids != first
    unseeded = {tuple(ask(engine, prompt, 12, temperature=1.0).wait().ids) for _ in range(3)}
    assert len(unseeded) == 3 and all(one.wait().finish for one in others)


def test_logprobs_are_told_with_each_token(served: Served, base: Base) -> None:
    prompt = prompts(1)[0]
    ids, logits = alone(base, prompt, 4)
    heard = ask(served.engine(), prompt, 4, top_logprobs=2).wait()
    expected = logits.log_softmax(-1)
    for place, step in enumerate(heard.steps):
        assert step.logprobs[0] == pytest.approx(float(expected[place, ids[place]]), abs=1e-4)
        assert [token for token, _ in step.top[0]] == expected[place].topk(2).indices.tolist()


def test_an_end_token_ends_the_reply_and_is_not_told(served: Served, base: Base) -> None:
    found = ((prompt, alone(base, prompt, 6)[0]) for prompt in prompts(20))
    prompt, ids, place = next((p, ids, i) for p, ids in found for i in range(1, 6) if ids[i] not in ids[:i])
    heard = ask(served.engine(), prompt, 20, end_ids=frozenset({ids[place]})).wait()
    assert heard.ids == ids[:place] and heard.finish == "stop"


def test_cancelling_frees_the_slot_and_the_others_go_on(served: Served) -> None:
    engine, rng = served.engine(rows=20), random.Random(1)
    listeners = [Heard() for _ in range(20)]
    tickets = [
        engine.submit(Generation((1, 2, number), Draw(240, temperature=0.0)), heard)
        for number, heard in enumerate(listeners)
    ]
    until(lambda: all(heard.steps for heard in listeners))
    gone = rng.sample(range(20), 12)
    for number in gone:
        tickets[number].cancel()
    for number, heard in enumerate(listeners):
        assert heard.wait().finish == ("cancelled" if number in gone else "length")
    assert engine.counts().running == 0 and ask(engine, [1], 3).wait().finish == "length"
    tickets[0].cancel()  # after its end: nothing happens


def test_one_that_waits_is_cancelled_without_ever_beginning(served: Served) -> None:
    engine, first, second = served.engine(rows=1), Heard(), Heard()
    engine.submit(Generation((1, 2), Draw(200, temperature=0.0)), first)
    engine.submit(Generation((1, 2), Draw(200, temperature=0.0)), second).cancel()
    assert second.wait().steps == [Step(finish="cancelled")]
    assert first.wait().finish == "length" and engine.counts().waiting == 0


def hold_up(engine: Engine) -> threading.Event:
    """A request whose listener keeps the engine busy until the event is set."""
    begun, gate = threading.Event(), threading.Event()

    def hold(step: Step) -> None:
        begun.set()
        gate.wait(PATIENCE)

    engine.submit(Generation((1,), Draw(1, temperature=0.0)), hold)
    assert begun.wait(PATIENCE)
    return gate


def test_owners_take_turns(served: Served) -> None:
    engine, order = served.engine(rows=1), list[str]()
    gate = hold_up(engine)
    heard = []
    for owner in ["greedy"] * 5 + ["modest"] * 2:
        listener = Heard()
        heard.append(listener)

        def told(step: Step, owner: str = owner, listener: Heard = listener) -> None:
            order.append(owner)
            listener(step)

        engine.submit(Generation((2,), Draw(1, temperature=0.0), owner=owner), told)
    gate.set()
    for listener in heard:
        listener.wait()
    assert order == ["greedy", "modest", "greedy", "modest", "greedy", "greedy", "greedy"]


def test_a_full_line_refuses_at_once_and_serves_again_when_it_has_moved(served: Served) -> None:
    engine = served.engine(rows=1, waiting=2)
    gate = hold_up(engine)
    waiting = [ask(engine, [1], 1) for _ in range(2)]
    with pytest.raises(Full, match="2 requests, 2 of them yours") as refusal:
        ask(engine, [1], 1)
    assert 1 <= refusal.value.retry_after <= 60
    gate.set()
    assert all(one.wait().finish == "length" for one in waiting) and ask(engine, [1], 1).wait()


def test_a_slow_adapter_holds_up_nobody_else(served: Served, adapters: Path) -> None:
    gate = threading.Event()

    def folder(identity: str) -> Path:
        if identity == "wide":
            gate.wait(PATIENCE)
        return adapters / identity

    engine = served.engine(folder=folder)
    slow = ask(engine, [1, 2, 3], 4, "wide")
    others = [ask(engine, [1, 2, 3], 4, name) for name in ("plain", None, "dora")]
    assert all(one.wait().finish == "length" for one in others) and not slow.steps
    gate.set()
    assert slow.wait().ids == alone(served.base, [1, 2, 3], 4, adapters / "wide")[0]


def test_adapters_beyond_the_memory_take_turns(served: Served, truth: Any, adapters: Path) -> None:
    engine = served.engine(adapter_bytes=1)
    heard = [ask(engine, prompt, 8, name) for name, prompt, _ in truth]
    assert [one.wait().ids for one in heard] == [reply for *_, reply in truth]
    assert engine.counts().adapters == 1


def test_an_adapter_that_cannot_be_used_ends_its_own_requests_alone(served: Served) -> None:
    engine = served.engine()
    bad, good = [ask(engine, [1], 2, "no such") for _ in range(2)], ask(engine, [1], 2, "plain")
    for one in bad:
        assert one.wait().finish == "error" and "not an adapter" in str(one.steps[-1].error)
    assert good.wait().finish == "length" and engine.alive


def test_a_small_base_takes_one_thread_and_leaves_the_others_their_own(served: Served) -> None:
    def threads() -> int:
        told: list[int] = []
        done = threading.Event()

        def hear(step: Step) -> None:
            told.append(torch.get_num_threads())
            if step.finish:
                done.set()

        served.engine().submit(Generation((5, 6, 7), Draw(1, temperature=0.0)), hear)
        assert done.wait(PATIENCE)
        return told[0]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_listener_that_fails_ends_its_own_row_alone(served: Served) -> None:
    engine = served.engine()

    def broken(step: Step) -> None:
        raise ValueError("gone")

    engine.submit(Generation((1, 2), Draw(50, temperature=0.0)), broken)
    assert len(ask(engine, [1, 2], 6).wait().ids) == 6
    until(lambda: engine.counts().running == 0)
    assert engine.alive


def test_numbers_that_are_not_finite_end_their_row_in_words(served: Served, base: Base, tmp_path: Path) -> None:
    config = LoraConfig(r=4, alpha=4)
    lora.wrap(base.model, config, 0)
    with torch.no_grad():
        for layer in lora.layers(base.model).values():
            layer.lora_A.fill_(1e38), layer.lora_B.fill_(1e38)
    lora.save_adapter(base.model, tmp_path / "huge", base_name="tiny", config=config)
    lora.unwrap(base.model)
    engine = served.engine(folder=lambda identity: tmp_path / identity)
    bad, good = ask(engine, [1, 2], 4, "huge"), ask(engine, [1, 2], 4)
    assert bad.wait().steps[-1] == Step(finish="error", error="the model gave no finite number for the next token.")
    assert good.wait().ids == alone(base, [1, 2], 4)[0]


def test_a_pass_that_fails_ends_its_rows_and_the_engine_goes_on(served: Served, monkeypatch: Any) -> None:
    engine = served.engine()
    forward = engine._pass.forward
    monkeypatch.setattr(engine._pass, "forward", lambda works: (_ for _ in ()).throw(MemoryError("none left")))
    assert ask(engine, [1, 2], 4).wait().steps[-1].error == "MemoryError: none left"
    monkeypatch.setattr(engine._pass, "forward", forward)
    assert ask(engine, [1, 2], 4).wait().ids == alone(served.base, [1, 2], 4)[0]


def test_an_engine_that_dies_is_seen_and_its_requests_hear_of_it(served: Served, monkeypatch: Any) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    engine, heard = served.engine(), Heard()
    engine.submit(Generation((1,), Draw(200, temperature=0.0)), heard)
    until(lambda: heard.steps)
    monkeypatch.setattr(engine, "_admit", lambda: 1 / 0)
    assert "the engine has ended (ZeroDivisionError: division by zero)" in str(heard.wait().steps[-1].error)
    until(lambda: not engine.alive)
    with pytest.raises(RunError, match=r"the engine of .* has ended \(ZeroDivisionError"):
        ask(engine, [1], 1)


def test_closing_lets_replies_end_and_takes_no_new_ones(served: Served) -> None:
    engine = served.engine(rows=2)
    heard = [ask(engine, [number], 40) for number in range(5)]
    closing = threading.Thread(target=engine.close, args=(PATIENCE,))
    closing.start()
    until(lambda: engine._deadline is not None)
    if engine.alive:
        with pytest.raises((Full, RunError), match=r"is being closed|has ended"):
            ask(engine, [1], 1)
    closing.join()
    assert [one.wait().finish for one in heard] == ["length"] * 5 and not engine.alive


def test_closing_without_patience_cancels_what_runs(served: Served) -> None:
    engine = served.engine(rows=1)
    heard = [ask(engine, [number], 250) for number in range(3)]
    engine.close()
    assert {one.wait().finish for one in heard} <= {"cancelled", "length"} and heard[-1].finish == "cancelled"
    with pytest.raises(RunError, match=r"has ended \(it was closed\)"):
        ask(engine, [1], 1)


def test_memory_for_replies_is_bounded_and_a_large_one_is_not_passed_by_for_ever(served: Served) -> None:
    token = served.engine()._pass.token_bytes
    engine, order = served.engine(held_bytes=120 * token), list[int]()
    heard = [Heard() for _ in range(6)]
    for number, most in enumerate([50, 50, 110, 50, 50, 50]):

        def told(step: Step, number: int = number) -> None:
            heard[number](step)
            if step.finish:
                order.append(number)

        engine.submit(Generation((1,), Draw(most, temperature=0.0)), told)
    assert all(one.wait().finish == "length" for one in heard)
    assert order.index(2) == 2


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        (Generation((), Draw(1)), "the prompt has no tokens"),
        (Generation((1,), Draw(0)), "max_tokens is 0, expected 1 or more"),
        (Generation((264,), Draw(1)), r"token 264 is not one of .* 264 \(0 to 263\)"),
        (Generation((1,), Draw(1, logit_bias=((-1, 1.0),))), "token -1 is not one of"),
        (Generation((1,), Draw(1, top_logprobs=21)), "top_logprobs is 21, expected 0 to 20"),
        (Generation((1,) * 200, Draw(57)), r"200 prompt tokens and up to 57 .* exceed the context of .* \(256\)"),
    ],
)
def test_what_can_never_be_answered_is_refused_at_once(served: Served, generation: Generation, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        served.engine().submit(generation, Heard())


def test_a_request_larger_than_the_memory_is_refused(served: Served) -> None:
    with pytest.raises(UsageError, match=r"tokens need .* MiB of keys and values, more than the 0.0 MiB"):
        ask(served.engine(held_bytes=1000), [1], 10)


def test_limits_that_allow_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Limits\.rows is 0, expected 1 or more"):
        Limits(rows=0)
    with pytest.raises(ValueError, match=r"Limits\.cache_bytes is -1, expected 0 or more"):
        Limits(cache_bytes=-1)


def test_an_idle_engine_sleeps(served: Served) -> None:
    engine: Engine = served.engine()
    ask(engine, [1], 2).wait()
    turns = 0
    original = engine._turn

    def counted() -> None:
        nonlocal turns
        turns += 1
        original()

    engine._turn = counted  # type: ignore[method-assign]
    time.sleep(0.1)
    assert turns <= 1
