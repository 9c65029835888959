"""LoRA against PEFT, the independent truth: same logits, and each reads the other's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from weft.errors import ModelError, UsageError
from weft.models import lora
from weft.models.lora import LoraConfig
from weft.models.shape import Learning, Shape
from weft.testing import tiny_model

KINDS = ["llama", "qwen3", "gpt2", "gemma"]
IDS = torch.randint(0, 256, (2, 14), generator=torch.Generator().manual_seed(1))


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def _trained(kind: Any = "llama", config: LoraConfig | None = None) -> nn.Module:
    """A wrapped model whose adapter is not zero any more."""
    model = tiny_model(kind)
    generator = torch.Generator().manual_seed(5)
    for parameter in lora.wrap(model, config or LoraConfig(r=4), seed=0):
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def _saved(folder: Path, kind: Any = "llama", config: LoraConfig | None = None, name: str = "tiny") -> torch.Tensor:
    """Save a trained adapter; returns the logits with it."""
    config = config or LoraConfig(r=4)
    model = _trained(kind, config)
    lora.save_adapter(model, folder, base_name=name, config=config)
    return _logits(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_computes_the_same_from_our_files(tmp_path: Path, kind: Any, rslora: bool) -> None:
    from peft import PeftModel

    ours = _saved(tmp_path / "a", kind, LoraConfig(r=4, alpha=12.5, rslora=rslora))
    theirs = PeftModel.from_pretrained(tiny_model(kind), str(tmp_path / "a"))
    assert torch.allclose(ours, _logits(theirs), atol=1e-5)
    assert not torch.allclose(ours, _logits(tiny_model(kind)), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_we_compute_the_same_from_pefts_files(tmp_path: Path, kind: Any) -> None:
    import peft

    settings = peft.LoraConfig(r=3, lora_alpha=7, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=True)
    theirs = peft.get_peft_model(tiny_model(kind), settings).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    model = tiny_model(kind)
    config = lora.load_adapter(model, tmp_path)
    assert torch.allclose(_logits(model), _logits(theirs), atol=1e-5)
    assert (config.r, config.alpha, config.rslora) == (3, 7, True)
    assert lora.trainable_count(model) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_means_the_layers_that_peft_means(kind: Any) -> None:
    import peft

    model = tiny_model(kind)
    count = sum(parameter.numel() for parameter in lora.wrap(model, LoraConfig(r=2), 0))
    theirs = peft.get_peft_model(tiny_model(kind), peft.LoraConfig(r=2, target_modules="all-linear"))
    assert lora.trainable_count(model) == count == theirs.get_nb_trainable_parameters()[0]
    wrapped = {name for name, module in theirs.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert set(lora.layers(model)) == wrapped


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_model_answers_as_the_adapted_one(kind: Any) -> None:
    model = _trained(kind)
    adapted = _logits(model)
    lora.fuse(model)
    assert not lora.layers(model)
    assert torch.allclose(_logits(model), adapted, atol=1e-4)
    assert set(model.state_dict()) == set(tiny_model(kind).state_dict())


def test_gradients_are_those_of_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    _saved(tmp_path / "a")
    ours = tiny_model()
    lora.load_adapter(ours, tmp_path / "a", trainable=True)
    theirs = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "a"), is_trainable=True)
    for model in (ours, theirs):
        model(IDS, labels=IDS).loss.backward()
    expected = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for name, layer in lora.layers(ours).items():
        for side in "AB":
            gradient = expected[f"base_model.model.{name}.lora_{side}.default.weight"]
            assert torch.allclose(getattr(layer, f"lora_{side}").grad, gradient, rtol=1e-4, atol=1e-6)
        assert layer.weight.grad is None


def test_a_fresh_adapter_changes_nothing_and_is_the_same_for_the_same_seed() -> None:
    model, again, other = tiny_model(), tiny_model(), tiny_model()
    state = torch.get_rng_state()
    first, second, third = (lora.wrap(m, LoraConfig(r=4), seed) for m, seed in ((model, 1), (again, 1), (other, 2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(_logits(model), _logits(tiny_model()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    bound = 1 / 32**0.5
    assert 0.9 * bound < first[0].abs().max() <= bound  # kaiming-uniform with a = sqrt(5), as PEFT


def test_a_layers_start_does_not_depend_on_which_others_are_wrapped() -> None:
    all_layers, few = tiny_model(), tiny_model()
    lora.wrap(all_layers, LoraConfig(r=4), 9)
    lora.wrap(few, LoraConfig(r=4, targets=("v_proj",)), 9)
    for name, layer in lora.layers(few).items():
        assert torch.equal(layer.lora_A, lora.layers(all_layers)[name].lora_A)


def test_only_the_adapter_learns() -> None:
    model = tiny_model()
    trained = lora.wrap(model, LoraConfig(r=4), 0)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained}
    assert all(parameter.dtype == torch.float32 for parameter in trained)


def test_the_base_answers_while_the_adapter_is_disabled() -> None:
    model = _trained()
    adapted = _logits(model)
    with lora.disabled(model):
        assert torch.equal(_logits(model), _logits(tiny_model()))
    assert torch.equal(_logits(model), adapted)
    lora.unwrap(model)
    assert torch.equal(_logits(model), _logits(tiny_model()))


def test_a_half_precision_base_keeps_its_format() -> None:
    model = tiny_model().to(torch.bfloat16)
    trained = lora.wrap(model, LoraConfig(r=4), 0)
    assert trained[0].dtype == torch.float32
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    assert _logits(model).dtype == torch.bfloat16
    assert trained[1].grad is not None and trained[1].grad.abs().sum() > 0


def test_dropout_acts_only_in_training() -> None:
    model = _trained(config=LoraConfig(r=4, dropout=0.5))
    assert torch.equal(_logits(model), _logits(model))
    model.train()
    assert not torch.equal(_logits(model), _logits(model))


def test_targets_by_name_and_by_pattern() -> None:
    model = tiny_model()
    lora.wrap(model, LoraConfig(r=4, targets="q_proj, model.layers.1.mlp.*"), 0)
    assert set(lora.layers(model)) == {
        *(f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)),
        *(f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")),
    }


def test_short_names_mean_the_projections_of_the_base_and_are_written_in_full(tmp_path: Path) -> None:
    _saved(tmp_path / "a", config=LoraConfig(r=4, targets="q,v"))
    _saved(tmp_path / "b", config=LoraConfig(r=4, targets=("q_proj", "v_proj")))
    for file in (lora.ADAPTER_CONFIG, lora.ADAPTER_WEIGHTS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / lora.ADAPTER_CONFIG).read_text())["target_modules"] == ["q_proj", "v_proj"]
    short, whole = tiny_model(), tiny_model()
    lora.wrap(short, LoraConfig(r=4, targets=("q", "k", "v", "o", "gate", "up", "down")), 0)
    lora.wrap(whole, LoraConfig(r=4), 0)
    assert lora.layers(short).keys() == lora.layers(whole).keys()


def test_what_is_planned_for_short_names_is_what_learns() -> None:
    shape = Shape.of(tiny_model().config)
    plans = (
        Learning.of(shape, LoraConfig(r=4, targets=targets), full=False, precision="float32")
        for targets in (("q", "down"), ("q_proj", "down_proj"))
    )
    assert len(set(plans)) == 1


@pytest.mark.parametrize(
    ("names", "targets", "expected"),
    [
        (("query", "key", "value", "dense"), "q,v", {"query", "value"}),
        (("q_lin", "v_lin", "out_lin"), "q,o", {"q_lin", "out_lin"}),
        (("q_proj", "query", "o_proj", "out_proj"), "q,o", {"q_proj", "o_proj"}),  # the usual spelling goes first
        (("gate", "gate_proj"), "gate", {"gate"}),  # a layer's own name before what it may be short for
    ],
)
def test_a_short_name_follows_how_the_base_spells_it(names: tuple[str, ...], targets: Any, expected: set[str]) -> None:
    model = _with_layers(names)
    lora.wrap(model, LoraConfig(r=2, targets=targets), 0)
    assert {name.rsplit(".", 1)[-1] for name in lora.layers(model)} == expected


@pytest.mark.parametrize(
    ("names", "target", "message"),
    [
        (("q_lin", "query"), "q", r"'q' names no linear layer .* mean 'q_lin', 'query'\? It has: q_lin, query"),
        (("query_key_value", "dense"), "q", r"mean 'query_key_value'\? It has: dense, query_key_value; or"),
        (("c_attn", "c_proj"), "q", r"of this model. It has: c_attn, c_proj; or say 'all-linear'"),
        (("c_attn", "wpe_c"), "c", r"mean 'c_attn', 'wpe_c'\?"),
    ],
)
def test_a_short_name_that_fits_nothing_or_too_much_is_answered_with_real_names(
    names: tuple[str, ...], target: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        lora.wrap(_with_layers(names), LoraConfig(r=2, targets=(target,)), 0)


def _with_layers(names: tuple[str, ...]) -> nn.Module:
    return nn.ModuleDict({"block": nn.ModuleDict({name: nn.Linear(8, 8) for name in names})})


def test_partial_targets_mean_the_same_to_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    ours = _saved(tmp_path / "a", config=LoraConfig(r=4, targets=("q_proj", "model.layers.1.mlp.*")))
    theirs = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "a"))
    assert torch.allclose(ours, _logits(theirs), atol=1e-5)
    assert (
        "model.layers.1.mlp.up_proj" in json.loads((tmp_path / "a/adapter_config.json").read_text())["target_modules"]
    )


def test_the_bytes_depend_on_the_adapter_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _saved(tmp_path / "a", name=str(tmp_path / "bases/x"))
    _saved(tmp_path / "b", name="bases/x")
    for file in (lora.ADAPTER_CONFIG, lora.ADAPTER_WEIGHTS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / lora.ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == "bases/x"
    _saved(tmp_path / "a", name="other")  # an adapter in the way is replaced whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(targets=("q_prj",)), "'q_prj' names no linear layer of this model. Did you mean 'q_proj'"),
        (LoraConfig(targets=()), "the empty list names no linear layer"),
        (LoraConfig(r=17), r"--lora-r is 17, above the size of 4 target layers .*k_proj: 16"),
        (LoraConfig(r=4, targets=("lm_head",)), "names the output head, whose weight is also the input embedding"),
    ],
)
def test_impossible_settings_are_refused(config: LoraConfig, message: str) -> None:
    model = tiny_model()
    with pytest.raises(UsageError, match=message):
        lora.wrap(model, config, 0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_settings_out_of_range_are_refused() -> None:
    for values in ({"r": 0}, {"alpha": 0}, {"dropout": 1.0}, {"rank": 4}):
        with pytest.raises(ValidationError):
            LoraConfig.model_validate(values)


def test_a_second_adapter_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path / "a")
    model = _trained()
    with pytest.raises(UsageError, match="has an adapter already; unwrap or fuse it before wrapping"):
        lora.wrap(model, LoraConfig(r=4), 0)
    with pytest.raises(UsageError, match="has an adapter already; unwrap or fuse it before loading"):
        lora.load_adapter(model, tmp_path / "a")


def test_a_model_without_adapter_has_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter to save"):
        lora.save_adapter(tiny_model(), tmp_path / "a", base_name="x", config=LoraConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}, "`auto_mapping` names code"),
        ({"megatron_core": "evil.module"}, "`megatron_core` names code"),
        ({"megatron_config": {"a": 1}}, "`megatron_config` names code"),
        ({"parent_library": "os"}, "`parent_library` names code"),
        ({"use_dora": True}, "has shapes .*lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save`"),
        ({"bias": "all"}, '`bias` is "all"'),
        ({"init_lora_weights": "pissa"}, '`init_lora_weights` is "pissa"'),
        ({"something_new": 1}, "`something_new` is 1"),
        ({"peft_type": "IA3"}, '`peft_type` is "IA3"'),
        ({"peft_type": None}, "`peft_type` is missing"),
        ({"r": 0}, "rank, alpha or dropout is impossible"),
        ({"r": 5}, "expected .*for this base and r = 5"),
    ],
)
def test_an_adapter_that_is_more_than_plain_lora_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    _saved(tmp_path / "a")
    path = tmp_path / "a" / lora.ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    model = tiny_model()
    with pytest.raises(ModelError, match=message):
        lora.load_adapter(model, tmp_path / "a")
    assert not lora.layers(model)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path / "a")
    with pytest.raises(ModelError, match=r"the base has no layer model\.layers\.0.*belongs to another model"):
        lora.load_adapter(tiny_model("gpt2"), tmp_path / "a")
    with pytest.raises(ModelError, match=r"has shapes .*expected"):
        lora.load_adapter(tiny_model(width=64), tmp_path / "a")


def test_damaged_adapters_are_refused(tmp_path: Path) -> None:
    _saved(tmp_path / "a")
    weights = tmp_path / "a" / lora.ADAPTER_WEIGHTS
    tensors = load_file(weights)

    def refused(message: str) -> None:
        with pytest.raises(ModelError, match=message):
            lora.load_adapter(tiny_model(), tmp_path / "a")

    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] * float("nan")}, weights)
    refused("numbers that are not finite")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}, weights)
    refused(r"lm_head\.weight is not part of a LoRA adapter that weft can apply")
    save_file({key: value for key, value in tensors.items() if key != first}, weights)
    refused("has shapes")
    weights.write_bytes(b"junk")
    refused("not a safetensors file")
    weights.unlink()
    refused("there is no adapter_model.safetensors")
    (tmp_path / "a" / lora.ADAPTER_CONFIG).write_text("[]")
    refused("holds a list, expected an object")
    with pytest.raises(UsageError, match="not an adapter"):
        lora.load_adapter(tiny_model(), tmp_path)
