"""The shortest program that tunes the embedded base on a file of chats with TRL and PEFT; ends after its first step.

    python -m benchmarks.peers.first_step DATA BASE_FOLDER

Says `first step` then. The same adapter and batch as weft's defaults. Runs in the peers' environment, without weft.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from typing import Any

from peft import LoraConfig
from transformers import TrainerCallback

trl: Any = importlib.import_module("trl")
datasets: Any = importlib.import_module("datasets")


class _Tell(TrainerCallback):
    def on_step_end(self, *_: object, **__: object) -> None:
        print("first step", flush=True)
        os._exit(0)


def main(data: str, base: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trl.SFTTrainer(
            model=base,
            args=trl.SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=16,
                assistant_only_loss=True,
                gradient_checkpointing=False,
                use_cpu=True,
                bf16=False,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=datasets.load_dataset("json", data_files=data, split="train", cache_dir=folder),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[_Tell()],
        ).train()


if __name__ == "__main__":
    main(*sys.argv[1:])
