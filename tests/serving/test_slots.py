"""Structures that hold the edits of many adapters: the fewest slots, zeros in the rest, and what has no place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.edits import Edits, LayerEdit, edit
from jaxprefix.errors import UserError
from jaxprefix.serving.slots import canonical_edits, fill_slots, make_slots, supersequence
from tests import tiny

DIMS = tiny.encoder_dims()


def edits_of(method):
    module = method.build(DIMS)
    return module.apply({"params": module.init(jax.random.key(0)).get("params", {})})


def canonical(method):
    return canonical_edits("own", edits_of(method), DIMS)


def contains(whole, part):
    rest = iter(whole)
    return all(letter in rest for letter in part)


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [("", "ab", 2), ("ab", "ab", 2), ("ab", "ba", 3), ("bca", "abc", 4), ("xaybz", "ab", 5), ("aab", "abb", 4)],
)
def test_a_supersequence_is_the_shortest(first, second, length):
    found = supersequence(tuple(first), tuple(second))
    assert contains(found, first) and contains(found, second) and len(found) == length


def test_all_prefixes_share_one_slot_and_every_map_of_a_lora_has_its_own():
    prefixes = [
        jp.PTuningV2(length=2),
        jp.PTuningV2(lengths=(1, 0, 4)),
        jp.PrefixTuning(length=3, mlp_width=4),
        jp.AdaptivePrefix(length=3),
        jp.AdaptivePrefix(length=3, token_gate=False),
        jp.AdaptivePrefix(length=3, gate_source="none"),
    ]
    (slot,) = make_slots(map(canonical, prefixes))
    assert (3, 4, 4, 4) in slot.shapes  # L, the longest P, K, E
    loras = [jp.LoRA(("q",), rank=2), jp.LoRA(("v", "q"), rank=3, alpha=2.0), jp.LoRA(("up",))]
    slots = make_slots(map(canonical, loras))
    assert len(slots) == 3
    filled = fill_slots(slots, canonical(loras[0]))
    assert sorted(bool(np.any(jax.tree.leaves(one)[0])) for one in filled) == [False, False, True]


def test_order_of_a_sum_is_kept():
    inducer, lora = jp.Inducer(key_rank=2, value_rank=3), jp.LoRA(("q",), rank=2)
    prefix = jp.PTuningV2(length=2)
    methods = [inducer + lora, lora + inducer, prefix, lora, prefix + lora, jp.HeadOnly()]
    slots = make_slots(map(canonical, methods))
    names = [type(jax.tree.unflatten(slot.kind[0], slot.shapes)).__name__ for slot in slots]
    assert len(names) == 4 and sorted(names) in (
        ["GatedPrefix", "InducerEdit", "InducerEdit", "LoRAEdit"],
        ["GatedPrefix", "InducerEdit", "LoRAEdit", "LoRAEdit"],
    )
    for method in methods:
        own = canonical(method)
        used = [one for one in fill_slots(slots, own) if any(np.any(leaf) for leaf in jax.tree.leaves(one))]
        assert [type(one) for one in used] == [type(one) for one in own]


def test_what_does_not_fit_is_told():
    slots = make_slots([canonical(jp.PTuningV2(length=3)), canonical(jp.LoRA(("q",), rank=2))])
    assert fill_slots(slots, canonical(jp.PTuningV2(length=2))) is not None
    for method in (jp.PTuningV2(length=4), jp.LoRA(("q",), rank=3), jp.LoRA(("v",), rank=2), jp.ParallelAdapter()):
        assert fill_slots(slots, canonical(method)) is None


@edit
class Shift(LayerEdit):
    """`h + shift`, which zeros switch off."""

    shift: jax.Array

    def after_block(self, h, ctx):
        return h + self.shift

    def canonical(self, dims):
        return (self,)


@edit
class Louder(Shift):
    """What it adds is in no form that it inherits."""

    def after_block(self, h, ctx):
        return 2 * super().after_block(h, ctx)


def test_an_edit_of_ones_own_shares_a_program_where_it_has_a_form():
    assert canonical_edits("own", Edits((Shift(jnp.ones((3, 16))),)), DIMS)[0].shift.shape == (3, 16)
    with pytest.raises(UserError, match=r"'own' holds the edit Louder, .* serve it on its own with jp.load_adapter"):
        canonical_edits("own", Edits((Louder(jnp.ones((3, 16))),)), DIMS)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (jp.PromptTuning(length=2), "2 prompt rows before the text"),
        (jp.Inducer(gating_ablation=True), "InducerEdit, which leaves of zeros do not switch off"),
    ],
)
def test_what_has_no_form_is_refused(method, reason):
    with pytest.raises(UserError, match=rf"'own' .*{reason}.*; serve it on its own with jp.load_adapter"):
        canonical(method)
