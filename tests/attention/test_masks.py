"""Masks and biases as structure: the dense forms, what is not built, implementations that cannot, and their choice."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.attention import (
    DistanceBias,
    MaskStructure,
    ScoreBias,
    VirtualTokens,
    kernel_attention,
    recorded_choices,
)
from jaxprefix.attention.implementations import IMPLEMENTATIONS
from jaxprefix.attention.virtual_tokens import ALWAYS
from jaxprefix.errors import UserError
from tests.attention.cases import compiled, example

T, S = 3, 5
PADDING = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]], bool)
SEGMENTS = np.array([[1, 1, 2], [1, 2, 2]]), np.array([[1, 1, 1, 2, 2], [1, 1, 2, 2, 0]])
CASES = {
    "nothing": {},
    "padding": {"mask": PADDING},
    "causal": {"causal": True},
    "causal, padding, offset": {"causal": True, "mask": PADDING, "query_offset": 1},
    "window": {"causal": True, "window": 2},
    "both sides": {"window": (2, 1), "query_offset": 0},
    "after alone": {"window": (None, 1), "mask": PADDING},
    "causal, both sides": {"causal": True, "window": (1, 3)},
    "segment_ids": {"segment_ids": SEGMENTS, "mask": PADDING},
    "keys from a later column": {"causal": True, "window": 3, "query_offset": 6, "key_offset": 4},
    "traced offsets": {"causal": True, "query_offset": jnp.int32(6), "key_offset": jnp.int32(4)},
}


def sees(b, t, s, mask=None, causal=False, window=None, query_offset=None, key_offset=0, segment_ids=None):
    """Whether query t sees key s, said column by column."""
    key = int(key_offset) + s
    query = t + (int(key_offset) + S - T if query_offset is None else int(query_offset))
    before, after = window if isinstance(window, tuple) else (None if window is None else window - 1, None)
    return (
        (mask is None or mask[b, s])
        and (not causal or key <= query)
        and (before is None or query - key <= before)
        and (after is None or key - query <= after)
        and (segment_ids is None or segment_ids[0][b, t] == segment_ids[1][b, s])
    )


def arrays(options):
    return {name: jax.tree.map(jnp.asarray, x) if name in ("mask", "segment_ids") else x for name, x in options.items()}


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_who_sees_whom(name, implementation):
    """With zero queries the output is the mean of what is seen, virtual tokens as `visible_before` says per row."""
    options, visible_before = CASES[name], np.array([[1, 9], [2, 0]])
    v = np.random.default_rng(0).normal(size=(2, S + 2, 1, 2)).astype(np.float32)
    virtual = VirtualTokens(jnp.ones((2, 1, 4)), jnp.asarray(v[:, S:]), visible_before=jnp.asarray(visible_before))
    zeros, keys = jnp.zeros((2, T, 1, 4)), jnp.ones((2, S, 1, 4))
    o, lse = kernel_attention(
        zeros, keys, jnp.asarray(v[:, :S]), virtual=virtual, implementation=implementation, **arrays(options)
    )
    offset = int(options.get("key_offset", 0))
    column = int(options.get("query_offset", offset + S - T))
    for b, t in np.ndindex(2, T):
        first = offset + (int(np.argmax(options["mask"][b])) if "mask" in options else 0)
        seen = [s for s in range(S) if sees(b, t, s, **options)]
        seen += [S + p for p in range(2) if column + t - first < visible_before[b, p]]
        expected = v[b, seen, 0].mean(0) if seen else np.zeros(2)
        np.testing.assert_allclose(o[b, t, 0], expected, atol=1e-6)
        assert (lse[b, 0, t] < -1e29) == (not seen)


def test_an_axis_along_which_nothing_varies_is_not_built():
    causal = MaskStructure(before=2, after=0)
    assert causal.causal and causal.dense(8, 8).shape == (1, 1, 8, 8)
    assert MaskStructure(padding=jnp.asarray(PADDING)).dense(T, S).shape == (2, 1, 1, S)
    assert MaskStructure().dense(T, S) is None
    assert MaskStructure(after=0, padding=jnp.asarray(PADDING)).dense(T, S).shape == (2, 1, T, S)


def test_joined_sets_keep_the_numbers_of_each_row():
    keys = jnp.ones((2, 1, 4))
    parts = [VirtualTokens(keys, keys, visible_before=jnp.array([[1, 9], [2, 0]])), VirtualTokens(keys, keys)]
    joined = VirtualTokens.concatenate([*parts, VirtualTokens(keys, keys, visible_before=jnp.array([3, 4]))])
    assert joined.rows == 2 and joined.keys.shape == (6, 1, 4)
    np.testing.assert_array_equal(joined.visible_before, [[1, 9, ALWAYS, ALWAYS, 3, 4], [2, 0, ALWAYS, ALWAYS, 3, 4]])


def bucket(distance):
    """Rounded up to even numbers, cut at 2 on both sides."""
    return jnp.clip(2 * ((distance + 1) // 2), -2, 2) // 2 + 1


def of_scores(q, k, distance, operands):
    return operands * jnp.einsum("bthe,bshe->bhts", q, k) + distance


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_biases_are_what_their_arrays_are(implementation):
    x = example(3, t=T, s=S, h=2, kv=2, bias=(), dtype=np.float32)
    table = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), jnp.float32)
    distance = np.arange(S)[None] - np.arange(T)[:, None] - 1  # the first query stands in column 1
    by_distance = np.asarray(table)[np.asarray(bucket(distance))].transpose(2, 0, 1)[None]
    by_scores = 0.5 * np.einsum("bthe,bshe->bhts", x["q"], x["k"]) + distance
    structured = DistanceBias(table, bucket), ScoreBias(of_scores, jnp.float32(0.5))
    for bias, array in zip(structured, (by_distance, by_scores), strict=True):

        def loss(bias, q, k):
            o, lse = kernel_attention(
                q, k, x["v"], bias=bias, query_offset=1, causal=True, implementation=implementation
            )
            return jnp.sum(jnp.sin(o)) + jnp.sum(jnp.cos(lse)), o

        both = [compiled(jax.value_and_grad(loss, has_aux=True))(b, x["q"], x["k"]) for b in (bias, jnp.asarray(array))]
        (_, ours), own = both[0]
        (_, theirs), dense = both[1]
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        if bias is structured[0]:  # the table's gradient sums those of its bucket
            sums = [np.where(np.asarray(bucket(distance)) == n, dense, 0).sum((0, 2, 3)) for n in range(3)]
            np.testing.assert_allclose(own.table, sums, atol=1e-5)
        else:
            np.testing.assert_allclose(own.operands, ((by_scores - distance) / 0.5 * dense).sum(), rtol=1e-4)


def test_one_that_cannot_gives_way_and_says_why(monkeypatch):
    """What one cannot do it says by masks and shapes alone; a model's choices are asked for without computing."""

    def supports(masks, shapes):
        if masks.segment_ids is not None:
            return "segment_ids are not computed"
        if shapes.virtual is not None and shapes.virtual.rows is not None:
            return f"{shapes.virtual.length} virtual tokens of each row are not computed"
        return None if shapes.bias is None else f"a {type(shapes.bias).__name__} is not computed"

    def attend(q, k, v, *, masks, virtual, bias, scale, softcap, dropout):
        assert masks.causal and masks.before == 1 and isinstance(masks.query_offset, int)
        return jnp.full((*q.shape[:3], v.shape[-1]), 7.0), jnp.zeros((q.shape[0], q.shape[2], q.shape[1]))

    monkeypatch.setitem(IMPLEMENTATIONS, "sevens", types.SimpleNamespace(attend=attend, supports=supports))
    x = example(3, t=T, s=S, h=2, kv=2, bias=(), dtype=np.float32)
    shared = VirtualTokens(x["keys"], x["values"])
    own = VirtualTokens(x["keys"], x["values"], mass=jnp.ones((2, 3)))

    def run(**options):
        with recorded_choices() as found:
            o, _ = compiled(lambda: kernel_attention(x["q"], x["k"], x["v"], implementation="sevens", **options))()
        ((name, asked, reason),) = found
        assert asked == "sevens" and (np.asarray(o) == 7).all() == (name == "sevens")
        if name == "xla":
            plain = compiled(lambda: kernel_attention(x["q"], x["k"], x["v"], **options)[0])()
            np.testing.assert_array_equal(o, plain)
        return name, reason

    assert run(causal=True, window=2, virtual=shared) == ("sevens", None)
    assert run(virtual=own) == ("xla", "3 virtual tokens of each row are not computed")
    assert run(segment_ids=arrays({"segment_ids": SEGMENTS})["segment_ids"]) == ("xla", "segment_ids are not computed")
    assert run(bias=DistanceBias(jnp.ones((3, 2)), bucket)) == ("xla", "a DistanceBias is not computed")
    with recorded_choices() as found:
        jax.eval_shape(lambda: kernel_attention(x["q"], x["k"], x["v"], implementation="reference"))
    assert [choice.name for choice in found] == ["reference"]
    with pytest.raises(UserError, match="'xla', 'reference' or 'sevens'"):
        kernel_attention(x["q"], x["k"], x["v"], implementation="flash")


def test_what_does_not_fit_is_named():
    x = example(3, t=T, s=S, h=2, kv=2, bias=(), dtype=np.float32)
    with pytest.raises(UserError, match=r"make it \[buckets, 2\]"):
        kernel_attention(x["q"], x["k"], x["v"], bias=DistanceBias(jnp.ones((3, 4)), bucket))
    with pytest.raises(UserError, match=r"as in window=\(64, 64\)"):
        kernel_attention(x["q"], x["k"], x["v"], window=64)
