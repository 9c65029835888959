"""`weft store check`: whether all that a server keeps is there and is what it was; for a stopped one, or a backup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weft.cli import store_backup
from weft.cli.server_settings import data_option, database_option, json_option, server_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weft.serve.store.check import Damage


@click.group("store", short_help="Back up, restore and check what a server keeps.")
def command() -> None:
    """What a server keeps: its data folder and its database."""


command.add_command(store_backup.backup)
command.add_command(store_backup.restore)


@command.command("check")
@data_option
@database_option
@click.option("--deep", is_flag=True, help="Also read every byte of files and adapters and compare their hashes.")
@json_option
@click.pass_context
def check(context: click.Context, data: str | None, database: str | None, deep: bool, as_json: bool) -> None:
    """Name all damage: content that is gone or differs, leftovers, rows that point nowhere. Ends with 1 if any.

    Mends nothing. The server must be stopped; a copy of its folder is looked through in the same way.
    """
    from weft.errors import UsageError
    from weft.serve.store import Store
    from weft.serve.store.folder import MARK

    config = server_settings({"data": data, "database": database})
    if not (config.folder / MARK).is_file():
        raise UsageError(f"{config.folder}: no data folder of a server ({MARK} is missing). Name it with --data.")
    store = Store.open(config.folder, config.database, mend=False)
    try:
        damages = store.check(deep)
    finally:
        store.close()
    if as_json:
        from dataclasses import asdict

        from weft.cli.terminal import print_json

        found = [asdict(damage) for damage in damages]
        print_json({"data": str(config.folder), "deep": deep, "damages": found})
    else:
        click.echo(f"{config.folder}: {_told(damages, deep)}")
    context.exit(1 if damages else 0)


def _told(damages: Sequence[Damage], deep: bool) -> str:
    if not damages:
        return "no damage found" + (", all content read." if deep else ". Content was not read; --deep reads it.")
    lines = [f"  {damage.kind}  {damage.where}  {damage.message}" for damage in damages]
    return "\n".join([f"{len(damages):,} damage{'' if len(damages) == 1 else 's'} found", *lines])
