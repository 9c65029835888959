"""Settings: one frozen Config per method, and the record of where each value came from.

A Config is the CLI flag, the YAML key, the Python argument and the reference page in one place: name, type, limits,
default, and one docstring under the field. Precedence: flag > environment (`WEFT_<KEY>`) > file > default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from weft.errors import SettingsError


class Config(BaseModel):
    """Base of every Config: frozen, unknown keys refused, field docstrings are the descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A Config with the origin of each value: `default`, `file NAME`, `environment NAME`, `flag`, or `auto: REASON`."""

    config: C
    origins: dict[str, str]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """`{key: {"value": …, "origin": …}}` in the order of the Config's fields."""
        values = self.config.model_dump(mode="json")
        return {key: {"value": values[key], "origin": self.origins[key]} for key in values}

    def replace(self, origin: str, **values: Any) -> Resolved[C]:
        """The same settings with some values set later (an `auto` that was resolved), and why."""
        config = type(self.config).model_validate({**self.config.model_dump(), **values})
        return Resolved(config, {**self.origins, **dict.fromkeys(values, origin)})


def resolve(
    kind: type[C],
    flags: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Resolved[C]:
    """Settings of `kind` from flags, environment and a YAML file.

    Raises SettingsError naming every unknown or bad key at once, with the nearest known name.
    """
    environment = os.environ if environment is None else environment
    layers = [
        (f"file {file.name}" if file else "file", _read_yaml(file) if file else {}),
        ("environment", {key: value for key in kind.model_fields if (value := environment.get(f"WEFT_{key.upper()}"))}),
        ("flag", {key: value for key, value in (flags or {}).items() if value is not None}),
    ]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(kind.model_fields, "default")
    for origin, layer in layers:
        for key, value in layer.items():
            inner = values.get(key)
            # A group such as `lora` is completed by later layers, not replaced by them.
            values[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
            said = f"environment WEFT_{key.upper()}" if origin == "environment" else origin
            origins[key] = f"{origins[key]}, {said}" if isinstance(inner, dict) else said
    try:
        return Resolved(kind.model_validate(values), {key: origins[key] for key in kind.model_fields})
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(kind, error, origins))) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}). Name an existing YAML file.") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML ({str(error).splitlines()[0]}).") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: holds a {type(values).__name__}, expected `key: value` lines.")
    return {str(key): value for key, value in values.items()}


def _explain(kind: type[Config], error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    """One sentence per setting that is wrong; what the members of `float | "auto"` each say is joined."""
    unknown: list[str] = []
    wrong: dict[str, tuple[str, list[str], str]] = {}
    for problem in error.errors():
        name, field, known = _place(kind, problem["loc"])
        origin = origins.get(name.split(".")[0], "flag")
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name.split(".")[-1], known, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
            unknown.append(f"unknown setting `{name}` ({origin}). {hint}")
            continue
        found = f"setting `{name}` is {problem['input']!r} ({origin})"
        meaning = f" `{name}`: {field.description}" if field is not None and field.description else ""
        wrong.setdefault(name, (found, [], meaning))[1].append(problem["msg"])
    return [*unknown, *(f"{found}: {' or: '.join(said)}.{meaning}" for found, said, meaning in wrong.values())]


def _place(kind: type[Config], location: tuple[int | str, ...]) -> tuple[str, FieldInfo | None, list[str]]:
    """The setting's dotted name as far as Configs go, its field, and the names that are known there."""
    names: list[str] = []
    field: FieldInfo | None = None
    for part in location:
        names.append(str(part))
        field = kind.model_fields.get(str(part))
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, Config)):
            break
        kind = inner
    return ".".join(names), field, list(kind.model_fields)
