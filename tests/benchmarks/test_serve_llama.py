"""llama.cpp as a contestant: the same model, adapter after adapter, and a clear word where it cannot be asked."""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import serve, serve_llama
from benchmarks.serve_llama_worker import BATCH, LlamaCpp
from weft.errors import RunError

WORDS = 16


class FakeLlama:
    """The functions that the contestant calls. After a token comes the next one; an adapter adds its number to it."""

    ctypes = ctypes
    llama_adapter_lora_p_ctypes = ctypes.c_void_p

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[tuple[int, int, int]]]] = []
        self.adapter = 0
        self.code = 0

    def llama_get_memory(self, context: Any) -> None: ...

    def llama_memory_clear(self, memory: Any, data: bool) -> None: ...

    def llama_set_adapters_lora(self, context: Any, pointers: Any, count: int, scales: Any) -> None:
        assert [scales[place] for place in range(count)] == [1.0] * count
        self.adapter = pointers[0] if count else 0

    def llama_decode(self, context: Any, batch: Any) -> int:
        rows = range(batch.n_tokens)
        self.calls.append((self.adapter, [(batch.seq_id[i][0], batch.pos[i], batch.token[i]) for i in rows]))
        asked = [(batch.token[i] + 1 + self.adapter) % WORDS for i in rows if batch.logits[i]]
        self._logits = (ctypes.c_float * (len(asked) * WORDS))()
        for row, token in enumerate(asked):
            self._logits[row * WORDS + token] = 1.0
        return self.code

    def llama_get_logits(self, context: Any) -> Any:
        return ctypes.cast(self._logits, ctypes.POINTER(ctypes.c_float))


@pytest.fixture
def fake() -> Iterator[tuple[LlamaCpp, FakeLlama]]:
    """A contestant over the fake, with a batch of its own."""
    contestant, library = LlamaCpp.__new__(LlamaCpp), FakeLlama()
    places = [ctypes.pointer(ctypes.c_int(0)) for _ in range(BATCH)]
    contestant._library, contestant._context, contestant._vocabulary = library, None, WORDS
    contestant._adapters = {"one": 1, "two": 2}
    numbers = {name: [0] * BATCH for name in ("token", "pos", "logits", "n_seq_id")}
    contestant._batch = SimpleNamespace(n_tokens=0, seq_id=places, **numbers)
    yield contestant, library


def test_the_rows_of_an_adapter_are_one_batch_and_adapters_follow_each_other(fake: Any) -> None:
    contestant, library = fake
    replies = contestant.tokens([[3], [5, 6], [8], [2]], ["two", None, "two", "one"], 3)
    assert replies == [[6, 9, 12], [7, 8, 9], [11, 14, 1], [4, 6, 8]]
    assert [adapter for adapter, _ in library.calls] == [2] * 3 + [0] * 3 + [1] * 3
    assert library.calls[1] == (2, [(0, 1, 6), (1, 1, 11)])
    assert library.calls[3][1] == [(0, 0, 5), (0, 1, 6)]


def test_prompts_longer_than_a_batch_are_read_in_pieces(fake: Any) -> None:
    contestant, library = fake
    assert contestant.tokens([[1] * BATCH, [4, 7]], [None, None], 2) == [[2, 3], [8, 9]]
    assert [len(tokens) for _, tokens in library.calls] == [BATCH, 2, 2]
    assert library.calls[-1][1] == [(0, BATCH, 2), (1, 2, 8)]


def test_a_call_that_fails_is_told(fake: Any) -> None:
    contestant, library = fake
    library.code = 1
    with pytest.raises(RuntimeError, match="llama_decode gave 1 for 2 tokens"):
        contestant.tokens([[1, 2]], [None], 1)


class FakeWorker:
    """Answers at once. `peer` is what the other one says of a prompt."""

    asked: list[tuple[str, int, set[str | None]]] = []  # noqa: RUF012 - reset by the fixture
    wrong = 0

    def __init__(self, contestant: str, dtype: str, **first: Any) -> None:
        self.name, self.dtype = contestant, dtype

    def ask(self, prompts: Any, adapters: list[str | None], new: int, do: str) -> dict[str, Any]:
        self.asked.append((f"{self.name} {self.dtype}", len(prompts), {*adapters}))
        ids = [[number] * new for number in range(len(prompts))]
        if self.name != "weft":
            ids[: self.wrong] = [[99] * new] * self.wrong
        return {"ids": ids, "seconds": 2.0 if self.name == "weft" else 4.0, "cpu_seconds": 1.0}

    def close(self) -> None: ...


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(FakeWorker, "asked", [])
    monkeypatch.setattr(serve_llama, "Worker", FakeWorker)
    monkeypatch.setattr(serve_llama, "_missing", lambda: "")
    monkeypatch.setattr(serve_llama, "adapters", lambda *_: [str(number) for number in range(8)])
    return argparse.Namespace(
        rank=16, clients=16, rounds=2, new=32, prompt=20, threads=1, precision="bfloat16"
    )  # fmt: skip


def test_cells_say_how_many_times_as_fast_and_that_the_models_are_the_same(given: Any, tmp_path: Path) -> None:
    rows = serve_llama.beside_llama(given, "nano", tmp_path, tmp_path)
    assert [(row["clients"], row["adapters"]) for row in rows] == [(1, 0), (16, 0), (16, 1), (16, 8)]
    assert [(row["weft"], row["llama"], row["ratio"]) for row in rows[:2]] == [(16, 8, 2), (256, 128, 2)]
    checked, timed = FakeWorker.asked[:2], FakeWorker.asked[2:]
    assert {name for name, *_ in checked} == {"weft float32", "llama.cpp float32"}
    assert len(timed) == 2 * 4 * 3 and timed[0] == ("weft bfloat16", 1, {None})
    assert {len(names) for _, _, names in timed} == {1, 8}
    assert serve_llama.in_words(rows[3]) == (
        "16 requests, 8 adapters: weft 256 tokens/s, llama.cpp 128; 2.00 times (2.00 to 2.00); in float32 100 % begin "
        "with the same 8 tokens"
    )


def test_nothing_is_timed_where_the_models_differ(given: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(FakeWorker, "wrong", 2)
    with pytest.raises(RunError, match=r"answers otherwise in float32: 88 % of the replies begin as weft's do"):
        serve_llama.beside_llama(given, "nano", tmp_path, tmp_path)
    assert len(FakeWorker.asked) == 2


def test_without_the_peer_the_part_says_so_and_the_benchmark_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve_llama, "PYTHON", tmp_path / "none")
    assert serve.main(["--models", "nano", "--parts", "llama", "--json", str(tmp_path / "rows.json")]) == 0
    assert "not measured: there is no" in capsys.readouterr().out
    assert json.loads((tmp_path / "rows.json").read_text())["rows"][0]["skipped"]
