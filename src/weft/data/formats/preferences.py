"""A row of a file → a prompt with a better and a worse reply. The layouts that are known without being told:

| layout                          | a row                                                                            |
|---------------------------------|----------------------------------------------------------------------------------|
| prompt / chosen / rejected      | {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, also lists of messages |
| chosen / rejected conversations | {"chosen": [{"role": "user", …}, {"role": "assistant", …}], "rejected": […]}     |
| chosen / rejected transcripts   | {"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello!", "rejected": "…"}            |
| input / preferred_output        | {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]} |
| conversations / chosen          | {"conversations": [{"from": "human", …}], "chosen": {"from": "gpt", …}, …}       |

The first two are TRL's, then come Anthropic's HH data, the fine-tuning API, ShareGPT. A row that fits none of them, or
breaks a rule of its layout, raises RowFlaw.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from weft.data.formats import tools
from weft.data.formats.flaws import RowFlaw, kind_of
from weft.data.formats.layouts import as_message, fields_of, listed
from weft.records import Message, Preference

_KEYS = ("chosen", "rejected")
_OPENAI_KEYS = (("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion"))
NO_PAIR_CURE = 'Write {"prompt": …, "chosen": …, "rejected": …}, or learn from single answers with --method sft.'
"""What to do about a row that is no pair, for who types commands."""
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


def by_layout(row: Mapping[str, Any], line: int) -> tuple[Preference, str]:
    """The preference of a row in a known layout, and the layout's name."""
    if not any(key in row for keys in (_KEYS, *_OPENAI_KEYS) for key in keys):
        raise _no_pair(row)
    for name in tools.KEYS:
        if row.get(name):
            raise tools.refused(f"has {name!r}")
    for better, worse in _OPENAI_KEYS:
        if better in row or worse in row:
            return _openai(row, better, worse, line), f"input / {better}"
    missing = [key for key in _KEYS if key not in row]
    if missing:
        raise RowFlaw("layout", f"has no {missing[0]!r}; it has {fields_of(row)}", "Give both replies of every pair.")
    for key in _KEYS:
        if row[key] is None:
            raise RowFlaw("missing-text", f"has null under {key!r}; expected a reply", "Fill it in or remove the row.")
    if "conversations" in row:
        prompt = _turns(row["conversations"], "conversations", "from", "value")
        chosen, rejected = (_turns([row[key]], key, "from", "value") for key in ("chosen", "rejected"))
        return _pair(prompt, chosen, rejected, line), "conversations / chosen / rejected"
    if "prompt" not in row and isinstance(row["chosen"], str) and isinstance(row["rejected"], str):
        chosen, rejected = (_transcript(row[key], key) for key in ("chosen", "rejected"))
        return _pair(_common(chosen, rejected), chosen, rejected, line), "chosen / rejected transcripts"
    chosen, rejected = (_said(row[key], key, "assistant") for key in ("chosen", "rejected"))
    if "prompt" in row:
        return _pair(_said(row["prompt"], "prompt", "user"), chosen, rejected, line), "prompt / chosen / rejected"
    return _pair(_common(chosen, rejected), chosen, rejected, line), "chosen / rejected conversations"


def _no_pair(row: Mapping[str, Any]) -> RowFlaw:
    return RowFlaw(
        "no-pair",
        f"is no preference pair (a better and a worse answer); it has {fields_of(row)}",
        NO_PAIR_CURE,
    )


