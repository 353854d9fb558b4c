"""New words: columns of the logits, rows of the lookup, gradients of them alone, decoding through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.checkpoints.adapter import read_adapter, write_adapter
from jaxprefix.errors import UserError
from jaxprefix.trees import flatten
from tests import decoders, tiny

VOCAB, N = decoders.VOCAB, 4


def build(method: jp.Method, kind: str = "gpt2"):
    model = jp.TunedModel(jp.Decoder(decoders.config(kind), unroll=False), method, jp.CausalLM())
    return model, *model.init(jax.random.key(0), decoders.frozen_tree(kind))


def with_new_tokens(seed: int = 3):
    batch = decoders.batch()
    ids = np.array(batch["input_ids"])
    ids[:, 0] = VOCAB + np.arange(4)
    ids[0, 3] = VOCAB + 1
    labels = np.random.default_rng(seed).integers(0, VOCAB + N, ids.shape)
    labels[~np.asarray(batch["attention_mask"])] = -100
    return {**batch, "input_ids": jnp.asarray(ids), "labels": jnp.asarray(labels, jnp.int32)}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_logits_have_new_columns_behind_the_frozen_ones(kind):
    model, trainable, frozen = build(jp.NewTokens(N), kind)
    out = model.apply(trainable, frozen, with_new_tokens())
    assert out.logits.shape == (4, 9, VOCAB + N)
    words = trainable["method"]["words"]
    np.testing.assert_allclose(out.logits[..., VOCAB:], out.hidden @ words.T, atol=1e-5)
    bare = jp.TunedModel(model.backbone, jp.FullFineTuning(), jp.CausalLM())
    known = decoders.batch()
    before = bare.apply({}, frozen, known)
    after = model.apply(trainable, frozen, known)
    np.testing.assert_allclose(after.logits[..., :VOCAB], before.logits, atol=1e-5)  # where no new word is read


@pytest.mark.parametrize("kind", ["gpt2", "gemma3_text"])
def test_new_ids_look_up_new_rows(kind):
    """A new row that copies a frozen one, as it is looked up, is read as that one."""
    model, _, frozen = build(jp.NewTokens(N), kind)
    table = frozen["backbone"]["embeddings"]["word"]["embedding"]
    scale = decoders.config(kind).embedding_scale
    copied = {"method": {"words": table[jnp.array([7, 8, 9, 10])] * scale}}
    batch = with_new_tokens()
    new = np.asarray(batch["input_ids"])
    old = {**batch, "input_ids": jnp.asarray(np.where(new >= VOCAB, new - VOCAB + 7, new))}
    found, expected = (model.apply(copied, frozen, rows).hidden for rows in (batch, old))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if not decoders.config(kind).has_word_types:
        return  # token types other than 0 are refused
    typed, other = ({**old, "token_type_ids": jnp.full((4, 9), id)} for id in (VOCAB + 2, 9))
    np.testing.assert_allclose(
        model.apply(copied, frozen, typed).hidden, model.apply(copied, frozen, other).hidden, atol=1e-5
    )


def test_gradients_reach_new_rows_and_no_other():
    model, trainable, frozen = build(jp.NewTokens(N))
    assert set(flatten(trainable)) == {"method/words"} and trainable["method"]["words"].shape == (N, 16)
    batch = with_new_tokens()

    def loss(trainable):
        total, weight = model.head.loss(model.forward(trainable, frozen, batch).logits, batch)
        return total / weight

    gradient = jax.jit(jax.value_and_grad(loss))
    first, grads = gradient(trainable)
    grads = grads["method"]["words"]
    assert (jnp.abs(grads).max(axis=1) > 1e-6).all()
    before = jax.tree.map(np.array, frozen)
    state, rate = trainable, 0.5
    for _ in range(3):
        state = jax.tree.map(lambda w, g: w - rate * g, state, gradient(state)[1])
    assert gradient(state)[0] < first
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_a_word_that_is_nowhere_read_learns_from_the_softmax():
    model, trainable, frozen = build(jp.NewTokens(N))
    batch = {**decoders.batch(), "labels": decoders.batch()["input_ids"]}
    grads = jax.jit(jax.grad(lambda t: model.head.loss(model.forward(t, frozen, batch).logits, batch)[0]))(trainable)
    assert (jnp.abs(grads["method"]["words"]).max(axis=1) > 1e-6).all()


def test_the_start_is_that_of_the_backbone_or_the_one_given():
    for method, std in ((jp.NewTokens(400), 0.3), (jp.NewTokens(400, init_std=0.01), 0.01)):
        _, trainable, _ = build(method)
        words = trainable["method"]["words"]
        assert words.dtype == jnp.float32 and float(words.std()) == pytest.approx(std, rel=0.05)
        assert abs(float(words.mean())) < std / 20


def test_sums_hold_new_tokens():
    method = jp.Inducer(key_rank=2, value_rank=3) + jp.LoRA(("q",), rank=2) + jp.NewTokens(N)
    model, trainable, frozen = build(method)
    assert method.names == ("inducer", "lora", "new_tokens")
    assert trainable["method"]["new_tokens"]["words"].shape == (N, 16)
    batch = with_new_tokens()
    made = jax.eval_shape(lambda: model.forward(trainable, frozen, batch))
    assert made.logits.shape[-1] == VOCAB + N
    two, trainable, _ = build(jp.NewTokens(1) + jp.NewTokens(2))
    rows = [trainable["method"][name]["words"] for name in ("new_tokens", "new_tokens_2")]
    np.testing.assert_array_equal(two.edits(trainable).words, np.concatenate(rows))


def test_encoders_and_counts_below_one_are_refused():
    for method in (jp.NewTokens(2), jp.PTuningV2(length=2) + jp.NewTokens(2)):
        model = jp.TunedModel(jp.Encoder(tiny.config("bert"), unroll=False), method)
        with pytest.raises(UserError, match="NewTokens are rows of a decoder's vocabulary, and this backbone is an"):
            model.init(jax.random.key(0), tiny.frozen_tree("bert"))
    with pytest.raises(UserError, match="NewTokens has count = 0"):
        jp.NewTokens(0)


@pytest.mark.parametrize("beams", [1, 2])
def test_decoding_makes_new_tokens_and_stops_at_them(beams):
    model, trainable, frozen = build(jp.PTuningV2(length=2) + jp.NewTokens(N))
    batch = decoders.batch(left=True)
    plain = jp.generate(model, trainable, frozen, batch, jp.Decoding(max_new_tokens=6, beams=beams))
    hidden = model.apply(trainable, frozen, batch).hidden[:, -1]  # behind each prompt
    loud = jax.tree.map(jnp.array, trainable)
    loud["method"]["new_tokens"]["words"] = loud["method"]["new_tokens"]["words"].at[2].set(30 * hidden[0])
    made = jp.generate(model, loud, frozen, batch, jp.Decoding(max_new_tokens=6, beams=beams))
    assert int(made.tokens[0, 0]) == VOCAB + 2 and int(plain.tokens.max()) < VOCAB + N
    stopped = jp.generate(
        model, loud, frozen, batch, jp.Decoding(max_new_tokens=6, beams=beams, stop=(VOCAB + 2,), pad=0)
    )
    assert int(stopped.lengths[0]) == 1 and stopped.tokens[0].tolist() == [VOCAB + 2, 0, 0, 0, 0, 0]


def test_new_tokens_are_saved_with_the_adapter(tmp_path):
    _, trainable, _ = build(jp.LoRA(("q",), rank=2) + jp.NewTokens(N))
    about = {"name": "x", "architecture": "gpt2", "parameters": 1, "digest": "", "fingerprint": {}}
    write_adapter(
        tmp_path / "adapter", leaves={"trainable": trainable, "initialized": {}}, config_json="{}", backbone=about,
        metrics={}, facts={},
    )  # fmt: skip
    read = flatten(read_adapter(tmp_path / "adapter").trainable)
    assert set(read) == set(flatten(trainable))
    np.testing.assert_array_equal(read["method/new_tokens/words"], trainable["method"]["new_tokens"]["words"])


def test_a_config_with_new_tokens_reads_back():
    from jaxprefix.typed_json import from_json, to_json

    run = jp.Run(jp.CausalLanguage(jp.Files("a.jsonl")), method=jp.Inducer() + jp.NewTokens(16, init_std=0.1))
    assert from_json(to_json(run), jp.Run) == run
