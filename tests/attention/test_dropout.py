"""Dropout by hashing: fair, independent, a function of indices alone, and the same in every implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxprefix.attention import dropout
from jaxprefix.attention.dropout import VIRTUAL_COLUMN, keep_mask
from jaxprefix.errors import UserError
from tests.attention.cases import example, outputs

mask_of = jax.jit(keep_mask, static_argnums=(1, 2, 3), static_argnames="first_column")


def bits(seed, shape=(64, 64, 128), rate=0.5):
    return np.asarray(mask_of(jax.random.key(seed), rate, shape), np.float64)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    """Kept shares lie within five standard deviations, over all, per row and per column; so does the mean."""
    n = 64 * 64 * 128
    kept = bits(1, rate=rate)
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation / np.sqrt(n)
    for axes in ((2,), (0, 1), (0, 2), (1, 2), (0,)):
        means = kept.mean(axis=axes)
        count = n // means.size
        assert np.max(np.abs(means - (1 - rate))) < 6 * deviation / np.sqrt(count)
        # Neither too even nor too uneven: the variance of the means is that of independent draws.
        assert abs(means.var() * count / deviation**2 - 1) < 6 * np.sqrt(2 / means.size)
    x = np.asarray(dropout(jnp.ones((64, 64, 128)), rate, jax.random.key(1)))
    np.testing.assert_array_equal(x != 0, kept == 1)
    np.testing.assert_allclose(x[x != 0], 1 / (1 - rate), rtol=1e-6)


def correlation(a, b):
    """In standard deviations of what independent draws would give."""
    a, b = a.ravel() - 0.5, b.ravel() - 0.5
    return abs(np.sum(a * b)) / (0.25 * np.sqrt(a.size))


def test_neighbours_rows_and_keys_are_independent():
    a = bits(0)
    pairs = {
        f"lag {lag} on axis {axis}": (np.roll(a, lag, axis), a) for axis in range(3) for lag in (1, 2, 3, 4, 8, 16, 32)
    }
    pairs |= {f"key {seed}": (a, bits(seed)) for seed in range(1, 20)}
    above = np.triu_indices(64, 1)  # the diagonal would be compared with itself
    pairs["axes exchanged"] = (a[above], a.swapaxes(0, 1)[above])
    pairs["triples"] = (np.abs(a - np.roll(a, 1, 2)), np.roll(a, 2, 2))
    pairs["rectangles"] = (np.abs(a - np.roll(a, 1, 2)), np.abs(np.roll(a, 1, 1) - np.roll(a, (1, 1), (1, 2))))
    for name, pair in pairs.items():
        assert correlation(*pair) < 5, name


def test_keys_split_and_folded_are_independent():
    root = jax.random.key(3)
    keys = [*jax.random.split(root, 4), *(jax.random.fold_in(root, 100 + i) for i in range(4))]
    masks = np.stack([np.asarray(mask_of(key, 0.5, (256, 256)), np.float64) for key in keys])
    for i in range(8):
        for j in range(i):
            assert correlation(masks[i], masks[j]) < 5


def test_bytes_are_uniform():
    """Chi-squared over all patterns of eight neighbouring decisions."""
    patterns = bits(5).reshape(-1, 8).astype(int) @ (1 << np.arange(8))
    counts = np.bincount(patterns, minlength=256)
    expected = len(patterns) / 256
    chi = np.sum((counts - expected) ** 2) / expected
    assert abs(chi - 255) < 6 * np.sqrt(2 * 255)


def test_decisions_depend_on_indices_not_on_shape():
    key = jax.random.key(2)
    whole = np.asarray(mask_of(key, 0.3, (4, 5, 40)))
    np.testing.assert_array_equal(mask_of(key, 0.3, (2, 3, 17)), whole[:2, :3, :17])
    np.testing.assert_array_equal(mask_of(key, 0.3, (4, 5, 10), first_column=30), whole[..., 30:])
    assert np.any(np.asarray(mask_of(key, 0.3, (4, 5, 40), VIRTUAL_COLUMN)) != whole)


def test_more_drop_at_a_higher_rate():
    low, high = (np.asarray(mask_of(jax.random.key(0), rate, (50, 50))) for rate in (0.2, 0.6))
    assert np.all(low | ~high)


def test_off_and_traced_rates():
    x = jnp.arange(12.0).reshape(3, 4) + 1
    key = jax.random.key(0)
    assert dropout(x, 0.0, None) is x
    np.testing.assert_array_equal(jax.jit(dropout)(x, 0.0, key), x)
    np.testing.assert_array_equal(jax.jit(dropout)(x, 1.0, key), 0 * x)
    np.testing.assert_array_equal(jax.jit(dropout)(x, 0.4, key), dropout(x, 0.4, key))
    with pytest.raises(UserError, match="dropout is 1;"):
        dropout(x, 1, key)


def test_dtype_gradient_and_mapping():
    x = jnp.asarray(np.linspace(1, 2, 24).reshape(4, 6), jnp.bfloat16)
    keys = jax.random.split(jax.random.key(1), 3)

    @jax.jit
    def drop(x, key):
        return dropout(x, 0.5, key)

    mapped = jax.jit(jax.vmap(drop, (None, 0)))(x, keys)
    assert mapped.dtype == jnp.bfloat16
    mapped = np.asarray(mapped, np.float32)
    for i in range(3):
        np.testing.assert_array_equal(mapped[i], np.asarray(drop(x, keys[i]), np.float32))
    grad = jax.jit(jax.grad(lambda x, key: jnp.sum(drop(x, key))))(x, keys[0])
    np.testing.assert_array_equal(np.asarray(grad, np.float32), 2.0 * (mapped[0] != 0))
    assert not np.any(np.isnan(drop(np.full(64, np.inf, np.float32), keys[0])))


def test_other_generators_serve_as_keys():
    for implementation in ("threefry2x32", "rbg"):
        kept = keep_mask(jax.random.key(0, impl=implementation), 0.5, (100, 100))
        assert abs(float(kept.mean()) - 0.5) < 0.03


def test_attention_drops_real_and_virtual_weights_without_renormalising():
    """Values that are unit vectors read the weights out: each is 0, or its probability over `1 - rate`."""
    rate, key = 0.4, jax.random.key(7)
    b, t, s, h, p = 2, 6, 5, 4, 3
    x = example(0, b=b, t=t, s=s, h=h, kv=h, e2=s + p, p=p, fields=("keys", "values", "key_scale"), dtype=np.float32)
    unit = np.eye(p + s, dtype=np.float32)
    x["values"] = jnp.asarray(np.broadcast_to(unit[:p, None], (p, h, p + s)))
    x["v"] = jnp.asarray(np.broadcast_to(unit[None, p:, None], (b, s, h, p + s)))
    whole, lse = jax.device_get(outputs(x))
    real = mask_of(key, rate, (b, h, t, s))
    virtual = mask_of(key, rate, (b, h, t, p), VIRTUAL_COLUMN)
    kept = np.concatenate([virtual, real], axis=-1).transpose(0, 2, 1, 3)
    for implementation in ("xla", "reference"):
        dropped, same = jax.device_get(outputs(x, dropout=(rate, key), implementation=implementation))
        np.testing.assert_array_equal(dropped != 0, kept)
        np.testing.assert_allclose(dropped, whole * kept / (1 - rate), atol=1e-6)
        np.testing.assert_allclose(same, lse, atol=1e-6)


def test_static_and_traced_zero_rate_of_attention():
    x = example(1, dtype=np.float32)
    plain = outputs(x)
    for rate in (0.0, jnp.float32(0)):
        for ours, theirs in zip(outputs(x, dropout=(rate, jax.random.key(0))), plain, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    static, traced = (outputs(x, dropout=(rate, jax.random.key(0)))[0] for rate in (0.3, jnp.float32(0.3)))
    np.testing.assert_allclose(static, traced, atol=1e-6)


def test_sharded_rows_get_the_same_mask():
    """On one device this holds trivially; with more (XLA_FLAGS) it is the partitioner's business."""
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    rows = 4 * len(jax.devices())
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    x = jnp.ones((rows, 8))
    alone = dropout(x, 0.5, jax.random.key(0))
    np.testing.assert_array_equal(dropout(jax.device_put(x, sharding), 0.5, jax.random.key(0)), alone)
