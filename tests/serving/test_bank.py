"""Each row of a mixed batch is that of its adapter alone; what is compiled when; what cannot share a program."""

import dataclasses
import logging
import re

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.analysis.flops import dot_flops
from jaxprefix.edits import Edits, LayerEdit, edit
from jaxprefix.errors import UserError
from jaxprefix.serving.bank import bank_forward
from tests import tiny
from tests.serving.cases import SINGLE, adapter, assert_rows_are_those_of_single_runs, backbone, mixed_batch, several

QUICK = {
    "bert": (
        *("p-tuning v2, no-op start", "apt, mean, bias", "apt without alpha"),
        *("inducer, identity, per head", "lora + inducer + adapter"),
    ),
    "roberta": ("p-tuning v2, lengths", "lora, wider", "head only"),
}


def head(labels, pooling="mean"):
    return jp.SequenceClassifier(labels, pooling=pooling)


@pytest.mark.parametrize("kind", QUICK)
def test_rows_are_those_of_single_runs(kind):
    adapters = several(QUICK[kind], kind, heads=(head(3), head(2), head(5)))
    assert_rows_are_those_of_single_runs(jp.Bank(adapters), adapters, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUICK)
def test_every_method_at_once(kind):
    adapters = several(SINGLE, kind, heads=(head(3), head(2), head(4, "first")))
    assert_rows_are_those_of_single_runs(jp.Bank(adapters), adapters, kind)


@pytest.mark.parametrize("kind", QUICK)  # BERT has a pooler, RoBERTa's is born with the adapter
def test_every_pooling_beside_the_others(kind):
    last = jp.SequenceClassifier(3, pooling="last", bias=False)
    heads = (head(2), head(3, "first"), last, head(4, "pooler"), head(2, "trained_pooler"))
    methods = (jp.PTuningV2(length=2), jp.HeadOnly(), jp.HeadOnly(), jp.PTuningV2(length=3), jp.HeadOnly())
    pairs = zip(heads, methods, strict=True)
    adapters = {f"{own.pooling}": adapter(method, kind, own, seed=index) for index, (own, method) in enumerate(pairs)}
    bank = jp.Bank(adapters)
    poolings = ("mean", "first", "last", "pooler", "own_pooler")
    assert bank._state.head_slots.poolings == tuple(p for p in poolings if kind == "bert" or p != "pooler")
    assert_rows_are_those_of_single_runs(bank, adapters, kind)


def test_token_classifiers():
    names = ("p-tuning v2", "head only", "lora, wider")
    adapters = several(names, heads=(jp.TokenClassifier(3), jp.TokenClassifier(5), jp.TokenClassifier(2)))
    bank = jp.Bank(adapters)
    assert_rows_are_those_of_single_runs(bank, adapters)
    batch, rows, _ = mixed_batch(names)
    assert bank.logits(batch, rows).shape == (12, 9, 5)


@edit
class Shift(LayerEdit):
    """`h + shift`, which zeros switch off."""

    shift: jax.Array

    def after_block(self, h, ctx):
        return h + self.shift

    def canonical(self, dims):
        return (self,)


class ShiftModule(nn.Module):
    dims: jp.Dims

    @nn.compact
    def __call__(self):
        return Edits((Shift(self.param("shift", nn.initializers.zeros, (self.dims.layers, self.dims.width))),))


@dataclasses.dataclass(frozen=True)
class Shifts(jp.Method):
    def build(self, dims):
        return ShiftModule(dims)


def test_an_edit_of_ones_own():
    adapters = {"own": adapter(Shifts()), "sum": adapter(Shifts() + jp.PTuningV2(length=2))}
    assert_rows_are_those_of_single_runs(jp.Bank(adapters), adapters)


def test_one_program_whatever_the_mixture_and_whoever_is_exchanged(caplog):
    names = ("p-tuning v2, longer", "lora", "apt")
    adapters = several(names, heads=(head(3), head(4)))
    bank = jp.Bank(adapters)
    before = bank_forward._cache_size()
    assert_rows_are_those_of_single_runs(bank, adapters)
    batch, rows, _ = mixed_batch(names)
    bank.logits(batch, [names[0]] * len(rows))
    others = {
        "lora": adapter(SINGLE["apt"], head=head(3), seed=7),  # of another method, shorter, fewer labels
        "apt": adapter(SINGLE["lora"], head=head(4), seed=8),
        "p-tuning v2, longer": adapter(jp.PTuningV2(length=2, position_offset=17), head=head(3), seed=9),
    }
    with caplog.at_level(logging.INFO, "jaxprefix"):
        for name, other in others.items():
            bank.replace(name, other)
    assert bank.names == names and not caplog.records
    assert_rows_are_those_of_single_runs(bank, {name: others[name] for name in names}, seed=1)
    assert bank_forward._cache_size() == before + 1

    with caplog.at_level(logging.INFO, "jaxprefix"):
        bank.replace("apt", adapter(jp.PTuningV2(length=6), seed=10))
    assert "'apt' does not fit the bank, which grows" in caplog.text
    others["apt"] = adapter(jp.PTuningV2(length=6), seed=10)
    assert_rows_are_those_of_single_runs(bank, {name: others[name] for name in names})
    assert bank_forward._cache_size() == before + 2


