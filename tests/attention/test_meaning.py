"""What virtual tokens, masses and masks mean: published numbers, invariants, exact absence, edge cases."""

import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.attention import VirtualTokens, kernel_attention
from jaxprefix.errors import UserError
from tests.attention.cases import FIELDS, attend, compiled, example, gradients, loss, outputs

IMPLEMENTATIONS = ("xla", "reference")

# One head of width 2, two queries, two tokens, two prefix tokens; gates scale keys and values (Zhang et al. 2023).
Q = [[1.0, 0.0], [0.0, 1.0]]
K = [[1.0, 1.0], [0.0, 2.0]]
PREFIX_K = [[2.0, 0.0], [0.0, -1.0]]
PREFIX_V = [[10.0, 0.0], [0.0, -10.0]]
NO_PREFIX = [[0.669762, 0.330238], [0.330238, 0.669762]]
GOLDEN = {
    ((1.0, 1.0), 1.0): (
        [[5.301398, -1.105466], [1.575508, -0.107072]],
        [[0.505229, 0.122830, 0.249112, 0.122830], [0.130985, 0.064585, 0.265654, 0.538776]],
    ),
    ((0.5, 0.25), 2.0): (
        [[5.301398, -0.491318], [1.533503, 0.076790]],
        [[0.505229, 0.122830, 0.249112, 0.122830], [0.127493, 0.089524, 0.258571, 0.524412]],
    ),
    ((1.0, 1.0), 0.0): (
        [[0.403355, 0.198882], [0.249112, 0.505229]],
        [[0.198882, 0.198882, 0.403355, 0.198882], [0.122830, 0.122830, 0.249112, 0.505229]],
    ),
}


def one_head(x):
    return jnp.asarray(x, jnp.float64)[None, :, None, :]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("gates", "expected"), GOLDEN.items())
