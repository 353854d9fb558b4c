"""Configuration values as type-tagged JSON: what a run was, readable by people, and read back without running code.

A frozen dataclass becomes `{"type": "ItsName", field: value, ...}`. Reading looks the name up among the classes that
were registered in this process (`register`); it imports nothing and calls nothing but those classes. `None`, `bool`,
`int`, finite `float`, `str`, lists and dicts with text keys are themselves; what JSON cannot tell apart carries a tag
as well: `{"type": "tuple", "items": [...]}`, `{"type": "float", "value": "nan"}`, and
`{"type": "dict", "items": [[key, value], ...]}` for dicts with other keys or with a key called "type".

A value that holds more than a configuration may (rows in memory) has a method `__stored__`, which gives the value that
is written, compared and shown in its place.
"""

import dataclasses
import difflib
import enum
import json
import math
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from jaxprefix.errors import UserError
from jaxprefix.values import checked

T = TypeVar("T")

_classes: dict[str, type] = {}
_TAGS = ("tuple", "float", "dict")


def register(cls: type[T]) -> type[T]:
    """Makes a dataclass known to `from_json` under its class name, and check its fields (`values.checked`); a class
    decorator (outermost) or a function.

    Registering the same class again, as a notebook does when a cell is run twice, replaces the old one.

    Raises:
      UserError: it is no dataclass, or another module has registered a class of the same name.
    """
    if not dataclasses.is_dataclass(cls):
        raise UserError(
            f"{cls.__name__} is not a dataclass; put `@dataclasses.dataclass(frozen=True)` below `register`."
        )
    name, known = cls.__name__, _classes.get(cls.__name__)
    if name in _TAGS:
        raise UserError(f"the name {name} is taken by the format itself; call the class something else.")
    if known is not None and _origin(known) != _origin(cls):
        raise UserError(f"{_origin(cls)} and {_origin(known)} have the same class name; rename one of them.")
    _classes[name] = checked(cls)
    return cls


def is_registered(cls: type) -> bool:
    """Whether `to_json` can write values of the class."""
    return _classes.get(cls.__name__) is cls


def registered(base: type[T]) -> list[type[T]]:
    """The registered classes that derive from `base`, in the order in which they were registered."""
    return [cls for cls in _classes.values() if issubclass(cls, base)]


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def to_json(value: Any) -> str:
    """Text of a value made of registered dataclasses, tuples, lists, dicts, numbers, text and `None`.

    Raises:
      UserError: something in it cannot be stored (a function, an array, an unregistered class), named by its path.
    """
    return json.dumps(_encode(value, ""), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@overload
def from_json(text: str) -> Any: ...


@overload
def from_json(text: str, expected: type[T]) -> T: ...


def from_json(text: str, expected: type = object) -> Any:
    """The value that `to_json` wrote; a field that the text lacks takes its default.

    Args:
      text: the JSON text.
      expected: the class that the value must be an instance of.

    Raises:
      UserError: the text is no JSON, or names a type or a field that is not known here, or is not of type `expected`.
    """
    try:
        value = _decode(json.loads(text), "")
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"the configuration is not valid JSON ({error}); the file may be damaged.") from error
    if not isinstance(value, expected):
        raise UserError(f"a {expected.__name__} was expected here, but the file holds a {type(value).__name__}.")
    return value


