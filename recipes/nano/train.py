"""Pretrain weft-nano: `python -m recipes.nano.train --run DIR [--text DIR] [--wordnet DIR] [--export DIR]`.

The stages of FIRST from step 0, then with `--wordnet` those of SECOND from there with new optimizers, make the weights
in the package; `--begin MODEL` leaves out the first. Called again it goes on from the newest checkpoint. The tokenizer
in `--export` is used when it is there and made otherwise. transformers draws the first values and writes the model
folder; all between is weft's own decoder over the forest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from weft.models.decoder import Decoder

HERE = Path(__file__).resolve().parent
NANO = HERE.parent.parent / "src" / "weft" / "models" / "nano"
SEED = 20261122
MICRO_TOKENS = 4096
FOLDERS = ("checkpoints", "further")
"""Of the two parts, in the run's folder."""


@dataclass(frozen=True)
class Stage:
    """A stretch of steps with one rate; README.md tells why each began."""

    until: int
    """Step at which the stage ends."""
    rate: float
    """Peak rate of the matrices; embeddings and norms have three quarters of it."""
    micro_batches: int
    """Micro-batches of MICRO_TOKENS per step."""
    decay: int = 0
    """Last steps of the stage in which the rate falls."""


FIRST = (
    Stage(269, 4e-3, 2),
    Stage(971, 5.5e-3, 1),
    Stage(1154, 4.5e-3, 2),
    Stage(1784, 4.5e-3, 2, decay=630),
    Stage(2700, 3e-3, 2, decay=650),
)
SECOND = (Stage(1400, 3e-3, 2, decay=1100),)


def architecture() -> Qwen3Config:
    """Qwen3 of transformers: q/k norm keeps attention tame at Muon's rates."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=6144,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=6143,
        pad_token_id=6141,
        use_cache=True,
    )


def untrained(seed: int = SEED) -> Qwen3ForCausalLM:
    """The model at step 0, as transformers draws it."""
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(architecture())


def on_engine(model: Qwen3ForCausalLM) -> Decoder:
    """The same weights in weft's decoder."""
    import torch

    from weft.models import decoder
    from weft.models.load import quiet

    with quiet(), tempfile.TemporaryDirectory(prefix="weft-nano-") as made:
        folder = Path(made)
        model.save_pretrained(folder)
        shape = decoder.DecoderConfig.read(folder)
        if shape is None:
            raise TypeError(f"{type(model).__name__} with these settings is none of the decoder's families")
        return decoder.load(folder, shape, [folder / "model.safetensors"], torch.float32)


def as_transformers(model: Decoder) -> Qwen3ForCausalLM:
    """The decoder's weights in the class that writes the model folder."""
    whole = untrained()
    whole.load_state_dict(model.state_dict())
    return whole


def loaded(folder: Path) -> Decoder:
    """The weights of a model folder, in float32."""
    from transformers import Qwen3ForCausalLM

    from weft.models.load import quiet

    with quiet():
        return on_engine(Qwen3ForCausalLM.from_pretrained(folder, dtype="float32", local_files_only=True))


def restored(run: Path) -> Decoder:
    """The model of the newest checkpoint of a run folder."""
    import torch

    from weft.errors import UsageError
    from weft.train import checkpoint

    path = checkpoint.latest(run / FOLDERS[1]) or checkpoint.latest(run / FOLDERS[0])
    if path is None:
        raise UsageError(f"{run}: no checkpoint in it, expected {FOLDERS[0]}/step-…. Start it with recipes.nano.train.")
    tensors, _ = checkpoint.load(path)
    model = on_engine(untrained())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    return model


def micro_batches_before(step: int, stages: Sequence[Stage]) -> int:
    """Micro-batches before `step` of these stages."""
    count = begin = 0
    for stage in stages:
        count += max(0, min(step, stage.until) - begin) * stage.micro_batches
        begin = stage.until
    return count


