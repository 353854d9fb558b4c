"""Type-tagged JSON: what can be stored comes back equal and of the same types; all else is refused in words."""

import dataclasses
import json
import math
import sys
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from jaxprefix.errors import UserError
from jaxprefix.typed_json import differences, expression, from_json, register, to_json


@register
@dataclasses.dataclass(frozen=True)
class Leaf:
    rate: Any = 0.1  # any float, such as are not finite
    name: str = "a"
    shape: tuple[int, ...] = ()
    more: Any = None
    derived: int = dataclasses.field(default=7, init=False)


@register
@dataclasses.dataclass(frozen=True)
class Tree:
    required: Any
    left: Any = Leaf()
    right: Any = None


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4) | st.just("type"), inner, max_size=3),
        st.dictionaries(st.integers() | st.tuples(st.integers(), st.booleans()), inner, max_size=3),
        st.builds(Leaf, rate=st.floats(allow_nan=False), name=st.text(), more=inner),
        st.builds(Tree, required=inner, left=inner),
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equality that also tells tuple from list, True from 1, 0.0 from -0.0."""
    return a == b and repr(a) == repr(b)


@settings(deadline=None)
@given(values)
def test_round_trip(value: Any):
    text = to_json(value)
    assert same(from_json(text), value)
    assert to_json(from_json(text)) == text
    assert differences(value, from_json(text)) == []
    json.loads(text, parse_constant=pytest.fail)  # strict JSON: no bare NaN or Infinity


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.0, 1e308])
def test_special_floats(value: float):
    back = from_json(to_json(Leaf(rate=value))).rate
    assert type(back) is float
    assert repr(back) == repr(value)


def test_missing_fields_take_the_default_and_derived_ones_are_not_stored():
    assert from_json('{"type": "Tree", "required": 1}') == Tree(required=1)
    assert "derived" not in to_json(Leaf())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"type": "Tree", "required": 1, "lefft": 2}', ["lefft", "'left'"]),
        ('{"type": "Tree", "required": {"type": "Leaf", "rte": 2}}', ["required.rte", "'rate'"]),
        ('{"type": "Tree"}', ["required", "no default"]),
        ('{"type": "Leef"}', ["'Leef'", "import the module", "jp.register", "'Leaf'"]),
        ('{"type": "Tree", "required": {"type": "os.system"}}', ["os.system", "`required`"]),
        ('{"type": ["x"]}', ["not known"]),
        ('{"type": "tuple"}', ["tuple", "malformed"]),
        ('{"type": "float", "value": "x"}', ["float", "malformed"]),
        ('{"type": "dict", "items": [1]}', ["dict", "malformed"]),
        ('{"type": ', ["JSON"]),
        ("[" * 100_000, ["JSON"]),
        ("[]", ["Tree", "list"]),
    ],
)
def test_bad_text_is_refused_in_words(text: str, words: list[str]):
    with pytest.raises(UserError) as error:
        from_json(text, Tree)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_reading_imports_nothing():
    assert "antigravity" not in sys.modules
    with pytest.raises(UserError):
        from_json('{"type": "antigravity.Anything"}')
    assert "antigravity" not in sys.modules


def test_what_cannot_be_stored_is_named_by_its_path():
    @dataclasses.dataclass(frozen=True)
    class Unregistered:
        x: int = 1

    for bad, words in [
        (len, ["required.more", "builtin_function"]),
        (Unregistered(), ["required.more", "Unregistered", "jp.register"]),
        ({1, 2}, ["required.more", "set"]),
    ]:
        with pytest.raises(UserError) as error:
            to_json(Tree(required=Leaf(more=bad)))
        assert all(word in str(error.value) for word in words), str(error.value)


def test_registering():
    def make(module: str) -> type:
        cls = dataclasses.make_dataclass("Twice", [("x", int, 1)], frozen=True)
        cls.__module__ = module
        return cls

    first, second = make("notebook"), make("notebook")
    assert register(first) is first
    register(second)
    assert type(from_json('{"type": "Twice"}')) is second
    with pytest.raises(UserError, match=r"elsewhere\.Twice and notebook\.Twice"):
        register(make("elsewhere"))
    with pytest.raises(UserError, match="not a dataclass"):
        register(int)


def test_differences_name_paths_and_both_values():
    a = Tree(required=Leaf(rate=0.1, shape=(1, 2)), left=[1, {"x": 1}], right=math.nan)
    b = Tree(required=Leaf(rate=0.2, shape=(1, 3)), left=[1, {"y": 1}], right=math.nan)
    assert differences(a, b) == [
        "required.rate: 0.1 -> 0.2",
        "required.shape[1]: 2 -> 3",
        "left[1].x: 1 -> (absent)",
        "left[1].y: (absent) -> 1",
    ]
    assert differences(Tree(required=Leaf()), Tree(required=Tree(required=1))) == ["required: Leaf -> Tree"]
    assert differences(Tree(required=True), Tree(required=1)) == ["required: True -> 1"]
    assert differences((1, 2), (1,)) == ["value: (1, 2) -> (1,)"]


def test_an_expression_makes_the_value_again_without_its_defaults():
    import jaxprefix as jp

    method = jp.PTuningV2(lengths=(3, 0), position_offset=4) + jp.LoRA(("q",), dropout=0.1)
    text = expression(method, "jp.")
    assert text == (
        "jp.Combined(parts=(jp.PTuningV2(lengths=(3, 0), position_offset=4), jp.LoRA(maps=('q',), dropout=0.1)))"
    )
    assert eval(text, {"jp": jp}) == method
    assert expression(jp.PTuningV2(position_offset=False)) == "PTuningV2(position_offset=False)"
