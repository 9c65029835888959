"""`weft serve`: the fine-tuning API on this machine."""

from __future__ import annotations

from typing import Any

import click

from weft.cli.interrupt import Terminated
from weft.cli.options import flags, gather
from weft.cli.server_settings import server_settings
from weft.serve.config import ServeConfig


@click.command("serve", short_help="The fine-tuning API on this machine: jobs, tuned models, chat.")
@click.option(
    "--alias",
    multiple=True,
    metavar="NAME=BASE",
    help="A further name for a base; may be repeated: gpt-4o-mini=weft-nano.",
)
@click.option(
    "--base",
    "bases",
    multiple=True,
    metavar="BASE",
    help="A base that may be tuned and asked; may be repeated.  [default: weft-nano]",
)
@click.option("--config", "file", help="YAML file with settings; flags and WEFT_* variables go before it.")
@flags(ServeConfig, without=("alias", "bases"))
def command(alias: tuple[str, ...], bases: tuple[str, ...], file: str | None, **values: Any) -> None:
    """Serve files, fine-tuning jobs, tuned models and chat completions behind the API that the openai SDK speaks.

    Code written for the hosted service runs against it with two environment variables, which are said at the start.
    """
    from weft import web
    from weft.serve.listen import serve

    given = gather(ServeConfig, values)
    if alias:
        # As pairs they complete those of a file; what is no pair is explained by the Config.
        whole = all("=" in pair for pair in alias)
        given["alias"] = dict(pair.split("=", 1) for pair in alias) if whole else list(alias)
    if bases:
        given["bases"] = bases
    config = server_settings(given, file)
    try:
        serve(config, pages=[web.router])
    except Terminated:
        return  # told to stop before it listened: it leaves as it does later
