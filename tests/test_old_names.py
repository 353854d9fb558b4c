"""Whoever uses an old name in Python is told the new one; nobody else notices."""

import copy
import dataclasses
import inspect
import pickle

import pytest

import jaxprefix as jp
from jaxprefix.methods.prefix import PrefixMethod
from jaxprefix.old_names import answer_old_names
from jaxprefix.renamed import MEMBERS

OWNERS = {name: PrefixMethod if name == "PrefixMethod" else getattr(jp, name) for name in MEMBERS}
CASES = [(name, old, new) for name, renames in MEMBERS.items() for old, new in renames.items()]
IN_CLASSES = [case for case in CASES if isinstance(OWNERS[case[0]], type)]


def names_of(owner):
    fields = dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ()
    return {field.name for field in fields} | set(dir(owner)) | set(inspect.signature(owner).parameters)


@pytest.mark.parametrize(("name", "old", "new"), CASES)
def test_every_old_argument_is_answered_by_one_that_there_is(name, old, new):
    with pytest.raises(jp.UserError, match=rf"^{name} has no '{old}', which is '{new}' now; use that name\.$"):
        OWNERS[name](**{old: 1})
    found = names_of(OWNERS[name])
    assert new.split(".")[0] in found
    assert old not in inspect.signature(OWNERS[name]).parameters


@pytest.mark.parametrize(("name", "old", "new"), IN_CLASSES)
def test_every_old_attribute_is_answered(name, old, new):
    instance = object.__new__(OWNERS[name])
    with pytest.raises(AttributeError, match=rf"{name} has no '{old}', which is '{new}' now"):
        getattr(instance, old)
    assert not hasattr(instance, old) and not hasattr(OWNERS[name], old)


@pytest.mark.parametrize("method", [jp.PTuningV2, jp.PrefixTuning, jp.AdaptivePrefix])
def test_an_old_field_of_a_base_is_answered_for_the_class_that_was_named(method):
    with pytest.raises(jp.UserError, match=rf"^{method.__name__} has no 'leaves_window', which is 'subject_to_window'"):
        method(length=3, leaves_window=True)
    with pytest.raises(jp.UserError, match="'subject_to_window' now"):
        dataclasses.replace(method(), leaves_window=True)


def test_what_never_was_a_name_of_a_class_is_not_answered():
    """`kind` was a field of configs, and of nothing else."""
    for owner, fields in ((jp.PTuningV2, {"kind": 1}), (jp.Run, {"task": None, "kind": 1}), (jp.Run, {"at_once": 1})):
        with pytest.raises(TypeError):  # Python's own, or a type checker's
            owner(**fields)
    with pytest.raises(AttributeError, match="object has no attribute 'kind'"):
        _ = jp.PTuningV2().kind


def test_a_class_of_ones_own_may_have_a_field_of_that_name():
    @dataclasses.dataclass(frozen=True)
    class Mine(jp.PTuningV2):
        leaves_window: int = 3

    @dataclasses.dataclass(frozen=True)
    class Bare(jp.PTuningV2):
        leaves_window: int = dataclasses.field(kw_only=True)

    assert Mine(leaves_window=4).leaves_window == 4 and Mine().leaves_window == 3
    assert Bare(leaves_window=5).leaves_window == 5
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'leaves_window'"):
        Bare()


def test_nothing_else_changes():
    method = jp.PTuningV2(5, subject_to_window=True)
    assert copy.deepcopy(method) == method == pickle.loads(pickle.dumps(method))
    assert list(inspect.signature(jp.train_population).parameters)[:2] == ["run", "members"]
    assert jp.kernel_attention.__doc__.startswith("Attention of T queries")

    def train_population(run, vmap_size=None):
        """What a function of that name says."""
        if vmap_size:
            raise TypeError("got an unexpected keyword argument 'at_once'")
        return run

    call = answer_old_names(train_population)
    assert call(3) == 3 and call.__doc__ == train_population.__doc__
    with pytest.raises(TypeError, match="at_once"):  # its own errors are its own
        call(3, vmap_size=1)
