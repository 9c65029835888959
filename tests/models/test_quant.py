"""A base in 4 bits: bitsandbytes' numbers, PEFT's gradients, an adapter that fits the full-precision base."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weft.errors import MissingExtra, UsageError
from weft.forest.logprobs import learned_logprobs
from weft.models import load as loading
from weft.models import lora, quant
from weft.models.decoder import Decoder
from weft.models.load import Base
from weft.models.lora import LoraConfig
from weft.models.quant import FourBitLinear, is_quantized, quantize, refuse_full
from weft.progress import Silent
from weft.records import Conversation, Message, Tokens
from weft.runs import Run
from weft.testing import save_base, tiny_model
from weft.train import sft
from weft.train.sft_config import SftConfig

needs_library = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs weft[quant]")

ROWS = [Tokens((7, 8, 9, *range(10, 10 + n)), (False,) * 3 + (True,) * n) for n in (3, 9, 1, 5)]
PLAIN, DORA = LoraConfig(r=3, alpha=5.0), LoraConfig(r=3, alpha=5.0, dora=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As wide as a block: bitsandbytes' own layers are wrong below that on some CPUs."""
    folder = save_base(tmp_path_factory.mktemp("base"), "llama")
    tiny_model("llama", width=64).save_pretrained(folder)
    return folder


def _four_bit(folder: Path, **told: Any) -> Base:
    return loading.load(str(folder), quantize="nf4", **told)


def _moved(model: nn.Module, config: LoraConfig) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name, away from their start."""
    generator = torch.Generator().manual_seed(5)
    for parameter in lora.wrap(model, config, seed=0):
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _peft_over_bitsandbytes(kind: Any, adapter: Path) -> nn.Module:
    """The same random base with the library's own 4-bit layers, and our adapter read by PEFT."""
    from bitsandbytes.nn import Linear4bit
    from peft import PeftModel

    model = tiny_model(kind, width=64)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            own = Linear4bit(module.in_features, module.out_features, bias=module.bias is not None, quant_type="nf4")
            own.load_state_dict(module.state_dict())
            model.set_submodule(name, own.to("cpu"))  # which is when it quantises
    model.is_loaded_in_4bit = True
    return PeftModel.from_pretrained(model, str(adapter), is_trainable=True)


@needs_library
@pytest.mark.parametrize("config", [PLAIN, DORA], ids=["lora", "dora"])
def test_logits_and_gradients_are_those_of_peft_over_bitsandbytes(
    folder: Path, tmp_path: Path, config: LoraConfig
) -> None:
    ours = _four_bit(folder).model
    mine = _moved(ours, config)
    lora.save_adapter(ours, tmp_path / "a", base_name="tiny", config=config)
    theirs = _peft_over_bitsandbytes("llama", tmp_path / "a")
    ids = torch.arange(20)[None]
    found, expected = (model(input_ids=ids).logits for model in (ours, theirs))
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    for logits in (found, expected):
        logits.log_softmax(-1)[..., 7].sum().backward()
    named = {name.removeprefix("base_model.model."): p for name, p in theirs.named_parameters() if p.requires_grad}
    assert len(named) == len(mine)
    for name, parameter in named.items():
        own = mine[name.replace(".default.weight", "").replace(".default", "")].grad
        assert own is not None and parameter.grad is not None
        assert (own - parameter.grad).norm() <= 1e-5 * (1 + parameter.grad.norm()), name


@needs_library
@pytest.mark.parametrize("kind", ["qwen3", "gpt2", "gemma"])
def test_models_of_transformers_are_kept_in_4_bits_too(kind: Any) -> None:
    model, whole = tiny_model(kind), tiny_model(kind)
    assert quantize(model) == sum(isinstance(module, FourBitLinear) for module in model.modules()) > 0
    for name, module in model.named_modules():
        if isinstance(module, FourBitLinear):
            before = whole.get_submodule(name).weight
            assert module.weight.shape == before.shape  # also where it is stored transposed
            assert (module.weight - before).norm() < 0.12 * before.norm()
    trained = _moved(model, PLAIN)
    learned_logprobs(model, ROWS).sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in trained.values())


@needs_library
def test_the_weight_that_multiplies_is_the_weight_that_is_shown() -> None:
    base = nn.Linear(48, 16)
    layer = FourBitLinear(base)
    x = torch.randn(3, 48, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(layer(x), nn.functional.linear(x, layer.weight, base.bias), atol=1e-5)
    assert x.grad is not None and torch.allclose(x.grad, layer.weight.sum(0).expand(3, -1), atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@needs_library
@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (33, 100), (65, 64)])
def test_a_weight_of_any_shape_comes_back(shape: tuple[int, int]) -> None:
    base = nn.Linear(shape[1], shape[0])
    nn.init.normal_(base.weight, generator=torch.Generator().manual_seed(0))
    assert (FourBitLinear(base).weight - base.weight).norm() < 0.12 * base.weight.norm()


