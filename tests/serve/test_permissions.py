"""Permissions over the wire: what the SDK asks with an admin key, and what another project may do afterwards."""

from __future__ import annotations

import openai
import pytest

from tests.serve.conftest import World, chat_rows


@pytest.fixture
def owned(world: World) -> tuple[World, openai.OpenAI, str]:
    """A server with owners ann, ben and cy; ann's client, and a checkpoint of hers."""
    client = world.sdk(world.key("ann", "files", "jobs", "models", "admin"))
    for owner in ("ben", "cy"):
        world.key(owner, "models")
    file = client.files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="weft-nano", training_file=file).id
    world.worker.finish()
    *_, oldest = client.fine_tuning.jobs.checkpoints.list(job)
    return world, client, oldest.fine_tuned_model_checkpoint


def test_a_checkpoint_is_shared_with_a_project_and_taken_back(owned: tuple[World, openai.OpenAI, str]) -> None:
    world, client, name = owned
    permissions = client.fine_tuning.checkpoints.permissions
    (given,) = permissions.create(name, project_ids=["ben"])
    assert (given.object, given.project_id) == ("checkpoint.permission", "ben")
    assert given.id.startswith("cp_")
    ben, cy = world.sdk(world.key("ben", "models")), world.sdk(world.key("cy", "models"))
    assert ben.models.retrieve(name).id == name
    assert name in [model.id for model in ben.models.list()]
    for refused in (lambda: cy.models.retrieve(name), lambda: ben.models.delete(name)):
        with pytest.raises(openai.NotFoundError, match="does not exist or you do not have access"):
            refused()
    gone = permissions.delete(given.id, fine_tuned_model_checkpoint=name)
    assert (gone.id, gone.object, gone.deleted) == (given.id, "checkpoint.permission", True)
    with pytest.raises(openai.NotFoundError):
        ben.models.retrieve(name)
    with pytest.raises(openai.NotFoundError, match=f"No such checkpoint.permission object: {given.id}"):
        permissions.delete(given.id, fine_tuned_model_checkpoint=name)


def test_permissions_are_listed_in_both_orders_and_page_by_page(owned: tuple[World, openai.OpenAI, str]) -> None:
    _, client, name = owned
    permissions = client.fine_tuning.checkpoints.permissions
    both = [permission.id for permission in permissions.create(name, project_ids=["ben", "cy"])]
    assert [permission.id for permission in permissions.list(name, limit=1)] == both[::-1]
    assert [permission.id for permission in permissions.list(name, limit=1, order="ascending")] == both
    assert [permission.project_id for permission in permissions.list(name, project_id="cy")] == ["cy"]
    with pytest.warns(DeprecationWarning):
        page = permissions.retrieve(name, limit=1)
    assert (page.has_more, page.first_id, page.last_id) == (True, both[1], both[1])


def test_permissions_need_an_admin_key_of_the_models_owner(owned: tuple[World, openai.OpenAI, str]) -> None:
    world, _, name = owned
    cases: list[tuple[tuple[str, ...], type[openai.APIStatusError]]] = [
        (("jobs", "models"), openai.PermissionDeniedError), (("admin",), openai.NotFoundError),
    ]  # fmt: skip
    for scopes, kind in cases:
        permissions = world.sdk(world.key("ben", *scopes)).fine_tuning.checkpoints.permissions
        with pytest.raises(kind):
            permissions.create(name, project_ids=["ben"])
        with pytest.raises(kind):
            permissions.list(name)
        with pytest.raises(kind):
            permissions.delete("cp_x", fine_tuned_model_checkpoint=name)


def test_a_project_that_nobody_has_a_key_of_is_refused_in_words(owned: tuple[World, openai.OpenAI, str]) -> None:
    _, client, name = owned
    permissions = client.fine_tuning.checkpoints.permissions
    with pytest.raises(openai.BadRequestError, match=r"No key belongs to project 'bem'.*--owner bem") as caught:
        permissions.create(name, project_ids=["ben", "bem"])
    assert caught.value.param == "project_ids"
    with pytest.raises(openai.BadRequestError, match="at least 1 item"):
        permissions.create(name, project_ids=[])
    assert list(permissions.list(name)) == []
