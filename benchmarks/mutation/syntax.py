"""Mutants of a Python source by its syntax tree: small faults that a test should notice (`kinds.py`).

Only executed expressions are mutated: not annotations, decorators, f-strings, docstrings, `__all__`, what `raise`,
`print` and `warn` are given, and not the message of an `assert`. What remains may still be equivalent (a bound that
another check implies), which only reading tells.
"""

import ast
import dataclasses
from collections import Counter
from collections.abc import Iterator

from mutation.kinds import SHAPED, called, changes, negative

SILENT = {"print", "warn", "warning", "info", "debug", "error"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One changed expression of one file.

    Attributes:
      kind: one of `kinds.KINDS`.
      function: qualified name of the function or class that holds it; "" at module level.
      expression: the expression that names it, as `ast.unparse` writes it; what changes may be a part of it.
      replacement: the same after the change.
      occurrence: which of the equal ones (function, kind, expression, replacement) it is, from 0.
      occurrences: how many equal ones there are.
      context: the source line on which the changed part begins, stripped.
      span: byte offsets of the changed part in the source.
      text: what stands there afterwards.
    """

    kind: str
    function: str
    expression: str
    replacement: str
    occurrence: int
    occurrences: int
    context: str
    span: tuple[int, int]
    text: str

    def apply(self, source: str) -> str:
        """The source with this change alone."""
        data = source.encode()
        return (data[: self.span[0]] + self.text.encode() + data[self.span[1] :]).decode()


def mutants(source: str) -> list[Mutant]:
    """All mutants of a source, in the order of their positions; no two change the same part to the same text."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = source.splitlines()
    found: dict[tuple[int, int, str], tuple] = {}
    for function, around, node in _executed(ast.parse(source), "", None):
        if negative(node) and isinstance(around, ast.Call) and called(around) in SHAPED:
            continue  # -1 stands for the rest of a shape
        for kind, part, new in changes(node):
            span = (starts[part.lineno - 1] + part.col_offset, starts[part.end_lineno - 1] + part.end_col_offset)
            text = _written(new)
            before, after = _texts(around if around is not None and negative(node) else node, part, new)
            found.setdefault((*span, text), (kind, function, before, after, lines[part.lineno - 1].strip()))
    axes = {place[:2] for place, entry in found.items() if entry[0] == "axis"}
    found = {place: entry for place, entry in found.items() if entry[0] != "sign" or place[:2] not in axes}
    totals, seen, result = Counter(entry[:4] for entry in found.values()), Counter(), []
    for (start, end, text), entry in sorted(found.items()):
        same = entry[:4]
        result.append(Mutant(*same, seen[same], totals[same], entry[4], (start, end), text))
        seen[same] += 1
    return result


def _written(new: ast.AST) -> str:
    bare = isinstance(new, ast.Constant | ast.Name | ast.AugAssign) or negative(new)
    return ast.unparse(new) if bare else f"({ast.unparse(new)})"


def _texts(node: ast.AST, part: ast.AST, new: ast.AST) -> tuple[str, str]:
    """What `node` says before and after its `part` is replaced."""

    class Replace(ast.NodeTransformer):
        def visit(self, here: ast.AST) -> ast.AST:
            return new if here is part else self.generic_visit(copied(here))

    def copied(here: ast.AST) -> ast.AST:
        fields = {name: list(value) if isinstance(value, list) else value for name, value in ast.iter_fields(here)}
        return ast.copy_location(type(here)(**fields), here)

    return ast.unparse(node), ast.unparse(Replace().visit(node))


# Which nodes are executed


def _executed(node: ast.AST, function: str, around: ast.AST | None) -> Iterator[tuple[str, ast.AST | None, ast.AST]]:
    """Nodes that may be mutated: the qualified name of what they stand in, the expression around them, the node."""
    if isinstance(node, ast.expr) and not isinstance(node, ast.Slice | ast.Tuple):
        around = node
    elif isinstance(node, ast.stmt):
        around = None
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params") or (
            name == "msg" and isinstance(node, ast.Assert)
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _silent(child):
                continue
            yield function, around, child
            inner = function
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{function}.{child.name}".lstrip(".")
            yield from _executed(child, inner, around)


def _silent(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    return isinstance(node, ast.Raise | ast.JoinedStr) or (isinstance(node, ast.Call) and called(node) in SILENT)
