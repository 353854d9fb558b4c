"""What a person can name: everything in `jp.__all__` with its signature, as the source has it.

`python -m tests.public_names` writes `public_names.txt` anew; a change of that file is a change of the public interface
and belongs in CHANGELOG.md. The text is made from syntax trees, so that no version of a library changes it.
"""

import ast
import inspect
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxprefix as jp

FILE = Path(__file__).parent / "public_names.txt"


def text() -> str:
    """The public names in alphabetical order: a line each, fields and methods of classes below it."""
    return "".join(f"{line}\n" for name in jp.__all__ for line in _described(name, getattr(jp, name)))


def _described(name: str, value: Any) -> list[str]:
    if isinstance(value, ModuleType):
        return [f"{name}.{inner}{_call_of(getattr(value, inner))}" for inner in value.__all__]
    return [name, *_members(value)] if isinstance(value, type) else [f"{name}{_call_of(value)}"]


def _call_of(value: Any) -> str:
    if isinstance(value, type) or not callable(value):
        return ""
    function = inspect.unwrap(value)
    return _call(_definition(function.__module__, function.__qualname__))


def _call(function: ast.FunctionDef) -> str:
    returns = "" if function.returns is None else f" -> {ast.unparse(function.returns)}"
    return f"({ast.unparse(function.args)}){returns}"


def _members(cls: type) -> list[str]:
    """Fields with their defaults and methods of a class, its own and those of bases that have no public name."""
    fields: dict[str, str] = {}
    methods: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.split(".")[0] != "jaxprefix":
            continue
        public = base is not cls and getattr(jp, base.__name__, None) is base if base.__name__ in jp.__all__ else False
        for node in _definition(base.__module__, base.__qualname__).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_public(node.target.id):
                default = "" if node.value is None else f" = {ast.unparse(node.value)}"
                fields[node.target.id] = f"{ast.unparse(node.annotation)}{default}"
            elif isinstance(node, ast.FunctionDef) and _is_public(node.name) and not public:
                kinds = {ast.unparse(decorator) for decorator in node.decorator_list}
                kind = next((f"@{kind} " for kind in ("property", "classmethod", "staticmethod") if kind in kinds), "")
                methods[node.name] = f"{kind}{node.name}{_call(node)}"
    return [f"    {name}: {field}" for name, field in fields.items()] + [f"    {line}" for line in methods.values()]


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__", "__add__", "__enter__", "__exit__")


def _definition(module: str, qualname: str) -> Any:
    """The node of a class or function."""
    node: Any = _tree(module)
    for name in qualname.split("."):
        named = [
            inner for inner in node.body if isinstance(inner, ast.ClassDef | ast.FunctionDef) and inner.name == name
        ]
        node = named[-1]
    return node


@cache
def _tree(module: str) -> ast.Module:
    path = Path(jp.__file__).parent.joinpath(*module.split(".")[1:])
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


if __name__ == "__main__":
    FILE.write_text(text())
