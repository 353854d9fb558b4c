"""What a batch may hold: keys, shapes, dtypes and values, in `apply`, `jp.generate` and losses."""

from inspect import unwrap  # from the checker of annotations, which people do not have

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.distributed.constraints import beyond_if_negative
from jaxprefix.models.batch_keys import read_segment_ids
from jaxprefix.models.heads import cross_entropy, pool
from tests import decoders, tiny


@pytest.fixture(scope="module")
def encoder():
    model = jp.TunedModel(jp.Encoder(tiny.config(), unroll=False), jp.PTuningV2(length=2), jp.SequenceClassifier(2))
    return model, *model.init(jax.random.key(0), tiny.frozen_tree())


@pytest.fixture(scope="module")
def decoder():
    model = jp.TunedModel(jp.Decoder(decoders.config("llama"), unroll=False), jp.PTuningV2(length=2), jp.CausalLM())
    return model, *model.init(jax.random.key(0), decoders.frozen_tree("llama"))


def batch(**changes):
    ids = np.array([[5, 6, 7, 8], [9, 10, 0, 0]])
    made = {"input_ids": ids, "attention_mask": (ids > 0).astype(int), "token_type_ids": np.zeros_like(ids)}
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def test_what_a_tokenizer_returns_is_taken_as_it_is(encoder):
    model, trainable, frozen = encoder
    found = model.apply(trainable, frozen, batch()).logits
    alone = model.apply(trainable, frozen, batch(**{name: value[1:, :2] for name, value in batch().items()})).logits
    np.testing.assert_allclose(found[1], alone[0], atol=1e-5)
    as_bool = model.apply(trainable, frozen, batch(attention_mask=batch()["attention_mask"] > 0)).logits
    np.testing.assert_array_equal(found, as_bool)


BAD = {
    "a letter wrong": ({"attention_maks": np.ones((2, 4), int)}, "'attention_maks', .* is 'attention_mask'"),
    "an old name": ({"mask": np.ones((2, 4), bool)}, "the key is 'attention_mask' now"),
    "a key that nobody reads": ({"special_tokens_mask": np.ones((2, 4), int)}, "special_tokens_mask"),
    "targets of another head": ({"values": np.ones((2, 1))}, "'values', which nothing reads"),
    "an additive mask": (
        {"attention_mask": np.array([[0.0, 0, 0, 0], [0, 0, -1e9, -1e9]])},
        "is float64; .*1 for a real",
    ),
    "an additive mask of integers": (
        {"attention_mask": np.array([[0] * 4, [0, 0, -9, -9]])},
        r"\[1, 2\] is -9; .*0 to 1",
    ),
    "another shape": ({"attention_mask": np.ones((2, 3), int)}, r"\(2, 3\) and input_ids \(2, 4\)"),
    "lists": ({"input_ids": [[1, 2], [3, 4]]}, "input_ids is a list; make it an array"),
    "floats": ({"input_ids": np.ones((2, 4))}, "input_ids is float64; give it as integers"),
    "one row": ({"input_ids": np.ones(4, int)}, r"shape \(4,\); give \[B, T\]"),
    "no columns": ({"input_ids": np.ones((2, 0), int)}, "none of them 0"),
    "no rows": ({"input_ids": np.ones((0, 4), int)}, "none of them 0"),
    "no ids": ({"input_ids": None}, "no 'input_ids'"),
    "an id beyond the vocabulary": (
        {"input_ids": np.array([[5, 6, 7, 8], [9, 999, 0, 0]])},
        r"input_ids\[1, 1\] is 999",
    ),
    "an id below 0": ({"input_ids": np.array([[5, 6, 7, -1], [9, 1, 0, 0]])}, r"input_ids\[0, 3\] is -1; .* from 0"),
    "a type that is not there": ({"token_type_ids": np.full((2, 4), 9)}, r"is 9; it must be from 0 to 1"),
}


def test_without_a_head_targets_are_let_through_and_slips_are_not():
    model = jp.TunedModel(jp.Encoder(tiny.config(), unroll=False), jp.PTuningV2(length=2))
    trees = model.init(jax.random.key(0), tiny.frozen_tree())
    model.apply(*trees, batch(labels=np.zeros(2, int), weight=np.ones(2)))
    for key in ("maks", "attention_maks", "segmets", "input_id"):
        with pytest.raises(jp.UserError, match=f"'{key}', which nothing reads; the nearest that is read is '"):
            model.apply(*trees, batch(**{key: np.ones((2, 4), int)}))


@pytest.mark.parametrize("name", BAD)
def test_what_could_not_be_read_is_refused(encoder, name):
    changes, words = BAD[name]
    with pytest.raises(jp.UserError, match=words):
        encoder[0].apply(*encoder[1:], batch(**changes))


