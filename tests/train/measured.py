"""What a process takes while it trains, beside what was said. Run as a script:

    python tests/train/measured.py                          every cell in a process of its own, as a Markdown table
    python tests/train/measured.py "S bf16 qv" "M fp32 full"  these
    python tests/train/measured.py --here "S fp32 qv"       one, in this process, as JSON (test_needs.py reads it)
    torchrun --standalone --nproc-per-node 2 tests/train/measured.py --here "M fp32 full"    by two, each of itself

Shapes and examples are those of benchmarks/train.py, steps, loss and checkpoint those of train/. Memory is the
high-water mark of the process beyond what it took before the model, with the libraries' own start left out by a
training of a tiny model before. Needs Linux.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers.cell import BATCHES, SHAPES, TARGETS, examples
from benchmarks.peers.cell import Cell as Workload

NAMES = {"fp32": "float32", "bf16": "bfloat16"}
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 512,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    model: str
    precision: str
    adapt: str
    also: str = ""
    """`dora`, `dpo`, `recompute`, `nf4` or `words` (the rows of the vocabulary that the examples use)."""
    prefix: int = 256
    batch: int = 16
    steps: int = 16
    """The heap grows for some ten steps, as batches of other lengths leave other holes."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        prefix = "" if self.prefix == 256 else f" prefix {self.prefix}"
        return f"{self.model} {self.precision} {self.adapt}{self.also and ' ' + self.also}{prefix}"


def _cells() -> list[Cell]:
    small = [
        ("fp32", "qv", ""), ("bf16", "qv", ""), ("fp32", "all-linear", ""), ("bf16", "all-linear", ""),
        ("fp32", "full", ""), ("bf16", "full", ""), ("fp32", "all-linear", "dora"), ("bf16", "all-linear", "dora"),
        ("fp32", "all-linear", "dpo"), ("bf16", "full", "dpo"), ("fp32", "all-linear", "recompute"),
        ("bf16", "full", "recompute"), ("fp32", "all-linear", "nf4"), ("fp32", "all-linear", "words"),
    ]  # fmt: skip
    large = [
        ("fp32", "qv", ""), ("bf16", "qv", ""), ("fp32", "all-linear", ""), ("bf16", "all-linear", ""),
        ("fp32", "full", ""), ("bf16", "full", ""), ("fp32", "all-linear", "dora"), ("fp32", "all-linear", "dpo"),
        ("bf16", "all-linear", "recompute"), ("fp32", "all-linear", "nf4"),
    ]  # fmt: skip
    prefixes = [Cell("S", precision, "qv", prefix=prefix) for prefix in (0, 600) for precision in NAMES]
    return [
        *(Cell("S", *each) for each in small),
        *prefixes,
        *(Cell("M", *each, batch=4, steps=2) for each in large),
    ]


CELLS = {cell.name: cell for cell in _cells()}
SHORT = {"S fp32 qv short": Cell("S", "fp32", "qv", steps=6)}
"""What the default tests have time for."""


def measured(name: str) -> dict[str, Any]:
    """What was `said` and `measured`, in bytes, in a process of its own; the `plan` beside."""
    command = [sys.executable, str(Path(__file__)), "--here", name]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    return json.loads(done.stdout)


def main(names: Sequence[str]) -> None:
    if names[:1] == ["--here"]:
        print(json.dumps(_here({**CELLS, **SHORT}[names[1]])), flush=True)
        return
    print("| what | examples a step | said, MB | measured, MB | said over measured |\n|---|---|---|---|---|")
    for name in names or CELLS:
        told = measured(name)
        said, peak = told["said"], told["measured"]
        print(
            f"| {name} | {CELLS[name].batch} | {said / 1e6:,.0f} | {peak / 1e6:,.0f} | {said / peak:.2f} |", flush=True
        )


def _here(cell: Cell) -> dict[str, Any]:
    import torch

    from weft.models import precision, product_cache

    torch.set_num_threads(1)
    product_cache.bound()
    precision.settle()
    _train(Cell("tiny", cell.precision, cell.adapt, cell.also, 20, 4, 2))
    before = _status("RssAnon")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    plan = _train(cell)
    # Without pages of files: the system drops those of the libraries and reads them again as it likes.
    peak = _status("VmHWM") - _status("RssFile") - _status("RssShmem") - before
    return {"said": plan["peak_bytes"], "measured": peak, "plan": plan}


