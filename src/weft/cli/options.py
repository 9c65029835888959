"""Command-line flags made from a Config: name, type, default and help come from its fields, from no second list."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from weft.settings import Config

F = TypeVar("F", bound=Callable[..., Any])


class Setting(click.Option):
    """An option whose default is applied later, by the Config: shown in the help, not filled in by click."""

    def __init__(self, *arguments: Any, default_text: str | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.default_text = default_text

    def get_help_extra(self, ctx: click.Context) -> Any:
        extra = super().get_help_extra(ctx)
        if self.default_text is not None:
            extra["default"] = self.default_text
        return extra


def flags(kind: type[Config], *, without: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Callable[[F], F]:
    """A decorator that adds one option per field of `kind`; fields of a nested Config become `--outer-inner`.

    `without` leaves options out, `only` all others.
    """

    def decorate(function: F) -> F:
        for name, field, inner in reversed(_leaves(kind)):
            if name not in without and (not only or name in only):
                function = _option(name, field, inner)(function)
        return function

    return decorate


def gather(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, nested as `kind` expects them; nested groups are completed with their defaults."""
    given: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if _is_config(field.annotation):
            inner = {
                key: values[f"{name}_{key}"]
                for key in field.annotation.model_fields  # type: ignore[union-attr]
                if values.get(f"{name}_{key}") is not None
            }
            if inner:
                given[name] = inner
        elif values.get(name) is not None:
            given[name] = values[name]
    return given


def _leaves(kind: type[Config]) -> list[tuple[str, FieldInfo, FieldInfo]]:
    """(parameter name, field as declared, field that holds the value) for every flag."""
    leaves = []
    for name, field in kind.model_fields.items():
        if _is_config(field.annotation):
            leaves += [(f"{name}_{key}", field, inner) for key, inner in field.annotation.model_fields.items()]  # type: ignore[union-attr]
        else:
            leaves.append((name, field, field))
    return leaves


def _option(name: str, field: FieldInfo, inner: FieldInfo) -> Callable[[F], F]:
    flag = "--" + name.replace("_", "-")
    default = inner.get_default(call_default_factory=True)
    if field is not inner:
        default = getattr(field.get_default(call_default_factory=True), _inner_name(field, inner))
    shown = None if default is None else str(default)
    text = inner.description or ""
    if inner.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    kind = _Value(inner.annotation)
    return click.option(flag, name, cls=Setting, default=None, type=kind, help=text, default_text=shown)


def _inner_name(field: FieldInfo, inner: FieldInfo) -> str:
    return next(key for key, value in field.annotation.model_fields.items() if value is inner)  # type: ignore[union-attr]


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)


class _Value(click.ParamType):
    """Text from the command line for a field: numbers stay text where pydantic will read them, choices are shown."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.name = _type_name(annotation)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name.upper() if "|" not in self.name else f"[{self.name}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and "list" in self.name and "," in value:
            return [part.strip() for part in value.split(",") if part.strip()]
        for number in (int, float):
            if isinstance(value, str) and number.__name__ in self.name:
                try:
                    return number(value)
                except ValueError:
                    continue
        return value


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(get_args(annotation)[0])
    if origin is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if origin in (types.UnionType, Union):
        return "|".join(_type_name(part) for part in get_args(annotation) if part is not type(None))
    if origin in (list, tuple):
        return "list"
    return {str: "text", int: "int", float: "float"}.get(annotation, getattr(annotation, "__name__", "text").lower())
