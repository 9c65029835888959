"""Write docs/reference.md from the commands and Configs themselves: `python docs/make_reference.py [--check]`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from weft.cli import VERBS, cli
from weft.cli.options import Setting

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# Reference

Made by `python docs/make_reference.py` from the commands themselves; a test fails when it is stale.

Settings go by flag, then by environment (`WEFT_` and the name in capitals), then by the YAML file of `--config`, then
by default. A key of the YAML file is the flag without dashes in front, with `_` for `-`; the adapter's settings stand
under `lora:`. Unknown keys are refused. The run's folder keeps every value with its origin. Two variables are no
settings and hold for every command: `WEFT_OFFLINE=1` forbids the network, `WEFT_FLOAT32=onednn` or `=default` decides
by which route a CPU multiplies float32 numbers (else a test product does).

Exit codes: 0 fine · 1 the answer is no (the examples cannot be used, the store is damaged) · 2 misuse · 3 failed · 130
interrupted · 143 told to stop (SIGTERM). After the last two `run`, `train` and `eval` go on from where they were when
the same command is given again; the others leave nothing half-done.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    context = click.Context(cli, info_name="weft")
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        parts += _sections(command, click.Context(command, info_name=verb, parent=context))
    return "\n".join(parts)


def _sections(command: click.Command, context: click.Context) -> list[str]:
    """One for a command; for a group one for each of its own."""
    if not isinstance(command, click.Group):
        return [_section(command, context)]
    name = context.info_name
    return [
        _section(own, click.Context(own, info_name=f"{name} {verb}", parent=context.parent))
        for verb, own in command.commands.items()
    ]


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    told = inspect.cleandoc(command.help or "")
    lines = [f"## weft {context.info_name}", "", f"`weft {context.info_name} {usage}`", "", told, ""]
    lines += ["| flag | default | meaning |", "|---|---|---|"]
    for option in command.params:
        if isinstance(option, click.Option):
            lines.append(f"| {_flag(option, context)} | {_default(option)} | {_cell(option.help or '')} |")
    return "\n".join([*lines, ""])


def _flag(option: click.Option, context: click.Context) -> str:
    kind = "" if option.is_flag or option.is_bool_flag else f" {option.make_metavar(context)}"
    return f"`{'/'.join([*option.opts, *option.secondary_opts])}{kind}`".replace("|", "\\|")


def _default(option: click.Option) -> str:
    return f"`{option.default_text}`" if isinstance(option, Setting) and option.default_text else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    if "--check" in sys.argv[1:]:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print(f"docs/reference.md is {'fresh' if fresh else 'stale: run python docs/make_reference.py'}")
        sys.exit(0 if fresh else 1)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