@pytest.mark.parametrize("name", sorted(set(BAD) - {"a type that is not there"}))
def test_generate_refuses_the_same(decoder, name):
    changes, words = BAD[name]
    made = {name: value for name, value in batch(**changes).items() if name != "token_type_ids" or name in changes}
    with pytest.raises(jp.UserError, match=words):
        jp.generate(*decoder, made)


def test_what_is_no_batch_and_no_tree_is_refused(encoder):
    model, trainable, frozen = encoder
    with pytest.raises(jp.UserError, match=r"the batch is a ndarray; give a dict"):
        unwrap(jp.TunedModel.apply)(model, trainable, frozen, batch()["input_ids"])
    with pytest.raises(jp.UserError, match=r"model.apply\(trainable, frozen, batch\)"):
        model.apply(frozen, trainable, batch())
    with pytest.raises(jp.UserError, match=r"as in jax.random.key\(0\)"):
        unwrap(jp.TunedModel.init)(model, 0, tiny.frozen_tree())


@pytest.mark.parametrize("wrong", [-1, -7, 10**6])
def test_an_id_on_a_device_that_no_table_has_gives_nan_in_its_row(encoder, decoder, wrong):
    for model, trainable, frozen in (encoder, decoder):
        ids = jnp.asarray(batch()["input_ids"])
        whole = {"input_ids": ids, "attention_mask": ids > 0}
        right = model.apply(trainable, frozen, whole).logits
        found = model.apply(trainable, frozen, {**whole, "input_ids": ids.at[0, 1].set(wrong)}).logits
        np.testing.assert_array_equal(found[1], right[1])
        assert np.isnan(found[0]).all() if found.ndim == 2 else np.isnan(found[0, 1:]).all()


def test_a_type_on_a_device_that_no_table_has_gives_nan_in_its_row(encoder):
    model, trainable, frozen = encoder
    for wrong in (-1, 9):
        types = jnp.zeros((2, 4), int).at[0, 1].set(wrong)
        found = model.apply(trainable, frozen, batch(token_type_ids=types)).logits
        assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


def test_a_loss_without_weights_of_rows_is_a_sentence():
    for head, logits, target in (
        (jp.SequenceClassifier(2), jnp.zeros((2, 2)), {"labels": jnp.zeros(2, int)}),
        (jp.Regressor(1), jnp.zeros((2, 1)), {"values": jnp.zeros((2, 1))}),
        (jp.CausalLM(), jnp.zeros((2, 3, 5)), {"labels": jnp.zeros((2, 3), int)}),
    ):
        with pytest.raises(jp.UserError, match="the batch has no 'weight'"):
            head.loss(logits, target)


# Losses


