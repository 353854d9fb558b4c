"""The one list of methods, and what a method says of itself."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import pytest

import jaxprefix as jp
from jaxprefix.comparison.entries import ENTRIES, entries_for
from jaxprefix.errors import UserError
from jaxprefix.methods import LISTED, METHODS
from jaxprefix.typed_json import from_json, to_json
from tests import tiny

FOLDER = Path(jp.__file__).parent / "methods"
DIMS = tiny.encoder_dims()


def test_every_method_of_the_room_is_listed():
    """A public class with `Method` among its bases, wherever it stands."""
    found, bases = {}, {"Method"}
    trees = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("*.py")}
    for _ in range(3):  # subclasses of subclasses
        for module, tree in trees.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") in bases for base in node.bases):
                    found[node.name] = module
                    bases.add(node.name)
    abstract = {"PrefixMethod"}
    assert {
        name: module for name, module in found.items() if not name.startswith("_") and name not in abstract
    } == LISTED


def test_a_placed_method_is_named_after_its_site():
    assert jp.At("cross", jp.LoRA()).method_name == "cross_lora"
    assert jp.At in METHODS and jp.At.summary


@pytest.mark.parametrize("cls", [cls for cls in METHODS if cls is not jp.At], ids=lambda cls: cls.__name__)
def test_a_method_says_what_the_others_need(cls):
    assert getattr(jp, cls.__name__) is cls and cls.__name__ in jp.__all__
    assert "method_name" in vars(cls) and cls.method_name.replace("_", "").isalnum()
    assert cls.summary and "\n" not in cls.summary and not cls.summary.endswith(".")
    known = {field.name for field in dataclasses.fields(cls)}
    assert set(cls.size_fields) <= known
    if cls.size_fields:
        made = cls.of_size(7)
        assert all(getattr(made, name) == 7 for name in cls.size_fields)
        assert from_json(to_json(made)) == made
    if cls.usual_rate is not None:
        entry = entries_for(jp.HeadOnly())[cls.method_name]
        assert (entry.rate, entry.summary) == (cls.usual_rate, cls.summary)


def test_names_are_those_that_leaves_and_comparisons_always_had():
    assert {cls.__name__: cls.method_name for cls in METHODS if cls is not jp.At} == {
        "PTuningV2": "p_tuning_v2",
        "PrefixTuning": "prefix_tuning",
        "AdaptivePrefix": "adaptive_prefix",
        "PromptTuning": "prompt_tuning",
        "Inducer": "inducer",
        "MultiHeadAdapter": "multi_head_adapter",
        "LoRA": "lora",
        "IA3": "ia3",
        "ParallelAdapter": "parallel_adapter",
        "SequentialAdapter": "sequential_adapter",
        "KernelMix": "kernel_mix",
        "NewTokens": "new_tokens",
        "BitFit": "bitfit",
        "HeadOnly": "head_only",
        "FullFineTuning": "full",
        "Combined": "combined",
    }
    rates = {name: entry.rate for name, entry in entries_for(jp.HeadOnly()).items()}
    assert rates == {
        **dict.fromkeys(("p_tuning_v2", "adaptive_prefix", "prompt_tuning"), 2e-2),
        **dict.fromkeys(("prefix_tuning", "inducer", "inducer_lora", "inducer_adapter", "lora"), 5e-3),
        **dict.fromkeys(("parallel_adapter", "sequential_adapter", "mam", "kernel_mix", "bitfit"), 5e-3),
        **dict.fromkeys(("prefix_lora", "head_only"), 1e-2),
        "full": 3e-4,
        "ia3": 3e-3,
    }
    assert all(ENTRIES.values())


def test_a_class_of_ones_own_is_named_after_itself():
    class MyTuning(jp.LoRA):
        pass

    class Named(jp.LoRA):
        method_name = "mine"

    assert (MyTuning(("q",)) + Named(("v",)) + jp.Inducer()).names == ("my_tuning", "mine", "inducer")


def test_a_method_without_build_is_refused_when_it_is_made():
    @dataclasses.dataclass(frozen=True)
    class Unfinished(jp.Method):
        rank: int = 4

    with pytest.raises(UserError, match=r"Unfinished has no build; give it `def build\(self, dims: Dims\) -> Module`"):
        Unfinished(rank=3)


def test_the_package_is_imported_without_any_method():
    said = "import sys, jaxprefix; print([m for m in sys.modules if m.startswith('jaxprefix.methods.') or m == 'jax'])"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True).stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="has no attribute 'LoRa'"):
        import jaxprefix.methods

        _ = jaxprefix.methods.LoRa


def edits_of(method):
    module = method.build(DIMS)
    return jax.eval_shape(lambda key: module.apply(module.init(key)), jax.random.key(0))


def test_edits_say_how_many_virtual_tokens_they_add():
    """As many as the layer's attention meets, where it is asked."""
    method = jp.PTuningV2(length=3) + jp.AdaptivePrefix(lengths=(2, 0, 5)) + jp.LoRA() + jp.Inducer()
    edits = edits_of(method)
    assert [layer_edit.virtual_count() for layer_edit in edits.layers] == [3, 5, 0, 0]
    ctx = jp.Context.of(jax.numpy.ones((2, 4), bool), jax.numpy.zeros((2, 4), int))
    for layer_edit in edits.layers:

        def tokens(leaves, x):
            return leaves.virtual_tokens(x, ctx)

        own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), layer_edit)
        met = jax.eval_shape(tokens, own, jax.ShapeDtypeStruct((2, 4, DIMS.width), "float32"))
        assert layer_edit.virtual_count() == (0 if met is None else met.keys.shape[-3])


def test_edits_say_whose_dropout_rate_they_have():
    """A rate of attention weights is the backbone's in a method that says nothing else."""
    dims = dataclasses.replace(DIMS, hidden_dropout=0.25, attention_dropout=0.5)
    for method in (jp.PTuningV2(), jp.Inducer(), jp.LoRA(dropout=None), jp.KernelMix(dropout=None)):
        module = method.build(dims)
        edits = jax.eval_shape(lambda key, module=module: module.apply(module.init(key)), jax.random.key(0))
        for layer_edit in edits.layers:
            assert layer_edit.rate == (0.5 if layer_edit.follows_attention else 0.25)


@pytest.mark.parametrize(
    "make",
    [jp.Inducer, jp.KernelMix, jp.LoRA, jp.ParallelAdapter, lambda dropout: jp.PTuningV2(dropout=dropout).build(DIMS)],
)
def test_a_dropout_rate_out_of_range_is_refused_in_one_sentence(make):
    bounds = "it must be a finite number of at least 0 and below 1"
    for rate in (1.0, -0.1):
        with pytest.raises(UserError, match=rf"\w+ has dropout = {rate}; {bounds}"):
            make(dropout=rate)
    make(dropout=0.5)
    make(dropout=None)


def test_a_method_of_a_notebook_needs_no_registry():
    class Nothing(nn.Module):
        def __call__(self):
            return jp.Edits()

    class Own(jp.Method):
        def build(self, dims):
            return Nothing()

    assert (Own() + jp.LoRA()).names == ("own", "lora")