def _openai(row: Mapping[str, Any], better: str, worse: str, line: int) -> Preference:
    given = row.get("input")
    if not isinstance(given, dict) or "messages" not in given:
        found = f"{kind_of(given)} under 'input'" if "input" in row else f"no 'input'; it has {fields_of(row)}"
        raise RowFlaw("layout", f"has {found}; expected an object with `messages`", "Add the prompt's messages.")
    for name in tools.KEYS:
        if given.get(name):
            raise tools.refused(f"has {name!r} in input")
    missing = [key for key in (better, worse) if key not in row]
    if missing:
        raise RowFlaw("layout", f"has no {missing[0]!r}; it has {fields_of(row)}", "Give both replies of every pair.")
    prompt = _turns(given["messages"], "input.messages", "role", "content")
    chosen, rejected = (_turns(row[key], key, "role", "content") for key in (better, worse))
    return _pair(prompt, chosen, rejected, line, names=(better, worse))


def _said(value: Any, key: str, role: str) -> list[Message]:
    """A text as a message of `role`, or a list of messages."""
    if isinstance(value, str):
        return [as_message({"role": role, "content": value}, key, "role", "content")]
    return _turns(value, key, "role", "content")


def _turns(value: Any, key: str, role_key: str, text_key: str) -> list[Message]:
    return [as_message(turn, f"{key}[{index}]", role_key, text_key) for index, turn in enumerate(listed(value, key))]


def _transcript(text: str, key: str) -> list[Message]:
    """The turns of a dialogue that is one text, as in Anthropic's HH data (Bai et al. 2022, arXiv:2204.05862)."""
    parts = _SPEAKER.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise RowFlaw(
            "layout",
            f"has no 'prompt', and its {key!r} is not a dialogue of `Human:` and `Assistant:`",
            'Add "prompt": the question that both replies answer.',
        )
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[1::2], parts[2::2], strict=True)
    return [Message(roles[speaker], said.strip()) for speaker, said in turns]  # type: ignore[arg-type]


def _common(chosen: Sequence[Message], rejected: Sequence[Message]) -> list[Message]:
    """The prompt of two whole conversations: all but the last message, where that is the same in both."""
    if chosen[:-1] == rejected[:-1]:
        return list(chosen[:-1])
    shorter = min(len(chosen), len(rejected))
    first = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    raise RowFlaw(
        "different-prompts",
        f"has conversations of {len(chosen)} and {len(rejected)} messages that differ from message {first + 1} on; "
        "expected the same prompt and one last reply each",
        "Cut both after the first differing reply of the assistant.",
    )


def _pair(
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
    line: int,
    *,
    names: tuple[str, str] = ("chosen", "rejected"),
) -> Preference:
    """The preference, if both replies are one message each after a prompt that ends in the user's."""
    better, worse = (_reply(own, prompt, name) for own, name in zip((chosen, rejected), names, strict=True))
    if not prompt or prompt[-1].role != "user":
        found = f"ends with a message from the {prompt[-1].role}" if prompt else "is empty"
        raise RowFlaw("prompt", f"has a prompt that {found}; expected the user's question last", "Add the question.")
    if not prompt[-1].content.strip():
        raise RowFlaw("empty-prompt", "asks nothing: the last message of its prompt is empty", "Add the question.")
    if better == worse:
        raise RowFlaw(
            "identical-replies", f"has the same text as {names[0]!r} and {names[1]!r}; nothing is preferred",
            "Remove the row, or give the reply that was the worse one.",
        )  # fmt: skip
    return Preference(tuple(prompt), better, worse, line)


def _reply(said: Sequence[Message], prompt: Sequence[Message], name: str) -> str:
    """The text of the one assistant message, where need be after the prompt's own messages repeated."""
    if prompt and len(said) > 1 and list(said[: len(prompt)]) == list(prompt):
        said = said[len(prompt) :]
    if len(said) != 1 or said[0].role != "assistant":
        roles = ", ".join(message.role for message in said)
        raise RowFlaw(
            "reply",
            f"has the messages [{roles}] under {name!r}; expected one reply of the assistant",
            "Keep the one message in which the two differ, and put what comes before it into the prompt.",
        )
    if not said[0].content.strip():
        raise RowFlaw("empty-reply", f"has an empty reply under {name!r}", "Fill it in or remove the row.")
    return said[0].content
