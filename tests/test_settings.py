"""Settings: precedence, origins, and every mistake named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from weft.errors import SettingsError
from weft.settings import Config, resolve


class Example(Config):
    """An example."""

    learning_rate: float = Field(1e-3, gt=0)
    """Peak rate."""
    epochs: int = Field(3, ge=1)
    """Passes over the data."""
    seed: int = 0
    """Order of examples."""


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("learning_rate: 0.1\nepochs: 5\nseed: 7\n")
    resolved = resolve(Example, {"seed": 9}, environment={"WEFT_EPOCHS": "6"}, file=file)
    assert (resolved.config.learning_rate, resolved.config.epochs, resolved.config.seed) == (0.1, 6, 9)
    assert resolved.origins == {"learning_rate": "file weft.yaml", "epochs": "environment WEFT_EPOCHS", "seed": "flag"}
    assert resolve(Example, environment={}).origins == dict.fromkeys(Example.model_fields, "default")


def test_all_mistakes_are_named_at_once_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(Example, {"learning_rat": 1, "epochs": 0, "learning_rate": -1}, environment={})
    message = str(caught.value)
    assert "unknown setting `learning_rat` (flag). Did you mean `learning_rate`?" in message
    assert "setting `epochs` is 0 (flag)" in message
    assert "setting `learning_rate` is -1" in message and "Peak rate." in message


def test_an_unknown_key_without_a_near_name_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="Known: learning_rate, epochs, seed"):
        resolve(Example, {"zzz": 1}, environment={})


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a: [", "not valid YAML"), ("- 1\n- 2\n", "holds a list, expected `key: value` lines")],
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=problem):
        resolve(Example, environment={}, file=file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        resolve(Example, environment={}, file=tmp_path / "none.yaml")


class Group(Config):
    """A nested group."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = 32.0
    """Strength."""


class Outer(Config):
    """Settings with a group and a union."""

    lora: Group = Group()
    """The group."""
    epochs: int | Literal["auto"] = "auto"
    """Passes."""


def test_a_group_is_completed_by_a_later_layer_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("lora:\n  alpha: 8\n")
    resolved = resolve(Outer, {"lora": {"r": 2}}, environment={}, file=file)
    assert (resolved.config.lora.r, resolved.config.lora.alpha) == (2, 8.0)
    assert resolved.origins["lora"] == "file weft.yaml, flag"


def test_mistakes_in_groups_and_unions_are_one_sentence_each() -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(Outer, {"lora": {"rr": 2, "r": 0}, "epochs": "some"}, environment={})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0] == "unknown setting `lora.rr` (flag). Did you mean `r`?"
    assert any(line.startswith("setting `lora.r` is 0 (flag)") and "Rank." in line for line in lines)
    assert any(line.startswith("setting `epochs` is 'some'") and " or: " in line for line in lines)


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_bytes(b"seed: \xff")
    with pytest.raises(SettingsError, match="not UTF-8 at byte 6"):
        resolve(Example, environment={}, file=file)


def test_a_value_resolved_later_says_from_what() -> None:
    later = resolve(Example, environment={}).replace("auto: 10 examples", epochs=8)
    assert later.config.epochs == 8
    assert later.to_json()["epochs"] == {"value": 8, "origin": "auto: 10 examples"}
