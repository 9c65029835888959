"""Bases and LoRA adapters as GGUF files for llama.cpp: the two shapes that `serve.py` measures, and nothing else.

The container and the tensors' names are those of the `gguf` package. Left out: tokenizers (prompts are ids), quantised
formats, DoRA, vocabulary rows. Runs where weft is not installed, so it imports nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf  # pyright: ignore[reportMissingImports] - it is in the peers' environment alone
import numpy as np
from safetensors import safe_open

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}
"""By `model_type` of a `config.json`."""
FORMATS = {"float32": gguf.GGMLQuantizationType.F32, "bfloat16": gguf.GGMLQuantizationType.BF16}
PEFT = "base_model.model."


def write_base(folder: Path, file: Path, dtype: str) -> None:
    """The base of `folder` with its matrices in `dtype`. Raises ValueError for a shape that is not known here."""
    config = _config(folder)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config["model_type"]]])
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, numbers in _tensors(folder / "model.safetensors"):
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        _add(writer, _named(config, name), _turned(config, name, numbers), dtype)
    _write(writer)


def write_adapter(folder: Path, base: Path, file: Path, dtype: str) -> None:
    """The plain LoRA adapter of `folder`, over the base in `base`, with its matrices in `dtype`."""
    config, settings = _config(base), json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if settings.get("use_dora") or settings.get("use_rslora"):
        raise ValueError(f"{folder}: DoRA and rank-stabilised scales are not written here, only plain LoRA.")
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config["model_type"]]])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["lora_alpha"]))
    for name, numbers in _tensors(folder / "adapter_model.safetensors"):
        layer, _, part = name.removeprefix(PEFT).removesuffix(".weight").rpartition(".lora_")
        if part == "B":  # its rows are the layer's outputs
            numbers = _turned(config, f"{layer}.weight", numbers)
        _add(writer, f"{_named(config, f'{layer}.weight')}.lora_{part.lower()}", numbers, dtype)
    _write(writer)


def _config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    odd = [key for key in ("attention_bias", "mlp_bias", "use_sliding_window") if config.get(key)]
    if config["model_type"] not in ARCHITECTURES or rope.get("rope_type") != "default" or odd:
        raise ValueError(f"{folder}: expected a plain llama or qwen3, found {config['model_type']} {rope} {odd}.")
    return config


def _tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float32 numbers. Through torch, for numpy has no bfloat16."""
    with safe_open(file, framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 - it is no dictionary
            yield name, stored.get_tensor(name).float().numpy()


def _named(config: dict[str, Any], name: str) -> str:
    names = gguf.get_tensor_name_map(ARCHITECTURES[config["model_type"]], config["num_hidden_layers"])
    found = names.get_name(name, try_suffixes=(".weight",))
    if found is None:
        raise ValueError(f"{name}: a {config['model_type']} has no such tensor in GGUF.")
    return found


def _turned(config: dict[str, Any], name: str, numbers: np.ndarray) -> np.ndarray:
    """llama.cpp turns neighbours of a `llama` head where transformers turns its halves: rows (out, …) in that order."""
    kept = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if config["model_type"] != "llama" or kept is None:
        return numbers
    heads = numbers.reshape(config[kept], 2, -1, *numbers.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(numbers.shape)


def _add(writer: gguf.GGUFWriter, name: str, numbers: np.ndarray, dtype: str) -> None:
    kind = FORMATS[dtype if numbers.ndim > 1 else "float32"]  # llama.cpp adds and scales by vectors in float32 alone
    writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)


def _write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
