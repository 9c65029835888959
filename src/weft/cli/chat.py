"""`weft chat MODEL [MODEL]`: talk to a model, or to two side by side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from weft.cli.options import flags, gather
from weft.generate.sampling_config import Sampling

if TYPE_CHECKING:
    from weft.records import Message
    from weft.road.open import Opened


@click.command("chat", short_help="Talk to a base or a run, or to two side by side.")
@click.argument("models", nargs=-1, required=True)
@click.option("--prompt", help="Ask this one question and leave.")
@click.option("--system", help="System message; default: the one that the run was trained with.")
@click.option("--free", is_flag=True, help="Hold no reply to the JSON schema that the run's answers were held to.")
@click.option("--json", "as_json", is_flag=True, help="With --prompt: the replies as one JSON object on stdout.")
@flags(Sampling)
def command(
    models: tuple[str, ...], prompt: str | None, system: str | None, free: bool, as_json: bool, **values: Any
) -> None:
    """Talk to MODELS: a base (`weft-nano`, a folder, a hub name), a run's folder, or an adapter's folder.

    A run's model answers as it was measured: held to the JSON schema of the training answers, where they have one.

    Without --prompt each line read is a message; /new begins a new conversation, /quit or end of input leaves.
    """
    from weft.cli.terminal import print_json
    from weft.models import precision
    from weft.road.open import open_model
    from weft.settings import resolve

    if len(models) > 2:
        raise click.UsageError(f"{len(models)} models given; one, or two side by side, can be talked to.")
    if as_json and prompt is None:
        raise click.UsageError("--json prints one answer: give the question with --prompt.")
    sampling = resolve(Sampling, gather(Sampling, values)).config
    precision.settle()
    talks = [_Talk(name, open_model(name), system, free, sampling) for name in models]
    if prompt is not None:
        replies = {talk.name: talk.ask(prompt, quiet=as_json, label=len(talks) > 1) for talk in talks}
        if as_json:
            print_json({"prompt": prompt, "replies": replies})
        return
    if sys.stdin.isatty():
        click.echo("(/new begins a new conversation, /quit leaves)", err=True)
    while (line := _read_line()) is not None:
        if line == "/quit":
            return
        if line == "/new":
            for talk in talks:
                talk.restart()
            click.echo("(a new conversation)", err=True)
        elif line.strip():
            for talk in talks:
                talk.ask(line, quiet=False, label=len(talks) > 1)


class _Talk:
    """One model and what was said to it."""

    def __init__(self, name: str, opened: Opened, system: str | None, free: bool, sampling: Sampling) -> None:
        self.name, self.base, self.sampling = name, opened.base, sampling
        self.system = system if system is not None else opened.system
        self.constraint = None if free else opened.constraint
        self.messages: list[Message] = []
        self.restart()

    def restart(self) -> None:
        from weft.records import Message

        self.messages = [Message("system", self.system)] if self.system else []

    def ask(self, text: str, quiet: bool, label: bool) -> str:
        """The reply, printed as it comes unless `quiet`; both are remembered."""
        from weft.generate.engine import stream
        from weft.records import Message

        _refuse_broken(text)
        self.messages.append(Message("user", text))
        ids: list[int] = []
        shown = ""
        if label and not quiet:
            click.echo(f"[{self.name}]")
        prompt = self.base.chat.prompt(self.messages)
        # In the numbers of the weights as they were loaded, so that its logits are those of any other library; narrower
        # ones, in which many rows are measured, would save one person nothing.
        for token in stream(self.base, prompt, self._within(len(prompt)), self.constraint):
            ids.append(token)
            whole = self.base.chat.decode(ids)
            # A character may need several tokens: until then it decodes to a replacement sign, not to be shown.
            if not quiet and not whole.endswith("\ufffd"):
                click.echo(whole[len(shown) :], nl=False)
                sys.stdout.flush()
                shown = whole
        reply = self.base.chat.decode(ids)
        if not quiet:
            click.echo(reply[len(shown) :])
        self.messages.append(Message("assistant", reply))
        return reply

    def _within(self, prompt_tokens: int) -> Sampling:
        """The sampling with a limit that the base's context still holds."""
        from weft.errors import UsageError

        room = self.base.context - prompt_tokens
        if room < 1:
            raise UsageError(
                f"{self.name}: the conversation has {prompt_tokens:,} tokens, which leaves no room for a reply in the "
                f"context of {self.base.context:,}. Begin a new one with /new, or shorten the message."
            )
        return self.sampling.model_copy(update={"max_tokens": min(self.sampling.max_tokens, room)})


def _refuse_broken(text: str) -> None:
    from weft.errors import UsageError

    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the message is not UTF-8 text at character {error.start + 1}. Write it as UTF-8.") from None


def _read_line() -> str | None:
    from weft.errors import UsageError

    try:
        return input("you> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise UsageError(f"the input is not UTF-8 text ({error.reason}). Write it as UTF-8.") from None
