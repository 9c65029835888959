"""Fine-tuning jobs over the wire; the worker is driven by hand."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import World, chat_rows
from weft.serve.routes import jobs as job_routes
from weft.serve.routes.jobs import _live


@pytest.fixture(scope="module")
def file(kept: World) -> str:
    """A training file on the server that this module shares."""
    return kept.sdk().files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id


def refused(world: World, body: dict[str, Any]) -> dict[str, Any]:
    answer = world.http.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    return answer.json()["error"]


def accepted(world: World, body: dict[str, Any]) -> dict[str, Any]:
    """The job, cancelled at once so that there is room for the next."""
    answer = world.http.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    world.http.post(f"/v1/fine_tuning/jobs/{answer.json()['id']}/cancel")
    return answer.json()


def test_a_bare_job_waits_for_its_files_with_everything_on_auto(kept: World, file: str) -> None:
    job = kept.sdk().fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file)
    assert job.id.startswith("ftjob-")
    assert (job.object, job.status, job.model, job.training_file) == (
        "fine_tuning.job", "validating_files", "gpt-4o-mini", file,
    )  # fmt: skip
    assert job.hyperparameters.model_dump() == {
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
        "n_epochs": "auto",
    }
    assert job.method is not None
    assert job.method.type == "supervised"
    assert 0 <= job.seed <= 2**31 - 1
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.error) == (None, None, None, None)
    assert job.result_files == []
    assert job.organization_id == "local"
    assert job.model_extra is not None
    assert job.model_extra["x_weft"]["base"] == "weft-nano"
    kept.sdk().fine_tuning.jobs.cancel(job.id)


def test_the_deprecated_hyperparameters_are_mirrored_into_the_method(kept: World, file: str) -> None:
    job = kept.sdk().fine_tuning.jobs.create(
        model="gpt-4o-mini", training_file=file, hyperparameters={"n_epochs": 3}, suffix="my-model", seed=7
    )
    assert job.hyperparameters.n_epochs == 3
    assert job.method is not None
    assert job.method.supervised is not None
    assert job.method.supervised.hyperparameters is not None
    assert job.method.supervised.hyperparameters.n_epochs == 3
    assert job.seed == 7
    assert job.model_extra is not None
    assert job.model_extra["user_provided_suffix"] == "my-model"
    kept.sdk().fine_tuning.jobs.cancel(job.id)


def test_each_method_is_taken_or_refused_by_its_name(kept: World, file: str) -> None:
    client = kept.sdk()
    job = client.fine_tuning.jobs.create(
        model="weft-nano",
        training_file=file,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5, "n_epochs": "auto"}}},
    )
    assert job.method is not None
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 0.5
    client.fine_tuning.jobs.cancel(job.id)
    grader: Any = {"type": "string_check", "name": "g", "input": "a", "reference": "b", "operation": "eq"}
    with pytest.raises(openai.BadRequestError, match="reinforcement is not available") as caught:
        client.fine_tuning.jobs.create(
            model="weft-nano",
            training_file=file,
            method={"type": "reinforcement", "reinforcement": {"grader": grader}},
        )
    assert (caught.value.param, caught.value.code) == ("method.type", "method_not_available")


NUMBERS = [
    ("n_epochs", [1, 50, "auto"], [0, 51, 2.5, "3", True, None]),
    ("batch_size", [1, 256, "auto"], [0, 257, "many"]),
    ("learning_rate_multiplier", [1e-9, 2, 1.8, "auto"], [0, -1, "fast"]),
]


@pytest.mark.parametrize(("name", "good", "bad"), NUMBERS)
def test_hyperparameters_are_bounded_on_both_sides(
    kept: World, file: str, name: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        body = {"model": "weft-nano", "training_file": file, "hyperparameters": {name: value}}
        assert accepted(kept, body)["hyperparameters"][name] == value
        method = {"type": "supervised", "supervised": {"hyperparameters": {name: value}}}
        job = accepted(kept, {"model": "weft-nano", "training_file": file, "method": method})
        assert job["method"]["supervised"]["hyperparameters"][name] == value
    for value in bad:
        error = refused(kept, {"model": "weft-nano", "training_file": file, "hyperparameters": {name: value}})
        assert error["param"] == f"hyperparameters.{name}"
        method = {"type": "dpo", "dpo": {"hyperparameters": {name: value}}}
        error = refused(kept, {"model": "weft-nano", "training_file": file, "method": method})
        assert error["param"] == f"method.dpo.hyperparameters.{name}"


OUTSIDE = [
    *(("n_epochs", value, "'auto' or an integer from 1 to 50") for value in (0, 51, "x", 2.5, True, None)),
    *(("batch_size", value, "'auto' or an integer from 1 to 256") for value in (0, 257, [1], {"a": 1})),
    ("learning_rate_multiplier", 0, "'auto' or a number above 0"),
    ("beta", 0, "'auto' or a number above 0, at most 2"),
    ("beta", 2.01, "'auto' or a number above 0, at most 2"),
]


@pytest.mark.parametrize(("name", "value", "expected"), OUTSIDE)
def test_what_is_outside_the_bounds_is_named_beside_them(kept: World, name: str, value: Any, expected: str) -> None:
    body = {"model": "weft-nano", "training_file": "file-x"}
    found = {list: "a list", dict: "an object"}.get(type(value)) or json.dumps(value)
    places = [("method.dpo.hyperparameters", {"method": {"type": "dpo", "dpo": {"hyperparameters": {name: value}}}})]
    if name != "beta":
        own = {"type": "supervised", "supervised": {"hyperparameters": {name: value}}}
        places.append(("hyperparameters", {"hyperparameters": {name: value}}))
        places.append(("method.supervised.hyperparameters", {"method": own}))
    for place, given in places:
        error = refused(kept, {**body, **given})
        assert error["message"] == f"{place}.{name}: {found} is not allowed; expected {expected}"
        assert error["param"] == f"{place}.{name}"


def test_a_long_value_is_cut_in_its_refusal(kept: World) -> None:
    body = {"model": "weft-nano", "training_file": "file-x", "hyperparameters": {"n_epochs": "x" * 1000}}
    assert f'"{"x" * 39}… is not allowed' in refused(kept, body)["message"]


def test_beta_suffix_seed_and_metadata_are_bounded_on_both_sides(kept: World, file: str) -> None:
    base = {"model": "weft-nano", "training_file": file}

    def beta(value: Any) -> dict[str, Any]:
        return {**base, "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": value}}}}

    def pairs(count: int, key: int = 1, value: int = 1) -> dict[str, str]:
        return {f"{n:02}".rjust(key, "k"): "v" * value for n in range(count)}

    for good in (
        beta(0.01), beta(2), beta("auto"), {**base, "suffix": "s"}, {**base, "suffix": "s" * 64},
        {**base, "suffix": None}, {**base, "seed": 0}, {**base, "seed": 2**31 - 1}, {**base, "metadata": {}},
        {**base, "metadata": pairs(16, 64, 512)}, {**base, "integrations": []}, {**base, "integrations": None},
    ):  # fmt: skip
        accepted(kept, good)
    for bad, param in (
        (beta(0), "method.dpo.hyperparameters.beta"),
        (beta(2.01), "method.dpo.hyperparameters.beta"),
        ({**base, "suffix": ""}, "suffix"),
        ({**base, "suffix": "s" * 65}, "suffix"),
        ({**base, "suffix": "a\0b"}, "suffix"),
        ({**base, "seed": -1}, "seed"),
        ({**base, "seed": 2**31}, "seed"),
        ({**base, "seed": "7"}, "seed"),
        ({**base, "metadata": pairs(17)}, "metadata"),
        ({**base, "metadata": pairs(1, 65)}, "metadata"),
        ({**base, "metadata": pairs(1, 2, 513)}, "metadata"),
        ({**base, "metadata": {"a": 1}}, "metadata"),
        ({"training_file": file}, "model"),
        ({"model": "weft-nano"}, "training_file"),
        ({**base, "model": 3}, "model"),
    ):
        assert (refused(kept, bad)["param"] or "").startswith(param), bad


def test_what_cannot_be_done_is_refused_by_name(kept: World, file: str) -> None:
    base = {"model": "weft-nano", "training_file": file}
    other = kept.sdk().files.create(file=("b.jsonl", b"{}"), purpose="batch").id
    hyper = {"hyperparameters": {"n_epochs": 2}}
    for body, param, code, said in (
        ({**base, "model": "gpt-5"}, "model", "model_not_available", "gpt-5 is not available for fine-tuning"),
        ({**base, "model": "../etc"}, "model", "model_not_available", "does not exist"),
        ({**base, "model": "ft:weft-nano:local::AAAAAAAA"}, "model", "model_not_available", "does not exist"),
        ({**base, "training_file": "file-unknown"}, "training_file", None, "No such File object: file-unknown"),
        ({**base, "validation_file": "file-unknown"}, "validation_file", None, "No such File object"),
        ({**base, "validation_file": file}, "validation_file", None, "is the training file"),
        ({**base, "training_file": other}, "training_file", "invalid_training_file", "'batch'; expected 'fine-tune'"),
        ({**base, "integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations[0]",
         "integration_not_available", "'wandb': this server makes no outgoing connection"),
        ({**base, "method": {"type": "supervised", "dpo": {}}}, "method.dpo", None, "does not belong"),
        ({**base, "method": {"type": "ppo"}}, "method.type", "invalid_value", "supervised"),
        ({**base, "method": {"type": "dpo"}, **hyper}, "hyperparameters", None, "belong under method.dpo"),
        ({**base, "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}, **hyper},
         "hyperparameters", None, "differ"),
        ({**base, "x_weft": {"lora": {"r": 0}}}, "x_weft", "invalid_settings", "lora.r"),
        ({**base, "x_weft": {"colour": "red"}}, "x_weft", "invalid_settings", "colour"),
        ({**base, "x_weft": {"full": True}}, "x_weft", "invalid_settings", "full"),
    ):  # fmt: skip
        error = refused(kept, body)
        assert (error["param"], error["code"]) == (param, code), error
        assert said in error["message"], error
        assert error["type"] == "invalid_request_error"


def test_our_own_settings_come_in_one_namespaced_object(kept: World, file: str) -> None:
    job = kept.sdk().fine_tuning.jobs.create(
        model="weft-nano", training_file=file, extra_body={"x_weft": {"lora": {"r": 4}, "warmup": 0.1}}
    )
    assert job.model_extra is not None
    assert job.model_extra["x_weft"]["lora"] == {"r": 4}
    kept.sdk().fine_tuning.jobs.cancel(job.id)


def test_unknown_fields_are_ignored_with_a_word(kept: World, file: str) -> None:
    answer = kept.http.post("/v1/fine_tuning/jobs", json={"model": "weft-nano", "training_file": file, "n_epoch": 3})
    assert answer.headers["x-weft-warning"] == "ignored unknown fields: n_epoch"
    kept.http.post(f"/v1/fine_tuning/jobs/{answer.json()['id']}/cancel")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'"text"', "application/json"),
        (b"[" * 40_000, "application/json"),
        (b"\xff\xfe{}", "application/json"),
        (b"{}", "text/plain"),
        (b'{"model": NaN}', "application/json"),
        (b'{"model": "weft-nano", "training_file": "\\ud800"}', "application/json"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(kept: World, content: bytes, kind: str) -> None:
    answer = kept.http.post("/v1/fine_tuning/jobs", content=content, headers={"content-type": kind})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_job_walks_through_its_states_and_ends_with_model_and_results(world: World, training_file: str) -> None:
    client = world.sdk()
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=training_file, suffix="walk")
    lease = world.worker.start()
    running = client.fine_tuning.jobs.retrieve(job.id)
    assert running.status == "running"
    assert running.hyperparameters.n_epochs == 3
    assert running.method is not None
    assert running.method.supervised is not None
    assert running.method.supervised.hyperparameters is not None
    assert running.method.supervised.hyperparameters.learning_rate_multiplier == 1.8
    assert running.estimated_finish == 2_000_000_000
    world.server.leases.fail(lease.job.id, lease.attempt, "out_of_memory", "There was no memory left.")
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("out_of_memory", "There was no memory left.")
    assert failed.finished_at is not None

    again = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=training_file, suffix="walk")
    world.worker.finish()
    done = client.fine_tuning.jobs.retrieve(again.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith("ft:")
    assert done.fine_tuned_model.split(":")[2:4] == ["local", "walk"]
    assert (done.trained_tokens, done.error, done.estimated_finish) == (1234, None, None)

    results = client.files.content(done.result_files[0]).text
    rows = list(csv.DictReader(io.StringIO(results)))
    assert list(rows[0])[:5] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert rows[1]["valid_loss"] == "1.75"
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"

    events = list(client.fine_tuning.jobs.list_events(again.id, limit=100))[::-1]
    assert [event.message for event in events[:4]] == [
        f"Created fine-tuning job: {again.id}",
        f"Validating training file: {training_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert events[-2].message == f"New fine-tuned model created: {done.fine_tuned_model}"
    assert events[-1].message == "The job has successfully completed"
    assert {event.level for event in events} == {"info"}
    steps = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in steps if isinstance(event.data, dict)] == list(range(1, 10))

    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(again.id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [9, 6, 3]
    names = [checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints]
    assert names[0] == done.fine_tuned_model
    assert [name.rsplit(":", 1)[1] for name in names[1:]] == ["ckpt-step-6", "ckpt-step-3"]
    assert checkpoints[0].metrics.full_valid_loss == 0.25
    assert all(world.server.names.resolve(name, "local").adapter for name in names)
    listed = [model.id for model in client.models.list()]
    assert set(names) < set(listed)

    onward = client.fine_tuning.jobs.create(model=names[1], training_file=training_file)
    assert onward.model == names[1]
    assert (
        world.server.store.jobs.get("local", onward.id).start_from
        == world.server.names.resolve(names[1], "local").adapter
    )


def test_pause_resume_and_cancel_from_each_state(world: World, training_file: str) -> None:
    # The hosted API answers `paused` too, which its own list of states does not have: strict checking would refuse it.
    client = world.sdk(strict=False)
    jobs = client.fine_tuning.jobs

    def create() -> str:
        return jobs.create(model="weft-nano", training_file=training_file).id

    waiting = create()
    assert jobs.cancel(waiting).status == "cancelled"
    for action, code in (
        (jobs.cancel, "job_not_cancellable"), (jobs.pause, "job_not_pausable"), (jobs.resume, "job_not_resumable"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            action(waiting)
        assert caught.value.code == code
        assert caught.value.response.headers["x-should-retry"] == "false"

    queued = create()
    world.worker.validate()
    assert jobs.pause(queued).status == "paused"
    assert jobs.resume(queued).status == "queued"
    lease = world.worker.take()
    assert jobs.pause(queued).status == "running"
    assert world.server.leases.beat(queued, lease.attempt) == "pause"
    world.server.leases.released(queued, lease.attempt)
    assert jobs.retrieve(queued).status == "paused"
    assert jobs.resume(queued).status == "queued"
    lease = world.worker.take()
    assert jobs.cancel(queued).status == "running"
    assert world.server.leases.beat(queued, lease.attempt) == "cancel"
    with pytest.raises(openai.BadRequestError, match="is running: only a paused job"):
        jobs.resume(queued)
    world.server.leases.released(queued, lease.attempt)
    assert jobs.retrieve(queued).status == "cancelled"

    paused = create()
    world.worker.validate()
    jobs.pause(paused)
    assert jobs.cancel(paused).status == "cancelled"


@pytest.mark.parametrize(("action", "becomes"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_cancel_and_a_pause_are_answered_once_the_worker_has_let_go(
    world: World, training_file: str, monkeypatch: pytest.MonkeyPatch, action: str, becomes: str
) -> None:
    monkeypatch.setattr(job_routes, "RELEASE_SECONDS", 30.0)
    client, leases = world.sdk(strict=False), world.server.leases
    job = client.fine_tuning.jobs.create(model="weft-nano", training_file=training_file)
    lease = world.worker.start()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(getattr(client.fine_tuning.jobs, action), job.id)
        while leases.beat(job.id, lease.attempt) == "go":
            assert not asked.done()
        # Others are answered meanwhile.
        assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
        leases.released(job.id, lease.attempt)
        assert asked.result(10).status == becomes


def test_a_pause_that_no_worker_has_obeyed_is_taken_back_by_resume(world: World, training_file: str) -> None:
    jobs = world.sdk(strict=False).fine_tuning.jobs
    job = jobs.create(model="weft-nano", training_file=training_file)
    lease = world.worker.start()
    assert jobs.pause(job.id).status == "running"
    assert jobs.resume(job.id).status == "running"
    assert world.server.leases.beat(job.id, lease.attempt) == "go"
    with pytest.raises(openai.BadRequestError, match="only a paused job can be resumed"):
        jobs.resume(job.id)


def test_actions_arrive_with_an_empty_body_that_claims_to_be_json(kept: World, file: str) -> None:
    job = kept.sdk().fine_tuning.jobs.create(model="weft-nano", training_file=file)
    answer = kept.http.post(f"/v1/fine_tuning/jobs/{job.id}/cancel", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_unknown_jobs_are_404s_in_the_words_that_clients_match(kept: World) -> None:
    jobs = kept.sdk().fine_tuning.jobs
    asked: list[Callable[[str], Any]] = [
        jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list,
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(openai.NotFoundError, match="Could not find fine tune: ftjob-x") as caught:
            ask("ftjob-x")
        assert (caught.value.code, caught.value.param) == ("fine_tune_not_found", "fine_tune_id")


def test_jobs_are_listed_newest_first_and_by_metadata(world: World, training_file: str) -> None:
    jobs = world.sdk().fine_tuning.jobs
    labels: list[Any] = [{"team": "a b"}, None, {"team": "a b", "run": ""}, {"team": "c"}]
    ids = [jobs.create(model="weft-nano", training_file=training_file, metadata=label).id for label in labels]
    assert [job.id for job in jobs.list(limit=1)] == ids[::-1]
    assert [job.id for job in jobs.list(metadata={"team": "a b"})] == [ids[2], ids[0]]
    assert [job.id for job in jobs.list(metadata={"team": "a b", "run": ""})] == [ids[2]]

    def found(query: str) -> list[str]:
        return [job["id"] for job in world.http.get(f"/v1/fine_tuning/jobs?{query}").json()["data"]]

    assert found("metadata%5Bteam%5D=a+b") == [ids[2], ids[0]]
    assert found("metadata=null") == [ids[1]]
    assert found("limit=2") == ids[:1:-1]
    for query in (
        "metadata=team",
        "metadata=null&metadata[a]=b",
        "limit=0",
        "metadata[a]=%00",
        "metadata[a][b]=c",
        "metadata[a]=1&metadata[a]=2",
    ):
        assert world.http.get(f"/v1/fine_tuning/jobs?{query}").status_code == 400, query


def test_events_come_newest_first_and_each_once_while_new_ones_arrive(world: World, training_file: str) -> None:
    client = world.sdk()
    job = client.fine_tuning.jobs.create(model="weft-nano", training_file=training_file)
    lease = world.worker.start()
    world.worker.metrics(lease, range(1, 5))
    whole = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    seen = []
    for number, event in enumerate(client.fine_tuning.jobs.list_events(job.id, limit=1)):
        seen.append(event.id)
        world.worker.metrics(lease, range(5 + number, 6 + number))
    assert seen == whole
    assert len(set(seen)) == 8


def test_events_can_be_followed_live_until_the_job_is_final(live: Callable[..., Any]) -> None:
    server, address = live()
    world = World(server, httpx.Client(base_url=address))  # type: ignore[arg-type]
    client = openai.OpenAI(api_key="any", base_url=f"{address}/v1")
    file = client.files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="weft-nano", training_file=file).id
    lines: list[str] = []
    with world.http.stream("GET", f"/v1/fine_tuning/jobs/{job}/events?stream=true", timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                lines.append(line.removeprefix("data: "))
            if len(lines) == 2 and server.store.jobs.get("local", job).status == "validating_files":
                world.worker.finish()  # only now, while somebody reads
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert events[0]["message"] == f"Created fine-tuning job: {job}"
    assert events[-1]["message"] == "The job has successfully completed"
    assert (
        len({event["id"] for event in events})
        == len(events)
        == len(list(client.fine_tuning.jobs.list_events(job, limit=100)))
    )


def followed(world: World, job: str, after: str | None = None) -> list[str]:
    """The data of every event of a stream that ends."""
    asked: dict[str, Any] = {"stream": True} | ({"after": after} if after else {})
    answer = world.http.get(f"/v1/fine_tuning/jobs/{job}/events", params=asked)
    assert answer.status_code == 200, answer.text
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


def test_a_stopping_server_ends_the_stream_of_a_job_that_is_not_done_without_saying_so(
    world: World, training_file: str
) -> None:
    """Who was cut off asks again with the last event that it has."""
    job = world.sdk().fine_tuning.jobs.create(model="weft-nano", training_file=training_file).id
    world.server.draining.set()
    lines = asyncio.run(heard(_live(world.server, "local", job, 0)))
    assert json.loads(lines[0])["message"] == f"Created fine-tuning job: {job}"
    assert len(lines) == 2 and "[DONE]" not in lines
    world.server.draining.clear()
    world.worker.finish()
    rest = followed(world, job, after=json.loads(lines[-1])["id"])
    assert rest[-1] == "[DONE]" and [*lines, *rest] == followed(world, job)
    assert followed(world, job, after=json.loads(rest[-2])["id"]) == ["[DONE]"]
    unknown = world.http.get(f"/v1/fine_tuning/jobs/{job}/events?stream=true&after=ftevent-x")
    assert unknown.status_code == world.http.get(f"/v1/fine_tuning/jobs/{job}/events?after=ftevent-x").status_code


async def heard(lines: AsyncGenerator[str]) -> list[str]:
    return [line async for line in lines]


def test_the_same_idempotency_key_makes_one_job_however_often_it_comes(world: World, training_file: str) -> None:
    body = {"model": "weft-nano", "training_file": training_file}

    def create(_: int) -> httpx.Response:
        return world.http.post("/v1/fine_tuning/jobs", json=body, headers={"idempotency-key": "once"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(create, range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = world.http.post("/v1/fine_tuning/jobs", json={**body, "seed": 1}, headers={"idempotency-key": "once"})
    assert other.status_code == 409
    assert other.headers["x-should-retry"] == "false"
    assert len(list(world.sdk().fine_tuning.jobs.list())) == 1


def test_an_owner_may_have_so_many_active_jobs_and_no_more(make_world: Callable[..., World]) -> None:
    world = make_world(active_jobs=2)
    client = world.sdk()
    file = client.files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id
    first = client.fine_tuning.jobs.create(
        model="weft-nano", training_file=file, extra_headers={"Idempotency-Key": "a"}
    )
    client.fine_tuning.jobs.create(model="weft-nano", training_file=file)
    with pytest.raises(openai.RateLimitError, match="2 jobs that are not finished") as caught:
        client.fine_tuning.jobs.create(model="weft-nano", training_file=file)
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    # A repeated request is not a new job.
    again = client.fine_tuning.jobs.create(
        model="weft-nano", training_file=file, extra_headers={"Idempotency-Key": "a"}
    )
    assert again.id == first.id
    client.fine_tuning.jobs.cancel(first.id)
    client.fine_tuning.jobs.create(model="weft-nano", training_file=file)
