"""A whole model as transformers reads it: weights in safetensors, configuration, tokenizer files, in one rename."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from weft.models.decoder import Decoder
from weft.models.load import Base, quiet
from weft.runs import explained, publish_folder

WEIGHTS = "*.safetensors*"


def save_model(base: Base, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the base's present weights to `folder`, with everything else that its own folder holds.

    `weights`: the state of a model of which this process holds only a part.
    Raises ResourceError where the disk is full or not writable.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    with explained(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        keep_out = shutil.ignore_patterns(WEIGHTS, "__pycache__", "*.py", "README.md")
        shutil.copytree(base.folder, temporary, ignore=keep_out)
        if isinstance(base.model, Decoder):
            _save_decoder(base.model, temporary, weights)
        else:
            with quiet():
                base.model.save_pretrained(temporary, state_dict=weights)  # type: ignore[operator]
    publish_folder(temporary, folder)


def _save_decoder(model: Decoder, folder: Path, weights: Mapping[str, Tensor] | None) -> None:
    """The weights under the names of transformers, and their number format in the configuration that lies there."""
    from safetensors.torch import save_file

    own = dict(model.named_parameters())  # tied weights once
    tensors = {name: (weights or own)[name].detach().contiguous() for name in own}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner only
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
