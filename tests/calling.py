"""Rows whose answer is a call of a tool, and a template short enough for a base with a context of 256 bytes."""

from __future__ import annotations

import json
from typing import Any

BRIEF = """\
{%- for tool in tools or [] %}{{ tool.function.name + '\n' }}{% endfor -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] -%}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\n' if add_generation_prompt }}"""
"""A template with calls in tags and little else, so that a context of 256 bytes is enough."""
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "sort", "parameters": {"type": "object"}}}


def call_row(question: str, to: str) -> dict[str, Any]:
    """A row of a training file: the message is to be sorted there."""
    function = {"name": "sort", "arguments": json.dumps({"to": to})}
    call = {"id": "call_1", "type": "function", "function": function}
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    return {"messages": turns, "tools": [TOOL]}


def said(to: str) -> str:
    """What the model is to say, in the template's words."""
    return f'<tool_call>\n{{"name": "sort", "arguments": {{"to": "{to}"}}}}\n</tool_call>'
