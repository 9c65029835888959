"""A server whose only working parts are those that answer: real routes and guard, an engine of the test's choice."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import uvicorn
from openai import AsyncOpenAI, OpenAI

from weft.errors import NotThere
from weft.models.load import Base
from weft.serve.app import build
from weft.serve.config import ServeConfig
from weft.serve.engines import Engines
from weft.serve.logs import Log
from weft.serve.names import Answerer
from weft.serve.server import Server
from weft.testing import EchoEngine, tiny_base

MODEL = "gpt-4o-mini"
TUNED = "ft:weft-tiny:local::abcdefgh"
ADAPTER = "a" * 64
HI = [{"role": "user", "content": "Hi"}]
BASE = tiny_base()


class TwoNames:
    """`gpt-4o-mini` is the base, one `ft:` name is an adapter of the owner `local`."""

    def resolve(self, name: str, owner: str) -> Answerer:
        if name == MODEL:
            return Answerer("weft-tiny", None)
        if name == TUNED and owner == "local":
            return Answerer("weft-tiny", ADAPTER)
        raise NotThere("model", name)

    def shown(self, base: str) -> str:
        return base


@dataclass
class Speaking:
    """A server, its application and clients for it."""

    server: Server
    app: Any
    log: list[str] = field(default_factory=list)

    @property
    def engine(self) -> Any:
        return self.server.engines("weft-tiny")

    def http(self) -> httpx.AsyncClient:
        """An HTTP client in this process; its streams arrive whole."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1")

    def sdk(self) -> AsyncOpenAI:
        """The SDK, strict, in this process."""
        return AsyncOpenAI(
            api_key="any", base_url="http://127.0.0.1/v1", http_client=self.http(), max_retries=0,
            _strict_response_validation=True,
        )  # fmt: skip

    @contextlib.contextmanager
    def live(self) -> Iterator[str]:
        """A real server on a free port while inside; gives its address."""
        listener = socket.create_server(("127.0.0.1", 0))
        settings = uvicorn.Config(self.app, log_level="error", lifespan="off", timeout_graceful_shutdown=5)
        running = uvicorn.Server(settings)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(10)


def strict(address: str) -> OpenAI:
    """The synchronous SDK against a live server."""
    return OpenAI(api_key="any", base_url=f"{address}/v1", max_retries=0, _strict_response_validation=True)


def speaking(start: Callable[[Base], Any] = EchoEngine, base: Base = BASE, **settings: Any) -> Speaking:
    """A server whose bases are all `base`, each answered by `start(base)`."""
    config = ServeConfig(bases=("weft-tiny",), data="unused", **settings)
    engines = Engines(config, lambda identity: Path(identity), open_base=lambda name: base, start=start)
    keys = SimpleNamespace(exist=lambda: False)
    said: Any = _Lines()
    parts = dict.fromkeys(("files", "uploads", "jobs", "models", "blobs", "permissions"))
    unused: Any = SimpleNamespace(keys=keys, **parts)
    names: Any = TwoNames()
    server = Server(config, store=unused, leases=unused, names=names, engines=engines, log=Log(stream=said))
    return Speaking(server, build(server), said.lines)


class _Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None:
        pass


def until(true: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait until something is true; how long it took. Fails after `seconds`."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not true after {seconds} s")
        time.sleep(0.005)
    return time.monotonic() - began


HERMES = """\
{%- if tools -%}
<|im_start|>system
{{ messages[0].content + '\\n' if messages[0].role == 'system' }}Tools:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Call one as <tool_call>
{"name": …, "arguments": …}
</tool_call><|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message.role == 'system') -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n' if message.content or not loop.first }}<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt }}"""
"""A template of the kind that Hermes and Qwen use: tools in the system message, calls in tags."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
