"""The four kinds of mutants: what may change in a node of a syntax tree.

`sign` flips a `+`, a `-` or a negation. `bound` moves an index, the bound of a slice, of `range` or `arange`, a number
in a shape, or the strictness of a comparison by one. `mask` drops a `where`, one side of `&` or `logical_and`, a factor
that is a mask, or a mask argument. `axis` takes another axis of a reduction, a concatenation, a transposition, an
einsum's output, a shape, or a new axis.

`+` between strings, lists or tuples that are visible as such is not a sign, and neither is that of an axis.
"""

import ast
import itertools
import re
from collections.abc import Iterator

KINDS = ("sign", "bound", "mask", "axis")

STRICT = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add}
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
SHAPED = {"zeros", "ones", "full", "empty", "broadcast_to", "reshape"}
MASKS = re.compile(r"mask|masks|seen|keep|kept|valid|real|alive|present|visible")  # a word of an identifier
MODULES = {"np", "jnp", "numpy", "jax", "lax", "nn", "jax.nn", "jax.lax", "jax.numpy"}
AXES = {"axis", "axes", "dimension", "in_axes", "out_axes"}
REDUCTIONS = {"sum", "mean", "max", "min", "argmax", "argmin", "all", "any", "cumsum", "prod", "squeeze", "argsort"}
SECOND = REDUCTIONS | {"concatenate", "stack", "softmax", "logsumexp", "expand_dims", "cummax", "sort", "flip"}
TEXTS = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """The changes of a node: the kind, the part that changes (the node or a part of it), what it becomes."""
    for kind, of_kind in (("axis", _axes), ("mask", _masks), ("bound", _bounds), ("sign", _signs)):
        for part, new in of_kind(node):
            yield kind, part, new


