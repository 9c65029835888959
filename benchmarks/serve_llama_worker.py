"""llama.cpp as a contestant of `serve.py`, through the low-level functions of its Python binding.

The process and its lines are those of `serve_worker.py`; this one runs in the peers' environment and imports nothing of
weft. All rows are one batch over one context, a sequence each. llama.cpp has adapters for a context, not for a row, so
the rows of one adapter are answered together and one adapter after another: the order that suits it best.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

BATCH = 2048
"""Most tokens of one call, which is the library's own choice."""
F32, F16 = 0, 1
"""Keys and values as `ggml_type`: exact where the weights are, else the library's own choice, as large as bfloat16."""


class LlamaCpp:
    """`first`: base, adapters (folders), dtype, threads, clients, room (tokens of a row), files (a folder for GGUF)."""

    def __init__(self, first: dict[str, Any]) -> None:
        from llama_cpp import llama_cpp as library  # pyright: ignore[reportMissingImports]

        from benchmarks.serve_gguf import write_adapter, write_base

        self._library, self._first, dtype = library, first, first["dtype"]
        library.llama_backend_init()
        base = self._file(f"base-{dtype}.gguf", partial(write_base, Path(first["base"]), dtype=dtype))
        self._model = _given(library.llama_model_load_from_file, base, library.llama_model_default_params())
        self._vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        self._adapters: dict[str, Any] = {}
        for number, folder in enumerate(first["adapters"]):
            write = partial(write_adapter, Path(folder), Path(first["base"]), dtype=dtype)
            file = self._file(f"adapter-{number}-{dtype}.gguf", write)
            self._adapters[folder] = _given(library.llama_adapter_lora_init, self._model, file)
        self._context = _given(library.llama_init_from_model, self._model, self._settings())
        self._batch = library.llama_batch_init(BATCH, 0, 1)

    def tokens(self, prompts: list[list[int]], adapters: list[str | None], new: int) -> list[list[int]]:
        """Greedy replies of exactly `new` tokens, all asked for at once."""
        replies: list[list[int]] = [[] for _ in prompts]
        for adapter in dict.fromkeys(adapters):
            rows = [number for number, own in enumerate(adapters) if own == adapter]
            self._adapt(adapter)
            for number, reply in zip(rows, self._replies([prompts[number] for number in rows], new), strict=True):
                replies[number] = reply
        return replies

    def _file(self, name: str, write: Callable[[Path], None]) -> bytes:
        """The path of this file, written where it is not there yet, as the library takes it."""
        file = Path(self._first["files"]) / name
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            write(file)
        return os.fsencode(file)

    def _settings(self) -> Any:
        first, settings = self._first, self._library.llama_context_default_params()
        settings.n_seq_max = first["clients"]
        settings.n_ctx = first["clients"] * first["room"]
        settings.n_batch = BATCH
        settings.n_threads = settings.n_threads_batch = first["threads"]
        settings.type_k = settings.type_v = F32 if first["dtype"] == "float32" else F16
        return settings

    def _adapt(self, folder: str | None) -> None:
        library, chosen = self._library, [] if folder is None else [self._adapters[folder]]
        pointers = (library.llama_adapter_lora_p_ctypes * len(chosen))(*chosen)
        scales = (library.ctypes.c_float * len(chosen))(*[1.0] * len(chosen))
        library.llama_set_adapters_lora(self._context, pointers, len(chosen), scales)

    def _replies(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), False)
        last = [len(prompt) - 1 for prompt in prompts]
        places = [
            (row, place, token, place == last[row]) for row, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]  # fmt: skip
        found: list[int] = []
        for start in range(0, len(places), BATCH):
            found += self._read(places[start : start + BATCH])
        replies = [[token] for token in found]
        for step in range(1, new):
            asked = [(row, last[row] + step, reply[-1], True) for row, reply in enumerate(replies)]
            for reply, token in zip(replies, self._read(asked), strict=True):
                reply.append(token)
        return replies

    def _read(self, tokens: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Read (row, place, token, whether it asks) in one call; the most probable next token of each that asks."""
        import numpy as np

        batch, asking = self._batch, 0
        batch.n_tokens = len(tokens)
        for at, (row, place, token, asks) in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.logits[at] = token, place, asks
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
            asking += asks
        if code := self._library.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {code} for {len(tokens)} tokens")
        if not asking:
            return []
        logits = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (asking, self._vocabulary)).argmax(1).tolist()


def _given(make: Any, *arguments: Any) -> Any:
    """What the library made. It says no by giving nothing, and the reason in its log."""
    if (made := make(*arguments)) is None:
        raise RuntimeError(f"{make.__name__} gave nothing")
    return made


def main() -> None:
    """Answer until the input ends."""
    from benchmarks.serve_worker import answer

    first = json.loads(sys.stdin.readline())
    os.environ["OMP_NUM_THREADS"] = str(first["threads"])
    answer(LlamaCpp(first))


if __name__ == "__main__":
    main()
