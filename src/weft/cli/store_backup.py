"""`weft store backup` and `weft store restore`: all that a server keeps, copied while it runs, and put back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli.server_settings import data_option, database_option, json_option, server_settings

if TYPE_CHECKING:
    from weft.serve.store.backup import Copied


@click.command("backup")
@click.argument("out", metavar="OUT")
@data_option
@database_option
@json_option
@click.pass_context
def backup(context: click.Context, out: str, data: str | None, database: str | None, as_json: bool) -> None:
    """Copy all that a server keeps to the new folder OUT; the server may run. Ends with 1 where content is damaged.

    OUT is a data folder of its own, with SQLite whatever the server has: serve it, look through it, copy it further.
    Run folders of jobs are not in it; a job that was at work begins again.
    """
    from weft.serve.store.backup import copy_store

    config = server_settings({"data": data, "database": database})
    copied = copy_store(config.folder, config.database, Path(out))
    if as_json:
        _print(copied, data=str(config.folder), backup=out)
    else:
        click.echo(f"{out}: {_told(copied)}\nServe it: weft serve --data {out}")
    context.exit(1 if copied.damages else 0)


@click.command("restore")
@click.argument("copy", metavar="BACKUP")
@data_option
@database_option
@json_option
@click.pass_context
def restore(context: click.Context, copy: str, data: str | None, database: str | None, as_json: bool) -> None:
    """Copy the folder BACKUP to the server's data folder and database, which must be new or empty.

    For SQLite a plain copy of BACKUP does the same. With --database it brings a store into PostgreSQL.
    """
    from weft.serve.store.backup import copy_store

    config = server_settings({"data": data, "database": database})
    copied = copy_store(Path(copy), None, config.folder, config.database)
    if as_json:
        _print(copied, data=str(config.folder), backup=copy)
    else:
        click.echo(f"{config.folder}: {_told(copied)}")
    context.exit(1 if copied.damages else 0)


def _told(copied: Copied) -> str:
    whole = f"{copied.files:,} pieces of content, {copied.adapters:,} adapters, {copied.bytes / 1e6:,.1f} MB."
    if not copied.damages:
        return whole
    lines = [f"  {damage.kind}  {damage.where}  {damage.message}" for damage in copied.damages]
    return "\n".join([f"{whole} Damaged in the source and left out: {len(copied.damages):,}", *lines])


def _print(copied: Copied, **folders: str) -> None:
    """The same facts as one JSON object."""
    from dataclasses import asdict

    from weft.cli.terminal import print_json

    print_json(folders | asdict(copied))