def torchs(logits, labels, weights, smoothing, example):
    """torch's `CrossEntropyLoss(weight=, label_smoothing=)` in its own words, in float64."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = norm = 0.0
    for row, label, of_row in zip(log_p, labels, example, strict=True):
        if label != -100:
            own = -weights[label] * row[label]
            spread = -(weights * row).sum() / len(row)
            total += of_row * ((1 - smoothing) * own + smoothing * spread)
            norm += of_row * weights[label]
    return total / norm


def test_class_weights_and_smoothing_are_torchs():
    logits = np.array([[2.0, 0, -1], [0, 1, 0.5], [-1, 0, 2]])
    labels, weights = np.array([0, 1, 1]), np.array([1.0, 2, 4])
    head = jp.SequenceClassifier(3, class_weights=(1.0, 2.0, 4.0))
    loss, weight = head.loss(jnp.asarray(logits), {"labels": labels, "weight": np.ones(3)}, 0.1)
    assert float(loss / weight) == pytest.approx(1.2775, abs=5e-5)  # torch 2's own value
    rng = np.random.default_rng(0)
    for smoothing in (0.0, 0.3):
        logits, labels = rng.normal(size=(6, 3)), np.array([0, 1, 2, -100, 1, -100])
        example = rng.uniform(0, 2, 6)
        loss, weight = cross_entropy(
            jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(example), (1.0, 2.0, 4.0), smoothing
        )
        expected = torchs(logits, labels, weights, smoothing, example)
        assert float(loss / weight) == pytest.approx(expected, rel=1e-5)
        plain = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(example), None, smoothing)
        assert float(plain[0] / plain[1]) == pytest.approx(
            torchs(logits, labels, np.ones(3), smoothing, example), rel=1e-5
        )


def test_labels_that_are_no_class():
    logits, weight = jnp.zeros((2, 2)), np.ones(2)
    head = jp.SequenceClassifier(2)
    for wrong in (2, -1):
        with pytest.raises(jp.UserError, match=f"a label is {wrong}; it must be from 0 to 1, or -100"):
            head.loss(logits, {"labels": np.array([0, wrong]), "weight": weight})
        assert np.isnan(head.loss(logits, {"labels": jnp.array([0, wrong]), "weight": weight})[0])
    loss, count = head.loss(logits, {"labels": np.array([0, -100]), "weight": weight})
    assert (float(loss), float(count)) == (pytest.approx(np.log(2)), 1.0)


# Padding on either side


SIDES = ((3, 0), (0, 3), (1, 2))


# BERT's rows behind a prefix are in tests/test_invariances.py as well.
PADDED = [
    pytest.param(kind, method, marks=[pytest.mark.slow] * (kind == "bert" and not isinstance(method, jp.PromptTuning)))
    for kind in ("bert", "roberta")
    for method in (jp.PTuningV2(length=2), jp.PromptTuning(length=2), jp.AdaptivePrefix(length=2))
]


@pytest.mark.parametrize(("kind", "method"), PADDED)
def test_a_row_alone_is_the_row_padded_on_either_side(kind, method):
    model = jp.TunedModel(jp.Encoder(tiny.config(kind), unroll=False), method)
    trainable, frozen = tiny.drawn(model, tiny.frozen_tree(kind))
    ids, pad = np.array([5, 6, 7]), model.backbone.config.padding_id
    rows = np.stack([np.pad(ids, sides, constant_values=pad) for sides in SIDES])
    mask = np.stack([np.pad(np.ones(3, bool), sides) for sides in SIDES])
    found = model.apply(trainable, frozen, {"input_ids": rows, "attention_mask": mask}).hidden
    alone = model.apply(trainable, frozen, {"input_ids": ids[None]}).hidden
    for row, real in zip(np.asarray(found), mask, strict=True):
        np.testing.assert_allclose(row[real], alone[0], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "trained_pooler"])
def test_padding_on_either_side_is_not_pooled(pooling):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 4))
    backbone = {"pooler": {"kernel": jnp.asarray(rng.normal(size=(4, 4))), "bias": jnp.zeros(4)}}
    alone = pool(pooling, backbone, jnp.asarray(hidden[None]), jnp.ones((1, 3), bool))[0]
    for left, right in SIDES:
        padded = np.concatenate([rng.normal(size=(left, 4)), hidden, rng.normal(size=(right, 4))])
        mask = np.pad(np.ones(3, bool), (left, right))
        found = pool(pooling, backbone, jnp.asarray(padded[None]), jnp.asarray(mask[None]))[0]
        np.testing.assert_allclose(found, alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("head", "shape"),
    [(jp.SequenceClassifier(2), (3, 2)), (jp.TokenClassifier(2), (3, 4, 2)), (jp.CausalLM(), (3, 4, 2))],
)
def test_targets_that_would_be_repeated_or_are_no_numbers_are_refused(head, shape):
    right = {"labels": np.zeros(shape[:-1], int), "weight": np.ones(3)}
    assert np.isfinite(head.loss(jnp.zeros(shape), right)[0])
    for name, value in right.items():
        for wrong in (value[:1], value[..., None], value.tolist(), np.full(value.shape, "a"), value.astype(complex)):
            with pytest.raises(jp.UserError, match=name):
                head.loss(jnp.zeros(shape), {**right, name: wrong})
        with pytest.raises(jp.UserError, match=f"has no '{name}'"):
            head.loss(jnp.zeros(shape), {key: one for key, one in right.items() if key != name})


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_small_integers_reach_no_other_row_or_class(dtype):
    ids = beyond_if_negative(jnp.array([[-1, -128, 5]], dtype if dtype[0] == "i" else "int8"))
    assert ids.tolist() == [[2**31 - 1, 2**31 - 1, 5]]
    logits = jnp.zeros((3, 200)).at[:, 144].set(5.0)  # 200 is -56 as int8, and -56 of 200 is 144
    labels = jnp.array([5, 100, -1 if dtype[0] == "i" else 255], dtype)
    assert np.isnan(jp.SequenceClassifier(200).loss(logits, {"labels": labels, "weight": np.ones(3)})[0])


def test_segments_are_refused_where_nothing_reads_them_and_begin_with_real_tokens(encoder):
    with pytest.raises(jp.UserError, match="segment_ids, and an encoder reads one example per row"):
        encoder[0].apply(*encoder[1:], batch(segment_ids=np.ones((2, 4), int)))
    mask = np.array([[False, True, True], [True, True, False]])
    assert read_segment_ids({"segment_ids": np.array([[1, 1, 2], [0, 3, 3]])}, jnp.asarray(mask)).tolist() == [
        [-1, 1, 2],
        [0, 3, -1],
    ]
    assert read_segment_ids({}, jnp.asarray(mask)) is None
