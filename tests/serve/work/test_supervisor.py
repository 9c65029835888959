"""Jobs from the queue to the model, with real processes: what their owners see, and what is left behind."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.calling import BRIEF, call_row
from tests.serve.work.conftest import WORDS, House, chat_rows
from weft.errors import Unreachable
from weft.models import memory
from weft.serve.records import Job
from weft.serve.work.workers import executed
from weft.testing import save_base


def test_a_job_walks_through_its_states_and_tells_of_it_in_the_services_words(house: House) -> None:
    validation = house.open().file(chat_rows(len(WORDS) + 3)[-3:])
    job = house.job(suffix="mine", validation_file=validation.id)
    done = house.ended(job)
    assert (done.status, done.error) == ("succeeded", None)
    name = done.fine_tuned_model
    assert name is not None and ":mine:" in name
    checkpoints = {c.step: c for c in house.store.jobs.checkpoints("local", job.id).items}
    assert house.messages(job) == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file} and validation file: {validation.id}",
        "[too-few] 20 usable examples; 50 to 100 are a working floor: the measured differences will have wide "
        "intervals.",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        f"Checkpoint created at step 5 with Snapshot ID: {checkpoints[5].model}",
        f"Checkpoint created at step 10 with Snapshot ID: {checkpoints[10].model}",
        f"New fine-tuned model created: {name}",
        "The job has successfully completed",
    ]
    assert [event.number for event in house.events(job)] == list(range(1, len(house.events(job)) + 1))

    # One metrics event for each step, in order, in the service's form.
    told = [event for event in house.events(job) if event.type == "metrics"]
    assert [event.data["step"] for event in told] == list(range(1, 16))
    assert told[0].message.startswith("Step 1/15: training loss=") and "validation" not in told[0].message
    fifth = told[4].data
    assert told[4].message == (
        f"Step 5/15: training loss={fifth['train_loss']:.2f}, validation loss={fifth['valid_loss']:.2f}, "
        f"full validation loss={fifth['full_valid_loss']:.2f}"
    )
    assert all(event.level == "info" and event.data["total_steps"] == 15 for event in told)

    # The numbers that `auto` and the file became.
    assert done.hyperparameters == {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0}
    assert done.trained_tokens and done.started_at and done.finished_at and done.estimated_finish is None

    # Checkpoints: two of their own, and the last is the model itself; their metrics are the table's.
    assert len(checkpoints) == 3
    assert (checkpoints[15].model, checkpoints[15].adapter) == (name, house.adapter(job))
    rows = table(house, done)
    assert list(rows) == list(range(1, 16))
    for step, checkpoint in checkpoints.items():
        shown = {key: value for key, value in checkpoint.metrics.items() if key != "step"}
        assert {key: float(rows[step][key]) for key in shown} == shown

    # What is left: logs and the record, nobody's but ours; no weights, no process.
    folder = house.data / "work" / job.id
    house.until(lambda: not house.supervisor.busy)
    assert sorted(path.name for path in folder.iterdir()) == [
        "attempt-1.log",
        "attempt-2.log",
        "run",
        "step_metrics.csv",
    ]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.log")} == {0o600}
    assert "all epochs done" in (folder / "attempt-2.log").read_text()
    assert not (folder / "run" / "checkpoints").exists() and not (folder / "run" / "adapter").exists()


def table(house: House, done: Job) -> dict[int, dict[str, str]]:
    """The rows of the result file by their step."""
    (file,) = done.result_files
    content = house.store.blobs.path(house.store.files.get("local", file).sha256).read_text()
    return {int(row["step"]): row for row in csv.DictReader(io.StringIO(content))}


def test_without_a_validation_file_so_many_epochs_learn_every_row_and_nothing_is_validated(house: House) -> None:
    job = house.open().job(hyperparameters={"n_epochs": 2})
    done = house.ended(job)
    assert done.status == "succeeded", done.error
    told = [event.data for event in house.events(job) if event.type == "metrics"]
    assert [data["step"] for data in told] == list(range(1, 11))  # five steps of four are all twenty rows
    assert not any("valid" in key for data in told for key in data)
    assert {row["valid_loss"] + row["valid_mean_token_accuracy"] for row in table(house, done).values()} == {""}
    last, before = house.store.jobs.checkpoints("local", job.id).items
    assert (last.step, last.model, last.adapter) == (10, done.fine_tuned_model, house.adapter(job))
    assert before.step == 5 and not any("valid" in key for key in (*last.metrics, *before.metrics))
    assert not any("held out" in message or "Published" in message for message in house.messages(job))
    record = json.loads((house.data / "work" / job.id / "run" / "training.json").read_text())
    assert (record["published_step"], record["best_step"], record["best_loss"]) == (10, None, None)


def test_where_weft_decides_how_long_the_owner_reads_what_was_held_out_and_which_step_is_published(
    house: House,
) -> None:
    # After the first look nothing improves by so much, so there are three more.
    extension = {"lora": {"r": 4}, "min_improvement": 100.0}
    job = house.open().job(hyperparameters={"n_epochs": "auto"}, extension=extension)
    done = house.ended(job)
    assert done.status == "succeeded", done.error
    messages = house.messages(job)
    held_out = next(message for message in messages if "held out" in message)
    assert held_out.startswith("4 of the 20 examples were held out to decide how long to train and are not learned (")
    kept = {c.step: c.model for c in house.store.jobs.checkpoints("local", job.id).items}
    assert messages[-5:] == [
        "Published: step 4 of 40, the lowest validation loss; training ended at step 16.",
        f"Checkpoint created at step 12 with Snapshot ID: {kept[12]}",
        f"Checkpoint created at step 16 with Snapshot ID: {kept[16]}",
        f"New fine-tuned model created: {done.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert len(kept) == 3 and kept[4] == done.fine_tuned_model


def test_preferences_are_learned_by_dpo(house: House) -> None:
    rows = [{"prompt": f"{word} {n}", "chosen": word, "rejected": "no"} for n, word in enumerate(WORDS)]
    job = house.open().job(rows, kind="dpo", hyperparameters={"beta": 0.2, "n_epochs": 1})
    done = house.ended(job)
    assert done.status == "succeeded", done.error
    assert done.hyperparameters["beta"] == 0.2
    assert "train_reward_accuracy" in house.events(job)[-4].data


@pytest.mark.slow
def test_a_job_goes_on_from_a_tuned_model_and_its_result_is_one_adapter_of_the_same_base(house: House) -> None:
    first = house.open().job(hyperparameters={"n_epochs": 1})
    assert house.ended(first).status == "succeeded"
    second = house.job(hyperparameters={"n_epochs": 2}, start_from=house.adapter(first))
    assert house.ended(second).status == "succeeded"
    made = [
        json.loads((house.store.blobs.adapter(a) / "adapter_config.json").read_text()) for a in _adapters(house, second)
    ]
    assert [config["r"] for config in made] == [8, 8]
    assert house.adapter(first) not in _adapters(house, second)


def _adapters(house: House, job: Job) -> list[str]:
    return [checkpoint.adapter for checkpoint in house.store.jobs.checkpoints("local", job.id).items]


def test_a_file_that_cannot_be_learned_fails_the_job_before_it_is_queued(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    job = house.open().job(chat_rows(4))
    done = house.ended(job)
    assert (done.status, done.attempt, done.crashes) == ("failed", 1, 0)
    assert done.error is not None
    assert (done.error["code"], done.error["param"]) == ("invalid_n_examples", "training_file")
    assert "4 examples" in done.error["message"] and str(house.data) not in done.error["message"]
    assert "Files validated, moving job to queued state" not in house.messages(job)
    house.until(lambda: not house.supervisor.busy)
    last = json.loads(capsys.readouterr().err.splitlines()[-1])  # what the operator reads
    assert (last["level"], last["message"], last["code"]) == ("warn", "failed", "invalid_n_examples")
    assert last["output"] == str(house.data / "work" / job.id / "attempt-1.log")


def test_calls_of_tools_are_learned_by_a_base_that_knows_tools_and_by_no_other(house: House, tmp_path: Path) -> None:
    rows = [call_row(row["messages"][0]["content"], row["messages"][1]["content"]) for row in chat_rows()]
    house.open()
    refused = house.ended(house.job(rows))
    assert refused.error is not None and refused.error["code"] == "invalid_training_file"
    assert "20 examples have no place in the base's chat template" in refused.error["message"]
    assert "knows no tools" in refused.error["message"] and refused.crashes == 0
    house.base = save_base(tmp_path / "calling", template=BRIEF)
    house.supervisor.stop(5.0)
    house.store.close()
    job = house.open().job(rows, hyperparameters={"n_epochs": 1})
    assert house.ended(job).status == "succeeded" and house.adapter(job)
    broken = call_row("Where?", "there")
    broken["messages"][1]["tool_calls"][0]["function"]["name"] = "sorted"
    failed = house.ended(house.job([*rows, broken])).error
    assert failed is not None and failed["code"] == "invalid_training_file"
    assert "[tool-call] line 21 calls 'sorted' at messages[1].tool_calls[0]" in failed["message"]


def test_settings_that_cannot_be_fail_the_job_with_the_setting_named(house: House) -> None:
    job = house.open().job(extension={"lora": {"r": 1000}})
    done = house.ended(job)
    assert done.error is not None and done.status == "failed" and done.crashes == 0
    assert done.error["code"] == "invalid_hyperparameters" and "1000" in done.error["message"]


def test_a_job_that_can_never_fit_in_memory_fails_before_anything_is_loaded(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "most_bytes", lambda: 10_000_000_000)
    house.base = base_of(tmp_path / "big", layers=32, width=4096)
    job = house.open().job()
    done = house.ended(job)
    assert (done.status, done.attempt, done.crashes) == ("failed", 1, 0)
    assert done.error is not None and (done.error["code"], done.error["param"]) == ("out_of_memory", "model")
    assert re.fullmatch(
        r"Training big \(8,589,934,592 parameters\), an adapter of [\d,]+ numbers with their optimizer, needs at least "
        r"[\d.]+ GB of memory; this server's machine has 10\.00 GB\. Choose a smaller base, or a smaller adapter "
        r"\(x_weft\.lora\.r\)\.",
        done.error["message"],
    )
    assert "Files validated, moving job to queued state" not in house.messages(job)
    assert float(done.error["message"].split("at least ")[1].split(" GB")[0]) > 17  # in bfloat16 alone


def test_a_base_that_would_fit_alone_is_let_in_whatever_is_free_now(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free when the files are looked at is not what is free when training begins."""
    monkeypatch.setattr(memory, "available_bytes", lambda root: 1)
    house.base = base_of(tmp_path / "small", layers=2, width=256)
    job = house.open().job()
    done = house.ended(job)
    assert done.error is not None and done.error["code"] == "model_not_available"  # it has no tokenizer


