"""Bases by name: what loads loads whole, what is not data alone is refused before any library sees it."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from weft.errors import ModelError, ResourceError, UsageError
from weft.models import memory
from weft.models.facts import causal_models, inspect, read_header
from weft.models.load import load, load_chat, load_tokenizer, locate
from weft.records import Message
from weft.testing import save_base, tiny_base

KINDS = ["llama", "qwen3", "gpt2", "gemma"]
SAMPLE = "Hello  world,\nit's 42 °C — naïve <|im_end|> </s> done"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base")


@pytest.mark.parametrize("kind", KINDS)
def test_small_models_of_every_family_load_with_the_same_logits(tmp_path: Path, kind: Any) -> None:
    folder = save_base(tmp_path / kind, kind)
    base = load(str(folder))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(base.model(ids).logits, reference(ids).logits, atol=1e-5)
    assert base.context == 256
    assert base.parameters == sum(parameter.numel() for parameter in reference.parameters())
    assert not base.model.training
    assert base.chat.end_ids == {256, 258}  # generation_config's and the template's


def test_tinystories_continues_as_its_author_printed(shared: Path) -> None:
    folder = shared / "data/models/tinystories-260k"
    base = load(str(folder / "hf"))
    assert (base.parameters, base.context) == (260_032, 512)
    assert base.chat.end_ids == {1, 2}
    ids = torch.tensor([[1]])
    with torch.no_grad():
        for _ in range(24):
            ids = torch.cat([ids, base.model(ids).logits[:, -1:].argmax(-1)], 1)
    text = base.chat.tokenizer.decode(ids[0, 1:])
    assert (folder / "expected_greedy.txt").read_text().startswith(text)
    question = (Message("user", "Hi"), Message("assistant", "Once upon a time"))
    assert base.chat.decode(base.chat.example(question).ids[-6:]).endswith("a time")


def test_the_short_way_to_a_tokenizer_gives_the_same_ids(shared: Path, folder: Path) -> None:
    for place in (shared / "data/models/tinystories-260k/hf", folder):
        short, long = load_tokenizer(place), AutoTokenizer.from_pretrained(place)
        assert short(SAMPLE).input_ids == long(SAMPLE).input_ids
        assert short.chat_template == long.chat_template
        assert short.special_tokens_map == long.special_tokens_map


def test_the_fingerprint_changes_with_any_file_that_is_read(folder: Path) -> None:
    first = inspect(folder).fingerprint()
    (folder / "README.md").write_text("not read")
    assert inspect(folder).fingerprint() == first
    generation = folder / "generation_config.json"
    generation.write_text(generation.read_text() + " ")
    assert inspect(folder).fingerprint() != first


def test_a_base_can_be_loaded_in_another_number_format(folder: Path) -> None:
    assert next(load(str(folder), dtype="bfloat16").model.parameters()).dtype == torch.bfloat16


def test_sharded_weights_are_read_from_their_index(folder: Path) -> None:
    whole = inspect(folder)
    _shard(folder)
    parts = inspect(folder)
    assert parts.parameters == whole.parameters
    assert [path.name for path in parts.files if "safetensors" in path.name] == [
        "a.safetensors", "b.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    assert load(str(folder)).parameters == whole.parameters


def _shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_every_model_type_of_transformers_is_known() -> None:
    assert causal_models()["qwen3"] == "Qwen3ForCausalLM"
    assert {"llama", "gpt2", "gemma", "gemma3_text", "mistral", "phi3"} <= set(causal_models())


def _config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auto_map": {"AutoModel": "evil.py"}}, "config.json has `auto_map`, which loads code"),
        ({"trust_remote_code": True}, "`trust_remote_code`"),
        ({"model_type": "bert_of_mine"}, "`model_type` is 'bert_of_mine', which transformers does not know"),
        ({"model_type": None}, "names no `model_type`"),
        ({"architectures": ["LlamaModel"]}, "weights are of a LlamaModel, expected LlamaForCausalLM"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantised"),
    ],
)
def test_a_config_that_names_code_or_another_kind_of_model_is_refused(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    _config(folder, **values)
    with pytest.raises(ModelError, match=message):
        load(str(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "evil.pkl", "model.pt"])
def test_pickles_are_refused_even_beside_good_weights(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=f"holds pickles, which can run code when opened .{name}."):
        load(str(folder))


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "auto_map": {"x": "y"}}')
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError) as caught:
        inspect(tmp_path)
    for problem in ("`auto_map`", "pickles", "no weights (model.safetensors)", "no tokenizer"):
        assert problem in str(caught.value)


def test_an_empty_folder_is_not_a_base(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no config\.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": ' * 5000])
def test_a_damaged_config_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load(str(folder))


def test_a_truncated_weight_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short or damaged at tensor"):
        load(str(folder))


def _header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + bytes(4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "header would be 1,152,921,504,606,846,976 bytes"),
        (struct.pack("<Q", 4) + b"abcd", "damaged safetensors header"),
        (struct.pack("<Q", 2) + b"[]", "damaged safetensors header"),
        (_header('{"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}'), "tensor a is stored as F3"),
        (_header('{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'), "cut short or damaged at tensor a"),
        (_header('{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}'), "damaged safetensors header"),
    ],
)
def test_a_header_beyond_the_rules_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_header(path)


def test_missing_weights_are_never_invented(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, for example model\.layers\.1\.mlp\.up_proj\.weight"):
        load(str(folder))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    _config(folder, intermediate_size=80)
    with pytest.raises(ModelError, match="weights have another shape"):
        load(str(folder))


def test_an_index_may_name_only_files_beside_it(folder: Path) -> None:
    _shard(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/model.safetensors"}}))
    with pytest.raises(ModelError, match="names no usable weight files"):
        load(str(folder))
    index.write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    with pytest.raises(ModelError, match=r"weight files are missing: gone\.safetensors"):
        load(str(folder))


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"word{n}" for n in range(10)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="tokenizer knows 269 tokens, the model only 264"):
        load(str(folder))


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        load(str(folder))


def test_an_unknown_base_is_answered_with_what_is_near(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"'weft-nan' .*offline\. Did you mean 'weft-nano'\? A base is 'weft-nano'"):
        load("weft-nan")
    with pytest.raises(UsageError, match=r"there is no such folder\. Did you mean .*/base'"):
        load(str(tmp_path / "bas"))
    with pytest.raises(UsageError, match="is a file; name the folder"):
        load(str(folder / "config.json"))
    with pytest.raises(UsageError, match="neither a folder nor in the hub cache"):
        load("nobody/nothing")


def test_a_hub_model_is_taken_from_the_cache_without_network(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub/models--someone--tiny"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert locate("someone/tiny") == cached / "snapshots" / commit
    assert load("someone/tiny").revision == commit


def test_an_impossible_device_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="device 'tpu' is unknown"):
        load(str(folder), device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"sees no CUDA device here\. Choose cpu, or auto\."):
            load(str(folder), device="cuda")


def test_too_little_memory_is_said_before_anything_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda root=None: 10_000_000)
    with pytest.raises(ResourceError, match=r"loading .*27,040 parameters as float32.* needs about 0\.07 GB.*0\.01 GB"):
        load(str(folder))


def test_a_device_without_room_is_said_in_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(
        ResourceError, match=r"cpu has no room for .* parameters as float32\).*choose a smaller base"
    ) as e:
        load(str(folder))
    assert "CUDA_VISIBLE_DEVICES= before the command" in str(e.value)  # most verbs have no --device


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_can_be_counted_with_without_its_weights(tmp_path: Path, kind: Any, monkeypatch: Any) -> None:
    folder = save_base(tmp_path / kind, kind)
    base = load(str(folder))
    monkeypatch.delattr("weft.models.load._model")
    chat, context = load_chat(str(folder))
    messages = (Message("user", SAMPLE), Message("assistant", "yes"))
    assert chat.example(messages) == base.chat.example(messages)
    assert (chat.end_ids, context) == (base.chat.end_ids, base.context)


def test_a_context_that_the_folder_does_not_state_is_that_of_its_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_chat(str(folder))[1] == load(str(folder)).context == 2048


def test_the_container_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert (memory.available_bytes(tmp_path), memory.most_bytes(tmp_path)) == (8000 * 1024, 9000 * 1024)
    (tmp_path / "proc/self/cgroup").write_text("0::/box/inner\n")
    inner = tmp_path / "sys/fs/cgroup/box/inner"
    inner.mkdir(parents=True)
    for group, limit in ((inner, "max"), (inner.parent, "5000000")):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("3000000\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert (memory.available_bytes(tmp_path), memory.most_bytes(tmp_path)) == (2_500_000, 5_000_000)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/box\n0::/\n")
    old = tmp_path / "sys/fs/cgroup/memory/box"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("4000000\n")
    (old / "memory.usage_in_bytes").write_text("3900000\n")
    assert (memory.available_bytes(tmp_path), memory.most_bytes(tmp_path)) == (100_000, 4_000_000)
    nowhere = tmp_path / "nowhere"
    assert memory.available_bytes(nowhere) is None and memory.most_bytes(nowhere) is None


def test_on_a_gpu_its_own_memory_counts_with_what_torch_keeps_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, told in {"mem_get_info": (5_000, 10_000), "memory_reserved": 3_000, "memory_allocated": 1_000}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, told=told: told)
    assert memory.free_bytes(torch.device("cuda:0")) == 7_000
    monkeypatch.setattr(memory, "available_bytes", lambda root: 42)
    assert memory.free_bytes(torch.device("cpu")) == 42


def test_the_shipped_fake_is_the_saved_one(tmp_path: Path) -> None:
    loaded, made = load(str(save_base(tmp_path / "x", seed=3))), tiny_base(seed=3)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, made.model(ids).logits, atol=1e-5)
    assert (made.parameters, made.context) == (loaded.parameters, loaded.context)