def test_golden_numbers(implementation, gates, expected):
    (alpha, layer_scale), (rows, probabilities) = gates, expected
    with jax.enable_x64(True):
        scale = layer_scale * jnp.asarray(alpha, jnp.float64)
        keys, values = (one_head(x)[0] for x in (PREFIX_K, PREFIX_V))

        def attention(v, virtual):
            run = compiled(partial(kernel_attention, implementation=implementation))
            return jax.device_get(run(one_head(Q), one_head(K), v, virtual=virtual))

        virtual = VirtualTokens(keys, values, key_scale=scale, value_scale=scale)
        o, lse = attention(one_head(np.eye(2)), virtual)
        np.testing.assert_allclose(o[0, :, 0], rows, atol=5e-7)
        folded = VirtualTokens(keys * scale[:, None, None], values * scale[:, None, None])
        np.testing.assert_allclose(attention(one_head(np.eye(2)), folded)[0], o, atol=1e-12)
        # Values that are unit vectors read the attention rows out, prefix first.
        unit = jnp.eye(4, dtype=jnp.float64)
        attended, _ = attention(unit[None, 2:, None], VirtualTokens(keys, unit[:2, None], key_scale=scale))
        np.testing.assert_allclose(attended[0, :, 0], probabilities, atol=5e-7)
        scores = np.asarray(Q) @ np.asarray(K).T / np.sqrt(2)
        np.testing.assert_allclose(np.exp(scores - np.asarray(lse)[0, 0, :, None]), attended[0, :, 0, 2:], atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mass", [None, 0.0])
def test_golden_numbers_without_prefix(implementation, mass):
    with jax.enable_x64(True):
        keys, values = (one_head(x)[0] for x in (PREFIX_K, PREFIX_V))
        virtual = None if mass is None else VirtualTokens(keys, values, mass=jnp.zeros(2))
        o, _ = compiled(partial(kernel_attention, implementation=implementation))(
            one_head(Q), one_head(K), one_head(np.eye(2)), virtual=virtual
        )
        np.testing.assert_allclose(o[0, :, 0], NO_PREFIX, atol=5e-7)


def test_zero_is_not_absent():
    """Zero keys and values still take the softmax mass `P / (P + sum exp(s))`."""
    with jax.enable_x64(True):
        x = example(1, p=3, fields=("keys", "values"), bias=())
        bare, lse = outputs({name: x[name] for name in "qkv"})
        o, _ = outputs(x | {"keys": 0 * x["keys"], "values": 0 * x["values"]})
        taken = (3 / (3 + np.exp(lse))).transpose(0, 2, 1)[..., None]
        np.testing.assert_allclose(o, (1 - taken) * bare, atol=1e-12)


def test_order_and_common_scale_of_virtual_tokens_do_not_matter():
    with jax.enable_x64(True):
        x = example(2, p=5, rows=("key_scale", "value_scale", "mass"))
        o, lse = outputs(x)
        order = np.asarray([3, 0, 4, 1, 2])
        axis = {"keys": 0, "values": 0}
        permuted = x | {name: jnp.take(x[name], order, axis.get(name, -1)) for name in FIELDS}
        scaled = x | {
            "keys": x["keys"] / 3,
            "values": x["values"] / 3,
            "key_scale": 3 * x["key_scale"],
            "value_scale": 3 * x["value_scale"],
        }
        for other in (permuted, scaled):
            np.testing.assert_allclose(outputs(other)[0], o, atol=1e-12)
            np.testing.assert_allclose(outputs(other)[1], lse, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mass_zero_is_the_bare_attention_to_the_bit(dtype):
    """Outputs and the gradients of real tokens, even where the massless token's score is huge."""
    x = example(4, b=4, t=32, s=32, h=4, kv=4, e=16, e2=16, p=5, bias=(1, 4), dtype=dtype)
    x = x | {"mass": jnp.zeros(5), "keys": x["keys"].at[0].multiply(1e4)}
    real = {name: x[name] for name in ("q", "k", "v", "bias")}
    mask = jnp.arange(32)[None] < jnp.asarray([[32], [20], [1], [31]])
    plain = jax.jit(lambda x: attend(x, mask=mask))
    for ours, bare in zip(plain(x), plain(real), strict=True):
        np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(bare, np.float32))
    grads = jax.jit(jax.grad(lambda x: loss(x, mask=mask)))
    ours, bare = grads(x), grads(real)
    for name in real:
        np.testing.assert_array_equal(np.asarray(ours[name], np.float32), np.asarray(bare[name], np.float32))
    assert np.all(np.isfinite(np.asarray(ours["mass"], np.float32)))
    assert np.all(np.asarray(ours["mass"], np.float32) != 0)
    for name in ("keys", "values", "key_scale", "value_scale"):
        np.testing.assert_array_equal(np.asarray(ours[name], np.float32), 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradient_of_mass_at_zero_is_the_one_sided_derivative(implementation):
    with jax.enable_x64(True):
        x = example(7)
        x["mass"] = jnp.zeros(3)
        grad = gradients(x, implementation=implementation)["mass"]
        value = compiled(partial(loss, implementation=implementation))
        for p in range(3):
            step = 1e-7
            numeric = float(value(x | {"mass": x["mass"].at[p].set(step)}) - value(x)) / step
            assert abs(numeric - float(grad[p])) < 1e-4 * abs(numeric)


def test_no_virtual_tokens_is_the_bare_attention_to_the_bit():
    x = example(8, p=0, dtype=np.float32)
    bare = {name: x[name] for name in ("q", "k", "v", "bias")}
    for ours, theirs in zip(outputs(x), outputs(bare), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mass", [0.25, 3.0])
def test_integer_mass_is_a_repeated_token_and_mass_is_a_factor(mass):
    with jax.enable_x64(True):
        x = example(9, p=1, fields=("keys", "values"), bias=())
        o, lse = outputs(x | {"mass": jnp.full((1,), mass)})
        if mass == 3.0:
            repeated = x | {name: jnp.repeat(x[name], 3, axis=0) for name in ("keys", "values")}
            np.testing.assert_allclose(outputs(repeated)[0], o, atol=1e-12)
            np.testing.assert_allclose(outputs(repeated)[1], lse, atol=1e-12)
        real = np.exp(outputs({name: x[name] for name in "qkv"})[1])
        both = np.exp(outputs(x)[1])
        np.testing.assert_allclose(np.exp(lse), real + mass * (both - real), rtol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_masks_and_bias_never_touch_virtual_tokens(implementation):
    """Against sums written out element by element, with every mask at once."""
    with jax.enable_x64(True):
        x = example(10, b=2, t=4, s=6, h=4, kv=2, e=3, e2=2, p=2, rows=("key_scale", "values"), bias=(1, 4))
        mask = np.asarray([[1, 1, 1, 1, 1, 0], [1, 0, 1, 1, 0, 0]], bool)
        segment_ids = np.asarray([[0, 0, 1, 1], [1, 0, 1, 0]]), np.asarray([[0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]])
        options = {"mask": jnp.asarray(mask), "causal": True, "implementation": implementation}
        o, lse = outputs(x, segment_ids=tuple(jnp.asarray(y, jnp.int32) for y in segment_ids), **options)
        y = {name: np.asarray(value) for name, value in x.items()}
        for b, t, h in np.ndindex(2, 4, 4):
            total, numerator = 0.0, np.zeros(2)
            for s in range(6):
                if mask[b, s] and s <= t + 2 and segment_ids[0][b, t] == segment_ids[1][b, s]:
                    w = np.exp(y["q"][b, t, h] @ y["k"][b, s, h // 2] / np.sqrt(3) + y["bias"][0, h, t, s])
                    total, numerator = total + w, numerator + w * y["v"][b, s, h // 2]
            for p in range(2):
                score = y["key_scale"][b, p] * (y["q"][b, t, h] @ y["keys"][p, h // 2]) / np.sqrt(3)
                w = y["mass"][p] * np.exp(score)
                total = total + w
                numerator = numerator + w * y["value_scale"][p] * y["values"][b, p, h // 2]
            np.testing.assert_allclose(o[b, t, h], numerator / total, atol=1e-12)
            np.testing.assert_allclose(lse[b, h, t], np.log(total), atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("fields", [(), ("keys", "values", "mass")])
def test_a_query_that_sees_nothing(implementation, dtype, fields):
    """Output 0, a large negative finite normaliser, and no gradient; a massless virtual token changes nothing."""
    x = example(11, fields=fields, bias=(), dtype=dtype)
    if fields:
        x["mass"] = 0 * x["mass"]
    mask = jnp.asarray([[False] * 5, [True] * 5])
    o, lse = outputs(x, mask=mask, implementation=implementation)
    assert np.all(o[0] == 0)
    assert np.all((lse[0] < -1e29) & np.isfinite(lse[0]))
    assert np.all(np.abs(lse[1]) < 1e3)

    def inducer(x):
        o, lse = attend(x, mask=mask, implementation=implementation)
        return jnp.sum(o.astype(jnp.float32)) + jnp.sum(jax.nn.sigmoid(-lse) + lse * 1e-30)

    for name, grad in jax.device_get(compiled(jax.grad(inducer))(x)).items():
        assert np.all(np.isfinite(grad)), name
        if name in "qkv":
            assert np.all(grad[0] == 0), name
            assert np.any(grad[1] != 0), name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_query_that_sees_only_virtual_tokens(implementation):
    with jax.enable_x64(True):
        x = example(12, h=2, kv=2, fields=("keys", "values"), bias=())
        o, lse = outputs(x, mask=jnp.zeros((2, 5), bool), implementation=implementation)
        weights = np.exp(np.einsum("bthe,phe->bhtp", x["q"], x["keys"]) / 2)
        total = weights.sum(-1)
        np.testing.assert_allclose(o, np.einsum("bhtp,phe->bthe", weights / total[..., None], x["values"]), atol=1e-12)
        np.testing.assert_allclose(lse, np.log(total), atol=1e-12)
        grads = gradients(x, mask=jnp.zeros((2, 5), bool), implementation=implementation)
        assert all(np.all(np.isfinite(g)) for g in grads.values())
        assert np.all(grads["k"] == 0)
        assert np.all(grads["v"] == 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bias_of_minus_infinity_is_a_mask(implementation):
    x = example(13, bias=(), dtype=np.float32)
    seen = np.array([[True, True, False, True, False], [False] * 5])
    mask, bias = jnp.asarray(seen), np.broadcast_to(np.where(seen, 0, -np.inf)[:, None, None, :], (2, 1, 3, 5))
    bias = jnp.asarray(bias, jnp.float32)
    masked = outputs(x, mask=mask, implementation=implementation)
    biased = outputs(x | {"bias": bias}, implementation=implementation)
    for ours, theirs in zip(biased, masked, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    grads = gradients(x | {"bias": bias}, implementation=implementation)
    assert all(np.all(np.isfinite(g)) for g in grads.values())


def test_scores_far_beyond_the_range_of_exp():
    x = example(14, fields=("keys", "values"), bias=(), dtype=np.float32)
    x = x | {"q": 300 * x["q"], "keys": 30 * x["keys"]}
    o, lse = outputs(x)
    assert np.all(np.isfinite(o))
    assert float(np.max(lse)) > 100
    assert all(np.all(np.isfinite(g)) for g in gradients(x).values())


def test_a_shared_prefix_is_never_copied_per_row():
    """No array of the compiled gradient has the shape of keys or values per row, in any order of axes."""
    b, t, h, e, p = 7, 11, 3, 8, 5
    x = example(15, b=b, t=t, s=13, h=h, kv=h, e=e, e2=e, p=p, rows=("key_scale", "mass"), bias=(), dtype=np.float32)

    def per_row_arrays(x):
        text = jax.jit(jax.grad(loss)).lower(x).compile().as_text()
        shapes = {tuple(sorted(map(int, dims.split(",")))) for dims in re.findall(r"f32\[([\d,]+)\]", text)}
        return shapes & {tuple(sorted((b, p, h, e))), tuple(sorted((b * p, h, e))), tuple(sorted((b * h, p, e)))}

    assert not per_row_arrays(x)
    copied = x | {name: jnp.broadcast_to(x[name], (b, p, h, e)) for name in ("keys", "values")}
    assert per_row_arrays(copied)


def test_concatenation_broadcasts_only_what_must_be():
    with jax.enable_x64(True):
        first = example(16, p=2, rows=("key_scale",), fields=("keys", "values", "key_scale"), bias=())
        second = example(17, p=3, rows=("values",), fields=("keys", "values", "mass"), bias=())
        parts = [VirtualTokens(**{n: x[n] for n in FIELDS if n in x}) for x in (first, second)]
        joined = VirtualTokens.concatenate(parts)
        shapes = {n: None if getattr(joined, n) is None else getattr(joined, n).shape for n in FIELDS}
        assert shapes == {
            "keys": (5, 2, 4),
            "values": (2, 5, 2, 3),
            "key_scale": (2, 5),
            "value_scale": None,
            "mass": (5,),
        }
        assert joined.length == 5
        assert joined.rows == 2
        # Joining is adding weights: normalisers and numerators of the two parts, the real tokens counted once.
        q, k, v = (first[n] for n in "qkv")

        def sums(virtual):
            o, lse = jax.device_get(compiled(kernel_attention)(q, k, v, virtual=virtual))
            total = np.exp(lse)
            return o * total.transpose(0, 2, 1)[..., None], total

        (n1, z1), (n2, z2), (n0, z0), (n, z) = (sums(virtual) for virtual in (*parts, None, joined))
        np.testing.assert_allclose(z, z1 + z2 - z0, atol=1e-10)
        np.testing.assert_allclose(n, n1 + n2 - n0, atol=1e-10)


BAD = {
    "cannot share": {"k": (2, 5, 3, 4), "v": (2, 5, 3, 3)},
    "the k of": {"k": (2, 5, 2, 7)},
    "the v of": {"v": (2, 4, 2, 3)},
    "four axes": {"q": (2, 3, 4)},
    "mask of": {"mask": (2, 4)},
    "keys of virtual": {"keys": (3, 4, 4)},
    "values of virtual": {"values": (1, 3, 2, 3)},
    "key_scale of virtual": {"key_scale": (2,)},
    "bias of shape": {"bias": (1, 3, 3, 5)},
}


@pytest.mark.parametrize(("message", "wrong"), BAD.items())
def test_bad_shapes_are_named(message, wrong):
    x = example(18, dtype=np.float32) | {name: jnp.ones(shape) for name, shape in wrong.items()}
    mask = x.pop("mask") if x.get("mask", jnp.ones(1)).shape == (2, 4) else None
    virtual = VirtualTokens(**{name: x[name] for name in FIELDS if name in x})
    unchecked = inspect.unwrap(kernel_attention)  # outside the tests nobody checks annotations
    with pytest.raises(UserError, match=message):
        unchecked(x["q"], x["k"], x["v"], virtual=virtual, bias=x["bias"], mask=mask)


def test_unknown_implementation_and_rate_are_named():
    x = example(19, dtype=np.float32)
    with pytest.raises(UserError, match="'flash'"):
        attend(x, implementation="flash")
    with pytest.raises(UserError, match=r"is 1\.5; it must be"):
        attend(x, dropout=(1.5, jax.random.key(0)))
