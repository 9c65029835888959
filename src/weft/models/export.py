"""A whole model as transformers writes it: weights in safetensors, configuration, tokenizer files, in one rename."""

from __future__ import annotations

import shutil
from pathlib import Path

from weft.models.load import Base, quiet
from weft.runs import explained, publish_folder

WEIGHTS = "*.safetensors*"


def save_model(base: Base, folder: Path) -> None:
    """Write the base's present weights to `folder`, with everything else that its own folder holds.

    Raises ResourceError where the disk is full or not writable.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    with explained(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        keep_out = shutil.ignore_patterns(WEIGHTS, "__pycache__", "*.py", "README.md")
        shutil.copytree(base.folder, temporary, ignore=keep_out)
        with quiet():
            base.model.save_pretrained(temporary)  # type: ignore[operator]
    publish_folder(temporary, folder)
