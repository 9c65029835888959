"""Models over the wire: bases, aliases, tuned models, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.serve.conftest import World, chat_rows
from weft.errors import NotThere, UsageError
from weft.serve.names import Answerer, Names


@pytest.fixture
def tuned(world: World) -> list[str]:
    """The names that a job left: the final model, then its checkpoints, newest first."""
    client = world.sdk()
    file = client.files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id
    world.worker.finish()
    return [checkpoint.fine_tuned_model_checkpoint for checkpoint in client.fine_tuning.jobs.checkpoints.list(job)]


def test_bases_aliases_and_tuned_models_are_listed_and_retrieved(world: World, tuned: list[str]) -> None:
    client = world.sdk()
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"weft-nano", "gpt-4o-mini", *tuned}
    assert "::" in tuned[0]  # no suffix: two colons meet
    for name in listed:
        assert client.models.retrieve(name) == listed[name]
        assert listed[name].object == "model"
    assert listed[tuned[0]].owned_by == "local"
    assert listed["gpt-4o-mini"].model_extra == {"x_weft_base": "weft-nano"}


def test_tuned_models_can_be_deleted_and_bases_cannot(world: World, tuned: list[str]) -> None:
    client = world.sdk()
    gone = client.models.delete(tuned[0])
    assert (gone.id, gone.object, gone.deleted) == (tuned[0], "model", True)
    assert client.models.delete(tuned[1]).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(tuned[0])
    for name in ("weft-nano", "gpt-4o-mini"):
        with pytest.raises(openai.BadRequestError, match="only tuned models") as caught:
            client.models.delete(name)
        assert caught.value.code == "model_not_deletable"


def test_a_name_with_an_encoded_slash_reaches_its_route(kept: World) -> None:
    for name in (
        "owner%2Fmodel",
        "ft:a%2Fb:c::d",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "x" * 300,
        "ft:weft-nano:local::AAAAAAAA",
    ):
        for method in ("GET", "DELETE"):
            answer = kept.http.request(method, f"/v1/models/{name}")
            assert answer.status_code in (400, 404), name
    with pytest.raises(openai.NotFoundError) as caught:
        kept.sdk().models.retrieve("owner/model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "`owner/model` does not exist" in caught.value.message


@pytest.fixture
def names(kept: World) -> Iterator[Callable[..., Names]]:
    yield lambda bases, alias=None: Names(bases, alias or {}, kept.server.store)


def test_a_name_means_a_base_of_the_operator_or_nothing(names: Callable[..., Names]) -> None:
    some = names(["weft-nano", "/models/Llama-3", "owner/small"], {"gpt-4o": "Llama-3", "gpt-4": "/models/Llama-3"})
    assert some.resolve("weft-nano", "local") == Answerer("weft-nano", None)
    assert some.resolve("Llama-3", "local") == Answerer("/models/Llama-3", None)
    assert some.resolve("gpt-4o", "local") == some.resolve("gpt-4", "local") == Answerer("/models/Llama-3", None)
    assert some.resolve("small", "local") == some.resolve("owner/small", "local") == Answerer("owner/small", None)
    for foreign in ("/models/Llama-3", "/etc", "other/model", "WEFT-NANO", "", "ft:", "gpt-4o "):
        with pytest.raises(NotThere):
            some.resolve(foreign, "local")
    assert some.shown("/models/Llama-3") == "Llama-3"
    assert some.hint("gpt-4o-mini") == "Did you mean gpt-4o, gpt-4?"


def test_an_alias_of_a_base_that_is_not_served_is_refused_with_the_nearest(
    names: Callable[..., Names], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for wrong in ("nope", "owner/model", str(tmp_path / "gone")):
        with pytest.raises(UsageError, match=r"is no base of this server. Bases here: weft-nano. Expected one of its"):
            names(["weft-nano"], {"gpt": wrong})
    with pytest.raises(UsageError, match=r"--alias gpt=weft-nanno: 'weft-nanno' is no .* Did you mean weft-nano\?"):
        names(["weft-nano"], {"gpt": "weft-nanno"})
    assert names(["owner/model"], {"gpt": "owner/model"}).base("gpt") == "owner/model"
    assert names(["weft-nano"], {"gpt": str(tmp_path)}).base("gpt") == str(tmp_path)
    assert names(["weft-nano"], {"one": "weft-nano", "two": "one"}).base("two") == "weft-nano"


def test_two_bases_of_one_name_are_refused(names: Callable[..., Names]) -> None:
    with pytest.raises(UsageError, match="would both be called 'Llama-3'"):
        names(["/a/Llama-3", "/b/Llama-3"])
