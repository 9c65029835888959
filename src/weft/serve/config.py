"""The settings of `weft serve`: where it listens, whom it lets in, where it keeps things, how much it takes on."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from weft.settings import Config

SLUG = r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?"
"""An owner or organisation: lower-case letters, digits and hyphens."""
PUBLIC_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
"""A name that a request may use for a base: no `:` and no `/`, so that it can stand in an `ft:` id."""


def default_data() -> Path:
    """`$WEFT_HOME/serve`, else `weft/serve` in the user's data folder (XDG)."""
    home = os.environ.get("WEFT_HOME")
    shared = os.environ.get("XDG_DATA_HOME")
    user = Path(shared) if shared else Path.home() / ".local" / "share"
    return Path(home) / "serve" if home else user / "weft" / "serve"


class ServeConfig(Config):
    """Serving the API on this machine."""

    host: str = "127.0.0.1"
    """Address to listen on; any other than loopback needs at least one key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and says which."""
    data: str | None = None
    """Folder for files, adapters, the database and the workers' runs; default: `weft/serve` in your data folder."""
    database: str | None = None
    """URL of a PostgreSQL database (`postgresql://…`); default: SQLite in the data folder. Put a URL that holds a
    password into the environment (`WEFT_DATABASE_URL`), not on the command line."""
    bases: tuple[str, ...] = ("weft-nano",)
    """Bases that may be tuned and asked: `weft-nano`, folders, hub names. Nothing else is ever loaded."""
    alias: dict[str, str] = Field(default_factory=dict)
    """Further names for bases: `gpt-4o-mini=weft-nano` lets code written for that name run unchanged."""
    organization: str = Field(default="local", pattern=f"^{SLUG}$")
    """Stands in the names of tuned models: `ft:BASE:ORGANIZATION:SUFFIX:ID`."""
    device: str = "auto"
    """Where models answer and train: `auto`, `cpu`, `cuda` or `cuda:N`."""

    slots: int = Field(default=1, ge=1, le=64)
    """Jobs that train at the same time."""
    active_jobs: int = Field(default=20, ge=1)
    """Most jobs of one owner that are not final yet; more are refused with 429."""
    lease_seconds: float = Field(default=20.0, gt=0)
    """A worker that is silent for so long counts as dead."""
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """How often a worker reports; also how soon it hears of a cancellation."""
    job_hours: float | None = Field(default=None, gt=0)
    """Longest time one job may train; default: no limit."""
    worker_memory_gb: float | None = Field(default=None, gt=0)
    """Most memory that one worker may take (private memory); default: no limit."""
    worker_file_gb: float = Field(default=64.0, gt=0)
    """Largest file that a worker may write."""

    rows: int = Field(default=32, ge=1, le=1024)
    """Answers that one base gives at the same time."""
    waiting: int = Field(default=256, ge=1)
    """Answers that may wait for a base; more are refused with 429."""
    waiting_tokens: int = Field(default=1 << 20, ge=1024)
    """Prompt tokens that may wait for a base."""
    prefix_mb: int = Field(default=256, ge=0)
    """Memory for beginnings of prompts that are kept to be reused, per base."""
    adapters_mb: int = Field(default=512, ge=1)
    """Memory for tuned adapters that are kept loaded, per base."""

    requests_per_minute: int = Field(default=6000, ge=1)
    """Requests of one owner in a minute; more are refused with 429."""
    concurrent_requests: int = Field(default=512, ge=1)
    """Requests of one owner at the same time."""
    file_mb: int = Field(default=512, ge=1, le=1 << 20)
    """Largest file."""
    upload_mb: int = Field(default=8192, ge=1, le=1 << 24)
    """Largest upload in parts."""
    part_mb: int = Field(default=64, ge=1, le=1 << 20)
    """Largest part of an upload."""
    body_mb: int = Field(default=16, ge=1, le=1024)
    """Largest request that is not a file."""
    slow_seconds: float = Field(default=60.0, gt=0)
    """A client that sends nothing for so long in the middle of a request is cut off."""

    hosts: tuple[str, ...] = ()
    """Further names that requests may call this server by (Host header); `*` allows any."""
    origins: tuple[str, ...] = ()
    """Web pages of other origins that may call this server (`https://example.org`); default: none."""
    result_encoding: Literal["plain", "base64"] = "plain"
    """How contents of result files are given (hosted services have given base64); `?encoding=` decides per request."""
    drain_seconds: float = Field(default=20.0, ge=0)
    """How long a stopping server lets answers go on."""
    log: Literal["auto", "text", "json", "none"] = "auto"
    """What goes to stderr about requests and jobs, never with prompts: `text`, readable lines without the GETs that
    went well; `json`, one object per line for all; `none`; `auto` is text on a terminal and JSON elsewhere."""

    @field_validator("bases", "hosts", "origins", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        """Flags and environment give one text: `a,b`."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("alias", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """Flags give `NAME=BASE`, repeated or joined by commas."""
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            return value
        wrong = [pair for pair in value if "=" not in str(pair)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no NAME=BASE")
        return {name.strip(): base.strip() for name, base in (str(pair).split("=", 1) for pair in value)}

    @field_validator("alias")
    @classmethod
    def _public(cls, alias: dict[str, str]) -> dict[str, str]:
        for name, base in alias.items():
            if not re.fullmatch(PUBLIC_NAME, name):
                raise ValueError(f"{name!r} cannot be a name: letters, digits, `_`, `.` and `-`, at most 128")
            if not base:
                raise ValueError(f"{name!r} names no base; write {name}=BASE")
        return alias

    @field_validator("bases")
    @classmethod
    def _some(cls, bases: tuple[str, ...]) -> tuple[str, ...]:
        if not bases:
            raise ValueError("at least one base is needed")
        return bases

    @field_validator("origins")
    @classmethod
    def _exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", origin):
                raise ValueError(f"{origin!r} is no origin; write scheme and host, as https://example.org")
        return origins

    @property
    def folder(self) -> Path:
        """The data folder, absolute: workers stand elsewhere."""
        return (Path(self.data).expanduser() if self.data else default_data()).absolute()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
