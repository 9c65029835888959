"""What several tests of training stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.testing import save_base


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base as a folder, which full fine-tuning copies from."""
    return save_base(tmp_path_factory.mktemp("base") / "tiny")