def test_a_database_that_is_gone_is_told_once_with_its_reason(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def gone(*_: Any, **__: Any) -> Any:
        asked.append(1)
        raise Unreachable("postgresql://there/weft: the database does not answer (cut). See that it runs.")

    house.open(start=False)
    monkeypatch.setattr(house.leases, "take", gone)
    monkeypatch.setattr(house.leases, "expire", gone)
    house.supervisor.start()
    house.until(lambda: len(asked) >= 4)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["event"], told["level"], told["error"]) == ("supervisor", "error", "Unreachable")
    assert told["reason"].startswith("postgresql://there/weft: the database does not answer (cut).")


def base_of(folder: Path, layers: int, width: int) -> Path:
    """A base of this shape whose file holds nothing but its length, and whose tokenizer is none."""
    folder.mkdir()
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "vocab_size": 32000}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-5}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config | sizes | heads))
    (folder / "tokenizer.json").write_text("{}")
    numbers = layers * 16 * width * width
    header = json.dumps({"w": {"dtype": "BF16", "shape": [numbers], "data_offsets": [0, 2 * numbers]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * numbers)
    return folder


def test_slots_are_shared_between_owners(house: House) -> None:
    house.settings = {"slots": 2}
    house.open(start=False)
    first, _second = house.job(owner="anna"), house.job(owner="anna")
    other = house.job(owner="bert")
    house.supervisor.start()
    assert house.until(house.supervisor.processes).keys() <= {first.id, other.id}
    house.until(lambda: house.now(other).status == "running")
    house.supervisor.stop(0.0)


@pytest.mark.slow
def test_a_nursery_of_its_own_does_the_same(house: House) -> None:
    house.begin = executed
    house.open()
    job = house.job()
    worker = house.process(job)
    status = Path(f"/proc/{worker}/status").read_text()
    nursery = Path(f"/proc/{status.split('PPid:')[1].split()[0]}/status").read_text()
    assert "Threads:\t1\n" in nursery  # a fork copies no other
    assert house.ended(job).status == "succeeded"
    house.close()
    # What the libraries put into their home or temporary folder is gone with the server.
    assert sorted(path.name for path in (house.data / "work").iterdir()) == [job.id, "nursery.log"]
