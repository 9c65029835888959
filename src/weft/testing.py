"""Small stand-ins that ship with weft, so that users test their own code without weights: tokenizer, models, bases.

`byte_tokenizer` knows 256 bytes and a few control tokens; `tiny_model` has two layers and random weights; `save_base`
writes both as an ordinary model folder; `tiny_base` is the same thing loaded. Nothing here is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from weft.models.load import Base

Kind = Literal["llama", "qwen3", "gpt2", "gemma"]

CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- message.content + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""A ChatML template with generation marks."""


def byte_tokenizer(*, template: str | None = CHATML, control: tuple[str, ...] = ()) -> Any:
    """A transformers tokenizer of bytes: 0-255, `<|end|>`, `<|im_start|>`, `<|im_end|>`, then those of `control`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ("<|end|>", "<|im_start|>", "<|im_end|>", *control)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(
    kind: Kind = "llama", *, seed: int = 0, vocabulary: int = 264, width: int = 32, context: int = 256
) -> Any:
    """A two-layer causal language model of transformers with random weights, in evaluation mode; ~30,000 parameters."""
    import torch

    config = _config(kind, vocabulary, width, context)
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        # Initial weights are so small that every model answers alike; these tell inputs apart.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
    return model.eval()


def save_base(folder: Path, kind: Kind = "llama", *, seed: int = 0, template: str | None = CHATML) -> Path:
    """Write a tiny model with the byte tokenizer as an ordinary folder; returns it."""
    tokenizer = byte_tokenizer(template=template)
    model = tiny_model(kind, seed=seed)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_base(kind: Kind = "llama", *, seed: int = 0, template: str | None = CHATML, device: str = "cpu") -> Base:
    """A loaded base without a folder behind it."""
    import torch

    from weft.models.chat import Chat
    from weft.models.load import Base

    place: torch.device = torch.device(device)
    model = tiny_model(kind, seed=seed).to(place)
    return Base(
        name=f"tiny-{kind}",
        folder=Path(),
        model=model,
        chat=Chat(byte_tokenizer(template=template)),
        context=256,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        fingerprint=f"tiny-{kind}-{seed}",
        device=place,
    )


def _config(kind: Kind, vocabulary: int, width: int, context: int) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "max_position_embeddings": context,
    }
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if kind == "llama":
        from transformers import LlamaConfig

        return LlamaConfig(**shape, **ends, tie_word_embeddings=True)
    if kind == "qwen3":
        from transformers import Qwen3Config

        return Qwen3Config(**shape, **ends, tie_word_embeddings=True)
    if kind == "gemma":
        from transformers import GemmaConfig

        return GemmaConfig(**shape, **ends)
    if kind == "gpt2":
        from transformers import GPT2Config

        return GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=4, n_positions=context, **ends)
    raise ValueError(f"kind {kind!r} is unknown; use llama, qwen3, gpt2 or gemma")
