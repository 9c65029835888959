"""Log-probabilities of a prompt's own tokens: those of a plain forward pass, however the prompt is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.generate.conftest import KINDS, Heard, Served, alone, ask, prompts
from weft.errors import UsageError
from weft.generate.continuous import Engine
from weft.generate.prefixes import BLOCK
from weft.generate.requests import Draw, Generation
from weft.models import lora
from weft.models.load import Base, load
from weft.testing import save_base


def score(engine: Engine, prompt: Sequence[int], adapter: str | None = None, top: int = 0, most: int = 2) -> Heard:
    """Submit a request whose prompt is to be scored."""
    heard = Heard()
    draw = Draw(most, temperature=0.0)
    engine.submit(Generation(tuple(prompt), draw, adapter, prompt_logprobs=top), heard)
    return heard


def told(heard: Heard) -> list[float]:
    return [logprob for step in heard.wait().steps for logprob in step.prompt_logprobs]


def plain(base: Base, prompt: Sequence[int], adapter: Path | None = None) -> torch.Tensor:
    """(n - 1, V): log-probabilities of every token at each place but the first, by one forward pass."""
    if adapter is not None:
        lora.load_adapter(base.model, adapter)
    with torch.no_grad():
        found = base.model(input_ids=torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
    if adapter is not None:
        lora.unwrap(base.model)
    return found


def own(logprobs: torch.Tensor, prompt: Sequence[int]) -> list[float]:
    return [float(row[token]) for row, token in zip(logprobs, prompt[1:], strict=True)]


@pytest.mark.parametrize("limits", [{}, {"chunk": 7}, {"rows": 2, "cache_bytes": 0}], ids=str)
def test_they_are_those_of_a_plain_forward_pass_with_every_adapter(
    served: Served, base: Base, adapters: Path, limits: dict[str, int]
) -> None:
    engine = served.engine(**limits)
    names: list[str | None] = [*KINDS, None]
    asked = [(names[number % 6], prompt) for number, prompt in enumerate(prompts(6) + prompts(6, shared=50))]
    company = [ask(engine, prompt, 8, name) for name, prompt in asked[:4]]
    heard = [score(engine, prompt, name) for name, prompt in asked]
    for (name, prompt), one in zip(asked, heard, strict=True):
        folder = adapters / name if name else None
        assert told(one) == pytest.approx(own(plain(base, prompt, folder), prompt), abs=2e-4)
        assert one.ids == alone(base, prompt, 2, folder)[0]
    for (name, prompt), one in zip(asked, company, strict=False):
        assert one.wait().ids == alone(base, prompt, 8, adapters / name if name else None)[0]


def test_the_most_probable_tokens_stand_beside_each(served: Served, base: Base) -> None:
    (prompt,) = prompts(1, shared=20)
    heard = score(served.engine(chunk=8), prompt, top=3).wait()
    tops = [top for step in heard.steps for top in step.prompt_top]
    values, places = plain(base, prompt).topk(3)
    assert [[token for token, _ in top] for top in tops] == places.tolist()
    for top, row in zip(tops, values.tolist(), strict=True):
        assert [logprob for _, logprob in top] == pytest.approx(row, abs=2e-4)


def test_a_prompt_that_is_known_is_read_again_to_be_scored(served: Served, base: Base) -> None:
    engine, (prompt,) = served.engine(), prompts(1, shared=3 * BLOCK)
    ask(engine, prompt).wait()
    assert ask(engine, prompt).wait().cached >= 3 * BLOCK
    heard = score(engine, prompt)
    assert told(heard) == pytest.approx(own(plain(base, prompt), prompt), abs=2e-4)
    assert heard.cached == 0


def test_a_prompt_of_one_token_has_none(served: Served) -> None:
    heard = score(served.engine(), [65], most=1).wait()
    assert told(heard) == []
    assert len(heard.ids) == 1


def test_other_decoders_score_prompts_too(served: Served, tmp_path: Path) -> None:
    other = load(str(save_base(tmp_path / "gpt2", "gpt2")))
    asked = prompts(3)
    expected = [own(plain(other, prompt), prompt) for prompt in asked]
    engine = served.engine(other, chunk=16)
    heard = [score(engine, prompt) for prompt in asked]
    for one, logprobs in zip(heard, expected, strict=True):
        assert told(one) == pytest.approx(logprobs, abs=2e-4)


def test_more_than_twenty_beside_each_are_refused(served: Served) -> None:
    with pytest.raises(UsageError, match="prompt_logprobs is 21, expected 0 to 20"):
        score(served.engine(), [65], top=21)
