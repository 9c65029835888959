"""The peers: transformers' Trainer with PEFT, TRL's SFTTrainer and DPOTrainer. Their own loops, held at each step.

Both get what makes them faster and changes nothing: rows as token ids (SFT), no logging, no saving, no gradient
checkpointing (TRL's default, which trades time for memory), batches in the given order; for DPO the reference's
log-probabilities computed before training. Runs in the peers' environment; weft is not imported.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers.cell import BETA, CLIP, LEARNING_RATE, SPACE, Cell, Example
from benchmarks.peers.settings import Setting
from benchmarks.peers.worker import Gate

STEPS = 100_000
"""More than a benchmark asks for."""
PACKED = 4
"""A packed row holds as many tokens as this many of the longest examples."""


class Peer:
    """Ready for its first step. `kind`: `transformers` or `trl`."""

    def __init__(
        self,
        kind: str,
        cell: Cell,
        made: list[Example],
        setting: Setting,
        folder: Path,
        adapter: Path,
        gradient: Path | None,
    ) -> None:
        if setting.onednn:
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
        self.gradient = gradient
        model = _model(cell, setting, folder, adapter)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if cell.method == "dpo":
            self.trainer: Any = _dpo_trainer(cell, setting, model, tokenizer, made)
        elif kind == "trl":
            self.trainer = _sft_trainer(cell, setting, model, tokenizer, made)
        else:
            self.trainer = _plain_trainer(cell, setting, model, tokenizer, made)

    def run(self, gate: Gate) -> None:
        watch = _Watch(self.trainer, gate, self.gradient)
        self.trainer.add_callback(watch)
        self.trainer.train()
        raise RuntimeError(f"the trainer stopped by itself after {self.trainer.state.global_step} steps")


class _Watch(TrainerCallback):
    """Holds the loop before each step. A step lasts from there to its end, so fetching its batch belongs to it."""

    def __init__(self, trainer: Any, gate: Gate, gradient: Path | None) -> None:
        self.trainer, self.gate, self.gradient = trainer, gate, gradient
        self.loss: Any = None
        self.examples = 0
        self.kept: dict[str, torch.Tensor] = {}
        inner = trainer.training_step

        def training_step(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            self.examples = _count(inputs)
            self.loss = inner(model, inputs, *rest)
            if self.gradient and not self.kept:  # before it is clipped
                named = trainer.model.named_parameters()
                self.kept = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}
            return self.loss

        trainer.training_step = training_step

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.gate.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        examples = self.examples // (2 if "DPO" in type(self.trainer).__name__ else 1)
        self.gate.done(float(self.loss), examples, self._save)
        self.gate.wait()

    def _save(self) -> None:
        if self.gradient and self.kept:
            from safetensors.torch import save_file

            save_file({name: tensor.float().contiguous() for name, tensor in self.kept.items()}, self.gradient)
            self.gradient = None
            self.kept = {}


def _count(inputs: dict[str, Any]) -> int:
    """Sequences in a batch. Without padding they lie end to end, each beginning at position 0."""
    if "attention_mask" in inputs:
        return int(inputs["input_ids"].shape[0])
    return int((inputs["position_ids"] == 0).sum())


def _model(cell: Cell, setting: Setting, folder: Path, adapter: Path) -> Any:
    dtype = torch.bfloat16 if setting.numbers == "bf16 weights" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=setting.attention, local_files_only=True
    )
    if cell.adapt == "full":
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter), is_trainable=True)


def _arguments(cell: Cell, setting: Setting) -> dict[str, Any]:
    return {
        "output_dir": tempfile.gettempdir(),
        "per_device_train_batch_size": cell.batch,
        "max_steps": STEPS,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": CLIP,
        "train_sampling_strategy": "sequential",
        "bf16": setting.numbers == "bf16 autocast",
        "use_cpu": True,
        "gradient_checkpointing": False,
        "torch_compile": setting.compiled,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
    }


def _rows(made: list[Example]) -> Any:
    """Token ids and labels, one row per example."""
    rows = [row for example in made for row in example.rows]
    return _datasets().Dataset.from_dict(
        {
            "input_ids": [list(ids) for ids, _ in rows],
            "labels": [[-100] * begin + list(ids[begin:]) for ids, begin in rows],
        }
    )


def _plain_trainer(cell: Cell, setting: Setting, model: Any, tokenizer: Any, made: list[Example]) -> Any:
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    flat = setting.batching == "padding-free"
    return Trainer(
        model=model,
        args=TrainingArguments(**_arguments(cell, setting)),
        train_dataset=_rows(made),
        data_collator=DataCollatorWithFlattening() if flat else DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )


def _sft_trainer(cell: Cell, setting: Setting, model: Any, tokenizer: Any, made: list[Example]) -> Any:
    trl: Any = importlib.import_module("trl")
    arguments = _arguments(cell, setting)
    length = None
    if setting.batching == "packed":
        length = PACKED * max(len(ids) for example in made for ids, _ in example.rows)
        arguments["per_device_train_batch_size"] = max(1, cell.batch // PACKED)
    config = trl.SFTConfig(
        **arguments,
        max_length=length,
        packing=setting.batching == "packed",
        padding_free=setting.batching == "padding-free",
    )
    return trl.SFTTrainer(model=model, args=config, train_dataset=_rows(made), processing_class=tokenizer)


def _dpo_trainer(cell: Cell, setting: Setting, model: Any, tokenizer: Any, made: list[Example]) -> Any:
    """TRL tokenises preferences itself, so it gets words; the tokenizer gives back exactly the same ids."""
    trl: Any = importlib.import_module("trl")
    config = trl.DPOConfig(
        **_arguments(cell, setting), beta=BETA, loss_type=["sigmoid"], max_length=None, precompute_ref_log_probs=True
    )

    def text(ids: tuple[int, ...]) -> str:
        return "".join(tokenizer.convert_ids_to_tokens(list(ids))).replace(SPACE, " ")

    pairs = {
        "prompt": [text(example.prompt) for example in made],
        "chosen": [text(example.answer) for example in made],
        "rejected": [text(example.rejected) for example in made],
    }
    dataset = _datasets().Dataset.from_dict(pairs)
    return trl.DPOTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)


def _datasets() -> Any:
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    return datasets
