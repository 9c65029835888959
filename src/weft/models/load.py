"""A base by name: find it, look at it, ask for memory, load it. Nothing of a base is ever executed.

A name is `weft-nano` (inside the package), a folder, or a hub name (`owner/model`; the cached copy first, downloaded
only when not offline). Exactly one thing comes out: `Base`, a model in evaluation mode with its `Chat`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weft.errors import ModelError, ResourceError, UsageError
from weft.models import memory
from weft.models.chat import Chat
from weft.models.facts import BaseFacts, causal_models, inspect

if TYPE_CHECKING:
    import torch

    from weft.models.quant import Quantize

NANO = "weft-nano"
_NANO_FOLDER = Path(__file__).with_name("nano")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "tokenizer.model"]
_DEFAULT_CONTEXT = 2048

Dtype = Literal["float32", "bfloat16", "float16"]
_HALF: dict[str, Dtype] = {"BF16": "bfloat16", "F16": "float16"}
"""Formats that a base may be stored in, in the words of safetensors, and that 4 bits can be made of."""

__all__ = [
    "NANO",
    "Base",
    "BaseFacts",
    "causal_models",
    "here",
    "inspect",
    "load",
    "load_chat",
    "locate",
    "to_be_fetched",
]


@dataclass(frozen=True)
class Base:
    """A loaded base: the model in evaluation mode, its chat, and what identifies it."""

    name: str
    """As the user wrote it."""
    folder: Path
    model: torch.nn.Module = field(repr=False)
    chat: Chat = field(repr=False)
    context: int
    """Longest sequence in tokens."""
    parameters: int
    """Distinct numbers in the model; tied weights count once."""
    fingerprint: str
    """SHA-256 over the hashes of all files that were read."""
    device: torch.device
    revision: str = ""
    """The hub's commit, for a base from there."""
    stored: str = ""
    """How most weights are stored in the folder: `BF16`, `F32` …"""
    quantize: Quantize = "none"
    """`nf4` where the inner linear layers are kept in 4 bits."""

    @property
    def architecture(self) -> str:
        """The class that transformers has for this model."""
        return getattr(self.model.config, "architecture", None) or type(self.model).__name__

    @property
    def vocabulary(self) -> int:
        """V of the model's logits; tokens from the tokenizer's last on have no text."""
        return int(self.model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]


def locate(name: str) -> Path:
    """The folder of a base. Raises UsageError for a name that is neither embedded, a folder, nor on the hub."""
    if (found := here(name)) is not None:
        return found
    if Path(name).expanduser().exists():
        raise UsageError(f"base {name!r} is a file; name the folder that it lies in. {_accepted()}")
    if _may_be_on_hub(name):
        return _from_hub(name)
    raise UsageError(f"base {name!r}: there is no such folder.{_near(name)} {_accepted()}")


def here(name: str) -> Path | None:
    """The folder of a base that need not be fetched: embedded, a folder, or in the hub's cache. Needs no torch."""
    if name == NANO:
        return _NANO_FOLDER
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    return _cached(name) if not folder.exists() and _may_be_on_hub(name) else None


def to_be_fetched(name: str) -> bool:
    """Whether `locate` would ask the hub for it."""
    there = here(name) is not None or Path(name).expanduser().exists()
    return not there and _may_be_on_hub(name) and not offline()


def load(
    name: str, *, dtype: Dtype = "float32", device: str = "auto", compact: bool = True, quantize: Quantize = "none"
) -> Base:
    """The base called `name`, in evaluation mode, its weights as `dtype` on `device` (`auto`: a GPU if there is one).

    The families that `decoder.py` covers come as a `Decoder`, all others and, without `compact`, these too as the
    model of transformers. With `quantize` the inner linear layers are kept in 4 bits (`quant.py`), all else as `dtype`;
    the whole is read in the format it is stored in first.

    Raises UsageError for an unknown name, MissingExtra without the library for 4 bits, ModelError for a folder that
    cannot be used, ResourceError where memory is lacking (before anything is loaded).
    """
    folder = locate(name)
    facts = inspect(folder)
    read_as = dtype if quantize == "none" else _HALF.get(facts.stored, dtype)
    needed = memory.loading_bytes(facts.parameters, read_as, facts.largest_tensor)
    memory.require(needed, f"loading {name} ({facts.parameters:,} parameters as {read_as})")
    import torch

    from weft.models import attention, decoder, quant

    place = torch.device(_device(device))
    if quantize != "none":
        quant.require_library()
    with quiet():
        model = _model(facts, getattr(torch, read_as), compact)
        parameters = sum(p.numel() for p in model.parameters())
        if quantize != "none":
            quant.quantize(model)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(getattr(torch, dtype))
        try:
            model = model.to(place).eval().requires_grad_(False)
        except torch.OutOfMemoryError:
            said = f"{place} has no room for {name} ({facts.parameters:,} parameters as {dtype})"
            raise ResourceError(
                f"{said}. Close what else is on it, choose a smaller base, or use the processor: "
                "CUDA_VISIBLE_DEVICES= before the command (of `weft serve` also --device cpu)."
            ) from None
        if place.type == "cpu" and not isinstance(model, decoder.Decoder):
            attention.use(model)
        tokenizer = load_tokenizer(folder)
    embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise ModelError(
            f"{folder}: the tokenizer knows {len(tokenizer):,} tokens, the model only {embeddings:,}. "
            "They do not belong together; fetch the model again."
        )
    return Base(
        name=name,
        folder=folder,
        model=model,
        chat=Chat(tokenizer, end_ids=_end_ids(folder)),
        context=_context(facts, model.config),
        parameters=parameters,
        fingerprint=facts.fingerprint(),
        device=place,
        revision=folder.name if folder.parent.name == "snapshots" else "",
        stored=facts.stored,
        quantize=quantize,
    )


