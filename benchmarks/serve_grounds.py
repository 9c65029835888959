"""What the contestants of `benchmarks/serve.py` stand on: bases, random adapters, prompts, the pipe to a process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.errors import RunError
from weft.models.load import NANO, locate

SHAPE_M: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
"""135 million parameters: the shape of SmolLM2-135M."""


def base_folder(model: str, place: Path) -> Path:
    """The folder of `nano`, or of `M` with random weights, made in `place` where it is not there yet."""
    if model == "nano":
        return locate(NANO)
    folder = place / "M"
    if not folder.exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        made: Any = LlamaForCausalLM(LlamaConfig(**SHAPE_M))
        made.to(torch.bfloat16).save_pretrained(folder)
        nano = locate(NANO)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((nano / name).read_bytes())
    return folder


def vocabulary(model: str) -> int:
    """Tokens that prompts are made of: none of nano's control tokens, which are its last."""
    return 6000 if model == "nano" else SHAPE_M["vocab_size"]


def adapters(base: Path, count: int, rank: int, place: Path) -> list[str]:
    """Folders of `count` random adapters over all linear layers."""
    missing = [place / f"{number}" for number in range(count) if not (place / f"{number}").exists()]
    if missing:
        import torch

        from weft.models import lora
        from weft.models.load import load
        from weft.models.lora_config import LoraConfig

        model, config = load(str(base)).model, LoraConfig(r=rank)
        for folder in missing:
            generator = torch.Generator().manual_seed(int(folder.name))
            lora.wrap(model, config, int(folder.name))
            with torch.no_grad():
                for layer in lora.layers(model).values():
                    layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.01)
            lora.save_adapter(model, folder, base_name="base", config=config)
            lora.unwrap(model)
    return [str(place / f"{number}") for number in range(count)]


def prompts(count: int, tokens: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Random prompts between half and all of `tokens` long, which share nothing."""
    rng = random.Random(seed)
    return [[rng.randrange(3, vocabulary) for _ in range(rng.randint(tokens // 2, tokens))] for _ in range(count)]


class Worker:
    """One contestant's process. Raises RunError where it fails, with the end of what it said.

    `first`: its first line. `python`, `module`: what it runs in, and as.
    """

    def __init__(self, *, python: str = sys.executable, module: str = "benchmarks.serve_worker", **first: Any) -> None:
        self.name = first["contestant"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, "-m", module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        self.ask(**first)

    def ask(self, **message: Any) -> dict[str, Any]:
        """Its answer."""
        process = self._process
        try:
            process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            line = process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            line = ""
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()[-3:]
            raise RunError(f"{self.name} failed: {' / '.join(said)}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def median(values: Sequence[float]) -> float:
    """The middle one."""
    import statistics

    return statistics.median(values)
