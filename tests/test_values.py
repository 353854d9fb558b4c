"""Fields of all values that people make: type, literals and bounds (`jaxprefix.values`)."""

import dataclasses
import inspect
import math
import typing
from typing import Annotated, Any

import numpy as np
import pytest
from beartype import BeartypeConf
from beartype.door import is_bearable

import jaxprefix as jp
from jaxprefix import typed_json
from jaxprefix.errors import UserError
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.values import Bounds, checked, described
from tests.tiny import config as encoder_config

TOWER = BeartypeConf(is_pep484_tower=True)  # a whole number is a number
TASK = jp.Classification(jp.Files("rows.jsonl"))
GIVEN = {  # fields without a default
    "source": jp.Files("rows.jsonl"),
    "task": TASK,
    "train": "rows.jsonl",
    "name": "a/b",
    "folder": "a",
    "text": "tea",
    "site": "decoder",
    "method": jp.LoRA(),
    "config": encoder_config(),
    "tokenizer": "a",
    "columns": ("a",),
    "rows": 1,
    "digest": "0",
    "parts": (jp.PTuningV2(), jp.LoRA()),
}
POOL = [
    *(None, True, False, 0, 1, 2, 7, -1, -5, 10**9, 3.7, 0.5, 1.0, -0.1, 1.5, 0.0, math.nan, math.inf, -math.inf),
    *("", "text", "linear", "mean", "none", "full", "int8", "\x1b[31m", b"text", (), (0,), (1, 2), (0.5, -1.0)),
    *(("q", "v"), ("foo",), [1, 2], ["a"], {"a": 1}, {1}, object(), len, jp.LoRA, jp.LoRA(), jp.Files("x"), TASK),
    *(np.int64(3), np.float32(0.5), np.bool_(True), np.ones(2), (True,), (None,), (math.nan,), ((1,),)),
]


def classes() -> list[type]:
    """Every class that `typed_json` reads, but those of tests."""
    for name in jp.__all__:
        getattr(jp, name)
    known = typed_json.registered(object)
    return sorted((cls for cls in known if cls.__module__.startswith("jaxprefix.")), key=lambda cls: cls.__name__)


def of_defaults(cls: type, **fields: Any) -> Any:
    config = dataclasses.asdict(encoder_config()) if cls is EncoderConfig else {}
    for field in dataclasses.fields(cls):
        lacking = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and lacking and field.name not in fields:
            fields[field.name] = config.get(field.name, GIVEN.get(field.name, 8))
    return cls(**fields)


