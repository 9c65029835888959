"""A contestant of `benchmarks/serve.py`: one process, one line of JSON in, one out. PEFT is imported by its own alone.

    {"do": "tokens", "prompts": [[ids]], "adapters": [folder or null], "new": N}   → {"seconds", "ids"}
    {"do": "first", "shared": [ids], "own": [[ids]], "cached": bool}               → {"seconds": [to the first token]}

The first line tells what to load: {"contestant", "base", "dtype", "threads", "adapters": [folders], "clients"}.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

PATIENCE = 3600.0


class Contestant(Protocol):
    def tokens(self, prompts: list[list[int]], adapters: list[str | None], new: int) -> list[list[int]]:
        """Greedy replies of exactly `new` tokens, all asked for at once."""
        ...


class Weft:
    """The serving engine. Each measurement begins with an empty prefix cache."""

    def __init__(self, first: dict[str, Any]) -> None:
        import torch

        from weft.generate.continuous import Engine
        from weft.generate.requests import Limits
        from weft.models.load import load

        self._limits = {"rows": max(16, first["clients"]), "waiting": 4096, "held_bytes": 16 * 2**30}
        self._base = load(first["base"], dtype="float32", device="cpu")
        dtype = getattr(torch, first["dtype"])
        self._make = lambda **more: Engine(self._base, Path, Limits(**{**self._limits, **more}), dtype=dtype)
        self._engine = self._make(cache_bytes=0)
        for folder in first["adapters"]:  # in memory before anything is timed, as the peer's are
            self._replies([[1, 2]], [folder], 1)

    def tokens(self, prompts: list[list[int]], adapters: list[str | None], new: int) -> list[list[int]]:
        return [ids for ids, _ in self._replies(prompts, adapters, new)]

    def first(self, shared: list[int], own: list[list[int]], cached: bool) -> list[float]:
        """Seconds to the first token of each prompt, one after another; `cached`: the shared part was asked before."""
        engine = self._make(cache_bytes=2**30 if cached else 0)
        try:
            self._replies([[*shared, *own[0]]], [None], 1, engine)
            return [self._replies([[*shared, *rest]], [None], 1, engine)[0][1] for rest in own[1:]]
        finally:
            engine.close()

    def _replies(
        self, prompts: list[list[int]], adapters: list[str | None], new: int, engine: Any = None
    ) -> list[tuple[list[int], float]]:
        from weft.generate.requests import Draw, Generation

        engine, left, lock, done = engine or self._engine, len(prompts), threading.Lock(), threading.Event()
        heard: list[list[int]] = [[] for _ in prompts]
        times, begun = [0.0] * len(prompts), time.perf_counter()

        def listen(number: int, step: Any) -> None:
            nonlocal left
            if not heard[number]:
                times[number] = time.perf_counter() - begun
            heard[number] += step.ids
            if step.finish:
                if step.finish == "error":
                    heard[number] = []
                with lock:
                    left -= 1
                    if not left:
                        done.set()

        for number, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
            generation = Generation(tuple(prompt), Draw(new, temperature=0.0), adapter)
            engine.submit(generation, lambda step, number=number: listen(number, step))
        if not done.wait(PATIENCE) or not all(heard):
            raise RuntimeError("a reply did not come")
        return list(zip(heard, times, strict=True))


class Peft:
    """transformers' `generate` over one left-padded batch, PEFT choosing each row's adapter by name."""

    def __init__(self, first: dict[str, Any]) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, first["dtype"])
        base = AutoModelForCausalLM.from_pretrained(first["base_folder"], dtype=dtype, local_files_only=True)
        self._plain: Any = base.eval()
        for number, folder in enumerate(first["adapters"]):
            if number == 0:
                self._plain = PeftModel.from_pretrained(base, folder, adapter_name=folder)
            else:
                self._plain.load_adapter(folder, adapter_name=folder)
        self._plain.eval()

    def tokens(self, prompts: list[list[int]], adapters: list[str | None], new: int) -> list[list[int]]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        named = {"adapter_names": [name or "__base__" for name in adapters]} if any(adapters) else {}
        with torch.inference_mode():
            out = self._plain.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False,
                pad_token_id=0, eos_token_id=None, **named,
            )  # fmt: skip
        return out[:, width:].tolist()


def main() -> None:
    """Load what the first line names."""
    first = json.loads(sys.stdin.readline())
    os.environ["OMP_NUM_THREADS"] = str(first["threads"])
    import torch

    from weft.models import precision

    torch.set_num_threads(first["threads"])
    precision.settle()  # the fast float32 route for everybody
    answer(Weft(first) if first["contestant"] == "weft" else Peft(first))


def answer(contestant: Any) -> None:
    """Say that it is ready, then answer until the input ends."""
    _say({"ready": True})
    for line in sys.stdin:
        given = json.loads(line)
        begun, cpu = time.perf_counter(), time.process_time()
        if given.pop("do") == "first":
            _say({"seconds": contestant.first(**given)})
        else:
            ids = contestant.tokens(given["prompts"], given["adapters"], given["new"])
            _say({"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu, "ids": ids})
    os._exit(0)  # the engine's thread is asleep


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
