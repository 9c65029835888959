"""The memory that training is said to need is what it takes, and what does not fit is made smaller or refused."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import measured
from weft.errors import ResourceError
from weft.models import lora, memory
from weft.models.decoder import Decoder
from weft.models.decoder_config import DecoderConfig
from weft.models.load import Base, load
from weft.models.lora_config import LoraConfig
from weft.progress import Silent
from weft.records import Tokens
from weft.runs import Run
from weft.testing import save_base, tiny_base
from weft.train import disk, needs
from weft.train.resume import State, save
from weft.train.sft_config import SftConfig
from weft.train.too_big import refuse_too_big


@pytest.mark.parametrize(
    "name", [*measured.SHORT, *(pytest.param(name, marks=pytest.mark.slow) for name in measured.CELLS)]
)
def test_the_peak_of_the_process_is_foreseen(name: str) -> None:
    pytest.importorskip("fcntl")
    if "nf4" in name:
        pytest.importorskip("bitsandbytes")
    told = measured.measured(name)
    assert told["said"] == pytest.approx(told["measured"], rel=0.15)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load(str(save_base(tmp_path_factory.mktemp("base"), "llama")), device="cpu")


class Wishing(SftConfig):
    """With the setting that says whether layers may be computed again."""

    recompute: str = "auto"


@pytest.fixture(scope="module")
def deep() -> Base:
    """A base of eight layers, so that keeping or computing them again makes a difference."""
    config = DecoderConfig(
        architecture="LlamaForCausalLM", vocab_size=256, hidden_size=32, intermediate_size=96, num_hidden_layers=8,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5, max_position_embeddings=512,
        tie_word_embeddings=True, rope=(("rope_theta", 10000.0), ("rope_type", "default")), qkv_bias=False,
        output_bias=False, mlp_bias=False, qk_norm=False,
    )  # fmt: skip
    model, chat = Decoder(config), tiny_base().chat
    count = sum(parameter.numel() for parameter in model.parameters())
    return Base("deep", Path(), model, chat, 512, count, "", torch.device("cpu"), stored="F32")


def _rows(count: int = 20, length: int = 60) -> list[Tokens]:
    draw = torch.Generator().manual_seed(0)
    return [
        Tokens(
            tuple(torch.randint(0, 250, (length + n,), generator=draw).tolist()),
            (False,) * 30 + (True,) * (length + n - 30),
        )
        for n in range(count)
    ]  # fmt: skip


def _config(**values: Any) -> SftConfig:
    ready = {"learning_rate": 1e-3, "epochs": 1, "max_tokens": 256, "precision": "float32", "lora": {"r": 4}}
    return SftConfig.model_validate({**ready, **values})


def _free(monkeypatch: pytest.MonkeyPatch, bytes_: float) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda root: int(bytes_))


def test_where_all_fits_nothing_is_made_smaller(base: Base) -> None:
    plan = needs.plan(base, [[row] for row in _rows()], _config())
    assert (plan.micro_tokens, plan.recompute, plan.why) == (8192, False, "all of it fits")
    assert plan.longest == 79 and plan.flop_per_step > 0 and plan.peak_bytes > plan.needed_bytes > 0
    assert not lora.layers(base.model)


def test_less_memory_makes_smaller_passes_then_recomputes_then_refuses(
    deep: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.models.plan.PRODUCTS", 0)
    examples, found = [[row] for row in _rows(length=150)], []
    free = 1.1 * needs.plan(deep, examples, _config()).needed_bytes
    while not found or found[-1][0]:
        _free(monkeypatch, free)
        try:
            plan = needs.plan(deep, examples, _config())
        except ResourceError as error:
            found.append((0, True))
            assert "even one example at a time" in str(error) and "Lower --max-tokens or --lora-r" in str(error)
        else:
            assert plan.needed_bytes <= free
            found.append((plan.micro_tokens, plan.recompute))
        free *= 0.8
    kept = [size for size, again in found if not again]
    assert kept[0] == 8192 and kept == sorted(kept, reverse=True) and len(set(kept)) > 3
    again = [size for size, again in found[len(kept) :] if again and size]
    assert again, "between the smallest pass and the refusal layers are computed again"


def test_what_was_wished_is_done(deep: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [[row] for row in _rows(length=150)]
    ready = _config().model_dump()
    always = needs.plan(deep, examples, Wishing.model_validate({**ready, "recompute": "always"}))
    whole = needs.plan(deep, examples, _config())
    assert always.recompute and always.why == "--recompute always"
    assert always.needed_bytes < whole.needed_bytes and always.flop_per_step > whole.flop_per_step
    _free(monkeypatch, 1000)
    with pytest.raises(ResourceError, match="leave out --recompute never"):
        needs.plan(deep, examples, Wishing.model_validate({**ready, "recompute": "never"}))


def test_a_plan_is_kept_by_its_run_whatever_memory_there_is_later(base: Base, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"run": {}})
    plan = replace(needs.plan(base, [[row] for row in _rows()], _config()), micro_tokens=512)
    assert needs.keep(run, plan, Silent()) == plan
    assert needs.keep(run, replace(plan, micro_tokens=8192), Silent()) == plan
    assert "512 tokens at once" in plan.in_words() and "GFLOP a step" in plan.in_words()


def test_a_base_in_4_bits_is_said_to_take_what_its_packed_weights_take(base: Base) -> None:
    examples = [[row] for row in _rows()]
    whole, packed = (needs.plan(one, examples, _config()) for one in (base, replace(base, quantize="nf4")))
    inner = sum(module.weight.numel() for name, module in base.model.named_modules() if name.endswith("_proj"))
    freed = whole.peak_bytes - whole.needed_bytes - (packed.peak_bytes - packed.needed_bytes)
    assert freed == pytest.approx(inner * (4 - 4.13 / 8), rel=1e-3)


def test_rows_of_the_vocabulary_that_learn_are_foreseen(base: Base) -> None:
    examples = [[row] for row in _rows()]
    alone, beside = (needs.plan(base, examples, _config(), tokens) for tokens in ((), tuple(range(100))))
    width = base.model.get_input_embeddings().weight.shape[1]
    assert beside.needed_bytes - alone.needed_bytes > 5 * 100 * width * 4  # the rows, and a table with them


def test_a_model_of_transformers_has_a_plan_too() -> None:
    base = tiny_base("gpt2")
    config = _config(lora={"r": 4, "targets": ["c_attn"]})
    assert needs.require_memory(base, _rows(), 16, config).needed_bytes > 0


def test_processes_that_share_a_model_need_less_each(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {full: needs.require_memory(base, _rows(), 16, _config(full=full)).needed_bytes for full in (True, False)}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    shared = {full: needs.require_memory(base, _rows(), 16, _config(full=full)).needed_bytes for full in (True, False)}
    moved = 4 * 4 * base.parameters  # first, best and two moments, float32
    assert alone[True] - shared[True] > 0.3 * moved
    assert alone[False] == shared[False]


def test_too_little_memory_is_said_before_training(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, 1000)
    with pytest.raises(ResourceError, match=r"training [\d,]+ parameters .* needs about .* Lower --max-tokens"):
        needs.require_memory(base, _rows(), 16, _config())


def test_the_disk_is_foreseen(base: Base, tmp_path: Path) -> None:
    config = LoraConfig(r=16)
    parameters = lora.wrap(base.model, config, 0)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    run = Run.create(tmp_path / "run", {"run": {}})
    for step in (1, 2):
        save(run, State(step=step), parameters, parameters, optimizer)
    lora.save_adapter(base.model, run.path("adapter"), base_name="b", config=config)
    trained = sum(parameter.numel() for parameter in parameters)
    lora.unwrap(base.model)
    there = sum(file.stat().st_size for name in ("checkpoints", "adapter") for file in run.path(name).rglob("*.*"))
    assert disk.forecast(trained, 4 * trained) - disk.checkpoint_bytes(trained) == pytest.approx(there, rel=0.2)


def test_a_full_disk_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"take about .* MB of disk, .* are free"):
        disk.require(tmp_path / "not" / "yet", 10**18)


def test_ten_jobs_that_are_too_big_are_refused_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _free(monkeypatch, 10e9)
    jobs = [(layers, width, full) for layers in (24, 32, 48, 64, 80) for width, full in ((2048, True), (8192, False))]
    for number, (layers, width, full) in enumerate(jobs):
        folder = _big_base(tmp_path / str(number), layers, width)
        started = time.monotonic()
        with pytest.raises(ResourceError, match=r"needs at least [\d.,]+ GB of memory; 10.00 GB are free"):
            refuse_too_big("big", folder, _config(full=full), tmp_path)
        assert time.monotonic() - started < 2
    packed = _big_base(tmp_path / "packed", 10, 2048)
    with pytest.raises(ResourceError, match="needs at least"):
        _free(monkeypatch, 2.5e9)
        refuse_too_big("big", packed, _config(), tmp_path)
    refuse_too_big("big", packed, _config(), tmp_path, "nf4")
    small = _big_base(tmp_path / "small", 2, 256)
    refuse_too_big("small", small, _config(), tmp_path)
    with pytest.raises(ResourceError, match="MB of disk"):
        monkeypatch.setattr(disk, "WHOLE", 10**12)
        refuse_too_big("small", small, _config(), tmp_path)


@pytest.mark.parametrize(
    "verb", [("run",), ("train",), ("train", "--method", "dpo"), ("train", "--method", "pretrain")], ids=" ".join
)
def test_a_job_that_is_too_big_is_refused_by_the_command_before_any_library_is_imported(
    tmp_path: Path, verb: tuple[str, ...]
) -> None:
    folder = _big_base(tmp_path / "big", 80, 8192)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b", "text": "c"}\n')
    command = [sys.executable, "-m", "weft", *verb, "a.jsonl", "--base", str(folder), "--full"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"weft: training .*/big \(85,899,345,920 parameters\), all .* are free\. .*\n", done.stderr)
    assert not (tmp_path / "runs").exists()
    # Of the processor: a clock would count other people's work, and importing torch takes more than that.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def _big_base(folder: Path, layers: int, width: int) -> Path:
    """A base whose file is as long as its header says, and empty: nothing is stored."""
    folder.mkdir()
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "architectures": ["LlamaForCausalLM"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    elements = layers * 16 * width * width
    header = json.dumps({"w": {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * elements)
    return folder