def expression(value: Any, prefix: str = "") -> str:
    """A dataclass as the Python expression that makes it, without fields that have their defaults; `prefix` is put
    before the names of classes."""
    value = _stored(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = [
            f"{field.name}={expression(getattr(value, field.name), prefix)}"
            for field in _init_fields(type(value))
            if not _same(getattr(value, field.name), field.default)
        ]
        return f"{prefix}{type(value).__name__}({', '.join(given)})"
    if isinstance(value, tuple) and type(value) is tuple:
        return f"({', '.join(expression(item, prefix) for item in value)}{',' if len(value) == 1 else ''})"
    return repr(value)


def differences(a: Any, b: Any) -> list[str]:
    """Where two values differ: one line `path: value in a -> value in b` for each, in the order of the fields."""
    return list(_differences(a, b, ""))


def _stored(value: Any) -> Any:
    """The value that is written in the place of another one: mostly that itself."""
    return value.__stored__() if hasattr(type(value), "__stored__") else value


def _encode(value: Any, path: str) -> Any:
    value = _stored(value)
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"type": "float", "value": repr(float(value))}
    if isinstance(value, list):
        return [_encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if type(value) is tuple:
        return {"type": "tuple", "items": [_encode(item, f"{path}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and "type" not in value:
            return {key: _encode(item, _join(path, key)) for key, item in value.items()}
        pairs = [[_encode(key, path), _encode(item, _join(path, key))] for key, item in value.items()]
        return {"type": "dict", "items": pairs}
    where = f"`{path}`" if path else "the value"
    cls = type(value)
    if dataclasses.is_dataclass(cls):
        if _classes.get(cls.__name__) is not cls:
            raise UserError(f"{where} is a {cls.__name__}, which is not registered; decorate it with `jp.register`.")
        fields = {f.name: _encode(getattr(value, f.name), _join(path, f.name)) for f in _init_fields(cls)}
        return {"type": cls.__name__, **fields}
    remedy = "use its value" if isinstance(value, enum.Enum) else "use plain numbers, text, tuples and dataclasses"
    raise UserError(f"{where} is a {cls.__name__}, which a configuration cannot store; {remedy}.")


def _decode(data: Any, path: str) -> Any:
    if isinstance(data, list):
        return [_decode(item, f"{path}[{i}]") for i, item in enumerate(data)]
    if not isinstance(data, dict):
        return data
    if "type" not in data:
        return {key: _decode(item, _join(path, key)) for key, item in data.items()}
    name, where = data["type"], f" at `{path}`" if path else ""
    if name in _TAGS:
        try:
            if name == "float":
                return float(data["value"])
            if name == "tuple":
                return tuple(_decode(item, f"{path}[{i}]") for i, item in enumerate(data["items"]))
            return {_decode(key, path): _decode(item, _join(path, key)) for key, item in data["items"]}
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"the {name}{where} is malformed; the file may be damaged.") from error
    if not isinstance(name, str) or name not in _classes:
        raise UserError(
            f"the type {name!r}{where} is not known here; import the module that defines it, "
            f"and decorate the class with `jp.register`{_nearest(name, _classes)}."
        )
    return _build(_classes[name], {key: item for key, item in data.items() if key != "type"}, path)


def _build(cls: type, data: dict[str, Any], path: str) -> Any:
    fields = {f.name: f for f in _init_fields(cls)}
    for key in data:
        if key not in fields:
            raise UserError(f"{cls.__name__} has no field `{_join(path, key)}`{_nearest(key, fields)}.")
    for key, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and key not in data:
            raise UserError(f"the field `{_join(path, key)}` of {cls.__name__} is missing, and it has no default.")
    values = {key: _decode(item, _join(path, key)) for key, item in data.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{cls.__name__}{f' at `{path}`' if path else ''} refuses its fields: {error}.") from error


def _init_fields(cls: type) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _nearest(name: Any, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; the nearest known name is {found[0]!r}" if found else ""


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _differences(a: Any, b: Any, path: str) -> Iterable[str]:
    a, b = _stored(a), _stored(b)
    if _both_dataclasses(a, b) and type(a).__name__ == type(b).__name__:
        names = [f.name for f in _init_fields(type(a))]
        a, b = ({name: getattr(value, name, _ABSENT) for name in names} for value in (a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _differences(a.get(key, _ABSENT), b.get(key, _ABSENT), _join(path, key))
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{path}[{i}]")
    elif not _same(a, b):
        yield f"{path or 'value'}: {_show(a)} -> {_show(b)}"


def _both_dataclasses(a: Any, b: Any) -> bool:
    return dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return a == b and isinstance(a, bool) == isinstance(b, bool)


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()


def _show(value: Any) -> str:
    return type(value).__name__ if dataclasses.is_dataclass(value) else repr(value)