def allowed(annotation: Any, value: Any) -> bool:
    """What the rule says, by beartype for the type and by itself for bounds and for truth values, NaN and infinity,
    which beartype takes for numbers."""
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [extra for extra in of[1:] if isinstance(extra, Bounds)]
        low_enough = (
            [bound.high is None or value < bound.high or (value == bound.high and not bound.below) for bound in bounds]
            if allowed(of[0], value)
            else [False]
        )
        high_enough = (
            [bound.low is None or value > bound.low or (value == bound.low and not bound.above) for bound in bounds]
            if allowed(of[0], value)
            else [False]
        )
        return all(low_enough) and all(high_enough)
    if origin is tuple and isinstance(value, tuple | list):
        each = of[:1] * len(value) if of[1:] == (...,) else of
        return len(each) == len(value) and all(map(allowed, each, value))
    if origin in (typing.Union, type(int | None)):
        return any(allowed(part, value) for part in of)
    if annotation in (int, float) and isinstance(value, bool | np.bool_):
        return False
    if annotation is float and isinstance(value, float | np.floating):
        return math.isfinite(value)
    plain = value.item() if isinstance(value, np.generic) else value
    return is_bearable(plain, annotation, conf=TOWER)


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_a_field_outside_its_annotation_is_a_sentence_that_names_it(cls):
    hints, refused = typing.get_type_hints(cls, include_extras=True), 0
    for field in dataclasses.fields(cls):
        if not field.init or cls is jp.InMemory:
            continue
        for value in POOL:
            try:
                made = of_defaults(cls, **{field.name: value})
            except UserError as error:
                said = str(error).startswith(f"{cls.__name__} has {field.name} = ")
                said = said and str(error).endswith(f"; it must be {described(hints[field.name])}.")
                assert said != allowed(hints[field.name], value), (field.name, value, str(error))
                assert "\x1b" not in str(error)
                refused += said
            else:
                assert allowed(hints[field.name], value), (field.name, value)
                hash(getattr(made, field.name))
                assert typed_json.from_json(typed_json.to_json(made)) == made
    assert refused or not [field for field in dataclasses.fields(cls) if field.init] or cls is jp.InMemory


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jp.PTuningV2(length=True), "PTuningV2 has length = True; it must be a whole number of at least 1."),
        (lambda: jp.PTuningV2(length=4.0), "length = 4.0"),
        (lambda: jp.PTuningV2(dropout_unit="row"), "'element' or 'token'"),
        (lambda: jp.SequenceClassifier(pooling="cls"), "'mean', 'first', 'last'"),
        (lambda: jp.SequenceClassifier(class_weights=(-1.0, 1.0)), "class_weights"),
        (lambda: jp.Run(TASK, remat="yes"), "Run has remat = 'yes'"),
        (lambda: jp.Run(TASK, writers=("foo",)), "'tensorboard' or 'wandb'"),
        (lambda: jp.Run(TASK, steps=3.7), "steps = 3.7"),
        (lambda: jp.Run(TASK, precision="fp16"), "precision = 'fp16'"),
        (lambda: jp.Run(TASK, method="lora"), "method = 'lora'; it must be an instance of Method"),
        (lambda: jp.Run(TASK, method=jp.PTuningV2), "method = the class PTuningV2; it must be an instance of Method"),
        (lambda: jp.Run(jp.Files("x.jsonl")), "it must be an instance of Task"),
        (lambda: jp.Classification("x.csv"), "source = 'x.csv'; it must be an instance of Source"),
        (lambda: jp.Classification(jp.Files("x"), labels="np"), "labels = 'np'"),
        (lambda: jp.Classification(jp.Files("x"), labels=(0, 1)), "each entry text"),
        (lambda: jp.Classification(jp.Files("x"), metric="f1"), "metric = 'f1'"),
        (lambda: jp.Classification(jp.Files("x"), max_length=3.5), "max_length = 3.5"),
        (lambda: jp.Optimizer(beta1=1.5), "beta1 = 1.5"),
        (lambda: jp.Optimizer(decay=-3), "decay = -3"),
        (lambda: jp.Optimizer(learning_rate="1e-3"), "learning_rate = '1e-3'"),
        (lambda: jp.Optimizer(schedule="foo"), "schedule = 'foo'"),
        (lambda: jp.Decoding(stop=("tea",)), "stop = ('tea',)"),
    ],
)
def test_what_strangers_gave_is_answered(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert words in str(error.value)


def test_lists_paths_and_scalars_of_numpy_become_pythons_own(tmp_path):
    method = jp.PTuningV2(length=np.int64(3), layers=[0, np.int32(2)], dropout=np.float64(0.5))
    assert method == jp.PTuningV2(length=3, layers=(0, 2), dropout=0.5)
    assert [type(value) for value in (method.length, *method.layers, method.dropout)] == [int, int, int, float]
    assert jp.Run(TASK, folder=tmp_path).folder == str(tmp_path)
    assert jp.Files(tmp_path / "rows.jsonl").train == str(tmp_path / "rows.jsonl")


def test_a_class_of_ones_own_is_checked_alike():
    @checked
    @dataclasses.dataclass(frozen=True)
    class Own:
        share: Annotated[float, Bounds(low=0, high=1)]
        pair: tuple[int, str] = (1, "a")

    assert Own(1).share == 1 and Own(0.5, [2, "b"]).pair == (2, "b")
    for fields in ({"share": 1.01}, {"share": -0.01}, {"share": 0.5, "pair": (1, 2)}, {"share": 0.5, "pair": (1,)}):
        with pytest.raises(UserError, match=r"Own has (share|pair) = "):
            Own(**fields)
    with pytest.raises(TypeError, match="unexpected keyword argument 'shares'"):
        Own(shares=1)
    assert list(inspect.signature(Own).parameters) == ["share", "pair"]


def test_fields_given_by_place_are_not_those_that_take_a_keyword_alone():
    @checked
    @dataclasses.dataclass(frozen=True)
    class Own:
        first: int = 0
        named: str | None = dataclasses.field(default=None, kw_only=True)
        second: float = 0.0

    assert Own(1, 2.5, named="a") == Own(first=1, second=2.5, named="a")
    with pytest.raises(UserError, match="Own has second = 'a'"):
        Own(1, "a")
    with pytest.raises(TypeError, match="positional"):
        Own(1, 2.5, "a")


def test_true_is_not_one():
    """Equal values share compiled programs, and `True` means another offset than 1."""
    one, true = jp.PTuningV2(length=3, position_offset=1), jp.PTuningV2(length=3, position_offset=True)
    assert one != true and one + jp.LoRA() != true + jp.LoRA()
    assert one == jp.PTuningV2(length=3, position_offset=1) and true == jp.PTuningV2(length=3)
    assert one != jp.PTuningV2(length=3, position_offset=2) and one != 1
