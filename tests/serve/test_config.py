"""The settings of the server: from flags, environment and Python, with every wrong value named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from weft.errors import SettingsError
from weft.serve.config import ServeConfig, default_data
from weft.settings import resolve


def test_the_defaults_let_in_this_machine_alone() -> None:
    config = ServeConfig()
    assert (config.host, config.port, config.origins, config.hosts) == ("127.0.0.1", 8000, (), ())
    assert config.loopback
    assert config.bases == ("weft-nano",)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False), ("127.evil.example", False)],
)  # fmt: skip
def test_loopback_is_told_by_the_address(host: str, loopback: bool) -> None:
    assert ServeConfig(host=host).loopback is loopback


def test_the_data_folder_follows_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/share")
    assert ServeConfig().folder == default_data() == Path("/share/weft/serve")
    monkeypatch.setenv("WEFT_HOME", "/home")
    assert default_data() == Path("/home/serve")
    assert ServeConfig(data="~/x").folder == Path.home() / "x"


def test_the_data_folder_is_absolute_since_workers_stand_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ServeConfig(data="data").folder == tmp_path / "data"
    monkeypatch.setenv("WEFT_HOME", "home")
    assert ServeConfig().folder == tmp_path / "home" / "serve"


def test_lists_and_pairs_are_read_from_one_text_too() -> None:
    environment = {
        "WEFT_ALIAS": "gpt-4o=weft-nano, gpt-4=weft-nano",
        "WEFT_BASES": "weft-nano,other",
        "WEFT_PORT": "99",
    }
    config = resolve(ServeConfig, environment=environment).config
    assert config.alias == {"gpt-4o": "weft-nano", "gpt-4": "weft-nano"}
    assert config.bases == ("weft-nano", "other")
    assert config.port == 99


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"port": 65536}, "port"),
        ({"alias": ["gpt-4o"]}, "is no NAME=BASE"),
        ({"alias": {"a/b": "weft-nano"}}, "cannot be a name"),
        ({"alias": {"a:b": "weft-nano"}}, "cannot be a name"),
        ({"alias": {"a": ""}}, "names no base"),
        ({"bases": ()}, "at least one base"),
        ({"origins": ("*",)}, "is no origin"),
        ({"origins": ("null",)}, "is no origin"),
        ({"origins": ("https://a.example/path",)}, "is no origin"),
        ({"organization": "Acme Inc"}, "organization"),
        ({"organisation": "acme"}, "Did you mean `organization`"),
        ({"slots": 0}, "slots"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        resolve(ServeConfig, values, environment={})