def test_a_frozen_kernel_meets_all_rows_in_one_product():
    names = ("p-tuning v2", "head only", "inducer")
    bank = jp.Bank(several(names))
    batch, rows, _ = mixed_batch(names)
    state, found = bank._state, bank.backbone
    which = np.array([names.index(name) for name in rows], np.int32)
    program = bank_forward.lower(found.module, state.head_slots, state.stacks, found.tree, batch, which).compile()
    text = program.as_text()
    copied = re.findall(r"\w+\[(?:\d+,)*12,(?:1,)?(?:16,24|24,16|16,16)\]", text)
    assert not copied
    tokens = len(rows) * tiny.TOKENS
    assert re.search(rf"f32\[{tokens},24\]\S* (dot|custom-call)\(", text)  # the MLP's first map
    dims = found.module.dims
    linear = 2 * tokens * dims.layers * (4 * 16 * 16 + 2 * 16 * 24)
    assert linear < dot_flops(program) < 2 * linear


def test_a_long_text_is_held_to_the_offset_of_its_own_adapter():
    adapters = {"plain": adapter(jp.HeadOnly()), "shifted": adapter(jp.PTuningV2(length=3))}
    bank = jp.Bank(adapters)
    batch = tiny.batch((40, 9), tokens=40)  # 40 is all that the position table serves
    found = bank.logits(batch, ["plain", "shifted"])
    alone = adapters["plain"]
    expected = alone.model.apply(alone.trainable, alone.frozen, batch).logits
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    assert np.isfinite(found).all()
    with pytest.raises(UserError, match="40 tokens and 3 positions of virtual tokens need 43"):
        bank.logits(batch, ["shifted", "plain"])


REFUSED = {
    "prompt": (lambda: adapter(jp.PromptTuning(length=2)), "'b' puts 2 prompt rows before the text"),
    "ablation": (lambda: adapter(jp.Inducer(gating_ablation=True)), "'b' holds the edit InducerEdit, which leaves"),
    "full": (lambda: adapter(jp.FullFineTuning()), r"'b' has trained \d+ leaves of the backbone \(embeddings/"),
    "bitfit": (lambda: adapter(jp.BitFit()), r"'b' has trained \d+ leaves of the backbone \(embeddings/norm/bias"),
    "other backbone": (lambda: adapter(jp.HeadOnly(), "roberta"), "'b' and 'a' were trained on different backbones"),
    "new encoder": (lambda: unknown(adapter(jp.HeadOnly())), "'b' was trained on a new encoder"),
    "precision": (lambda: adapter(jp.HeadOnly(), precision="bfloat16"), "'b' computes in bfloat16 and 'a' in float32"),
    "tagging": (lambda: adapter(jp.HeadOnly(), head=jp.TokenClassifier(3)), "'b' is for tagging and 'a' for classif"),
    "language": (lambda: adapter(jp.PTuningV2(), head=jp.MaskedLM()), "'b' has the head MaskedLM"),
}


def unknown(found):
    return dataclasses.replace(found, backbone=dataclasses.replace(backbone(), identity={"identity": ""}))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_share_a_program_is_refused(case):
    make, reason = REFUSED[case]
    other, bank = make(), jp.Bank({"a": adapter(jp.HeadOnly()), "b": adapter(jp.HeadOnly())})
    with pytest.raises(UserError, match=reason):
        jp.Bank({"a": adapter(jp.HeadOnly()), "b": other})
    with pytest.raises(UserError, match=reason):
        bank.replace("b", other)


def test_names_that_there_are_not_are_refused():
    bank, batch = jp.Bank({"first": adapter(jp.HeadOnly())}), tiny.batch()
    with pytest.raises(UserError, match="4 rows and 1 names of adapters"):
        bank.logits(batch, ["first"])
    with pytest.raises(UserError, match="no adapter 'fist'; name 'first'"):
        bank.logits(batch, ["fist"] * 4)
    with pytest.raises(UserError, match="no adapter 'x'"):
        bank.replace("x", adapter(jp.HeadOnly()))
    with pytest.raises(UserError, match="no adapters; give it at least one"):
        jp.Bank({})
