"""The command `weft`: one thin file per verb, imported only when that verb is asked for.

Results go to stdout, progress and messages to stderr. Exit codes: 0 fine, 1 the answer is no, 2 misuse, 3 failed,
130 interrupted, 143 told to stop.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from weft.cli.interrupt import Terminated, terminable

VERBS = {
    "run": "The whole road: check, split, measure the arms, fine-tune, verdict, report.",
    "check": "Every flaw of a file of examples, by line and rule.",
    "train": "One training run on a file of examples, or on documents.",
    "eval": "Runs and arms on the sealed test split, side by side.",
    "chat": "Talk to a base or a run, or to two side by side.",
    "serve": "The fine-tuning API on this machine: jobs, tuned models, chat.",
    "keys": "Make, list and revoke the keys of a server.",
    "store": "Back up, restore and check what a server keeps.",
}
_GO_ON = ("run", "train", "eval")
"""The verbs that find again what they had done."""


class Verbs(click.Group):
    """Lists the verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"weft.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean `weft {near[0]}`?" if near else f" Known: {', '.join(VERBS)}."
            raise click.UsageError(f"unknown command `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: weft run YOUR-EXAMPLES.jsonl",
)
@click.version_option(package_name="weft", message="weft %(version)s")
def cli() -> None:
    """Decide by measurement whether to fine-tune a model on your examples; fine-tune it; prove what changed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; every expected failure ends in a sentence and its exit code."""
    from weft.errors import WeftError

    # Threads that spin for long make every step many times slower when something else runs on the same cores; threads
    # that sleep at once make short products as slow as on one core. A short spin has neither fault.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with terminable():
            code = cli.main(arguments, prog_name="weft", standalone_mode=False)
            sys.stdout.flush()
    except click.ClickException as error:
        error.show(sys.stderr)
        code = 2
    except WeftError as error:
        click.echo(f"weft: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"weft: interrupted. {_kept(arguments)}", err=True)
        code = 130
    except Terminated:
        click.echo(f"weft: told to stop (SIGTERM). {_kept(arguments)}", err=True)
        code = 143
    except ModuleNotFoundError as error:
        library = (error.name or "weft").split(".")[0]
        if library == "weft":
            raise
        click.echo(f"weft: this needs {library}, which is not installed: pip install 'weft[local]'", err=True)
        code = 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MemoryError:
        click.echo("weft: out of memory. Use a smaller base, --batch-size or --max-tokens.", err=True)
        code = 3
    except RuntimeError as error:
        # torch's allocator has no kind of its own on the CPU.
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        click.echo("weft: out of memory. Use a smaller base, --batch-size or --max-tokens.", err=True)
        code = 3
    sys.exit(code if isinstance(code, int) else 0)


def _kept(arguments: Sequence[str]) -> str:
    goes_on = next((word for word in arguments if word in VERBS), "") in _GO_ON
    return f"Nothing half-done is kept{'; the same command goes on from here' if goes_on else ''}."