def load_chat(name: str) -> tuple[Chat, int]:
    """The chat of the base called `name` and its context in tokens: enough to count with, without its weights.

    Raises UsageError for an unknown name, ModelError for a folder that cannot be used.
    """
    folder = locate(name)
    facts = inspect(folder)
    with quiet():
        chat = Chat(load_tokenizer(folder), end_ids=_end_ids(folder))
        return chat, facts.context or _context(facts, _config(folder))


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer: straight from tokenizer.json where there is one, else built by transformers.

    Raises ModelError where it cannot be read.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds for a damaged file
        raise ModelError(f"{folder}: the tokenizer cannot be read ({_first_line(error)}).") from None


def _model(facts: BaseFacts, dtype: Any, compact: bool) -> Any:
    """The weights in their class. A missing weight would be invented at random: refused."""
    from weft.models import decoder
    from weft.models.decoder_config import DecoderConfig

    shape = DecoderConfig.read(facts.folder) if compact else None
    if shape is not None:
        return decoder.load(facts.folder, shape, [path for path in facts.files if path.suffix == ".safetensors"], dtype)
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            facts.folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, report = loaded
    except Exception as error:  # the library raises many kinds for a damaged folder
        raise ModelError(f"{facts.folder}: transformers cannot load this model ({_first_line(error)}).") from None
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise ModelError(
            f"{facts.folder}: {len(missing)} weights are missing, for example {missing[0]}. "
            "The file is incomplete or of another model; fetch it again."
        )
    return model


def _config(folder: Path) -> Any:
    """What transformers reads out of config.json, its own defaults included."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds for a damaged file
        raise ModelError(f"{folder}: config.json cannot be read ({_first_line(error)}).") from None


def _context(facts: BaseFacts, config: Any) -> int:
    """The longest sequence in tokens: as the folder says, else as the model's class has it."""
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(facts.context or own or _DEFAULT_CONTEXT)


def _end_ids(folder: Path) -> list[int]:
    """The ends that generation_config.json names, or config.json where there is no such file."""
    files = [folder / name for name in ("generation_config.json", "config.json")]
    stated = next((path for path in files if path.is_file()), None)
    eos = json.loads(stated.read_text(encoding="utf-8")).get("eos_token_id") if stated else None
    return [eos] if isinstance(eos, int) else list(eos or ())


def _device(device: str) -> str:
    import torch

    if device == "auto":
        own = os.environ.get("LOCAL_RANK", "") if "TORCHELASTIC_RUN_ID" in os.environ else ""  # torchrun numbers GPUs
        return f"cuda:{own}".rstrip(":") if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: PyTorch sees no CUDA device here. Choose cpu, or auto.")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N.")
    return device


def _may_be_on_hub(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?", name) is not None and not name.startswith(".")


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError, OSError):
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=_WANTED))
    return None


def _from_hub(name: str) -> Path:
    """A download of a hub model's data files (never its code)."""
    from huggingface_hub import snapshot_download

    if offline():
        raise UsageError(f"base {name!r} is neither a folder nor in the hub cache, and weft is offline.{_near(name)} "
                         f"{_accepted()}")  # fmt: skip
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as error:  # network, permission, unknown name: the library has a kind for each
        raise UsageError(
            f"base {name!r} is not a folder, and the hub did not give it ({_first_line(error)})."
            f"{_near(name)} {_accepted()}"
        ) from None


def offline() -> bool:
    """Whether WEFT_OFFLINE or HF_HUB_OFFLINE forbids the network."""
    values = (os.environ.get(key, "").strip().lower() for key in ("WEFT_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value not in ("", "0", "false", "no", "off") for value in values)


def _near(name: str) -> str:
    parent = Path(name).expanduser().parent
    with contextlib.suppress(OSError):
        beside = [str(path) for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        near = difflib.get_close_matches(name, [NANO, *beside], n=3)
        return f" Did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
    return ""


def _accepted() -> str:
    return (
        f"A base is {NANO!r} (inside weft), a folder with config.json and model.safetensors, or a hub name owner/model."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its warnings and progress bars: what matters is checked and said by weft."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
