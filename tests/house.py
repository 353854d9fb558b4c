"""The structure of the package as its syntax trees have it: modules, rooms, floors, imports, circles."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxprefix"

FLOORS = (
    ("errors", "renamed"),
    ("trees", "typed_json", "paths", "allocator"),
    ("attention",),
    ("edits",),
    ("methods", "data", "distributed"),
    ("models",),
    ("hf", "generation", "checkpoints", "analysis"),
    ("tasks", "starts"),
    ("training",),
    ("population", "adapters", "published"),
    ("serving", "exchange", "inspection", "self_check", "planning"),
    ("comparison",),
    ("cli",),
)
"""Rooms from the ground up: a room imports from lower floors only."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of every module of the package, by its name without `jaxprefix.`; the package itself is ``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def room(module: str) -> str:
    """The room of a module: the first part of its name."""
    return module.split(".")[0]


@cache
def imports() -> dict[str, frozenset[str]]:
    """What every module imports from the package, imports inside functions counted."""
    known = modules()
    found = {}
    for name, tree in known.items():
        wanted: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxprefix":
                base = node.module.removeprefix("jaxprefix").removeprefix(".")
                for alias in node.names:
                    inner = f"{base}.{alias.name}".removeprefix(".")
                    wanted.add(inner if inner in known else base)
            elif isinstance(node, ast.Import):
                names = [alias.name.split(".", 1) for alias in node.names if alias.name.startswith("jaxprefix.")]
                wanted.update(rest for _, rest in names)
        found[name] = frozenset(wanted - {name, ""})
    return found


def room_imports() -> dict[str, set[str]]:
    """What every room imports of other rooms."""
    found: dict[str, set[str]] = {}
    for module, wanted in imports().items():
        found.setdefault(room(module), set()).update(room(other) for other in wanted if room(other) != room(module))
    return found


def against_the_floors() -> list[str]:
    """Imports that do not run downwards."""
    return sorted(
        f"{module} imports {other}"
        for module, wanted in imports().items()
        for other in wanted
        if module and room(module) != room(other) and LEVEL[room(other)] >= LEVEL[room(module)]
    )


def circles(graph: dict[str, set[str]] | dict[str, frozenset[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found
