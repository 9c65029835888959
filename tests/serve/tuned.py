"""A server's data folder with tuned models in it, each of which says its own letter whatever it is asked."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from tests.serve.store.scenes import put_file, start
from weft.models import lora
from weft.models.load import Base, load
from weft.models.lora_config import LoraConfig
from weft.serve.leases import Leases
from weft.serve.records import JobDraft
from weft.serve.store import Store

_SETTINGS = LoraConfig(r=4, alpha=32)


def letters_model(data: Path, base: Path, letters: str) -> dict[str, str]:
    """Train an adapter per letter over the tiny base in `base` and publish it in `data`; name of the model → letter."""
    loaded, store = load(str(base)), Store.open(data)
    try:
        return {publish(store, loaded, str(base), letter): letter for letter in letters}
    finally:
        store.close()


def publish(store: Store, loaded: Base, base: str, letter: str) -> str:
    """One of them: the name of its model, which belongs to `local`."""
    folder = store.data / "work" / f"adapter-{ord(letter)}"
    folder.mkdir()
    train(loaded, folder, loaded.chat.tokenizer.encode(letter, add_special_tokens=False)[0])
    identity = store.blobs.adopt_adapter(folder)
    leases, file = Leases(store), put_file(store, owner="local")
    store.jobs.create("local", JobDraft("tiny", base, file.id, 1, {"type": "supervised"}, suffix=letter))
    job, attempt = start(leases)
    sha256, size = store.blobs.put([b"step,train_loss\n"], 100)
    model = leases.finish(job.id, attempt, identity, 1, sha256, size).fine_tuned_model
    assert model is not None
    return model


def train(base: Base, folder: Path, token: int) -> None:
    """An adapter that learned to say one token, whatever comes before: the likeliest one, if not by much."""
    torch.manual_seed(token)
    optimizer = torch.optim.Adam(lora.wrap(base.model, _SETTINGS, token), 3e-2)
    for _ in range(80):
        logits = base.model(torch.randint(0, 259, (4, 16))).logits.flatten(0, 1)
        loss = cross_entropy(logits, torch.full((64,), token))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lora.save_adapter(base.model, folder, base_name="tiny", config=_SETTINGS)
    lora.unwrap(base.model)
