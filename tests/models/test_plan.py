"""What a step is said to keep, to multiply and to train is what the model keeps, multiplies and trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from weft.forest.build import plant
from weft.forest.logprobs import LOGITS, learned_logprobs
from weft.models import lora, quant
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.models.flop import flop
from weft.models.lora_config import LoraConfig
from weft.models.plan import kept_bytes, step_bytes
from weft.models.precision import frozen_as, numbers
from weft.models.shape import Learning, Shape
from weft.records import Tokens
from weft.train.needs import counted

QV = LoraConfig(r=4, targets=("q_proj", "v_proj"))
ALL = LoraConfig(r=4)
DORA = LoraConfig(r=4, dora=True)


def _decoder(*, tied: bool = True, qk_norm: bool = False, vocabulary: int = 512) -> Decoder:
    config = DecoderConfig(
        architecture="LlamaForCausalLM", vocab_size=vocabulary, hidden_size=64, intermediate_size=176,
        num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5, max_position_embeddings=512,
        tie_word_embeddings=tied, rope=(("rope_theta", 10000.0), ("rope_type", "default")), qkv_bias=False,
        output_bias=False, mlp_bias=False, qk_norm=qk_norm,
    )  # fmt: skip
    model = Decoder(config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw) if parameter.ndim > 1 else 1.0)
    return model.requires_grad_(False)


def _rows(prefix: int, count: int = 6) -> list[Tokens]:
    draw = torch.Generator().manual_seed(1)
    start = tuple(torch.randint(0, 500, (prefix,), generator=draw).tolist())
    rows = []
    for number in range(count):
        own = tuple(torch.randint(0, 500, (40 + 5 * number,), generator=draw).tolist())
        rows.append(Tokens(start + own, (False,) * (prefix + 25) + (True,) * (len(own) - 25)))
    return rows


def _learning(model: Decoder, config: LoraConfig | None, precision: str = "float32", **also: Any) -> Learning:
    shape = Shape.of(model.config)
    return Learning.of(shape, config or ALL, full=config is None, precision=precision, **also)


def _wrapped(model: Decoder, config: LoraConfig | None) -> int:
    if config is None:
        model.requires_grad_(True)
        return sum(parameter.numel() for parameter in model.parameters())
    return sum(parameter.numel() for parameter in lora.wrap(model, config, 0))


@pytest.mark.parametrize("config", [QV, ALL, DORA, None, LoraConfig(r=2, targets=("*.1.*.k_proj", "down_proj"))])
@pytest.mark.parametrize("tied", [True, False])
def test_the_numbers_that_learn_are_counted_from_the_shape(config: LoraConfig | None, tied: bool) -> None:
    model = _decoder(tied=tied)
    said = _learning(model, config)
    assert Shape.of(model.config).parameters == sum(parameter.numel() for parameter in model.parameters())
    assert said.trained(Shape.of(model.config)) == _wrapped(model, config)


@pytest.mark.parametrize("config", [QV, ALL, DORA, None])
@pytest.mark.parametrize(
    ("prefix", "recompute", "logits"), [(0, False, LOGITS), (64, False, LOGITS), (64, True, LOGITS), (64, False, 4000)]
)
def test_arithmetic_is_what_torch_counts(
    monkeypatch: pytest.MonkeyPatch, config: LoraConfig | None, prefix: int, recompute: bool, logits: int
) -> None:
    monkeypatch.setattr("weft.forest.logprobs.LOGITS", logits)
    model, rows = _decoder(), _rows(prefix)
    learning = _learning(model, config, recompute=recompute)
    said = flop(Shape.of(model.config), learning, counted(plant(rows)), logits=logits)
    _wrapped(model, config)
    model.recompute = recompute
    with FlopCounterMode(display=False) as counter:
        learned_logprobs(model, rows).sum().backward()
    assert said == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("config", "qk_norm"), [(QV, False), (ALL, True), (DORA, False), (None, True)])
def test_what_layers_keep_is_what_autograd_saves(config: LoraConfig | None, precision: str, qk_norm: bool) -> None:
    model, rows = _decoder(qk_norm=qk_norm), _rows(64)
    said = kept_bytes(Shape.of(model.config), _learning(model, config, precision), counted(plant(rows)))
    _wrapped(model, config)
    saved = _saved(model, rows, precision)
    assert said == pytest.approx(saved, rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "also"),
    [
        (QV, ""), (ALL, ""), (DORA, ""), (None, ""), (ALL, "recompute"), (None, "recompute"), (ALL, "words"),
        (ALL, "quantized"), (LoraConfig(r=4, dropout=0.1), ""), (ALL, "several"),
    ],
)  # fmt: skip
def test_the_peak_of_a_step_is_what_torch_allocates(config: LoraConfig | None, also: str, precision: str) -> None:
    rows = _rows(64, count=12)
    model = _decoder(vocabulary=2048).train()
    tokens = sorted({id_ for row in rows for id_ in row.ids}) if also == "words" else []
    if also == "quantized":
        pytest.importorskip("bitsandbytes")
        quant.quantize(model)
    parameters = list(model.requires_grad_(True).parameters()) if config is None else []
    parameters = parameters or lora.wrap(model, config or ALL, 0, tokens=tokens)
    model.recompute = also == "recompute"
    several = also == "several"
    learning = _learning(
        model, config, precision, recompute=model.recompute, rows=len(tokens), quantized=also == "quantized",
        counted=sum(parameter.numel() for parameter in parameters),
    )  # fmt: skip

    def step() -> None:
        with numbers(model, precision):
            loss = learned_logprobs(model, rows).sum()
        loss.backward()

    with frozen_as(model, precision):
        step()  # what is made once per process
        before = sum(parameter.numel() * 4 for parameter in parameters) if several else 0
        for parameter in parameters:
            parameter.grad = parameter.grad if several else None
        measured = before + _allocated(step)
    shape = Shape.of(model.config)
    said = step_bytes(shape, learning, counted(plant(rows)), logits=LOGITS, several=several)
    assert said == pytest.approx(measured, rel=0.1)


def test_recomputed_layers_keep_their_inputs_alone() -> None:
    rows = _rows(64)
    model = _decoder()
    _wrapped(model, ALL)
    whole = _saved(model, rows, "float32")
    model.recompute = True
    assert _saved(model, rows, "float32") < whole / 4


@pytest.mark.parametrize("config", [QV, DORA, None])
def test_recomputed_gradients_are_the_same_to_the_bit(config: LoraConfig | None) -> None:
    rows, found = _rows(64), []
    for recompute in (False, True):
        model = _decoder()
        _wrapped(model, config)
        model.recompute = recompute
        learned_logprobs(model, rows).sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    assert found[0] and all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_configuration_without_sizes_is_refused() -> None:
    with pytest.raises(KeyError, match="width"):
        Shape.of({"vocab_size": 10})


def _saved(model: Decoder, rows: list[Tokens], precision: str) -> int:
    """Bytes of distinct memory that a forward pass keeps for its way back, weights and the head's rows left out."""
    own: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        own[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # so that no address is used twice
        return tensor

    held: list[torch.Tensor] = []
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    forest = plant(rows)
    states, width = len(set(forest.sources.tolist())), model.config.hidden_size
    with frozen_as(model, precision):
        with numbers(model, precision), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            given = learned_logprobs(model, rows)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        bytes_ = sum(size for address, size in own.items() if address not in weights)
        given.sum().backward()
    stream = 4 if all(p.requires_grad for p in model.parameters()) else dtype.itemsize
    head = states * width * 3 * stream
    if all(p.requires_grad for p in model.parameters()):  # a head that learns keeps what it said as well
        head += states * model.config.vocab_size * stream
    return bytes_ - head


def _allocated(work: Callable[[], None]) -> int:
    """Most bytes of tensors that lived at once while `work` was done, beyond those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
