"""The self-check passes every method that comes with the package, and finds what is wrong with a broken one."""

import jax
import pytest

import jaxprefix as jp
from jaxprefix.inspection.check import check
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.heads import SequenceClassifier
from jaxprefix.models.tuned import TunedModel
from tests import tiny

METHODS = {
    "p-tuning v2": jp.PTuningV2(length=4),
    "lengths": jp.PTuningV2(lengths=(2, 0, 3)),
    "no-op": jp.PTuningV2(length=4, no_op_start=True, position_offset=False),
    "prefix-tuning": jp.PrefixTuning(length=3, mlp_width=8),
    "prompt tuning": jp.PromptTuning(length=4),
    "adaptive": jp.AdaptivePrefix(length=4),
    "adaptive, lengths": jp.AdaptivePrefix(lengths=(0, 2, 3), gate_source="mean", gate_bias=True),
    "inducer + lora": jp.Inducer(value_rank=2, key_rank=2) + jp.LoRA(("q",), rank=2),
    "adapter": jp.ParallelAdapter(width=3),
    "kernel-mix": jp.KernelMix(1, 2, 2, 2),
    "bitfit": jp.BitFit(),
    "bitfit + prefix": jp.BitFit() + jp.PTuningV2(length=3),
    "head only": jp.HeadOnly(),
    "full": jp.FullFineTuning(),
}


def looked_at(method, head=None, kind="bert", batch=None, change=lambda trainable: trainable, **settings):
    model = TunedModel(Encoder(tiny.config(kind), **settings), method, head or SequenceClassifier(3))
    trainable, frozen = model.init(jax.random.key(1), tiny.frozen_tree(kind))
    return check(model, change(trainable), frozen, batch or tiny.batch(kind=kind))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes(name):
    found = looked_at(METHODS[name], kind="roberta" if name in ("adaptive", "prompt tuning") else "bert")
    assert found.ok, str(found)
    assert {item.status for item in found.items} <= {"passed", "not applicable", "warning"}
    print(found)
