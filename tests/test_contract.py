"""Members that a subclass must give: every base of the package that has some refuses a subclass that lacks one."""

import ast
import importlib
import inspect
from typing import Any

import pytest

import jaxprefix as jp
from jaxprefix.contract import Contract, check_complete
from tests import house


def members_of(cls: type) -> list[str]:
    """The required members that a class leaves to its subclasses."""
    static = {name: inspect.getattr_static(cls, name) for name in dir(cls)}
    return [name for name, member in static.items() if getattr(function_of(member), "__required__", False)]


def function_of(member: Any) -> Any:
    return member.fget if isinstance(member, property) else getattr(member, "__func__", member)


def bases() -> dict[str, type]:
    """Every class of the package that says itself what its subclasses must have."""
    found = {}
    for module in house.modules():
        if not module.endswith("__main__"):
            for cls in vars(importlib.import_module(f"jaxprefix.{module}".rstrip("."))).values():
                if inspect.isclass(cls) and issubclass(cls, Contract):
                    own = any(getattr(function_of(member), "__required__", False) for member in vars(cls).values())
                    found |= {cls.__name__: cls} if own else {}
    return found


BASES = bases()
CASES = [(cls, member) for cls in BASES.values() for member in members_of(cls)]


def subclass(cls: type, without: str | None) -> type:
    """A subclass with every required member but one."""
    given = {member: lambda self, *args: None for member in members_of(cls) if member != without}
    return type("Unfinished", (cls,), given)


def test_the_bases_that_people_subclass_are_among_them():
    public = {jp.Task, jp.Method, jp.Head, jp.BackboneConfig, jp.TokenStart}
    assert public <= set(BASES.values())
    assert {"Source", "Format", "HostLoop", "MetricWriter"} <= set(BASES)


@pytest.mark.parametrize(("cls", "member"), CASES, ids=[f"{cls.__name__}.{member}" for cls, member in CASES])
def test_a_subclass_without_a_required_member_is_refused_when_it_is_made(cls, member):
    unfinished = subclass(cls, member)
    with pytest.raises(jp.UserError) as refused:
        unfinished(1, some=2)
    sentence = str(refused.value)
    signature = inspect.signature(function_of(inspect.getattr_static(cls, member)))
    assert sentence.startswith(f"Unfinished has no {member}; give it `")
    assert f"def {member}(" in sentence and sentence.endswith(".") and "\n" not in sentence
    assert all(name in sentence for name in signature.parameters)


@pytest.mark.parametrize("cls", BASES.values(), ids=list(BASES))
def test_a_subclass_with_all_of_them_is_not(cls):
    check_complete(subclass(cls, None))


def test_every_member_that_computes_nothing_is_required():
    """`raise NotImplementedError` stands below `@required` only, and no second mechanism stands beside it."""
    for module, tree in house.modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                raises = [x for x in ast.walk(node) if isinstance(x, ast.Raise) and x.exc is not None]
                empty = any("NotImplementedError" in ast.unparse(x) for x in raises)
                assert not empty or "required" in map(ast.unparse, node.decorator_list), f"{module}.{node.name}"
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert "abc" not in [*names, getattr(node, "module", None)], module