def schedule_of_batches(mix, stages: Sequence[Stage], first: int = 0, seed: int = SEED):
    """`batches(step)`: each micro-batch draws its bucket, then its rows, from its position, beginning at `first`."""
    from recipes.nano.mix import phase_at
    from weft.train.from_scratch import collate

    def batches(step: int):
        made = []
        for position in range(
            first + micro_batches_before(step, stages), first + micro_batches_before(step + 1, stages)
        ):
            phase = phase_at(position * MICRO_TOKENS)
            length = Random(f"{seed}:{position}").choices(list(phase.buckets), weights=list(phase.buckets.values()))[0]
            count = MICRO_TOKENS // length
            made.append(collate([mix.row(seed, position * 4096 + i, phase, length) for i in range(count)]))
        return made

    return batches


def export(model: Decoder, folder: Path) -> None:
    """Weights in bf16 and config into `folder`; each file appears whole."""
    import torch

    part = folder.parent / f".{folder.name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    small = as_transformers(model).to(torch.bfloat16)  # type: ignore[arg-type]
    small.config.dtype = torch.bfloat16
    small.generation_config.eos_token_id = small.config.eos_token_id
    small.generation_config.pad_token_id = small.config.pad_token_id
    small.save_pretrained(part)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(part.iterdir()):
        file.chmod(0o644)  # safetensors writes for the owner only
        os.replace(file, folder / file.name)
    part.rmdir()


def learn(model, mix, held_out: list[str], folder: Path, stages: Sequence[Stage], first: int, seconds: float) -> None:
    """Run these stages on `model`, from the newest checkpoint in `folder`."""
    from recipes.nano import probe
    from weft.train import from_scratch

    for stage in stages:
        config = from_scratch.FromScratchConfig(
            steps=stage.until,
            schedule="wsd",
            warmup_steps=60,
            decay_steps=stage.decay,
            matrix_rate=stage.rate,
            other_rate=stage.rate * 0.75,
            seed=SEED,
            precision="bfloat16",
            checkpoint_seconds=seconds,
            keep=3,
        )
        from_scratch.run(
            model,
            schedule_of_batches(mix, stages, first),
            config,
            folder,
            watch=lambda model, step: probe.watch(model, mix, held_out),
            report=lambda line: print(line, flush=True),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=HERE.parent.parent.parent / "shared" / "data")
    parser.add_argument("--wordnet", type=Path, help="folder of WordNet 3.0's files: run the second part as well")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--begin", type=Path, help="model folder that the second part begins from, without the first")
    parser.add_argument("--export", type=Path, default=NANO)
    parser.add_argument("--checkpoint-seconds", type=float, default=300)
    args = parser.parse_args()
    if args.begin and not args.wordnet:
        parser.error("--begin is where the second part begins, which needs --wordnet")

    import torch
    from tokenizers import Tokenizer

    from recipes.nano import meanings, text, tokenizer
    from recipes.nano.mix import Mix

    torch.set_num_threads(1)
    examples = HERE.parent.parent / "examples"
    corpus = text.load_or_build(args.run / "corpus.json", args.text, examples)
    words = meanings.read(args.wordnet, text.forbidden_grams(args.text, examples)) if args.wordnet else ()
    if not (args.export / "tokenizer.json").is_file():
        tokenizer.train(tokenizer.sample_texts(corpus), args.export)
    mix = Mix(Tokenizer.from_file(str(args.export / "tokenizer.json")), corpus, meanings=words)
    print(
        f"{len(mix.texts):,} text tokens, {len(mix.pages):,} of a dictionary, {len(mix.chats):,} natural chats",
        flush=True,
    )

    begin = args.begin
    if begin is None:
        model = on_engine(untrained())
        learn(model, mix, corpus.held_out, args.run / FOLDERS[0], FIRST, 0, args.checkpoint_seconds)
        begin = args.run / "first" if args.wordnet else args.export
        export(model, begin)
    if args.wordnet:
        model = loaded(begin)
        first = micro_batches_before(FIRST[-1].until, FIRST)
        learn(model, mix, corpus.held_out, args.run / FOLDERS[1], SECOND, first, args.checkpoint_seconds)
        export(model, args.export)


if __name__ == "__main__":
    main()
