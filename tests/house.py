"""The structure of the package as its syntax trees have it: modules, rooms, floors, imports, circles."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxprefix"

FLOORS = (
    ("errors", "renamed", "signals"),
    ("values",),
    ("trees", "typed_json", "paths", "allocator", "contract", "old_names"),
    ("attention", "tree_check"),
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


def family_words() -> tuple[set[str], set[str]]:
    """The names of classes and lists by which a backbone's family is told, and the `model_type`s themselves."""
    from jaxprefix.models.backbones import FAMILIES

    names, types = {"DECODER_KINDS", "KINDS", "FAMILIES", "Encoder", "Decoder"}, set()
    for config, module in FAMILIES:
        names |= {config.__name__, module.__name__}
        types |= set(config.model_types)
    return names, types


def family_branches() -> list[str]:
    """Where modules outside `models` and `hf` ask which family a backbone is of: isinstance and class patterns,
    comparisons with the classes or a `model_type`, tables by the class or `model_type` of a config, and fields of a
    config looked for by name."""
    names, types = family_words()
    found = []
    for module, tree in modules().items():
        if room(module) in ("models", "hf"):
            continue
        for node in ast.walk(tree):
            if _asks_family(node, names, types):
                found.append(f"{module}:{node.lineno}")
    return sorted(found)


def _asks_family(node: ast.AST, names: set[str], types: set[str]) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("isinstance", "issubclass"):
            return bool(_named(node.args[1]) & names)
        if node.func.id in ("getattr", "hasattr"):
            return _is_config(node.args[0])
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
        return any(_named(part) & names or _texts(part) & types or _is_type_of_config(part) for part in parts)
    if isinstance(node, ast.MatchClass):
        return bool(_named(node.cls) & names)
    if isinstance(node, ast.MatchValue):
        return bool(_texts(node.value) & types)
    if isinstance(node, ast.Subscript):
        return _is_type_of_config(node.slice)
    return False


def _named(node: ast.AST) -> set[str]:
    inner = list(ast.walk(node))
    return {n.id for n in inner if isinstance(n, ast.Name)} | {n.attr for n in inner if isinstance(n, ast.Attribute)}


def _texts(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _is_config(node: ast.AST) -> bool:
    """Whether an expression is the config of a backbone, or a backbone: `config`, `module.config`, `model.backbone`."""
    if isinstance(node, ast.Name):
        return node.id == "config"
    return isinstance(node, ast.Attribute) and node.attr in ("config", "backbone") and "run" not in _named(node)


def _is_type_of_config(node: ast.AST) -> bool:
    """Whether an expression is `type(....config)`, or a config's `kind` or `model_type`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
        return _is_config(node.args[0])
    return isinstance(node, ast.Attribute) and node.attr in ("kind", "model_type") and _is_config(node.value)


def kind_words() -> set[str]:
    """The names of the classes of tasks and heads."""
    from jaxprefix.models import heads
    from jaxprefix.tasks import LISTED

    bases = {"Task", "LabelledTask", "Head", "LinearHead", "PooledHead"}
    lists = {name for name in heads.__all__ if name[0].isupper()} | {n for names in LISTED.values() for n in names}
    return bases | lists


def kind_branches() -> list[str]:
    """Where modules outside `tasks` and `models/heads` ask which kind a task or a head is: isinstance and class
    patterns, `type(...)`, comparisons with `.task`, tables by either, and fields looked for by name."""
    names, found = kind_words(), []
    for module, tree in modules().items():
        if room(module) == "tasks" or module.startswith("models.heads"):
            continue
        found += [f"{module}:{node.lineno}" for node in ast.walk(tree) if _asks_kind(node, names)]
    return sorted(found)


def _asks_kind(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("isinstance", "issubclass"):
            return bool(_named(node.args[1]) & names)
        if node.func.id in ("getattr", "hasattr"):
            return _is_task_or_head(node.args[0])
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
        return any(_is_kind(part) or _named(part) & names for part in parts)
    if isinstance(node, ast.Subscript):
        return _is_kind(node.slice)
    return isinstance(node, ast.MatchClass) and bool(_named(node.cls) & names)


def _is_task_or_head(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in ("task", "head")


def _is_kind(node: ast.AST) -> bool:
    """`type(task)`, or the word for what a head answers."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
        return _is_task_or_head(node.args[0])
    return isinstance(node, ast.Attribute) and node.attr == "task" and _is_task_or_head(node.value)
