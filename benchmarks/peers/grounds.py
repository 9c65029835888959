"""What all contestants stand on, made once: the model folder, the initial adapter; also the machine's peak, the errors.

{"do": "folder", model, folder}             a Llama of that shape with random weights and a tokenizer of words
{"do": "adapter", folder, adapter, adapt}   PEFT's format; both matrices random, so that both have a gradient
{"do": "peak", precision, threads}          best floating-point operations per second of a large matrix product
{"do": "compare", truth, others}            relative error of gradients, file by file
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.cell import (
    ALPHA,
    CONTEXT,
    END,
    FIRST_BYTE,
    FIRST_WORD,
    PAD,
    RANK,
    SHAPES,
    SPACE,
    START,
    TARGETS,
)  # fmt: skip
from weft.models import lora, precision

SEED = 0
PEAK_SIZES = (512, 1024, 2048)
PEAK_SECONDS = 1.0
"""Each size and route is repeated so long: on a busy machine a short product is sometimes left alone."""


def answer(command: dict[str, Any]) -> dict[str, Any]:
    """The answer to one command."""
    match command["do"]:
        case "folder":
            return write_folder(command["model"], Path(command["folder"]))
        case "adapter":
            return write_adapter(Path(command["folder"]), Path(command["adapter"]), command["adapt"])
        case "peak":
            return {"flops": peak(command["precision"], command["threads"])}
        case "compare":
            return compare(Path(command["truth"]), {name: Path(path) for name, path in command["others"].items()})
    raise ValueError(f"command {command['do']!r} is unknown")


def write_folder(model: str, folder: Path) -> dict[str, Any]:
    """A folder as the hub has them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SHAPES[model]
    torch.manual_seed(SEED)
    config = LlamaConfig(
        **shape,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    made = LlamaForCausalLM(config)
    made.save_pretrained(folder)
    tokenizer(shape["vocab_size"]).save_pretrained(folder)
    return {"parameters": sum(parameter.numel() for parameter in made.parameters())}


def tokenizer(vocabulary: int) -> Any:
    """Token n is the word ` tn`, with its space; anything else is written in bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"<pad>": PAD, "<s>": START, "</s>": END}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = special | {letter: FIRST_BYTE + place for place, letter in enumerate(letters)}
    known |= {f"{SPACE}t{n}": n for n in range(FIRST_WORD, vocabulary)}
    backend = Tokenizer(models.BPE(vocab=known, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def write_adapter(folder: Path, adapter: Path, adapt: str) -> dict[str, Any]:
    """An adapter that already changes the model a little: with a zero matrix half of the gradients would be zero."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    config = lora.LoraConfig(r=RANK, alpha=ALPHA, targets=TARGETS[adapt])
    lora.wrap(model, config, SEED)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for layer in lora.layers(model).values():
            layer.lora_B.normal_(0.0, 0.02, generator=generator)
    lora.save_adapter(model, adapter, base_name="random", config=config)
    return {"parameters": lora.trainable_count(model)}


def peak(numbers: str, threads: int) -> float:
    """Over sizes, repetitions and (in fp32) both routes of the library: the best is what the machine can do."""
    torch.set_num_threads(threads)
    if numbers == "bf16":
        return max(_products_per_second(size, torch.bfloat16) for size in PEAK_SIZES)
    best = max(_products_per_second(size, torch.float32) for size in PEAK_SIZES)
    precision.settle()  # the other route, where it is exact
    return max(best, *(_products_per_second(size, torch.float32) for size in PEAK_SIZES))


def _products_per_second(size: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    best, until = float("inf"), time.perf_counter() + PEAK_SECONDS
    while (started := time.perf_counter()) < until:
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def compare(truth: Path, others: dict[str, Path]) -> dict[str, Any]:
    """Per file: relative error over all tensors together, of the worst tensor, and how many names both sides know."""
    from safetensors.torch import load_file

    expected = {canonical(name): tensor for name, tensor in load_file(truth).items()}
    return {name: _error(expected, load_file(path)) for name, path in others.items()}


def canonical(name: str) -> str:
    """A parameter's name without what PEFT and compilers put around it."""
    for part in ("base_model.model.", "_orig_mod.", ".default.weight"):
        name = name.replace(part, "")
    return name


def _error(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Any]:
    given = {canonical(name): tensor for name, tensor in found.items()}
    both = [name for name in expected if name in given and given[name].shape == expected[name].shape]
    off = {name: float((given[name] - expected[name]).double().norm()) for name in both}
    size = {name: float(expected[name].double().norm()) for name in both}
    whole = sum(value**2 for value in size.values()) ** 0.5
    return {
        "relative": sum(value**2 for value in off.values()) ** 0.5 / whole if whole else None,
        "worst_tensor": max((off[name] / size[name] for name in both if size[name]), default=None),
        "tensors": len(both),
        "missing": sorted({*expected, *given} - set(both))[:5],
    }
