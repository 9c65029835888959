"""A base and its adapters as GGUF answer in llama.cpp what they answer in weft.

llama.cpp lives in the environment of the benchmark (`scripts/bench serve --parts llama` makes it); without it these are
skipped.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.serve_grounds import Worker, prompts
from tests.generate.conftest import save_random_adapter
from weft.models import lora
from weft.models.load import load
from weft.models.lora_config import LoraConfig
from weft.testing import Kind, save_base

REFUSED = """
import sys
from pathlib import Path
from benchmarks.serve_gguf import write_adapter, write_base
base, odd, adapter, file = map(Path, sys.argv[1:])
for call in (lambda: write_base(odd, file, "float32"), lambda: write_adapter(adapter, base, file, "float32")):
    try:
        call()
    except ValueError as error:
        print(error)
"""


@pytest.fixture
def python(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The peers' Python, where it has llama.cpp."""
    python = root / ".venv-peers" / "bin" / "python"
    monkeypatch.chdir(root)
    if not python.exists() or subprocess.run([python, "-c", "import llama_cpp, gguf"], capture_output=True).returncode:
        pytest.skip("no llama.cpp in .venv-peers: scripts/bench serve --parts llama installs it")
    return python


def greedy(model: Any, prompt: list[int], adapter: str | None, new: int) -> list[int]:
    """By plain forward passes over all of it."""
    ids = list(prompt)
    if adapter:
        lora.load_adapter(model, Path(adapter))
    with torch.no_grad():
        for _ in range(new):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    if adapter:
        lora.unwrap(model)
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_llama_cpp_says_what_weft_says(python: Path, tmp_path: Path, kind: Kind) -> None:
    base, asked = save_base(tmp_path / "base", kind), prompts(3, 40, 250, 3)
    model, names = load(str(base), dtype="float32", device="cpu").model, [str(tmp_path / "0"), str(tmp_path / "1")]
    for seed, name in enumerate(names):
        save_random_adapter(model, Path(name), LoraConfig(r=8), (), seed)
    chosen = [names[1], None, names[0]]
    peer = Worker(
        python=str(python), module="benchmarks.serve_llama_worker", contestant="llama.cpp", base=str(base),
        adapters=names, dtype="float32", threads=1, clients=3, room=64, files=str(tmp_path / "gguf"),
    )  # fmt: skip
    try:
        told = peer.ask(do="tokens", prompts=asked, adapters=chosen, new=8)["ids"]
    finally:
        peer.close()
    assert told == [greedy(model, prompt, name, 8) for prompt, name in zip(asked, chosen, strict=True)]
    assert told[0] != greedy(model, asked[0], None, 8), "an adapter that changes nothing would prove nothing"


def test_other_shapes_and_adapters_are_refused(python: Path, tmp_path: Path) -> None:
    base, odd = save_base(tmp_path / "base"), save_base(tmp_path / "odd", "gpt2")
    model = load(str(base), dtype="float32", device="cpu").model
    save_random_adapter(model, tmp_path / "dora", LoraConfig(r=2, dora=True), (), 0)
    given = [str(python), "-c", REFUSED, str(base), str(odd), str(tmp_path / "dora"), str(tmp_path / "file.gguf")]
    told = subprocess.run(given, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "expected a plain llama or qwen3, found gpt2" in told[0]
    assert "DoRA and rank-stabilised scales are not written here, only plain LoRA" in told[1]
