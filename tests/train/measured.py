"""What a process takes while it trains, beside what was said: run as a script by test_needs.py, prints JSON.

    python tests/train/measured.py '{"model": "S", "precision": "fp32", "prefix": 256, "adapt": "qv"}'

Shapes and examples are those of benchmarks/train.py. Memory is the high-water mark of the process beyond what it took
before the model, with the libraries' own start left out by a training of a tiny model before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.peers.cell import SHAPES, TARGETS, Cell, examples
from weft.forest.logprobs import learned_logprobs
from weft.models import lora, precision, product_cache
from weft.models.decoder import Decoder, DecoderConfig
from weft.models.load import Base
from weft.models.precision import frozen_as, numbers
from weft.records import Tokens
from weft.train import needs
from weft.train.batches import MICRO_TOKENS, epoch_batches, micro_batches
from weft.train.losses import nll
from weft.train.sft_config import SftConfig

NAMES = {"fp32": "float32", "bf16": "bfloat16"}
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 512,
}  # fmt: skip
Example = Sequence[Tokens]


def decoder(shape: dict[str, Any]) -> Decoder:
    config = DecoderConfig(
        architecture="LlamaForCausalLM", head_dim=shape["hidden_size"] // shape["num_attention_heads"],
        rms_norm_eps=1e-5, max_position_embeddings=8192, tie_word_embeddings=True,
        rope=(("rope_theta", 10000.0), ("rope_type", "default")), qkv_bias=False, output_bias=False, mlp_bias=False,
        qk_norm=False, **shape,
    )  # fmt: skip
    model = Decoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    return model.eval().requires_grad_(False)


def base_of(model: Decoder) -> Base:
    counted = sum(parameter.numel() for parameter in model.parameters())
    chat: Any = None
    return Base("measured", Path(), model, chat, 8192, counted, "", torch.device("cpu"), stored="F32")


def train(base: Base, made: Sequence[Example], config: SftConfig) -> None:
    """Steps as train/steps.py makes them, over all epochs."""
    model = base.model
    parameters = list(model.requires_grad_(True).parameters()) if config.full else lora.wrap(model, config.lora, 0)
    kept = [[parameter.detach().clone() for parameter in parameters] for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    model.train()
    with frozen_as(model, str(config.precision)):
        lengths = [max(len(row.ids) for row in example) for example in made]
        epochs = range(int(config.epochs))
        for batch in [b for n in epochs for b in epoch_batches(lengths, config.batch_size, config.seed, n)]:
            for part in micro_batches([made[i] for i in batch], MICRO_TOKENS, lambda example: example):
                with numbers(model, str(config.precision)):
                    loss = nll(learned_logprobs(model, [row for example in part for row in example]), 1e-3)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    del kept


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def main(given: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    product_cache.bound()
    precision.settle()
    told = {"model": "S", "precision": "fp32", "prefix": 256, "adapt": "qv", "batch": 16, "method": "sft", **given}
    dora = bool(told.pop("dora", False))
    cell = Cell(**told)
    full = cell.adapt == "full"
    adapter = {"r": 16, "alpha": 32, "targets": TARGETS[cell.adapt] or "all-linear", "dora": dora}
    ready = {"learning_rate": 1e-4, "epochs": 3, "max_tokens": 8192, "precision": NAMES[cell.precision], "full": full}
    config = SftConfig.model_validate({**ready, "batch_size": cell.batch, "lora": adapter})
    small = config.model_copy(update={"lora": config.lora.model_copy(update={"r": 4})})
    words = Tokens(tuple(range(60)), (False,) * 20 + (True,) * 40)
    train(base_of(decoder(TINY)), [[words]] * 4, small)
    made = [
        [Tokens(ids, (False,) * at + (True,) * (len(ids) - at)) for ids, at in example.rows]
        for example in examples(cell)
    ]
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    base = base_of(decoder(SHAPES[cell.model]))
    said = needs.plan(base, made, config)
    train(base, made, config)
    peak = status("VmHWM") - before
    print(json.dumps({**given, "said": said.peak_bytes, "measured": peak, "plan": said.to_json()}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
