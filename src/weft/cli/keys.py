"""`weft keys create | list | revoke`: who may use a server. Works on the data folder, beside a running server too."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from weft.cli.server_settings import data_option, database_option, server_settings

if TYPE_CHECKING:
    from weft.serve.keys import Keys
    from weft.serve.records import Key

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}


@click.group("keys", short_help="Make, list and revoke the keys of a server.")
def command() -> None:
    """Keys say who asks. As long as there are none, a server answers to this machine alone, and to everybody on it."""


@command.command("create")
@click.argument("name")
@click.option("--owner", default="local", show_default=True, help="Whose files, jobs and models the key reaches.")
@click.option(
    "--scopes",
    default="files,jobs,models,chat",
    show_default=True,
    help="What it may do; `admin` reads metrics and shares models.",
)
@click.option("--expires", metavar="TIME", help="When it ends: 12h, 30d, 8w, or a date as 2027-06-30; default: never.")
@data_option
@database_option
def create(name: str, owner: str, scopes: str, expires: str | None, data: str | None, database: str | None) -> None:
    """Make a key and print it, once: only its hash is kept."""
    wanted = tuple(scope.strip() for scope in scopes.split(",") if scope.strip())
    with _open(data, database) as keys:
        key, secret = keys.create(name, owner, wanted, expires_at=_expiry(expires))
    click.echo(secret)
    click.echo(f"Key {key.id} of owner {key.owner}: {', '.join(key.scopes)}. It is shown this once; keep it.", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@data_option
@database_option
def listed(as_json: bool, data: str | None, database: str | None) -> None:
    """All keys, without their secrets."""
    from weft.serve.store.folder import MARK

    config = server_settings({"data": data, "database": database})
    rows: list[dict[str, Any]] = []
    if config.database or (config.folder / MARK).is_file():  # looking makes no folder
        with _open(data, database) as keys:
            rows = [_shown(key) for key in keys.list()]
    if as_json:
        from weft.cli.terminal import print_json

        print_json({"keys": rows})
        return
    if not rows:
        click.echo(f"There is no key in {config.folder}. Make one: weft keys create NAME")
    table = [_columns(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for words in table:
        click.echo("  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)).rstrip())


@command.command("revoke")
@click.argument("key")
@data_option
@database_option
def revoke(key: str, data: str | None, database: str | None) -> None:
    """End a key, named by its id or its beginning; a running server refuses it within a second."""
    with _open(data, database) as keys:
        ended = keys.revoke(key)
    click.echo(f"Revoked {ended.id} ({ended.name}).", err=True)


@contextlib.contextmanager
def _open(data: str | None, database: str | None) -> Iterator[Keys]:
    from weft.serve.keys import Keys

    config = server_settings({"data": data, "database": database})
    keys = Keys.open(config.folder, config.database)
    try:
        yield keys
    finally:
        keys.close()


def _expiry(text: str | None) -> int | None:
    """Unix seconds of `12h`, `30d`, `8w` from now, or of a date."""
    if text is None:
        return None
    now = datetime.now(UTC).timestamp()
    if match := re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text):
        return int(now + int(match[1]) * _UNITS[match[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--expires {text!r} is no time; write 12h, 30d, 8w or a date as 2027-06-30.") from None
    at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if at <= now:
        raise click.UsageError(f"--expires {text!r} has passed; name a time to come.")
    return int(at)


def _shown(key: Key) -> dict[str, Any]:
    now = datetime.now(UTC).timestamp()
    state = "revoked" if key.revoked_at else "expired" if key.expires_at and key.expires_at <= now else "valid"
    until = _day(key.expires_at) if key.expires_at else None
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "owner": key.owner,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires": until,
        "state": f"{state} until {until}" if state == "valid" and until else state,
    }


def _columns(row: dict[str, Any]) -> tuple[str, ...]:
    used = f"used {_day(row['last_used_at'])}" if row["last_used_at"] else "never used"
    beginning, scopes = f"{row['prefix']}…", ",".join(row["scopes"])
    return row["id"], beginning, row["name"], f"owner {row['owner']}", scopes, row["state"], used


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()
