"""The memory that training is said to need is enough, and not absurdly much."""

from __future__ import annotations

import subprocess
import sys

import pytest

from weft.errors import ResourceError
from weft.models import memory
from weft.records import Conversation, Message
from weft.road.settings import RoadConfig, training_part
from weft.settings import resolve
from weft.testing import tiny_base
from weft.train import sft

MEASURE = """
import torch
from pathlib import Path
def high_water():  # ru_maxrss would begin with the memory of the process we were forked from
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
torch.set_num_threads(1)
from weft.forest.logprobs import learned_logprobs
from weft.models import attention
from weft.records import Tokens
from weft.train.needs import training_bytes
from transformers import Qwen3Config, Qwen3ForCausalLM
config = Qwen3Config(vocab_size=4096, hidden_size=192, intermediate_size=512, num_hidden_layers=6,
                     num_attention_heads=6, num_key_value_heads=3, head_dim=32)
model = Qwen3ForCausalLM(config).train()
attention.use(model)
rows = [Tokens(tuple(range(LENGTH)), (False,) * (LENGTH - 60) + (True,) * 60)] * COUNT
learned_logprobs(model, [Tokens((1, 2, 3), (False, True, True))]).sum().backward()
before = high_water()
learned_logprobs(model, rows).sum().backward()
peak = high_water() - before
print(peak, training_bytes(config, 0, LENGTH * COUNT, LENGTH, 60))
"""


@pytest.mark.parametrize(("length", "count"), [(128, 16), (448, 6)])
def test_the_estimate_lies_above_the_real_peak_and_below_three_times_of_it(length: int, count: int) -> None:
    code = MEASURE.replace("LENGTH", str(length)).replace("COUNT", str(count))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, said = map(int, done.stdout.split())
    assert peak <= said <= 3 * peak


def test_too_little_memory_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("llama")
    examples = [Conversation((Message("user", "a" * n), Message("assistant", "b"))) for n in range(1, 9)]
    config = sft.settle(training_part(resolve(RoadConfig, environment={})), base, len(examples)).config
    sft.rehearse(base, examples, examples, config)
    monkeypatch.setattr(memory, "available_bytes", lambda root: 1000)
    with pytest.raises(ResourceError, match=r"training [\d,]+ parameters .* needs about .* Lower --max-tokens"):
        sft.rehearse(base, examples, examples, config)
