"""A row alone is the same row padded on either side, and packed where that is allowed, on decoders with windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.models.cache import Cache
from jaxprefix.serving.slots import canonical_edits, fill_slots, make_slots
from jaxprefix.serving.writing import bank_generate
from tests import decoders
from tests.methods.test_matrix import shaken

LENGTH, TOKENS = 6, 11  # the windows have 4 columns
LEAVES = {
    "prefix": jp.PTuningV2(length=3, subject_to_window=True),
    "prefix longer than the window": jp.PTuningV2(length=5, subject_to_window=True, position_offset=False),
    "prefix of some layers": jp.PTuningV2(lengths=(0, 2), subject_to_window=True, mlp_width=4),
    "apt": jp.AdaptivePrefix(length=3, gate_std=0.5, subject_to_window=True),
    "trained masses": jp.AdaptivePrefix(length=3, subject_to_window=True, no_op_start=True, position_offset=False),
    "apt beside a prefix that stays": jp.AdaptivePrefix(length=3, subject_to_window=True) + jp.PTuningV2(length=2),
    "behind prompt tuning": jp.PTuningV2(length=3, subject_to_window=True) + jp.PromptTuning(length=2),
    "inducer": jp.Inducer(key_rank=2, value_rank=3) + jp.PTuningV2(length=3, subject_to_window=True),
}
STAYS = {
    "prefix": jp.PrefixTuning(length=3, mlp_width=5),
    "apt": jp.AdaptivePrefix(length=3, gate_std=0.5),
    "prompt tuning + apt": jp.PromptTuning(length=2) + jp.AdaptivePrefix(length=3, gate_std=0.5),
    "adaptive inducer": jp.Inducer(key_mode="adaptive", value_rank=3),
    "value gating": jp.Inducer(key_mode="identity", value_rank=3, value_gating=True),
    "multi-head adapter + lora": jp.MultiHeadAdapter(value_rank=3) + jp.LoRA(("q", "gate"), rank=2),
    "kernel-mix + adapters": jp.KernelMix() + jp.ParallelAdapter(width=4) + jp.SequentialAdapter(width=4),
    "full": jp.FullFineTuning(),
}
# Every method on one of two kinds: windows in all layers, or in every second one.
ON_MISTRAL = (
    *("prefix longer than the window", "prefix of some layers", "apt", "behind prompt tuning"),
    *("prefix", "adaptive inducer", "value gating", "full"),
)
ON_GEMMA = (
    *("prefix", "trained masses", "apt beside a prefix that stays", "inducer"),
    *("apt", "prompt tuning + apt", "multi-head adapter + lora", "kernel-mix + adapters"),
)
CASES = [
    (kind, methods, name)
    for kind, names in (("mistral", ON_MISTRAL), ("gemma2", ON_GEMMA))
    for methods, some in ((LEAVES, names[:4]), (STAYS, names[4:]))
    for name in some
]
MISTRAL = {"leaving": LEAVES["prefix longer than the window"], "gated": LEAVES["apt"]}


def build(method, kind, head=None):
    model = jp.TunedModel(jp.Decoder(decoders.config(kind, layers=2), unroll=False), method, head)
    trainable, frozen = model.init(jax.random.key(0), decoders.frozen_tree(kind, layers=2))
    return model, shaken(trainable), frozen


def placed(ids, starts, tokens=TOKENS):
    """The same row from each of these columns on."""
    rows, mask = np.zeros((len(starts), tokens), np.int32), np.zeros((len(starts), tokens), bool)
    for row, start in enumerate(starts):
        rows[row, start : start + len(ids)], mask[row, start : start + len(ids)] = ids, True
    return {"input_ids": jnp.asarray(rows), "attention_mask": jnp.asarray(mask)}


def words(length, seed=0):
    return np.random.default_rng(seed).integers(2, decoders.VOCAB, length)


@pytest.mark.slow  # tests/test_invariances.py has every method, quickly
@pytest.mark.parametrize(("kind", "methods", "name"), CASES)
def test_in_a_full_pass(kind, methods, name):
    """Padding on the right, on the left and on both sides, in hidden states and in what the edits show."""
    model, trainable, frozen = build(methods[name], kind)
    ids, starts = words(LENGTH), (0, TOKENS - LENGTH, 2)
    alone = model.apply(trainable, frozen, placed(ids, (0,), LENGTH), capture=True)
    padded = model.apply(trainable, frozen, placed(ids, starts), capture=True)
    for row, start in enumerate(starts):
        own = slice(start, start + LENGTH)
        np.testing.assert_allclose(padded.hidden[row, own], alone.hidden[0], atol=2e-5, rtol=2e-4)
        for ours, theirs in zip(padded.observed, alone.observed, strict=True):
            if "share" in ours and "prompt" not in name:
                np.testing.assert_allclose(ours["share"][:, row, :, own], theirs["share"][:, 0], atol=1e-5)
    if methods is STAYS and "prompt" not in name:
        others = words(TOKENS - LENGTH, 1)
        packed = {
            "input_ids": jnp.asarray([[*others, *ids]], jnp.int32),
            "attention_mask": jnp.ones((1, TOKENS), bool),
            "segment_ids": jnp.asarray([[1] * len(others) + [2] * LENGTH], jnp.int32),
        }
        shared = model.apply(trainable, frozen, packed).hidden
        np.testing.assert_allclose(shared[0, len(others) :], alone.hidden[0], atol=2e-5, rtol=2e-4)


def test_a_prefix_that_leaves_the_window_does_so_by_the_rows_own_tokens():
    """One token of padding on the left moved the logits by what a whole virtual token weighs."""
    model, trainable, frozen = build(LEAVES["prefix longer than the window"], "mistral")
    share = np.asarray(model.apply(trainable, frozen, placed(words(LENGTH), (1, 5)), capture=True).observed[0]["share"])
    for row, start in enumerate((1, 5)):
        seen = share[:, row, :, start : start + LENGTH]
        assert (seen[..., :3] > 0).all()  # of a window of 4, the query's own column among them
        np.testing.assert_array_equal(seen[..., 3:], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTRAL)
def test_in_steps_through_the_cache(name):
    model, trainable, frozen = build(MISTRAL[name], "mistral")
    ids = words(LENGTH)
    whole = model.apply(trainable, frozen, placed(ids, (0,), LENGTH)).hidden[0]
    batch = placed(ids, (TOKENS - LENGTH, 2))
    step = jax.jit(lambda cache, part: model.forward(trainable, frozen, part, cache=cache)[1::3])
    cache, found, start = Cache.empty(model.backbone.dims, 2, TOKENS), [], 0
    for width in (6, *[1] * (TOKENS - 6)):
        hidden, cache = step(cache, {name: column[:, start : start + width] for name, column in batch.items()})
        found.append(hidden)
        start += width
    for row, hidden in enumerate(np.concatenate(found, 1)):
        np.testing.assert_allclose(hidden[np.asarray(batch["attention_mask"][row])], whole, atol=2e-5, rtol=2e-4)


def test_single_prompts_write_what_they_write_without_padding():
    model, trainable, frozen = build(MISTRAL["leaving"], "mistral", jp.CausalLM())
    decoding = jp.Decoding(max_new_tokens=6)
    alone, padded = (jp.generate(model, trainable, frozen, placed(words(5), (at,), at + 5), decoding) for at in (0, 11))
    np.testing.assert_array_equal(padded.tokens, alone.tokens)
    np.testing.assert_allclose(padded.scores, alone.scores, rtol=1e-4)


def test_in_a_bank():
    """A prompt of each adapter, alone and padded on the left."""
    dims, decoding = jp.Decoder(decoders.config("mistral", layers=2)).dims, jp.Decoding(max_new_tokens=5)
    members = [build(STAYS[name], "mistral", jp.CausalLM()) for name in ("apt", "adaptive inducer")]
    edits = [model.edits(trainable) for model, trainable, _ in members]
    canonical = [canonical_edits("own", made, dims) for made in edits]
    slots = make_slots(canonical)
    filled = [
        {"edits": fill_slots(slots, own), "offset": np.int32(made.position_offset)}
        for own, made in zip(canonical, edits, strict=True)
    ]
    stacks = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *filled)
    model, _, frozen = members[0]
    tree = frozen["backbone"]
    found = []
    for at in (0, 7):
        batch = jax.tree.map(lambda x: jnp.repeat(x, 2, 0), placed(words(5), (at,), at + 5))
        found.append(bank_generate(model.backbone, decoding, stacks, tree, batch, np.arange(2), None))
    alone, padded = found
    np.testing.assert_array_equal(padded.tokens, alone.tokens)
    np.testing.assert_allclose(padded.scores, alone.scores, rtol=1e-4)
