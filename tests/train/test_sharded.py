"""Training by several processes: what one process learns, failures in words, nothing left waiting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train.torchrun import in_processes
from weft.errors import ResourceError, UsageError
from weft.models import lora
from weft.models.load import Base, load
from weft.progress import Silent
from weft.records import Conversation, Message, Preference
from weft.runs import Run
from weft.testing import save_base, tiny_base
from weft.train import dpo, needs, pieces, processes, sft, sharded, steps
from weft.train.dpo_config import DpoConfig
from weft.train.learner import Learner
from weft.train.likelihood import Told
from weft.train.sft_config import SftConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

EXAMPLES = [
    Conversation((Message("user", f"say {n % 4}" + "!" * (5 * n)), Message("assistant", "abcd"[n % 4] * (1 + n))), n)
    for n in range(11)  # batches of five: the last is one row, which leaves one process without any
]

FULL = {"full": True, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_base(tmp_path_factory.mktemp("base"), "llama")
    save_base(made / "gemma", "gemma")
    return made


def _config(**values: Any) -> SftConfig:
    ready = {"learning_rate": 1e-2, "epochs": 2, "max_tokens": 256, "validate_every": 3, "batch_size": 5}
    return SftConfig.model_validate({**ready, "precision": "float32", "lora": {"r": 4}, **values})


def _train(base: Base, run: Run, progress: Any = None, **values: Any) -> list[float]:
    """Losses of the steps and looks."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(needs, "MICRO_TOKENS", 150)  # so that processes have different numbers of forward passes
        trained = sft.train(run, base, EXAMPLES, EXAMPLES[:3], _config(**values), progress or Silent())
    return [loss for kind in ("train", "validation") for _, loss in trained.curve[kind]]


def _published(run: Path) -> Path:
    model = run / "model/model.safetensors"
    return model if model.exists() else run / "adapter/adapter_model.safetensors"


