"""The self-check passes every method that comes with the package, and finds what is wrong with a broken one."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.attention import VirtualTokens
from jaxprefix.cli import main as cli
from jaxprefix.edits import Edits, LayerEdit, edit
from jaxprefix.methods.base import Method
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.heads import MaskedLM
from jaxprefix.models.tuned import TunedModel
from jaxprefix.self_check.check import check
from jaxprefix.self_check.report import Check, CheckItem
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from jaxprefix.training.preflight import check_before_training
from jaxprefix.training.setup import set_up
from jaxprefix.training.step import make_eval_step
from tests import tiny
from tests.training.conftest import world_of_two_layers as world  # noqa: F401

METHODS = {
    "p-tuning v2": (jp.PTuningV2(length=4), "4 of 4"),
    "lengths": (jp.PTuningV2(lengths=(2, 0, 3)), "4 of 4"),
    "no-op": (
        jp.PTuningV2(length=4, no_op_start=True, position_offset=False),
        "3 of 5 leaves have one; method/keys, method/values once the others have moved",
    ),
    "prefix-tuning": (jp.PrefixTuning(length=3, mlp_width=8), "7 of 7"),
    "prompt tuning": (jp.PromptTuning(length=4), "3 of 3"),
    "adaptive": (jp.AdaptivePrefix(length=4), "6 of 6"),
    "adaptive, lengths": (jp.AdaptivePrefix(lengths=(0, 2, 3), gate_source="mean", gate_bias=True), "7 of 7"),
    "inducer + lora": (
        jp.Inducer(value_rank=2, key_rank=2) + jp.LoRA(("q",), rank=2),
        "11 of 12 leaves have one; method/lora/q/A once the others have moved",
    ),
    "adapter": (jp.ParallelAdapter(width=3), "method/down, method/down_bias once the others have moved"),
    "kernel-mix": (jp.KernelMix(1, 2, 2, 2), "17 of 17"),
    "bitfit": (jp.BitFit(), "10 of 11 leaves have one; backbone/layers/k/bias never"),
    "bitfit + prefix": (jp.BitFit() + jp.PTuningV2(length=3), "13 of 13"),
    "head only": (jp.HeadOnly(), "2 of 2"),
    "full": (jp.FullFineTuning(), "22 of 23 leaves have one; backbone/layers/k/bias never"),
}
FAST = ("adaptive", "bitfit")


def made(method, head=None, kind="bert", **settings):
    settings = {"unroll": False, **settings}
    model = TunedModel(Encoder(tiny.config(kind), **settings), method, head or SequenceClassifier(3))
    return model, *model.init(jax.random.key(1), tiny.frozen_tree(kind))


def looked_at(method, kind="bert", **options):
    return check(*made(method, kind=kind, **options), tiny.batch(kind=kind))


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in METHODS])
def test_every_method_passes_and_its_leaves_are_told_alive_from_asleep(name):
    method, gradients = METHODS[name]
    found = looked_at(method, kind="roberta" if name in ("lengths", "prompt tuning") else "bert")
    assert found.ok, str(found)
    assert gradients in found["gradients"].measured
    virtual = found["every token sees virtual ones"]
    has_virtual = name not in ("inducer + lora", "adapter", "kernel-mix", "bitfit", "head only", "full")
    assert virtual.status == ("passed" if has_virtual else "not applicable")
    assert found["fused against reference attention"].status == "passed"
    assert found["saturated gates"].status == ("passed" if "adaptive" in name else "not applicable")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "labels"), [(TokenClassifier(3), True), (MaskedLM(), True), (None, False), (SequenceClassifier(3), False)]
)
def test_every_head_passes_with_and_without_labels(head, labels):
    model, trainable, frozen = made(jp.PTuningV2(length=3), head or SequenceClassifier(3))
    if head is None:
        model, trainable = dataclasses.replace(model, head=None), {"method": trainable["method"]}
    batch = tiny.batch()
    if isinstance(head, TokenClassifier | MaskedLM):
        batch["labels"] = jnp.where(batch["attention_mask"], batch["input_ids"] % 3, -100)
    if not labels:
        batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = check(model, trainable, frozen, batch)
    assert found.ok, str(found)


# What is broken is found


@edit
class Wrong(LayerEdit):
    """Mistakes that are easy to make; `kind` says which, and "+" joins several."""

    w: jax.Array
    kind: str = jp.static(default="")

    def virtual_tokens(self, x, ctx):
        if "row" not in self.kind.split("+"):
            return None
        # only rows whose first token has one channel above another see the virtual token of the last layer
        tokens = jnp.broadcast_to(self.w[:16].reshape(1, 1, 4, 4), (x.shape[0], 1, 4, 4))
        return VirtualTokens(tokens, tokens, mass=(x[:, :1, 0] > x[:, :1, 12]).astype(x.dtype))

    def after_block(self, h, ctx):
        if "unmasked" in self.kind.split("+"):
            return h + self.w * h.mean(axis=1, keepdims=True)
        if self.kind == "rows":
            return h + self.w * h.mean(axis=0, keepdims=True)
        if self.kind == "nothing":
            return h + 0 * self.w
        return h if self.kind == "row" else h + self.w


@dataclasses.dataclass(frozen=True)
class WrongMethod(Method):
    kind: str = ""

    def build(self, dims):
        return WrongModule(self.kind)


class WrongModule(nn.Module):
    kind: str

    @nn.compact
    def __call__(self):
        w = self.param("w", nn.initializers.normal(0.3), (3, 16))
        if "forgotten" in self.kind.split("+"):
            self.param("forgotten", nn.initializers.normal(0.3), (3, 16))
        return Edits((Wrong(w, self.kind),))


@pytest.mark.parametrize(
    ("kind", "failed", "words"),
    [
        ("rows", {"batch invariance", "pads are not seen"}, ("no hook sum or average over rows",)),
        ("nothing", {"method changes the output", "gradients"}, ("the backbone computes the same without it",)),
        (  # three that do not hide each other, by the programs of one
            "unmasked+row+forgotten",
            {"padding invariance", "pads are not seen", "every token sees virtual ones", "gradients"},
            (
                "mask padding wherever tokens are summed",
                "no mask hide virtual tokens",
                "1 of 4 leaves have none: method/forgotten",
            ),
        ),
        pytest.param("", set(), (), marks=pytest.mark.slow),  # that of FAST pass, quickly
    ],
)
def test_what_is_broken_is_found(kind, failed, words):
    found = looked_at(WrongMethod(kind))
    names = {item.name for item in found.items if item.status == "failed"}
    assert names == failed, str(found)
    assert found.ok == (not names)
    text = " ".join(str(found).split())
    assert all(some in text for some in words), text


def test_numbers_that_are_not_finite_are_found():
    """By the programs of a method that passes."""
    model, trainable, frozen = made(jp.BitFit())
    trainable["backbone"] = jax.tree.map(lambda leaf: leaf / np.float32(0), trainable["backbone"])
    found = check(model, trainable, frozen, tiny.batch())
    assert found["finite"].status == "failed" and "numbers are not" in found["finite"].measured
    assert not found.ok


@pytest.mark.slow  # the command below tells of one, quickly
def test_a_legacy_mask_is_told():
    found = looked_at(jp.Inducer(value_rank=2, key_rank=2, legacy_mask=True))
    assert found["padding invariance"].status == found["pads are not seen"].status == "failed"
    assert "legacy_mask=False" in found["padding invariance"].remedy


def test_leaves_in_both_trees_are_found():
    model, trainable, frozen = made(jp.BitFit())
    frozen["backbone"]["layers"]["q"]["bias"] = trainable["backbone"]["layers"]["q"]["bias"]
    found = check(model, trainable, frozen, tiny.batch())
    assert "layers/q/bias in both trees" in found["gradients"].measured


def test_too_many_positions_end_the_check():
    found = looked_at(jp.PTuningV2(length=32))
    assert [item.name for item in found.items] == ["position budget"]
    assert not found.ok and "9 tokens + 32 of the method, of 40" in found.items[0].measured


def test_saturated_gates_and_weights_are_warnings():
    model, trainable, frozen = made(jp.AdaptivePrefix(length=4))
    trainable["method"]["gate"]["kernel"] *= 30
    found = check(model, trainable, frozen, tiny.batch())
    assert found["saturated gates"].status == "warning"
    assert found.ok, str(found)


def test_little_padding_few_rows_and_the_reference_itself_leave_questions_open():
    model, trainable, frozen = made(jp.BitFit(), attention="reference")
    found = check(model, trainable, frozen, tiny.batch(lengths=(40, 33), tokens=40))  # all that the table serves
    assert found.ok
    open_questions = {item.name for item in found.items if item.status == "not applicable"}
    assert {"padding invariance", "batch invariance", "fused against reference attention"} <= open_questions


def test_the_table_shows_every_item():
    found = Check((CheckItem("one", "passed", "1"), CheckItem("two", "failed", "2", "do it")))
    assert not found.ok
    assert "one" in str(found) and "2; do it" in str(found)
    assert Check(found.items[:1]).ok


# Attention of an encoder, the command, and the look before training


def test_an_encoder_takes_the_implementation_of_its_attention():
    model, trainable, frozen = made(jp.AdaptivePrefix(length=3))
    slow = dataclasses.replace(model, backbone=model.backbone.clone(attention="reference"))
    a, b = (m.apply(trainable, frozen, tiny.batch()).logits for m in (model, slow))
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.any(np.asarray(a) != np.asarray(b))
    unknown = dataclasses.replace(model, backbone=model.backbone.clone(attention="fast"))
    with pytest.raises(jp.UserError, match="no attention implementation 'fast'"):
        unknown.apply(trainable, frozen, tiny.batch())


def test_the_command_prints_the_table_and_its_exit_code_tells(world, tmp_path, capsys):  # noqa: F811
    config = world.config_file(tmp_path / "config.py", tmp_path / "run", method="jp.Inducer(legacy_mask=True)")
    assert cli.main(["check", config]) == 1
    out = capsys.readouterr().out
    assert "position budget" in out and "failed" in out
    assert "legacy_mask=False" in out  # the remedy


@dataclasses.dataclass(frozen=True)
class Deaf(Method):
    """Its leaf reaches nothing."""

    def build(self, dims):
        return DeafModule(dims.layers)


class DeafModule(nn.Module):
    layers: int

    @nn.compact
    def __call__(self):
        return Edits((Wrong(0 * self.param("w", nn.initializers.ones, (self.layers, 1)), ""),))


jp.register(Deaf)


def test_training_refuses_a_method_that_does_not_reach_the_output(world, tmp_path):  # noqa: F811
    with pytest.raises(jp.UserError, match="leaves of Deaf do not reach the output"):
        jp.train(world.run(tmp_path / "run", method=Deaf(), steps=1))


def test_training_refuses_losses_that_are_not_finite_before_it(world, tmp_path):  # noqa: F811
    method = jp.PTuningV2(length=4, init_std=1e38)
    with pytest.raises(jp.UserError, match="not finite before the first step"):
        jp.train(world.run(tmp_path / "run", method=method, steps=1))


def test_the_look_before_training_warns_of_rows_that_depend_on_padding(world, tmp_path, caplog):  # noqa: F811
    usual = {"steps": 1, "buckets": (32,), "eval_batch_size": 40, "unroll": False}
    setup = set_up(world.run(tmp_path / "legacy", method=jp.Inducer(value_rank=64, legacy_mask=True), **usual))
    check_before_training(setup, make_eval_step(setup.model, setup.mesh), setup.trainable)
    told = [record for record in caplog.records if "other rows and other pads" in record.message]
    assert len(told) == 1
