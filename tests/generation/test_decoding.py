"""Decoding from the cache: every token is the one that a full pass over the row would choose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.generation import loop
from tests import decoders, tiny
from tests.methods.test_matrix import METHODS

NEW = 6
# Two families that are least alike, and the ways to edit a layer that the cache holds something of.
QUICK = (("p-tuning v2, lengths", "gpt2"), ("apt", "gemma3_text"), ("prompt tuning", "gemma3_text"))
FOUR = ("apt", "inducer + lora", "inducer, value gating", "prompt tuning")
NOT_CAUSAL = {"apt, mean, bias"}
BACKBONE_ALONE = {"bitfit", "head only"}  # nothing but the backbone decodes, as with full fine-tuning


@functools.cache
def tuned(kind: str, method: jp.Method, **changes) -> tuple[jp.TunedModel, dict, dict]:
    """A scanned model whose every trained leaf is away from its start."""
    tree = decoders.frozen_tree(kind, **changes)
    model = jp.TunedModel(jp.Decoder(decoders.config(kind, **changes), unroll=False), method, jp.CausalLM())
    try:
        return model, *tiny.drawn(model, tree, seed=7)
    except UserError:  # nothing to train
        return model, {}, {"backbone": tree, "initialized": {}}


def right_padded(batch: dict, generated: jp.Generated) -> tuple[dict, np.ndarray]:
    """Prompts and new tokens of each row from its first column on, and the columns behind which the new ones come."""
    rows = []
    for ids, mask, new in zip(batch["input_ids"], batch["attention_mask"], generated.tokens, strict=True):
        rows.append(np.concatenate([np.asarray(ids)[np.asarray(mask)], np.asarray(new)]))
    width = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    mask = np.stack([np.arange(width) < len(row) for row in rows])
    first = np.array([len(row) - generated.tokens.shape[1] - 1 for row in rows])
    return {"input_ids": ids, "attention_mask": mask}, first[:, None] + np.arange(generated.tokens.shape[1])


def check_against_full_pass(model, trainable, frozen, batch) -> None:
    generated = jp.generate(model, trainable, frozen, batch, jp.Decoding(max_new_tokens=NEW))
    whole, columns = right_padded(batch, generated)
    logits = np.asarray(model.apply(trainable, frozen, whole).logits, np.float64)
    chosen = np.take_along_axis(logits, columns[:, :, None], axis=1)
    log_p = np.asarray(jax.nn.log_softmax(chosen))
    picked = np.take_along_axis(log_p, np.asarray(generated.tokens)[:, :, None], axis=2)[..., 0]
    assert np.abs(log_p.max(-1) - picked).max() < 2e-5  # the best token, to the noise of float32
    np.testing.assert_allclose(picked.sum(1), generated.scores, atol=1e-4)
    assert len({tuple(row) for row in np.asarray(generated.tokens).tolist()}) > 1  # rows are not all alike


@pytest.mark.parametrize(("name", "kind"), QUICK)
def test_cached_steps_choose_what_a_full_pass_chooses(name, kind):
    check_against_full_pass(*tuned(kind, METHODS[name]), decoders.batch(left=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "llama") for name in sorted(METHODS.keys() - NOT_CAUSAL - BACKBONE_ALONE)),
        *((name, "gpt2") for name in sorted(BACKBONE_ALONE)),
        *((n, kind) for n in FOUR for kind in decoders.KINDS if kind != "llama" and (n, kind) not in QUICK),
    ],
)
def test_every_method_decodes_on_llama_and_every_family_with_four(name, kind):
    check_against_full_pass(*tuned(kind, METHODS[name]), decoders.batch(left=True))


@pytest.mark.parametrize("kind", [pytest.param("gemma2", marks=pytest.mark.slow), "gemma3_text"])
def test_a_scanned_stack_decodes_as_an_unrolled_one(kind):
    model, trainable, frozen = tuned(kind, METHODS["apt"])
    batch, decoding = decoders.batch(left=True), jp.Decoding(max_new_tokens=NEW)
    found = [
        jp.generate(jp.TunedModel(jp.Decoder(model.backbone.config, unroll=unroll), model.method, model.head),
                    trainable, frozen, batch, decoding)
        for unroll in (True, False)
    ]  # fmt: skip
    assert (found[0].tokens == found[1].tokens).all()
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours_and_padding():
    model, trainable, frozen = tuned("mistral", METHODS["inducer + lora"])
    batch, decoding = decoders.batch(left=True), jp.Decoding(max_new_tokens=NEW)
    together = jp.generate(model, trainable, frozen, batch, decoding)
    alone = {name: batch[name][2:3, -4:] for name in ("input_ids", "attention_mask")}
    assert bool(alone["attention_mask"].all())
    assert (jp.generate(model, trainable, frozen, alone, decoding).tokens == together.tokens[2:3]).all()


def test_streamed_tokens_are_the_generated_ones():
    model, trainable, frozen = tuned("gpt2", METHODS["apt"])
    batch = decoders.batch(left=True)
    whole = jp.generate(model, trainable, frozen, batch, jp.Decoding(max_new_tokens=NEW))
    stop = int(whole.tokens[0, 2])
    decoding = jp.Decoding(max_new_tokens=NEW, stop=(stop,), pad=49)
    ended = jp.generate(model, trainable, frozen, batch, decoding)
    streamed = np.stack(list(jp.stream(model, trainable, frozen, batch, decoding)), axis=1)
    assert (streamed == ended.tokens[:, : streamed.shape[1]]).all()
    for row, length in zip(np.asarray(ended.tokens), np.asarray(ended.lengths), strict=True):
        assert (row[length:] == 49).all() and (length == NEW or row[length - 1] == stop)
        assert stop not in row[: length - 1]
    assert int(ended.lengths[0]) <= 3


def test_one_program_serves_all_prompts_of_a_bucket_and_all_tokens():
    model, trainable, frozen = tuned("gpt2", METHODS["apt"])
    decoding, programs = jp.Decoding(max_new_tokens=NEW), []
    for seed in range(3):
        batch = decoders.batch(left=True, seed=seed)
        jp.generate(model, trainable, frozen, batch, decoding)
        for _ in jp.stream(model, trainable, frozen, batch, decoding):
            programs.append((loop._generate._cache_size(), loop._first._cache_size(), loop._next._cache_size()))
    assert programs[1:] == [programs[1]] * (3 * NEW - 1)  # the second token's is the last that is compiled


def test_all_rows_done_ends_the_loop():
    """No pass is made once every row has met its stop token: the cache holds the prompt and what was fed."""
    steps = []

    def forward(batch, cache):
        jax.debug.callback(lambda: steps.append(1))
        return jnp.tile(jnp.arange(5.0), (2, 1)), cache + 1

    decoding = jp.Decoding(max_new_tokens=50, stop=(4,))
    found = jax.jit(
        lambda: loop.decode(forward, jnp.zeros(()), {"input_ids": jnp.zeros((2, 3), int)}, decoding, None)
    )()
    jax.block_until_ready(found)
    assert found.lengths.tolist() == [1, 1] and len(steps) == 1


def test_forbidden_and_minimal_length():
    model, trainable, frozen = tuned("gpt2", METHODS["apt"])
    batch = decoders.batch(left=True)
    free = jp.generate(model, trainable, frozen, batch, jp.Decoding(max_new_tokens=NEW))
    first = tuple({int(t) for t in free.tokens[:, 0]})
    forbidden, stop = first[:1], first[1:]
    assert stop
    decoding = jp.Decoding(max_new_tokens=NEW, forbidden=forbidden, stop=stop, min_new_tokens=3)
    found = jp.generate(model, trainable, frozen, batch, decoding)
    assert not np.isin(found.tokens, forbidden).any()
    assert not np.isin(found.tokens[:, :3], stop).any() and (found.lengths > 3).all()


# What is drawn.


def test_draws_have_the_distribution_of_the_logits():
    p = np.array([0.4, 0.3, 0.2, 0.08, 0.02])
    logits, rows = np.log(p).astype(np.float32), 20_000
    cases = (
        ({}, p),
        ({"temperature": 0.5}, p**2 / (p**2).sum()),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"forbidden": (0,)}, np.array([0, 0.3, 0.2, 0.08, 0.02]) / 0.6),
    )

    @jax.jit
    def draw():
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(rows))
        tiled = jnp.tile(logits, (rows, 1))
        return [loop.sample(tiled, jp.Decoding(**{"temperature": 1.0, **case}), keys, 0) for case, _ in cases]

    for (tokens, log_p), (case, expected) in zip(draw(), cases, strict=True):
        np.testing.assert_allclose(log_p, logits[np.asarray(tokens)], atol=1e-6)
        np.testing.assert_allclose(np.bincount(tokens, minlength=5) / rows, expected, atol=0.015, err_msg=str(case))


def test_the_same_key_draws_the_same_and_another_key_another_text():
    model, trainable, frozen = tuned("gpt2", METHODS["apt"])
    batch, decoding = decoders.batch(left=True), jp.Decoding(max_new_tokens=NEW, temperature=1.0)
    texts = [jp.generate(model, trainable, frozen, batch, decoding, jax.random.key(k)).tokens for k in (0, 0, 1)]
    assert (texts[0] == texts[1]).all() and (texts[0] != texts[2]).any()


# What is refused.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_new_tokens": 50}, "min_new_tokens is 50"),
        ({"top_k": 3}, "set a temperature"),
        ({"beams": 51}, "51 beams are more than the 50 tokens"),
        ({"beams": 2, "temperature": 1.0}, "set beams=1 or temperature=0"),
        ({"stop": (50,)}, "the stop token 50 is not one of the 50 tokens"),
        ({"forbidden": tuple(range(50))}, "every token of the vocabulary is forbidden"),
        ({"max_new_tokens": 40}, "a prompt of 9 tokens, 40 new ones and 4 positions of virtual tokens need 52"),
    ],
)
def test_what_cannot_be_decoded_is_refused_in_one_sentence(options, said):
    model, trainable, frozen = tuned("gpt2", METHODS["p-tuning v2, lengths"])
    with pytest.raises(UserError, match=said) as caught:
        jp.generate(model, trainable, frozen, decoders.batch(left=True), jp.Decoding(**options), jax.random.key(0))
    assert str(caught.value).count("; ") == 1 and str(caught.value).endswith(".")


def test_wrong_padding_model_or_key_is_refused():
    model, trainable, frozen = tuned("gpt2", METHODS["apt"])
    with pytest.raises(UserError, match="put the padding on the left"):
        jp.generate(model, trainable, frozen, decoders.batch())
    with pytest.raises(UserError, match="give a key"):
        jp.generate(model, trainable, frozen, decoders.batch(left=True), jp.Decoding(temperature=1.0))
    headless = jp.TunedModel(model.backbone, model.method)
    with pytest.raises(UserError, match="CausalLM head"):
        jp.generate(headless, trainable, frozen, decoders.batch(left=True))
    with pytest.raises(UserError, match="set beams=1 to have them one by one"):
        next(jp.stream(model, trainable, frozen, decoders.batch(left=True), jp.Decoding(beams=2)))
