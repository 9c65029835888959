"""Shared fixtures: where real data lies when it is there. And the suite stays on this machine (T43)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit import REFUSED

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WEFT_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: Ctrl-C is tested all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Fails a test that tried to reach another machine, also where the code took the refusal for a broken network."""
    yield
    tried = REFUSED[:]
    REFUSED.clear()
    if tried:
        pytest.fail(f"this test tried to leave this machine: {'; '.join(tried)}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public data beside the checkout; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("WEFT_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the public data folder ({folder.name}/data beside the checkout)")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
