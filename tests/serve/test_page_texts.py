"""T41: over 200 texts that try to be scripts, in every field that the page shows, stay texts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serve.conftest import Worker, World, a_server
from tests.serve.hostile import SCRIPTS
from tests.web.conftest import a_job, listening
from tests.web.test_page import page
from weft import web
from weft.serve.app import build
from weft.serve.records import EventDraft
from weft.serve.server import Server

AT_ONCE = 16
BATCHES = tuple(SCRIPTS[start : start + AT_ONCE] for start in range(0, len(SCRIPTS), AT_ONCE))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], World]]:
    """Servers with their page, by the name of their folder."""
    with ExitStack() as stack:

        def started(name: str) -> World:
            server = a_server(tmp_path / name, stack, active_jobs=100)
            http = TestClient(build(server, pages=[web.router]), base_url="http://127.0.0.1:8000")
            return World(server, stack.enter_context(http))

        yield started


def jobs_of(server: Server, batches: Any) -> None:
    """A failed job for each batch: its texts are the names of its file, its suffix, metadata, error and events."""
    worker = Worker(server)
    for batch in batches:
        text = "\n".join(batch)
        a_job(server, file=text, suffix=text, metadata={one: one for one in batch})
        worker.validate()
        lease = worker.take()
        job, attempt = lease.job.id, lease.attempt
        server.leases.settled(job, attempt, {"n_epochs": text, "batch_size": text}, None, base_sha256="b" * 64)
        server.leases.events(job, attempt, [EventDraft(one, level="warn") for one in batch])
        server.leases.fail(job, attempt, batch[0], text, text, again=False)


def test_no_text_in_any_field_adds_an_element_or_an_attribute_to_the_page(make: Callable[[str], World]) -> None:
    assert len(set(SCRIPTS)) >= 200 and len(BATCHES) <= 20
    quiet, loud = make("quiet"), make("loud")
    jobs_of(quiet.server, [[f"text {number}.{n}" for n in range(len(batch))] for number, batch in enumerate(BATCHES)])
    jobs_of(loud.server, BATCHES)
    expected, found = page(quiet), page(loud)
    assert [(tag, sorted(attributes)) for tag, attributes in found.tags] == [
        (tag, sorted(attributes)) for tag, attributes in expected.tags
    ]
    assert not found.wrong and not found.open
    assert "<script>window.hit=1</script>" in found.text


@pytest.mark.browser
def test_no_text_in_any_field_runs_or_asks_for_anything_in_a_browser(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with listening(tmp_path / "data", active_jobs=100) as (server, address), playwright.sync_playwright() as started:
        jobs_of(server, BATCHES)
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab, outside, said = browser.new_page(), [], []
        tab.set_default_timeout(60_000)
        tab.on("request", lambda asked: outside.append(asked.url))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.goto(address)
        assert tab.locator(".job").count() == len(BATCHES)
        for summary in tab.locator(".job summary").all():
            summary.click()
        tab.wait_for_selector(".job[open] .log li")
        tab.wait_for_timeout(3000)
        assert tab.evaluate("window.hit") is None and said == []
        assert tab.locator("script").count() == 1
        assert (
            tab.locator("img, iframe, object, embed, base, form[action], style, svg script, video, math").count() == 0
        )
        foreign = [url for url in outside if not url.startswith((address, "data:"))]
        assert foreign == []
        print(f"T41: {len(SCRIPTS)} texts in 7 fields of {len(BATCHES)} jobs: 0 scripts, 0 of {len(outside)} requests")
        browser.close()
