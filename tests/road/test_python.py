"""The verbs as functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import weft
from weft.errors import SettingsError


def test_the_road_is_a_function(tmp_path: Path, tiny: str, topics: Any, write_json: Any) -> None:
    data = tmp_path / "data.jsonl"
    write_json(data, topics(40))
    report = weft.run(data, tmp_path / "r", base=tiny, epochs=1, learning_rate=1e-3)
    assert report["verdict"]["choice"] in {"classical", "more-data", "none", "prompt"}
    assert Path(report["report"]).is_file()


def test_an_unknown_setting_is_named(tmp_path: Path, tiny: str, topics: Any, write_json: Any) -> None:
    data = tmp_path / "data.jsonl"
    write_json(data, topics(40))
    with pytest.raises(SettingsError, match="epocks"):
        weft.run(data, tmp_path / "r", base=tiny, epocks=1)


def test_every_name_that_is_offered_is_there() -> None:
    for name in dir(weft):
        assert getattr(weft, name) is not None
    with pytest.raises(AttributeError, match="it offers check, load, read, run, split"):
        weft.predict  # noqa: B018
