"""The settings of a server as all of its commands take them: from flags, the environment and a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from weft.serve.config import ServeConfig

data_option = click.option("--data", metavar="FOLDER", help="The server's data folder; default: as `weft serve`.")
database_option = click.option(
    "--database", metavar="URL", help="The server's database, where it is not in the data folder."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def server_settings(flags: Mapping[str, Any], file: str | None = None) -> ServeConfig:
    """The settings; `WEFT_DATABASE_URL`, the name that other tools use, counts as `WEFT_DATABASE`.

    Raises SettingsError, which names all that is wrong.
    """
    from weft.settings import resolve

    environment = dict(os.environ)
    environment.setdefault("WEFT_DATABASE", environment.get("WEFT_DATABASE_URL", ""))
    return resolve(ServeConfig, flags, environment=environment, file=Path(file) if file else None).config
