"""Small stand-ins that ship with weft, so that users test their own code without weights: tokenizer, models, bases.

`byte_tokenizer` knows 256 bytes and a few control tokens; `tiny_model` has two layers and random weights; `save_base`
writes both as an ordinary model folder; `tiny_base` is the same thing loaded; `EchoEngine` answers without any model.
Nothing here is trained.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weft.generate.requests import Counts, Full, Generation, Limits, Step

if TYPE_CHECKING:
    import torch

    from weft.generate.constrain import Grammars
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


class EchoEngine:
    """A serving engine without a model: it says the prompt's words again, or what it is told to say.

    It takes what `generate.continuous.Engine` takes and answers in the same steps: one token each, in turn between the
    running requests, with limits, cancellation and log-probabilities (each token's is -0.5, of the prompt -0.25).
    Adapters, temperature and constraints change nothing.

    `reply`: the text of every answer, or a function from the request to token ids; without it, the prompt's tokens that
    are no control tokens. `token_seconds`: a pause before each token. `fails_after`: so many tokens, then an error.
    """

    def __init__(
        self,
        base: Base,
        reply: str | Callable[[Generation], Sequence[int]] | None = None,
        *,
        limits: Limits | None = None,
        token_seconds: float = 0.0,
        fails_after: int | None = None,
    ) -> None:
        self.base, self.reply, self.token_seconds, self.fails_after = base, reply, token_seconds, fails_after
        self.limits = limits or Limits()
        self.tickets: list[EchoTicket] = []
        """Every request that was taken, for a test to look at."""
        self._waiting: deque[EchoTicket] = deque()
        self._running: list[EchoTicket] = []
        self._changed = threading.Condition()
        self._closing = False
        self._generated = 0
        self._thread = threading.Thread(target=self._work, name="echo", daemon=True)
        self._thread.start()

    @property
    def asked(self) -> list[Generation]:
        """What was asked, in order."""
        return [ticket.generation for ticket in self.tickets]

    @functools.cached_property
    def grammars(self) -> Grammars:
        """Makes constraints, which change nothing here."""
        from weft.generate.constrain import Grammars

        return Grammars(self.base.chat.tokenizer, self.base.vocabulary, self.base.chat.end_ids)

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer together."""
        return self.base.context

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive() and not self._closing

    def submit(self, generation: Generation, on_step: Callable[[Step], None]) -> EchoTicket:
        """Take a request; `on_step` is called from the engine's thread. Raises Full."""
        with self._changed:
            self._refuse(0)
            ticket = EchoTicket(self._ids(generation), generation, on_step)
            self.tickets.append(ticket)
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def refuse(self, owner: str, ahead: int = 0, own_ahead: int = 0) -> None:
        """Raises Full where a request would find no place now, with `ahead` others on their way."""
        with self._changed:
            self._refuse(max(0, ahead - max(0, self.limits.rows - len(self._running) - len(self._waiting))))

    def _refuse(self, ahead: int) -> None:
        if len(self._waiting) + ahead >= self.limits.waiting:
            raise Full(f"{len(self._waiting) + ahead} requests wait already", retry_after=1.0)

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take nothing new, let answers go on for so long, then end them as cancelled."""
        until = time.monotonic() + drain_seconds
        while (self._running or self._waiting) and time.monotonic() < until:
            time.sleep(0.005)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if "grammars" in vars(self):
            self.grammars.close()

    def counts(self) -> Counts:
        """How it stands."""
        with self._changed:
            waiting = sum(len(ticket.generation.prompt) for ticket in self._waiting)
            return Counts(len(self._running), len(self._waiting), waiting, 0, 0, 0, 0, self._generated, 0, 0)

    def _ids(self, generation: Generation) -> list[int]:
        if callable(self.reply):
            return list(self.reply(generation))
        tokenizer = self.base.chat.tokenizer
        if self.reply is not None:
            return tokenizer(self.reply, add_special_tokens=False, split_special_tokens=True).input_ids
        control = set(tokenizer.added_tokens_decoder)
        return [id_ for id_ in generation.prompt if id_ not in control]

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._running or self._closing):
                    self._changed.wait()
                while self._waiting and len(self._running) < self.limits.rows:
                    self._running.append(self._waiting.popleft())
                running, closing = list(self._running), self._closing
            if closing:
                for ticket in [*running, *self._waiting]:
                    ticket.on_step(Step(finish="cancelled"))
                self._running.clear()
                return
            time.sleep(self.token_seconds)
            over = [ticket for ticket in running if self._step(ticket)]
            with self._changed:
                self._running = [ticket for ticket in self._running if ticket not in over]

    def _step(self, ticket: EchoTicket) -> bool:
        """One token of one answer; whether it is over."""
        draw = ticket.generation.draw
        if ticket.cancelled:
            step = Step(finish="cancelled")
        elif self.fails_after is not None and ticket.told >= self.fails_after:
            step = Step(finish="error", error="planned")
        elif (most := ticket.generation.prompt_logprobs) is not None and not ticket.read:
            ticket.read = True
            ids = ticket.generation.prompt[1:]
            tops = tuple(tuple((id_ + place, -0.25 - place) for place in range(most)) for id_ in ids)
            step = Step(prompt_logprobs=(-0.25,) * len(ids), prompt_top=tops)
        elif ticket.told == len(ticket.ids):
            step = Step(finish="stop")
        else:
            id_, ticket.told = ticket.ids[ticket.told], ticket.told + 1
            self._generated += 1
            told = draw.top_logprobs is not None
            others = range(id_ + 1, id_ + max(draw.top_logprobs or 0, 1))
            top = ((id_, -0.5), *((other, -2.0) for other in others)) if draw.top_logprobs else ()
            finish = "length" if ticket.told >= draw.max_tokens else None
            step = Step((id_,), (-0.5,) if told else (), (top,) if told else (), finish)
        ticket.on_step(step)
        return step.finish is not None


@dataclass(eq=False)
class EchoTicket:
    """One request in an `EchoEngine`."""

    ids: list[int]
    generation: Generation
    on_step: Callable[[Step], None]
    told: int = 0
    read: bool = False
    cancelled: bool = False

    def cancel(self) -> None:
        """End it with its next token."""
        self.cancelled = True


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
