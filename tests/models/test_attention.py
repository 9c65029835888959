"""Short-row attention gives what transformers' own gives, forward and backward."""

from __future__ import annotations

import pytest
import torch

from weft.models import attention
from weft.testing import tiny_model


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma"])
@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_gradients_equal_those_of_sdpa(kind: str, padded: bool) -> None:
    model = tiny_model(kind)  # type: ignore[arg-type]
    ids = torch.randint(3, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :7] = 0  # padding on the left, which needs a real mask
    found = []
    for use in (lambda model: None, attention.use):
        use(model)
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask if padded else None).logits
        logits = logits[mask.bool()]  # what a padding token computes is nobody's business, as long as it stays there
        logits.float().log_softmax(-1)[..., 5].sum().backward()
        gradient = next(p.grad for p in reversed(list(model.parameters())) if p.grad is not None)
        found.append((logits.detach(), gradient.clone()))
    assert model.config._attn_implementation == attention.NAME
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5, rtol=1e-4)


def test_decoding_behind_a_cache_gives_the_logits_of_the_whole() -> None:
    model = tiny_model("qwen3")
    attention.use(model)
    ids = torch.randint(3, 200, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, -1]
        head = model(input_ids=ids[:, :8], use_cache=True)
        tail = model(input_ids=ids[:, 8:], past_key_values=head.past_key_values).logits[:, -1]
    assert torch.allclose(whole, tail, atol=1e-5)


def test_a_saved_model_does_not_know_of_it(tmp_path) -> None:
    model = tiny_model("llama")
    attention.use(model)
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
