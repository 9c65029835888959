"""Look at a base model's folder before any library does: is it a causal language model made of data alone?

Reads `config.json`, the tokenizer's JSON and the headers of the safetensors files; never a weight. Everything that
names code or holds pickles is refused, all problems at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import ModelError

CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code", "custom_generate", "auto_mapping", "parent_library")
"""Keys of a config by which a library would import code that the folder brings."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip
"""What a tokenizer may be read from."""

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""`model_type` to the class that transformers has for it, of those that `decoder.py` runs: no library need be asked."""

MAX_HEADER_BYTES = 100 << 20
MAX_TENSORS = 200_000
MAX_JSON_BYTES = 64 << 20
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a safetensors file as its header tells it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class BaseFacts:
    """What a base model's folder holds, known without reading a weight."""

    folder: Path
    model_type: str
    parameters: int
    """Numbers stored; tied weights count once."""
    weight_bytes: int
    largest_tensor: int
    """Elements of the largest tensor."""
    stored: str
    """How most numbers are stored, in the words of safetensors: `BF16`, `F32` …"""
    context: int | None
    """Longest sequence in tokens, where the config says it."""
    files: tuple[Path, ...]
    """Everything that loading reads, sorted by name."""

    def fingerprint(self) -> str:
        """SHA-256 over the names and hashes of the files."""
        whole = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as handle:
                whole.update(f"{path.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()


def inspect(folder: Path) -> BaseFacts:
    """Facts about the causal language model in `folder`. Raises ModelError naming every problem found."""
    problems: list[str] = []
    config = _json(folder / "config.json", problems, required=True)
    tokenizer_config = _json(folder / "tokenizer_config.json", problems)
    problems += _code(folder, {"config.json": config, "tokenizer_config.json": tokenizer_config})
    problems += _architecture(config)
    weights = _weights(folder, problems)
    tensors: dict[str, TensorFacts] = {}
    for path in (path for path in weights if path.suffix == ".safetensors"):
        try:
            tensors.update(read_header(path))
        except ModelError as error:
            problems.append(str(error))
    if not (folder / "tokenizer.json").is_file() and not any(
        (folder / name).is_file() for name in ("vocab.json", "tokenizer.model")
    ):
        problems.append("there is no tokenizer (tokenizer.json, or vocab.json with merges.txt)")
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ModelError(f"{folder}: this is not a base model that weft can load:\n{listed}")
    names = ("config.json", "generation_config.json", *TOKENIZER_FILES)
    others = [folder / name for name in names if (folder / name).is_file()]
    sizes = [tensor.elements for tensor in tensors.values()]
    return BaseFacts(
        folder=folder,
        model_type=config["model_type"],
        parameters=sum(sizes),
        weight_bytes=sum(path.stat().st_size for path in weights),
        largest_tensor=max(sizes, default=0),
        stored=_most_common(tensors.values()),
        context=_context(config, tokenizer_config),
        files=tuple(sorted([*others, *weights], key=lambda path: path.name)),
    )


def _most_common(tensors: Iterable[TensorFacts]) -> str:
    """The number format of most elements."""
    elements: dict[str, int] = {}
    for tensor in tensors:
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + tensor.elements
    return max(elements, key=lambda name: elements[name], default="")


def read_header(path: Path) -> dict[str, TensorFacts]:
    """The tensors of a safetensors file by name. Raises ModelError where the file is damaged or beyond the limits."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        first = handle.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(f"{path.name} is not a safetensors file (its header would be {length:,} bytes long)")
        raw = handle.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        facts = {name: _tensor(path, name, entry, size - 8 - length) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"{path.name} has a damaged safetensors header; fetch the file again") from None
    if len(facts) > MAX_TENSORS:
        raise ModelError(f"{path.name} names {len(facts):,} tensors, more than the limit of {MAX_TENSORS:,}")
    return facts


def _tensor(path: Path, name: str, entry: Any, data_bytes: int) -> TensorFacts:
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    width = _DTYPE_BYTES.get(entry["dtype"])
    if width is None:
        raise ModelError(f"{path.name}: tensor {name} is stored as {entry['dtype']}, which weft does not read")
    facts = TensorFacts(entry["dtype"], shape)
    if len(shape) > 8 or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("shape")
    if not 0 <= start <= end <= data_bytes or end - start != facts.elements * width:
        raise ModelError(f"{path.name} is cut short or damaged at tensor {name}; fetch the file again")
    return facts


def _json(path: Path, problems: list[str], *, required: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if required:
            problems.append(f"there is no {path.name}")
        return {}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES >> 20} MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__}, expected an object")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    return value


def _code(folder: Path, configs: dict[str, dict[str, Any]]) -> list[str]:
    problems = [
        f"{name} has `{key}`, which loads code from the folder; weft runs no remote code"
        for name, config in configs.items()
        for key in CODE_KEYS
        if config.get(key)
    ]
    pickles = sorted({path.name for pattern in PICKLES for path in folder.glob(pattern)})
    if pickles:
        problems.append(
            f"it holds pickles, which can run code when opened ({', '.join(pickles[:5])}); "
            "remove them, weft reads safetensors only"
        )
    return problems


def _architecture(config: dict[str, Any]) -> list[str]:
    if not config:
        return []
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return ["config.json names no `model_type`"]
    known = FAMILIES if model_type in FAMILIES else causal_models()
    if model_type not in known:
        return [
            f"config.json: `model_type` is {model_type!r}, which transformers does not know as a causal language model"
        ]
    problems = []
    saved = config.get("architectures") or [known[model_type]]
    if known[model_type] not in saved:
        problems.append(f"the weights are of a {saved[0]}, expected {known[model_type]} (with its language model head)")
    if config.get("quantization_config"):
        problems.append("the weights are quantised; name the full-precision model (--quantize nf4 keeps it in 4 bits)")
    return problems


def causal_models() -> dict[str, str]:
    """`model_type` to class name, for every causal language model of transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _weights(folder: Path, problems: list[str]) -> list[Path]:
    """The safetensors files that loading would read: one, or the parts that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        problems.append("there are no weights (model.safetensors)")
        return []
    named = _json(index, problems).get("weight_map")
    names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    bad = [name for name in names if not re.fullmatch(r"[A-Za-z0-9_.-]+\.safetensors", name)]
    missing = [name for name in names if name not in bad and not (folder / name).is_file()]
    if bad or not names:
        problems.append(f"{index.name} names no usable weight files {bad[:3] or ''}".rstrip())
    if missing:
        problems.append(f"weight files are missing: {', '.join(missing[:5])}")
    return [] if bad or missing else [index, *(folder / name for name in names)]


def _context(config: dict[str, Any], tokenizer_config: dict[str, Any]) -> int | None:
    """The model's longest sequence; the tokenizer's limit where that is lower (some configs overstate it)."""
    text = config.get("text_config")
    places = [config, text if isinstance(text, dict) else {}]
    stated = [place[key] for place in places for key in _CONTEXT_KEYS if type(place.get(key)) is int and place[key] > 0]
    limit = tokenizer_config.get("model_max_length")
    usable = [limit] if type(limit) is int and 0 < limit < 10**9 else []
    return min([stated[0], *usable]) if stated else (usable[0] if usable else None)
