"""A decoder is one function: the same in a loop, in a scan, rematerialised, padded, packed and in steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.edits import NO_EDITS
from jaxprefix.errors import UserError
from jaxprefix.models.cache import Cache
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.heads import CausalLM
from jaxprefix.trees import count
from tests import decoders

SMALL = {"atol": 1e-5, "rtol": 1e-5}
FAST = ("gpt2", "gemma2")  # between them they have most of what there is
EVERY_KIND = pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in decoders.KINDS]
)


def params(kind, **changes):
    return {name: decoders.frozen_tree(kind, **changes)[name] for name in Decoder.parts}


def hidden(kind, batch, changes=(), **settings):
    """`[B, T, D]`."""
    module = Decoder(decoders.config(kind, **dict(changes)), **{"unroll": False, **settings})
    tree = params(kind, **dict(changes))
    return np.asarray(jax.jit(lambda tree, batch: module.apply({"params": tree}, batch).hidden)(tree, batch))


EVERY_OTHER = ({"unroll": False, "remat": "full"}, {"unroll": False})


@pytest.mark.parametrize(
    ("kind", "layers", "others"),
    [  # in the quick case two of four ways; the other two agree in test_tuned.py
        ("gemma2", 3, ({"unroll": False},)),
        pytest.param("gpt2", 2, EVERY_OTHER, marks=pytest.mark.slow),
        pytest.param("gemma3_text", 5, EVERY_OTHER, marks=pytest.mark.slow),
    ],
)
def test_loop_scan_and_remat_agree_in_value_and_gradients(kind, layers, others):
    """With dropout; a period of 2 in 3 layers and of 3 in 5 leaves layers over."""
    rates = {"hidden_dropout": 0.2, "attention_dropout": 0.3, "layers": layers}
    tree, batch = params(kind, **rates), decoders.batch((9, 5))

    def run(**settings):
        module = Decoder(decoders.config(kind, **rates), **settings)

        def loss(tree):
            out = module.apply({"params": tree}, batch, key=jax.random.key(0), training=True, capture=True)
            return (out.captured * jnp.cos(jnp.arange(out.captured.size)).reshape(out.captured.shape)).sum()

        return jax.jit(jax.value_and_grad(loss))(tree)

    expected = run(unroll=True, remat="dots")
    for settings in others:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4), run(**settings), expected)


@EVERY_KIND
def test_padding_and_later_tokens_do_not_matter(kind):
    """One row of 9 tokens, padded on the right, on the left, and with its sixth token changed; one of 1 token."""
    right, left = (decoders.batch((9, 1), tokens=12, left=left) for left in (False, True))
    ids = right["input_ids"]
    batch = {
        "input_ids": jnp.concatenate([ids, left["input_ids"], ids[:1].at[:, 5].add(1)]),
        "attention_mask": jnp.concatenate(
            [right["attention_mask"], left["attention_mask"], right["attention_mask"][:1]]
        ),
    }
    found = hidden(kind, batch)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[2, 3:], found[0, :9], **SMALL)
    np.testing.assert_allclose(found[3, 11], found[1, 0], **SMALL)
    np.testing.assert_array_equal(found[4, :5], found[0, :5])
    assert (np.abs(found[4] - found[0]).max(-1)[5:9] > 1e-4).all()
    bare = hidden(kind, {"input_ids": ids[:1, :9]})
    np.testing.assert_allclose(found[:1, :9], bare, **SMALL)


def test_a_window_of_4_columns_reaches_3_columns_back_in_every_layer():
    batch = decoders.batch((12, 12), tokens=12)
    ids = batch["input_ids"].at[1].set(batch["input_ids"][0].at[1].add(1))
    found = hidden("mistral", {"input_ids": ids})
    moved = np.abs(found[0] - found[1]).max(-1) > 0
    assert moved.tolist() == [1 <= column <= 1 + 3 * 3 for column in range(12)]


ROWS = ((4, 3, 2), (1, 5), (9,))


@EVERY_KIND
def test_examples_that_share_a_row_are_as_if_alone(kind):
    together, alone = hidden(kind, decoders.packed(ROWS)), hidden(kind, decoders.unpacked(ROWS))
    example = 0
    for row, lengths in enumerate(ROWS):
        start = 0
        for length in lengths:
            np.testing.assert_allclose(together[row, start : start + length], alone[example, :length], **SMALL)
            start, example = start + length, example + 1


def in_steps(module, tree, batch, steps, columns, edits=NO_EDITS):
    """The hidden states of passes over so many columns each, one after another through the cache."""

    @jax.jit
    def step(tree, cache, batch):
        out = module.apply({"params": tree}, batch, edits, cache=cache)
        return out.hidden, out.cache

    found, start = [], 0
    cache = Cache.empty(module.dims, batch["attention_mask"].shape[0], columns)
    for width in steps:
        part = {name: batch[name][:, start : start + width] for name in ("input_ids", "attention_mask")}
        states, cache = step(tree, cache, part)
        found.append(states)
        start += width
    assert cache.filled and int(cache.length) == start
    return np.concatenate(found, axis=1)


@EVERY_KIND
def test_steps_through_the_cache_are_the_whole_pass(kind):
    """Columns of the prompt, rows padded on the left, then steps of one and of three; unrolled of one alone."""
    batch = decoders.batch((11, 8, 6), tokens=11, left=True)
    unroll = kind == "gpt2"
    module = Decoder(decoders.config(kind), unroll=unroll)
    found = in_steps(module, params(kind), batch, (9, 1, 1) if unroll else (6, 1, 3, 1), columns=13)
    real = np.asarray(batch["attention_mask"])
    np.testing.assert_allclose(found[real], hidden(kind, batch)[real], **SMALL)


def test_a_cache_of_half_precision_is_filled_in_half_precision():
    module = Decoder(decoders.config("llama"), jnp.bfloat16)
    cache = Cache.empty(module.dims, 1, 5, jnp.bfloat16)
    assert cache.capacity == 5 and cache.keys.shape == (3, 2, 1, 5, 4) and cache.first_token_hidden.shape == (3, 1, 16)
    batch, tree = {"input_ids": jnp.ones((1, 3), int)}, params("llama")
    made = jax.eval_shape(lambda: module.apply({"params": tree}, batch, cache=cache)).cache
    assert jax.tree.map(lambda x: (x.shape, x.dtype), jax.tree.leaves(made)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), jax.tree.leaves(cache)
    )


def test_what_a_pass_cannot_do_is_refused():
    batch, prompt = decoders.packed(((4, 3),)), dataclasses.replace(NO_EDITS, prompt=jnp.ones((2, 16)))
    module = Decoder(decoders.config("llama"))
    apply = lambda *args, **options: module.apply({"params": params("llama")}, *args, **options)  # noqa: E731
    with pytest.raises(UserError, match="one example per row; set packed=False"):
        apply(batch, prompt)
    with pytest.raises(UserError, match="one example per row; set packed=False"):
        apply(batch, cache=Cache.empty(module.dims, 1, 9))
    with pytest.raises(UserError, match=r"39 tokens and 2 positions .* the backbone has 40"):
        apply({"input_ids": jnp.ones((1, 39), int)}, prompt)
    with pytest.raises(UserError, match="give it a key"):
        apply(batch, training=True)


def test_token_types_add_their_word_embeddings():
    batch = decoders.batch((9,))
    tree = params("gpt2")
    doubled = {**tree["embeddings"], "word": {"embedding": 2 * tree["embeddings"]["word"]["embedding"]}}
    module = Decoder(decoders.config("gpt2"), unroll=False)
    run = jax.jit(lambda tree, batch: module.apply({"params": tree}, batch).hidden)
    typed = run(tree, {**batch, "token_type_ids": batch["input_ids"]})
    np.testing.assert_allclose(typed, run({**tree, "embeddings": doubled}, batch), **SMALL)


def test_new_tokens_are_rows_behind_the_vocabulary():
    """Of the lookup and of a tied head, without the scale of the other rows; both have gradients."""
    rows = jnp.asarray(np.random.default_rng(3).normal(size=(2, 16)), jnp.float32)
    tree = decoders.frozen_tree("gemma2")
    table = tree["embeddings"]["word"]["embedding"]
    config = decoders.config("gemma2")
    ids = jnp.asarray([[3, 50, 51, 7]])

    def logits(rows, table=table, config=config, words=True):
        model = jp.TunedModel(Decoder(config, unroll=False), jp.HeadOnly(), CausalLM())
        frozen = {"backbone": {**tree, "embeddings": {"word": {"embedding": table}}}, "initialized": {}}
        edits = dataclasses.replace(NO_EDITS, words=rows) if words else NO_EDITS
        out = model.forward({}, frozen, {"input_ids": ids}, edits=edits)
        return out.logits, out.hidden

    def both(rows):
        out, back = jax.vjp(lambda rows: logits(rows)[0], rows)
        return out, back(2 * out)[0]  # of the sum of squares

    found, grad = jax.jit(both)(rows)
    longer = jnp.concatenate([table, rows / config.embedding_scale])
    wider = dataclasses.replace(config, vocab=52)
    plain, hidden = jax.jit(lambda table: logits(None, table, wider, words=False))(longer)
    np.testing.assert_allclose(found[..., :50], plain[..., :50], **SMALL)
    np.testing.assert_allclose(found[..., 50:], 3 * np.tanh(hidden @ rows.T / 3), **SMALL)
    assert (np.abs(grad) > 0).all()


def test_the_head_is_the_word_table_or_a_kernel_of_its_own_under_the_soft_cap():
    rng = np.random.default_rng(0)
    states, mask = jnp.asarray(rng.normal(size=(1, 2, 16)), jnp.float32), jnp.ones((1, 2), bool)
    for kind in ("llama", "gemma2"):
        tree, dims = decoders.frozen_tree(kind), Decoder(decoders.config(kind)).dims
        kernel = tree["lm_head"]["kernel"] if kind == "llama" else tree["embeddings"]["word"]["embedding"].T
        expected = states @ kernel
        expected = expected if kind == "llama" else 3 * jnp.tanh(expected / 3)
        np.testing.assert_allclose(CausalLM()({}, tree, states, mask, dims), expected, **SMALL)


def test_the_size_of_gpt2_from_its_config_alone():
    config = jp.DecoderConfig.from_hf({"model_type": "gpt2"})
    init = Decoder(config).init
    tree = jax.eval_shape(init, jax.random.key(0), {"input_ids": jnp.zeros((1, 1), int)})["params"]
    assert count(tree) == 124_439_808