def _signs(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS and not (_text(node.left) or _text(node.right)):
        yield node, ast.BinOp(node.left, SIGNS[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in SIGNS and not _text(node.value):
        yield node, ast.AugAssign(node.target, SIGNS[type(node.op)](), node.value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node, node.operand


def _text(node: ast.AST) -> bool:
    """Whether the value is a string or a sequence, as far as the expression shows it."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    if isinstance(node, ast.BinOp):
        return _text(node.left) or _text(node.right)
    if isinstance(node, ast.Call):
        return called(node) in {"str", "repr", "join", "list", "tuple", "sorted", "encode", "decode", "read_bytes"}
    return isinstance(node, TEXTS)


def _bounds(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    if isinstance(node, ast.Subscript) and not _shape(node.value):
        for item in _items(node.slice):
            if isinstance(item, ast.Slice):
                for bound in (item.lower, item.upper):
                    if bound is not None and not (isinstance(bound, ast.Constant) and _integer(bound) is None):
                        yield from _by_one(bound)
            elif _counted(item):
                yield from _by_one(item)
    elif isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            if type(op) in STRICT:
                ops = [STRICT[type(op)]() if here == place else each for here, each in enumerate(node.ops)]
                yield node, ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.Call) and called(node) in ("range", "arange"):
        for argument in node.args:
            if not isinstance(argument, ast.Starred):
                yield from _by_one(argument)
    elif isinstance(node, ast.Call) and called(node) in SHAPED:
        for argument in node.args:
            for item in _items(argument):
                if _counted(item) and _integer(item) != -1:  # -1 stands for the rest
                    yield from _by_one(item)


def _items(node: ast.AST) -> list[ast.AST]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _integer(node: ast.AST) -> int | None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    return -node.operand.value if negative(node) and type(node.operand.value) is int else None


def _counted(node: ast.AST) -> bool:
    """Whether the expression is evidently a number: an integer, or arithmetic."""
    return _integer(node) is not None or (
        isinstance(node, ast.BinOp) and isinstance(node.op, ARITHMETIC) and not _text(node)
    )


def _by_one(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    value = _integer(node)
    for step, op in ((1, ast.Add()), (-1, ast.Sub())):
        yield node, ast.BinOp(node, op, ast.Constant(1)) if value is None else _number(value + step)


def _number(value: int) -> ast.AST:
    return ast.Constant(value) if value >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-value))


def _masks(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    if isinstance(node, ast.Call):
        name = called(node)
        if name in ("where", "select") and len(node.args) == 3:
            _, first, second = node.args
            yield node, second if _fill(first) and not _fill(second) else first
        if name == "logical_and" and len(node.args) == 2:
            yield node, node.args[0]
            yield node, node.args[1]
        for keyword in node.keywords:
            if isinstance(keyword.value, ast.Constant):
                continue
            if keyword.arg == "where":
                yield keyword.value, ast.Constant(True)
            elif keyword.arg is not None and keyword.arg.endswith("mask"):
                yield keyword.value, ast.Constant(None)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        yield node, node.left
        yield node, node.right
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitAnd) and isinstance(node.target, ast.Name):
        yield node.value, ast.Name(node.target.id)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        if _masking(node.left):
            yield node, node.right
        if _masking(node.right):
            yield node, node.left


def _fill(node: ast.AST) -> bool:
    """Whether the value is the same everywhere, such as a number, `-jnp.inf` or `np.int32(0)`."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.UnaryOp):
        return _fill(node.operand)
    if isinstance(node, ast.Attribute):
        return node.attr in ("inf", "nan")
    if isinstance(node, ast.Name):
        return node.id.isupper()
    return isinstance(node, ast.Call) and bool(node.args) and all(map(_fill, node.args))


def _masking(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return True
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\blen\(\w+\)", "", ast.unparse(node)))
    words = (word for name in names for word in name.split("_"))
    return any(MASKS.fullmatch(word) for word in words)


def _axes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    if isinstance(node, ast.Subscript):
        if _shape(node.value):
            yield from _other(node.slice)
        yield from _new_axes(node)
    if not isinstance(node, ast.Call):
        return
    name, arguments = called(node), node.args
    method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in MODULES
    for keyword in node.keywords:
        if keyword.arg in AXES:
            for item in _items(keyword.value):
                yield from _other(item)
    own = arguments if method else arguments[1:]  # without the array
    if name in ("moveaxis", "swapaxes"):
        for item in own:
            yield from _other(item)
    elif name == "transpose":
        yield from _swapped(node, own)
    elif name in (REDUCTIONS if method else SECOND) and own and (method or isinstance(node.func, ast.Attribute)):
        yield from _other(own[0])
    elif name in ("repeat", "take", "split") and len(own) > 1:
        yield from _other(own[1])
    elif name == "einsum" and isinstance(arguments[0], ast.Constant):
        inputs, arrow, output = str(arguments[0].value).partition("->")
        if arrow and len(output) > 1 and output[-2:].isalpha():
            yield arguments[0], ast.Constant(f"{inputs}->{output[:-2]}{output[-1]}{output[-2]}")


def _shape(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "shape"


def _other(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """The neighbouring axis, on the side of the outermost one where there is a choice."""
    value = _integer(node)
    if value is not None:
        yield node, _number({0: 1, -1: -2}.get(value, value - 1 if value > 0 else value + 1))


def _swapped(call: ast.Call, own: list[ast.expr]) -> Iterator[tuple[ast.AST, ast.AST]]:
    order = own[0].elts if len(own) == 1 and isinstance(own[0], ast.Tuple | ast.List) else own
    for first, second in itertools.pairwise(order):
        if _integer(first) is None or _integer(second) is None:
            continue
        elements = [{id(first): second, id(second): first}.get(id(element), element) for element in order]
        if order is own:
            kept = [argument for argument in call.args if argument not in own]
            yield call, ast.Call(call.func, [*kept, *elements], call.keywords)
        else:
            yield own[0], type(own[0])(elements, ast.Load())


def _new_axes(node: ast.Subscript) -> Iterator[tuple[ast.AST, ast.AST]]:
    """A `None` and the whole slice beside it change places."""
    items = _items(node.slice)
    for place, (first, second) in enumerate(itertools.pairwise(items)):
        if {_whole(first), _whole(second)} == {"none", "all"}:
            swapped = [*items[:place], second, first, *items[place + 2 :]]
            yield node, ast.Subscript(node.value, ast.Tuple(swapped, ast.Load()), node.ctx)


def _whole(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and node.value is None:
        return "none"
    if isinstance(node, ast.Slice) and node.lower is None and node.upper is None and node.step is None:
        return "all"
    return ""


def called(call: ast.Call) -> str:
    """The last part of a called function's name."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def negative(node: ast.AST) -> bool:
    """Whether a node is minus a constant."""
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
