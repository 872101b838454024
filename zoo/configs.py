"""Frozen dataclasses to JSON and back, with every mistake in the JSON named."""

from __future__ import annotations

import difflib
import json
import types
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zoo.codecs.errors import UserError

Config = TypeVar("Config")


def to_json(config: Any) -> dict[str, Any]:
    """What `json` would read back from the dataclass: tuples as lists, nested dataclasses as objects."""
    return json.loads(json.dumps(asdict(config)))


def from_json(kind: type[Config], values: Any, where: str, complete: bool = False) -> Config:
    """Build dataclass `kind` from JSON values; lists become tuples where the annotation says so.

    Args:
        where: What the values belong to; error messages start with it.
        complete: Every field must be given, also those that have a default.

    Raises:
        UserError: Unknown or missing fields, a value of the wrong type, or one that the dataclass itself refuses.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object, got {_brief(values)}")
    known = {field.name: field for field in fields(kind)}
    for name in values:
        if name not in known:
            raise UserError(f"{where}: unknown field {name!r}{suggestion(name, known)}")
    missing = [n for n, field in known.items() if n not in values and (complete or not _has_default(field))]
    if missing:
        raise UserError(f"{where}: missing {', '.join(map(repr, missing))}")
    hints = get_type_hints(kind)
    try:
        return kind(**{n: _value(hints[n], value, f"{where}: {n}", complete) for n, value in values.items()})
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def read_json(path: Path) -> Any:
    """The JSON file's content.

    Raises:
        UserError: The file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a checkpoint directory needs this file") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); restore the file") from None


def suggestion(name: str, choices: Any) -> str:
    """What to append to "unknown `name`": the nearest choice, or all of them."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(choices)}" if choices else "; there is none"


def _has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _value(hint: Any, value: Any, where: str, complete: bool) -> Any:
    """`value` as the annotation `hint` wants it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return value if isinstance(value, hint) else from_json(hint, value, where, complete)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        for option in options[:-1]:
            try:
                return _value(option, value, where, complete)
            except UserError:
                continue
        return _value(options[-1], value, where, complete)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {_brief(value)}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_value(arguments[0], item, f"{where}[{i}]", complete) for i, item in enumerate(value))
        if len(arguments) == len(value):
            pairs = zip(arguments, value, strict=True)
            return tuple(_value(h, item, f"{where}[{i}]", complete) for i, (h, item) in enumerate(pairs))
    if origin is dict and isinstance(value, dict):
        return {k: _value(arguments[1], item, f"{where}[{k}]", complete) for k, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise UserError(
        f"{where} must be {getattr(hint, '__name__', hint) if origin is None else hint}, got {_brief(value)}"
    )


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
