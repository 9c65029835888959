"""Permissions in the store: who may use a model that is another's, and how the table came to be."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect

from tests.serve.store.conftest import OpenStore
from tests.serve.store.scenes import draft, finish, new_job, put_file, start
from weft.errors import NotThere
from weft.serve.leases import Leases
from weft.serve.store import Store
from weft.serve.store.check import check


def tuned(store: Store, owner: str = "ann") -> str:
    """The name of a model that `owner` trained."""
    new_job(store, owner)
    leases = Leases(store)
    return str(finish(store, leases, *start(leases)).fine_tuned_model)


def test_a_model_is_used_by_its_owner_and_by_those_who_were_let(store: Store) -> None:
    name = tuned(store)
    (given,) = store.permissions.create("ann", name, ["ben"])
    adapter = store.models.get("ann", name).adapter
    assert store.models.get("ben", name).adapter == adapter
    assert [model.id for model in store.models.list("ben")] == [name]
    further = draft(put_file(store, owner="ben"), start_from=adapter)
    assert store.jobs.create("ben", further).start_from == adapter
    assert store.models.list("eve") == ()
    with pytest.raises(NotThere):
        store.models.get("eve", name)
    with pytest.raises(NotThere):
        store.jobs.create("eve", draft(put_file(store, owner="eve"), start_from=adapter))
    store.permissions.delete("ann", name, given.id)
    with pytest.raises(NotThere):
        store.models.get("ben", name)
    assert store.models.list("ben") == ()


def test_only_the_owner_gives_sees_takes_back_and_deletes(store: Store) -> None:
    name = tuned(store)
    (given,) = store.permissions.create("ann", name, ["ben"])
    for attempt in (
        lambda: store.permissions.create("ben", name, ["eve"]),
        lambda: store.permissions.list("ben", name),
        lambda: store.permissions.delete("ben", name, given.id),
        lambda: store.permissions.delete("ann", "ft:other", given.id),
        lambda: store.models.delete("ben", name),
    ):
        with pytest.raises(NotThere, match="No such model"):
            attempt()
    with pytest.raises(NotThere, match=r"No such checkpoint\.permission"):
        store.permissions.delete("ann", name, "cp_x")
    assert store.permissions.list("ann", name).items == (given,)


def test_the_same_permission_twice_is_one(store: Store) -> None:
    name = tuned(store)
    first = store.permissions.create("ann", name, ["ben", "cy", "ben"])
    assert [permission.project_id for permission in first] == ["ben", "cy"]
    assert store.permissions.create("ann", name, ["cy"]) == first[1:]
    assert store.permissions.list("ann", name).items == first[::-1]
    assert store.permissions.list("ann", name, project="ben").items == first[:1]


def test_a_permission_goes_with_its_model(store: Store) -> None:
    name, other = tuned(store), tuned(store)
    store.permissions.create("ann", name, ["ben"])
    store.permissions.create("ann", other, ["ben"])
    store.models.delete("ann", name)
    assert [model.id for model in store.models.list("ben")] == [other]
    assert check(store.ground, store.data, deep=False) == ()


def test_a_store_of_the_first_schema_is_brought_up_to_date(open_store: OpenStore) -> None:
    store = open_store()
    name = tuned(store)
    with store.ground.database.write() as connection:
        connection.exec_driver_sql("DROP TABLE permissions")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    store.close()
    store = open_store()
    with store.ground.database.read() as connection:
        assert inspect(connection).has_table("permissions")
    store.permissions.create("ann", name, ["ben"])
    assert [model.id for model in store.models.list("ben")] == [name]