def _train(cell: Cell) -> dict[str, Any]:
    """Steps as train/sft.py and train/dpo.py make them, with a checkpoint at their end; returns the plan."""
    from weft.progress import Silent
    from weft.records import Tokens
    from weft.runs import Run
    from weft.train import dpo, likelihood, needs, sharded
    from weft.train.crew import shares
    from weft.train.dpo_config import DpoConfig
    from weft.train.fit import Fit
    from weft.train.sft_config import SftConfig
    from weft.train.steps import Steps

    shape = SHAPES.get(cell.model, TINY)
    count = math.ceil(cell.steps / BATCHES) * cell.batch
    work = Workload("S", cell.precision, cell.prefix, cell.adapt, count, "dpo" if cell.also == "dpo" else "sft")
    fit_in = shape["vocab_size"]
    made = [
        [
            Tokens(tuple(id_ % fit_in for id_ in ids), (False,) * at + (True,) * (len(ids) - at))
            for ids, at in example.rows
        ]
        for example in examples(work)[: cell.steps * cell.batch]
    ]
    rows = [row for example in made for row in example]
    tokens = tuple(sorted({id_ for row in rows for id_ in row.ids})) if cell.also == "words" else ()
    config = (DpoConfig if cell.also == "dpo" else SftConfig).model_validate({
        "learning_rate": 1e-4, "epochs": 1, "max_tokens": 8192, "precision": NAMES[cell.precision],
        "full": cell.adapt == "full", "batch_size": cell.batch, "train_end_token": "never",
        "train_tokens": "seen" if tokens else "none", "recompute": "always" if cell.also == "recompute" else "auto",
        "lora": {"targets": TARGETS[cell.adapt] or "all-linear", "dora": cell.also == "dora"},
    })  # fmt: skip
    base = _base(shape, cell.also == "nf4")
    with tempfile.TemporaryDirectory() as folder:
        run = sharded.shared_run(lambda: Run.create(Path(folder) / "run", {"run": {}}))
        each = cell.batch * len(made[0])
        plan = needs.keep(run, needs.require_memory(base, rows, each, config, tokens), Silent())
        steps = Steps(run, base, config, len(made), Silent(), tokens=tokens)
        fit = Fit(run, base.model, plan, steps.parameters, config.recompute, print)
        with sharded.frozen(base.model, str(config.precision)):
            pairs = [dpo.Pair(*example) for example in made] if isinstance(config, DpoConfig) else []
            if isinstance(config, DpoConfig):
                pairs = dpo.with_reference(base, pairs, plan.micro_tokens, config, Silent())

            def learn(batch: Sequence[int]) -> float:
                if isinstance(config, DpoConfig):
                    part = [pairs[i] for i in batch]
                    return fit(lambda most: dpo.add_gradient(base, part, len(batch), most, config))[0]
                own = [made[i][0] for i in batch]
                learned = sum(sum(row.learn) for row in own)
                return fit(lambda most: likelihood.add_gradient(base, own, learned, most, config)).loss

            loss = 0.0
            with sharded.together(learn, steps.parameters, 1, base.model) as crew:
                for batch in steps.batches([len(example[0].ids) for example in made]):
                    parts = shares([made[i][0] for i in batch], crew.count)
                    loss = sum(crew([([batch[i] for i in part],) for part in parts]))
                    steps.update(loss, sum(len(made[i][0].ids) for i in batch))
        steps.look(loss)
        steps._save()
    return plan.to_json()


def _base(shape: dict[str, Any], four_bits: bool) -> Any:
    import torch

    from weft.models import quant
    from weft.models.decoder import Decoder
    from weft.models.decoder_config import DecoderConfig
    from weft.models.load import Base

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
    counted = sum(parameter.numel() for parameter in model.parameters())
    if four_bits:
        quant.quantize(model)
    model.eval().requires_grad_(False)
    chat: Any = None
    return Base(
        "measured", Path(), model, chat, 8192, counted, "", torch.device("cpu"), stored="F32",
        quantize="nf4" if four_bits else "none",
    )  # fmt: skip


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


if __name__ == "__main__":
    main(sys.argv[1:])