@needs_library
def test_a_weight_takes_less_than_a_seventh_of_float32() -> None:
    layer = FourBitLinear(nn.Linear(1024, 1024, bias=False))
    assert 8 * layer.held_bytes / 1024**2 == pytest.approx(4.13, abs=0.02)  # bits a weight
    assert not list(layer.parameters())


@needs_library
def test_embeddings_norms_and_the_head_stay_as_they_are(folder: Path) -> None:
    base, whole = _four_bit(folder), loading.load(str(folder))
    assert isinstance(base.model, Decoder) and is_quantized(base.model) and base.quantize == "nf4"
    assert base.parameters == whole.parameters and base.fingerprint == whole.fingerprint
    kept = dict(base.model.named_parameters())
    assert {name.split(".")[-2] for name in kept} == {
        "embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"
    }  # fmt: skip
    assert all(torch.equal(parameter, whole.model.get_parameter(name)) for name, parameter in kept.items())


@needs_library
def test_training_beside_4_bits_learns_and_its_adapter_fits_the_full_base(folder: Path, tmp_path: Path) -> None:
    examples = [
        Conversation((Message("user", f"say {n % 4}"), Message("assistant", "abcd"[n % 4] * 3)), n) for n in range(12)
    ]
    config = SftConfig(
        epochs=6, learning_rate=2e-2, precision="float32", max_tokens=64, validate_every=9, batch_size=4, lora=PLAIN
    )
    run, base = Run.create(tmp_path / "run", {"run": {}}), _four_bit(folder)
    trained = sft.train(run, base, examples, examples[:3], config, Silent())
    first, last = trained.curve["train"][0][1], trained.curve["train"][-1][1]
    assert math.isfinite(last) and last < 0.7 * first
    rows = [base.chat.example(example.messages) for example in examples[:4]]
    whole = loading.load(str(folder))
    with torch.no_grad():
        before = learned_logprobs(whole.model, rows).mean()
        lora.load_adapter(whole.model, run.path("adapter"))
        after = learned_logprobs(whole.model, rows).mean()
        lora.fuse(whole.model)
        assert torch.allclose(learned_logprobs(whole.model, rows).mean(), after, atol=1e-3)
    assert after > before + 0.5
    again = _four_bit(folder)
    lora.load_adapter(again.model, run.path("adapter"))
    with torch.no_grad():
        assert torch.equal(learned_logprobs(again.model, rows), learned_logprobs(base.model, rows))


@needs_library
def test_training_in_bfloat16_learns_beside_4_bits(folder: Path) -> None:
    from weft.models.precision import frozen_as, numbers

    model = _four_bit(folder).model
    trained = _moved(model, PLAIN)
    exact = torch.autograd.grad(learned_logprobs(model, ROWS).sum(), list(trained.values()))
    with frozen_as(model, "bfloat16"), numbers(model, "bfloat16"):
        rough = torch.autograd.grad(learned_logprobs(model, ROWS).sum(), list(trained.values()))
    whole = torch.cat([gradient.flatten() for gradient in exact])
    assert (torch.cat([gradient.flatten() for gradient in rough]) - whole).norm() < 0.1 * whole.norm()


@needs_library
def test_an_adapter_is_not_merged_into_4_bits(folder: Path) -> None:
    model = _four_bit(folder).model
    _moved(model, PLAIN)
    with pytest.raises(UsageError, match=r"beside weights in 4 bits.*full precision"):
        lora.fuse(model)
    layer = next(iter(lora.layers(model).values()))
    with pytest.raises(UsageError, match="rounded to 16 levels again"):
        layer.fuse()
    lora.unwrap(model)
    assert is_quantized(model)


@needs_library
def test_all_of_a_base_in_4_bits_cannot_be_trained(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--full.*4 bits cannot learn"):
        refuse_full(_four_bit(folder).model)
    refuse_full(loading.load(str(folder)).model)


@needs_library
def test_a_model_without_inner_linear_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="a ReLU has no inner linear layer"):
        quantize(nn.ReLU())


def test_without_the_library_the_install_command_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quant, "_LIBRARY", "a_library_that_is_not_here")
    with pytest.raises(MissingExtra, match=r"needs: pip install 'weft\[quant\]'") as raised:
        _four_bit(folder)
    assert raised.value.exit_code == 2


@needs_library
def test_importing_the_library_fetches_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package `kernels` is installed, bitsandbytes would download with it as it is imported."""
    seen: list[Any] = []
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)

    def imported(name: str) -> None:
        seen.append(sys.modules.get("kernels", "can be imported"))
        sys.modules[name] = quant  # type: ignore[assignment]

    monkeypatch.setattr(quant.importlib, "import_module", imported)
    quant._library()
    assert seen == [None] and "kernels" not in sys.modules
