"""What `weft chat` says of a run that has no model to talk to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weft.errors import ModelError
from weft.road.open import open_model


def test_a_run_that_ended_without_training_names_its_verdict_and_its_base(
    run_road: Any, tmp_path: Path, tiny: str, topics: Any, write_json: Any
) -> None:
    report = run_road(write_json(tmp_path / "few.jsonl", topics(12)))
    assert report["verdict"]["choice"] == "more-data"
    with pytest.raises(ModelError) as refused:
        open_model("run")
    said = str(refused.value)
    assert said.startswith("run: this run ended without training, because its verdict (more-data) needed none")
    assert said.endswith(f"Talk to its base with: weft chat {tiny}")
    assert open_model(tiny).base.name == tiny
