"""weft-nano, the embedded base: a small pretrained causal language model as a transformers folder, no download.

This package holds weights, tokenizer, chat template and card (README.md); the recipe that made them is `recipes/nano`.
"""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """The folder to give to `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`."""
    return Path(__file__).resolve().parent
