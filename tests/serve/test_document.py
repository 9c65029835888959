"""The OpenAPI document against the server itself: whatever it allows is answered as it says (T36)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from tests.serve.conftest import ALIAS, World, a_server, a_world, chat_rows
from weft.testing import EchoEngine, tiny_base

# A body may fit its shape and still name a file that is not there, or a model; those are 400s of their own.
# A query may hold parameters that nobody knows: they are ignored, as the contract has it, and are no error.
CONFIG = {
    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 401, 403, 404, 409, 413]}},
    "generation": {"allow-extra-parameters": False},
}
CASES = 500


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Any, dict[str, str]]]:
    """A server with a key and something in each list; its document; the header with the key."""
    with ExitStack() as stack:
        base = tiny_base()
        server = a_server(
            tmp_path_factory.mktemp("document") / "data",
            stack,
            open_base=lambda name: base,
            start=EchoEngine,
            hosts=("*",),
            alias=ALIAS,
            active_jobs=100_000,
            requests_per_minute=10_000_000,
        )
        world = a_world(server, stack)
        key = world.key("local", "files", "jobs", "models", "chat", "admin")
        file = world.sdk(key).files.create(file=("train.jsonl", chat_rows()), purpose="fine-tune").id
        world.sdk(key).fine_tuning.jobs.create(model="weft-nano", training_file=file)
        headers = {"Authorization": f"Bearer {key}"}
        app = world.http.app
        document = schemathesis.openapi.from_asgi(
            "/openapi.json", app, config=SchemathesisConfig.from_dict(CONFIG), headers=headers
        )
        yield world, document, headers


def attack(document: Any, headers: dict[str, str], cases: int) -> tuple[list[str], int]:
    """The failures of at least `cases` cases, spread over all operations, allowed and forbidden ones; and how many."""
    operations = [result.ok() for result in document.get_all_operations()]
    # Of each mode; the tenth more is for operations that cannot be asked in so many ways.
    each = math.ceil(1.1 * cases / (2 * len(operations)))
    failures: list[str] = []
    made = 0
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)

                @settings(
                    max_examples=each,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=strategy)
                def sent(case: Any) -> None:
                    nonlocal made
                    made += 1
                    case.call_and_validate(headers=headers)

                sent()
            except (Unsatisfiable, SkipTest):
                continue  # nothing in this operation can be wrong
            except (Exception, BaseExceptionGroup) as error:
                failures.append(f"{operation.label} {mode.name}: {error}")
    return failures, made


def test_whatever_the_document_allows_is_answered_as_it_says(asked: tuple[World, Any, dict[str, str]]) -> None:
    world, document, headers = asked
    failures, made = attack(document, headers, CASES)
    assert failures == []
    assert made >= CASES
    families = world.server.measures.requests.collect()
    statuses = {
        sample.labels["status"] for family in families for sample in family.samples if sample.name.endswith("_total")
    }
    assert statuses >= {"200", "400", "404"}


def test_query_parameters_that_nobody_knows_are_ignored(kept: World) -> None:
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/models"):
        assert kept.http.get(f"{path}?limit=1&unknown=1&=null").status_code == 200


@pytest.mark.slow
def test_whatever_the_document_allows_is_answered_as_it_says_for_long(
    asked: tuple[World, Any, dict[str, str]],
) -> None:
    _, document, headers = asked
    failures, made = attack(document, headers, 20 * CASES)
    assert failures == []
    assert made >= 20 * CASES
