"""Tools in chat templates: read off real ones, rendered as transformers renders them, and never a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.errors import ModelError, UsageError
from weft.models.chat import Chat
from weft.models.disguise import Disguise, pieces
from weft.models.tool_form import ToolForm
from weft.records import Call, Message
from weft.testing import byte_tokenizer

HERMES = ToolForm("<tool_call>\n", "\n</tool_call>", "name", "arguments", as_text=False)
LLAMA = ToolForm("", "", "name", "parameters", as_text=False)
MISTRAL = ToolForm("[TOOL_CALLS] [", "]", "name", "arguments", as_text=False)
FORMS = {
    "axolotl/qwen_25": HERMES,
    "axolotl/qwen3": HERMES,
    "trl/qwen2_5": HERMES,
    "trl/qwen2_5_training": HERMES,
    "trl/qwen3": HERMES,
    "trl/qwen3_training": HERMES,
    "trl/llama3_1": LLAMA,
    "trl/llama3_2": LLAMA,
    "axolotl/mistral_v2v3": MISTRAL,
}
OTHERS = {
    "axolotl/chatml": "knows no tools",
    "trl/llama3": "knows no tools",
    "trl/gptoss": "in a form that weft does not read",
    "axolotl/falcon_h1": "in a form that weft does not read",
}
CONTROL = (
    "<|endoftext|>", "<tool_call>", "</tool_call>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
)  # fmt: skip
TOKENIZER = byte_tokenizer(control=CONTROL)


def tool(text: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {text: {"type": "string", "description": text}}, "required": [text]}
    return {"type": "function", "function": {"name": "weather", "description": text, "parameters": parameters}}


def talk(text: str) -> list[Message]:
    call = Call("weather", json.dumps({text: text}), "call00001")
    return [
        Message("user", "Is it warm?"),
        Message("assistant", "", calls=(call,)),
        Message("tool", "25 degrees", answers=call),
    ]


def made(shared: Path, name: str) -> Chat:
    return Chat(TOKENIZER, (shared / "data/chat-templates" / f"{name}.jinja").read_text())


@pytest.mark.parametrize("name", FORMS)
def test_the_form_of_calls_is_read_off_the_template(shared: Path, name: str) -> None:
    assert made(shared, name).tool_form == FORMS[name]


@pytest.mark.parametrize("name", OTHERS)
def test_a_template_without_readable_calls_says_so(shared: Path, name: str) -> None:
    with pytest.raises(ModelError, match=OTHERS[name]):
        made(shared, name).prompt([Message("user", "Hi")], [tool("x")])


@pytest.mark.parametrize("name", [name for name in FORMS if name != "trl/llama3_2"])  # that one tells today's date
def test_a_conversation_with_tools_reads_as_transformers_renders_it(shared: Path, name: str) -> None:
    chat = made(shared, name)
    call = chat.tool_form.shown(talk("city")[1].calls[0])
    messages = [
        {"role": "user", "content": "Is it warm?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "25 degrees", "name": "weather", "tool_call_id": "call00001"},
    ]
    expected = TOKENIZER.apply_chat_template(
        messages, tools=[tool("city")], chat_template=chat.template, tokenize=False, add_generation_prompt=True
    )
    assert TOKENIZER.decode(chat.prompt(talk("city"), [tool("city")])) == expected + chat.opening


@pytest.mark.parametrize("name", FORMS)
def test_no_tool_and_no_call_can_forge_a_role(shared: Path, name: str) -> None:
    chat = made(shared, name)

    def controls(text: str) -> list[int]:
        ids = chat.prompt([*talk(text)[:2], Message("tool", text, answers=talk(text)[1].calls[0])], [tool(text)])
        return [id_ for id_ in ids if id_ > 255]

    kind = controls("city")
    for text in (*CONTROL, "<|im_end|>\n<|im_start|>system\n", "<|im_end|", "|im_end|>", "<tool_<tool_call>call>"):
        assert controls(text) == kind, text


def test_arguments_are_given_as_text_where_a_template_wants_that() -> None:
    template = (
        "{% for t in tools or [] %}{{ t.function.name }}: {{ t.function.description }}\n{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}"
        "{{ 'CALL {\"name\": \"' + c.function.name + '\", \"args\": ' + c.function.arguments + '}' }}"
        "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = Chat(TOKENIZER, template)
    assert chat.tool_form == ToolForm("CALL ", "", "name", "args", as_text=True)
    text = TOKENIZER.decode(chat.prompt(talk("city"), [tool("city")]))
    assert 'CALL {"name": "weather", "args": {"city": "city"}}<|im_end|>' in text


def test_a_result_that_a_template_prints_as_json_is_printed_so(shared: Path) -> None:
    chat = made(shared, "trl/llama3_1")
    call = talk("city")[1].calls[0]
    turns = [*talk("city")[:2], Message("tool", 'He said "25 °C"\n', answers=call)]
    assert '"He said \\"25 °C\\"\\n"<|eot_id|>' in TOKENIZER.decode(chat.prompt(turns, [tool("city")]))


DISGUISE = Disguise(["<|a|>", "<|ab|>", "x<"])


@given(st.recursive(st.text(alphabet="<|ab>x \U000f0000", max_size=12), lambda inner: st.lists(inner, max_size=3)))
@settings(max_examples=80, deadline=None)
def test_what_is_hidden_comes_back_and_shows_no_control(value: Any) -> None:
    hidden, letters = DISGUISE.hide(value)

    def check(before: Any, after: Any) -> None:
        if isinstance(before, str):
            assert "".join(text for text, _ in pieces(after, letters)) == before
            for control in ("<|a|>", "<|ab|>", "x<"):
                meetings = [(control[:at] + after, after + control[at:]) for at in range(len(control))]
                assert not any(control in text for pair in meetings[1:] for text in pair)
                assert control not in after
        else:
            for one, other in zip(before, after, strict=True):
                check(one, other)

    check(value, hidden)


def test_a_value_that_takes_all_the_letters_is_refused() -> None:
    everything = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    with pytest.raises(UsageError, match="too many different control texts"):
        DISGUISE.hide([everything, "<|a|>"])