def _base(kind: str, folder: Path) -> Base:
    return load(str(folder / "gemma" if kind == "gemma" else folder), quantize="nf4" if kind == "in 4 bits" else "none")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("compact", {}),
        ("compact", FULL),
        ("gemma", {}),
        ("gemma", FULL),
        pytest.param("in 4 bits", {}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_does(tmp_path: Path, folder: Path, kind: str, values: dict[str, Any]) -> None:
    def learn(_: int) -> list[float]:
        run = sharded.shared_run(lambda: Run.create(tmp_path / "two", {"run": {}}))
        return _train(_base(kind, folder), run, **values)

    first, second = in_processes(learn)
    alone = _train(_base(kind, folder), Run.create(tmp_path / "one", {"run": {}}), **values)
    assert first == second == pytest.approx(alone, abs=1e-5)
    one, two = load_file(_published(tmp_path / "one")), load_file(_published(tmp_path / "two"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(two[name], tensor, atol=1e-4) for name, tensor in one.items())
    assert [line["step"] for line in Run.open(tmp_path / "two").metrics() if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_frozen_weights_are_spread_and_the_adapter_is_whole_in_each(tmp_path: Path, folder: Path) -> None:
    def look(_: int) -> list[int]:
        processes.join()
        base = load(str(folder))
        before = sum(parameter.numel() for parameter in base.model.parameters())
        trained = sum(parameter.numel() for parameter in lora.wrap(base.model, lora.LoraConfig(r=2), seed=0))
        return [before, trained, sharded.shard(base.model, "bfloat16")]

    (before, trained, here), (_, _, there) = in_processes(look)
    outside = sum(p.numel() for p in load(str(folder)).model.model.embed_tokens.parameters()) + 32
    assert here + there == (before - outside) + 2 * (outside + trained)


def test_where_all_learns_all_that_is_kept_is_spread(folder: Path) -> None:
    def look(_: int) -> list[int]:
        base = load(str(folder))
        before = sum(parameter.numel() for parameter in base.model.parameters())
        learner = Learner(base, _config(full=True), ())
        for parameter in learner.parameters:
            parameter.grad = torch.ones_like(parameter)
        learner.clip(1.0)
        learner.step(1e-3)
        learner.keep()
        kept = [*learner.parameters, *learner.best, *learner._initial]
        kept += [moment for state in learner.optimizer._state.values() for moment in state.values() if moment.ndim]
        return [before, len(kept) // len(learner.parameters), sum(pieces.own(tensor).numel() for tensor in kept)]

    (before, copies, here), (_, _, there) = in_processes(look)
    assert copies == 5 and here + there == copies * before
    assert abs(here - there) < 0.01 * copies * before


@pytest.mark.parametrize("values", [{}, {"lora": {"r": 4, "dropout": 0.3}}, FULL], ids=["plain", "dropout", "full"])
def test_a_training_that_was_killed_ends_in_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, folder: Path, values: dict[str, Any]
) -> None:
    steps.SAVE_SECONDS = 0.0

    class Killing(Silent):
        steps = 0

        def advance(self, count: int = 1, note: str = "") -> None:
            self.steps += count
            if self.steps == 4:
                os.kill(os.getpid(), signal.SIGKILL)

    def learn(name: str, progress: Any) -> Callable[[int], list[float]]:
        def work(_: int) -> list[float]:
            run = sharded.shared_run(lambda: Run.create(tmp_path / name, {"run": {}}))
            return _train(load(str(folder)), run, progress, **values)

        return work

    assert in_processes(learn("cut", Killing())) == [None, None]
    assert not _published(tmp_path / "cut").exists()
    for name in ("cut", "whole"):
        first, second = in_processes(learn(name, Silent()))
        assert isinstance(first, list) and first == second
    assert _published(tmp_path / "cut").read_bytes() == _published(tmp_path / "whole").read_bytes()
    assert '"resumed"' in (tmp_path / "cut/events.jsonl").read_text()


def test_a_checkpoint_of_all_parameters_is_taken_up_by_any_number_of_processes(tmp_path: Path, folder: Path) -> None:
    steps.SAVE_SECONDS = 0.0

    class Cut(Silent):
        steps = 0

        def advance(self, count: int = 1, note: str = "") -> None:
            self.steps += count
            if self.steps == 4:
                raise UsageError("cut")

    def learn(name: str, count: int, progress: Any = None) -> list[Any]:
        def work(_: int) -> list[float]:
            run = sharded.shared_run(lambda: Run.create(tmp_path / name, {"run": {}}))
            return _train(load(str(folder)), run, progress, **FULL)

        return in_processes(work, count)

    (whole,) = learn("whole", 1)
    for name, before, after in (("fewer", 2, 1), ("more", 1, 2)):
        assert all("cut" in told for told in learn(name, before, Cut()))
        assert all(told == pytest.approx(whole, abs=1e-5) for told in learn(name, after))


def test_preferences_are_learned_by_all_parameters_against_the_model_as_it_was(tmp_path: Path, folder: Path) -> None:
    pairs = [Preference(e.messages[:1], e.answer, e.answer[::-1] + "no", line=e.line) for e in EXAMPLES]
    ready = {"learning_rate": 3e-3, "epochs": 1, "max_tokens": 256, "validate_every": 2, "batch_size": 3, "full": True}
    config = DpoConfig.model_validate({**ready, "precision": "float32"})

    def learn(name: str) -> Callable[[int], list[float]]:
        def work(_: int) -> list[float]:
            run = sharded.shared_run(lambda: Run.create(tmp_path / name, {"run": {}}))
            trained = dpo.train(run, load(str(folder)), pairs, pairs[:2], config, Silent())
            return [loss for kind in ("train", "validation") for _, loss in trained.curve[kind]]

        return work

    first, second = in_processes(learn("two"))
    (alone,) = in_processes(learn("one"), 1)
    assert first == second == pytest.approx(alone, abs=1e-5)
    assert first[0] == pytest.approx(0.6931, abs=1e-3)


def test_memory_that_runs_out_in_one_process_ends_the_shared_step_with_a_word(tmp_path: Path, folder: Path) -> None:
    def learn(rank: int) -> list[float]:
        run = sharded.shared_run(lambda: Run.create(tmp_path / "run", {"run": {}}))
        if rank == 0:
            full = sft.add_gradient

            def lacking(*told: Any) -> Told:
                full(*told)
                raise MemoryError

            sft.add_gradient = lacking  # type: ignore[assignment]
        return _train(load(str(folder)), run, **FULL)

    first, second = in_processes(learn)
    assert "ResourceError: memory ran out in process 0 of 2. The same torchrun command goes on" in first
    assert "with one example at once" in first and second.startswith("ResourceError: process 1 of 2 lost the others")
    assert json.loads((tmp_path / "run/plan.json").read_text())["micro_tokens"] == 1


def test_when_one_process_is_killed_the_other_says_so_and_ends(tmp_path: Path, folder: Path) -> None:
    def learn(rank: int) -> list[float]:
        class Killed(Silent):
            def advance(self, count: int = 1, note: str = "") -> None:
                if rank == 1 and count:
                    os.kill(os.getpid(), signal.SIGKILL)

        run = sharded.shared_run(lambda: Run.create(tmp_path / "run", {"run": {}}))
        return _train(load(str(folder)), run, Killed())

    begun = time.monotonic()
    first, second = in_processes(learn)
    assert second is None
    assert first.startswith("ResourceError: process 0 of 2 lost the others") and "The same torchrun command" in first
    assert time.monotonic() - begun < 200


def test_an_order_to_stop_that_one_process_hears_stops_all(tmp_path: Path, folder: Path) -> None:
    def learn(rank: int) -> list[float]:
        class Told(Silent):
            def advance(self, count: int = 1, note: str = "") -> None:
                if rank == 1 and count:
                    os.kill(os.getpid(), signal.SIGTERM)

        run = sharded.shared_run(lambda: Run.create(tmp_path / "run", {"run": {}}))
        return _train(load(str(folder)), run, Told())

    assert all("stopped after step 1 of 6" in found for found in in_processes(learn))


def test_sharded_blocks_answer_as_whole_ones(folder: Path) -> None:
    ids = torch.arange(12)[None]

    @torch.no_grad()
    def answer(_: int) -> bool:
        processes.join()
        found = []
        for model in (load(str(folder)).model, tiny_base("gemma").model.requires_grad_(False)):
            before = model(input_ids=ids, use_cache=False).logits
            sharded.shard(model, "float32")
            found.append(torch.equal(before, model(input_ids=ids, use_cache=False).logits))
        return all(found)

    assert in_processes(answer) == [True, True]


def test_a_folder_that_a_process_does_not_see_is_named(tmp_path: Path) -> None:
    def open_run(rank: int) -> str:
        run = Run(tmp_path / "elsewhere")
        run.folder = run.folder if rank else tmp_path / "not there"
        sharded.shared_run(lambda: run)
        return "never"

    _, second = in_processes(open_run)
    assert second.startswith("UsageError: process 1 of 2 sees no folder") and "disk which all machines share" in second


def test_what_processes_tell_each_other_arrives_as_it_was_sent() -> None:
    def tell(rank: int) -> bool:
        value = (1, 0.1 + rank, [None, "…"], torch.tensor([0.1, 1e-30]), Told(2.5, 3))
        for number, found in enumerate(processes.everyones(value)):
            assert found[:3] == (1, 0.1 + number, [None, "…"]) and found[4] == Told(2.5, 3)
            assert torch.equal(found[3], value[3])
        return processes.agreed(rank) == 0

    assert in_processes(tell, 3) == [True] * 3
    assert processes.everyones("alone") == ["alone"] and processes.count() == 1


def test_only_records_of_weft_are_made_from_what_arrives() -> None:
    for name in (["subprocess", "Popen", {}], ["weft.runs", "Run", {}], ["weft.not_imported", "Thing", {}]):
        with pytest.raises(ResourceError, match="no record of weft"):
            processes._lively({"dataclass": name})


def test_gradients_larger_than_a_message_are_added_up_in_several() -> None:
    tensors = [torch.zeros(n) for n in (3, 4, 9, 1, 1)]
    assert [[len(t) for t in part] for part in processes._buckets(tensors, most=8)] == [[3, 4], [9], [1, 1]]


def test_another_launchers_numbers_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert processes.count() == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "first")
    assert processes.count() == 8
    with pytest.raises(UsageError, match="RANK is 'first', expected a number"):
        processes.rank()


@pytest.mark.slow
def test_torchrun_trains_from_the_command_line_and_keeps_to_its_number_of_processes(
    tmp_path: Path, folder: Path
) -> None:
    rows = [{"messages": [{"role": "user", "content": f"say {n} {'?' * (n % 7)}"},
                          {"role": "assistant", "content": "abcd"[n % 4] * 3}]} for n in range(80)]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["train", str(tmp_path / "data.jsonl"), "--base", str(folder), "--epochs", "1", "--out", str(tmp_path / "r")]
    told += ["--precision", "float32", "--learning-rate", "0.01"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run([*torchrun, "weft", *told], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters trained") == 1  # by both; told by one
    assert (tmp_path / "r/adapter/adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "r/settings.json").read_text())["processes"] == 2
    alone = subprocess.run([sys.executable, "-m", "weft", *told], capture_output=True, text=True, timeout=600)
    assert alone.returncode == 2 and "processes: 2 -> None" in alone.stderr
