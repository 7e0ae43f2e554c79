"""Command-line options made from the settings model: a flag can't differ from its YAML key."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from scanwise.core.config import TrainConfig

PANELS = {
    "output": "Run",
    "size": "Data",
    "contrast": "Preparation",
    "model": "Model",
    "preset": "Training",
    "device": "Machine",
}


def with_settings(*, leave_out: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Any]:
    """Decorator: give a command one option for each setting; it gets them as `settings`.

    The command receives only what the user typed: `settings: dict[str, str | bool]`, unparsed;
    the settings model parses flags, environment and YAML alike, with the same messages.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != "settings"
        ]
        options = list(_options(leave_out))
        names = {option.name for option in options}

        def wrapper(**values: Any) -> None:
            settings = {name: values.pop(name) for name in names & values.keys()}
            said = {name: value for name, value in settings.items() if value is not None}
            command(**values, settings=said)

        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        keyword = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in [*own, *options]
        ]
        wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in keyword} | {"return": None}
        return wrapper

    return decorate


def _options(leave_out: tuple[str, ...]) -> list[inspect.Parameter]:
    panel, found = "Run", []
    for name, field in TrainConfig.model_fields.items():
        panel = PANELS.get(name, panel)
        if name == "data" or name in leave_out:
            continue
        found.append(_option(name, field, panel))
    return found


def _option(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    is_flag = _base(field.annotation) is bool
    both_ways = is_flag and field.default is not False  # on, off, or left to the plan
    declaration = f"{flag}/--no-{flag[2:]}" if both_ways else flag
    option = typer.Option(
        declaration,
        help=(field.description or "") + _default_text(field),
        metavar=None if is_flag else _metavar(field),
        rich_help_panel=panel,
        show_default=False,
    )
    kind: Any = bool if is_flag else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _default_text(field: FieldInfo) -> str:
    if field.default is None or isinstance(field.default, bool):
        return ""
    return f" [{field.default}]"


def _base(annotation: Any) -> Any:
    """The type under an optional one: `int | None` -> int."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        return inner[0]
    return annotation


def setting_values(field: FieldInfo) -> str:
    """What a setting takes, in words for its table: "yes, no", "INT" or its choices."""
    return "yes, no" if _base(field.annotation) is bool else _metavar(field).replace("|", ", ")


def _metavar(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "metavar" in extra:
        return str(extra["metavar"])
    base = _base(field.annotation)
    if get_origin(base) is Literal:
        return "|".join(str(choice) for choice in get_args(base))
    return {int: "INT", float: "FLOAT", str: "TEXT"}.get(base, "TEXT")
