"""Adapters of tiny encoders without folders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxprefix as jp
from jaxprefix.training.setup import Backbone
from tests import tiny

SINGLE = {
    "p-tuning v2": jp.PTuningV2(length=3),
    "p-tuning v2, longer": jp.PTuningV2(length=5, mlp_width=5),
    "p-tuning v2, lengths": jp.PTuningV2(lengths=(2, 0, 3), position_offset=4),
    "p-tuning v2, no-op start": jp.PTuningV2(length=3, no_op_start=True, position_offset=False),
    "prefix-tuning": jp.PrefixTuning(length=2, mlp_width=5, layers=(1,)),
    "apt": jp.AdaptivePrefix(length=3),
    "apt, mean, bias": jp.AdaptivePrefix(lengths=(2, 0, 3), gate_source="mean", gate_bias=True),
    "apt without alpha": jp.AdaptivePrefix(length=4, token_gate=False),
    "apt without lambda": jp.AdaptivePrefix(length=3, layer_scale=False),
    "apt without h": jp.AdaptivePrefix(length=3, gate_source="none", mlp_width=5),
    "inducer": jp.Inducer(key_rank=2, value_rank=3),
    "inducer, wider": jp.Inducer(key_rank=4, value_rank=5, layers=(0, 2)),
    "inducer, identity": jp.Inducer(key_mode="identity", value_rank=2),
    "inducer, identity, per head": jp.Inducer(key_mode="identity", value_rank=3, value_extension=False),
    "inducer, adaptive, shared": jp.Inducer(key_mode="adaptive", value_rank=3, head_share=True),
    "inducer, value gating": jp.Inducer(key_mode="identity", value_rank=3, value_gating=True),
    "inducer, value gating per head": jp.Inducer(
        key_mode="adaptive", value_rank=3, value_gating=True, value_extension=False
    ),
    "inducer, legacy mask": jp.Inducer(key_rank=2, value_rank=3, legacy_mask=True),
    "multi-head adapter": jp.MultiHeadAdapter(value_rank=3),
    "lora": jp.LoRA(("q", "k", "v", "o", "up", "down"), rank=2, alpha=3.0, bias=True),
    "lora, wider": jp.LoRA(("q", "v"), rank=4, alpha=2.0, layers=(0, 1)),
    "parallel adapter": jp.ParallelAdapter(width=4, norm=True, scale=2.0, after_dropout=True),
    "sequential adapter, attention": jp.SequentialAdapter(width=4, norm=True, place="attention", init="normal"),
    "sequential adapter, mlp": jp.SequentialAdapter(width=4, layers=(1,), scale=0.5),
    "sequential adapter, mlp, wider": jp.SequentialAdapter(width=6),
    "sequential adapter, block": jp.SequentialAdapter(width=4, place="block"),
    "kernel-mix": jp.KernelMix(query_rank=1, rank=2, shared_query_rank=2, shared_rank=2),
    "head only": jp.HeadOnly(),
    "inducer + lora": jp.Inducer(key_rank=2, value_rank=3) + jp.LoRA(("q",), rank=2, alpha=3.0),
    "lora + inducer + adapter": jp.LoRA(("v", "q"), rank=3)
    + jp.Inducer(key_rank=2, value_rank=3)
    + jp.SequentialAdapter(width=5),
    "prefix + lora": jp.PTuningV2(length=3) + jp.LoRA(("q", "v"), rank=2),
    "two prefixes": jp.PTuningV2(length=2) + jp.AdaptivePrefix(length=3),
}


@functools.cache
def backbone(kind: str = "bert", **settings) -> Backbone:
    """A tiny encoder and, for BERT, a pooler of its own."""
    tree = dict(tiny.frozen_tree(kind))
    if kind == "bert":
        tree["pooler"] = {"kernel": 0.3 * jax.random.normal(jax.random.key(8), (16, 16)), "bias": jnp.ones(16)}
    module = jp.Encoder(tiny.config(kind), unroll=False, **settings)  # a scan compiles sooner
    return Backbone(module, tree, None, {"source": kind, "identity": kind})


@functools.cache
def adapter(method, kind: str = "bert", head=None, seed: int = 2, **run) -> jp.Adapter:
    """Every leaf random, a born pooler's as well."""
    found, head = backbone(kind), jp.SequenceClassifier(3) if head is None else head
    model = jp.TunedModel(found.module, method, head)
    trainable, frozen = tiny.drawn(model, found.tree, seed)
    labels = tuple(f"label {index}" for index in range(getattr(head, "num_labels", 0)))
    config = jp.Run(jp.Classification(jp.Files(train="train.jsonl")), method=method, **run)
    return jp.Adapter(model, trainable, frozen, found, config, {"labels": list(labels)} if labels else {}, {})


def several(names, kind: str = "bert", heads=(None,)) -> dict[str, jp.Adapter]:
    return {
        name: adapter(SINGLE[name], kind, heads[index % len(heads)], seed=index) for index, name in enumerate(names)
    }


def mixed_batch(names, kind: str = "bert", seed: int = 0):
    """Four texts of different lengths for every adapter, the rows shuffled; with the names of the rows."""
    four = {name: leaf for name, leaf in tiny.batch(kind=kind).items() if name not in ("labels", "weight")}
    order = np.random.default_rng(seed).permutation(4 * len(names))
    batch = {name: np.asarray(leaf)[order % 4] for name, leaf in four.items()}
    return batch, [names[index // 4] for index in order], order % 4


def assert_rows_are_those_of_single_runs(bank, adapters, kind: str = "bert", seed: int = 0):
    names = list(adapters)
    batch, rows, texts = mixed_batch(names, kind, seed)
    together = np.asarray(bank.logits(batch, rows))
    four = tiny.batch(kind=kind)
    for name, one in adapters.items():
        alone = np.asarray(one.model.apply(one.trainable, one.frozen, four).logits)
        labels = alone.shape[-1]
        own = np.flatnonzero(np.array(rows) == name)
        np.testing.assert_allclose(together[own][..., :labels], alone[texts[own]], atol=1e-5, rtol=1e-5, err_msg=name)
        assert np.all(together[own][..., labels:] == -np.inf)
