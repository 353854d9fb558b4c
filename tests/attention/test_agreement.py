"""The joint form equals the explicit reference in both outputs and in every gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.cases import FIELDS, assert_close, attend, compiled, example, gradients, loss, run

QUICK = 8  # of the points of the grid; the others are slow
SHAPES = ({"kv": 4}, {"kv": 2}, {"kv": 1}, {"kv": 4, "t": 6, "s": 4}, {"kv": 2, "t": 1, "s": 7}, {"kv": 4, "b": 1})


def random_case(seed):
    """One point of the grid of shapes, sharing, masks, bias, scale and dropout."""
    rng = np.random.default_rng(seed)
    shape = {"b": 2, "t": 4, "s": 5} | SHAPES[seed % len(SHAPES)]
    x = example(
        seed,
        **shape,
        p=(3, 0, 1, 5)[seed % 4],
        rows=tuple(name for name in FIELDS if rng.random() < 0.5),
        fields=FIELDS[:2] + tuple(name for name in FIELDS[2:] if rng.random() < 0.7),
        bias=((), (1, 1), (1, 4), (shape["b"], 4), (shape["b"], 1))[seed % 5],
    )
    options = {"causal": bool(rng.random() < 0.5)}
    if rng.random() < 0.6:
        options["mask"] = jnp.asarray(rng.random((shape["b"], shape["s"])) < 0.7)
    if rng.random() < 0.5:
        options["segment_ids"] = (
            jnp.asarray(rng.integers(0, 2, (shape["b"], shape["t"])), jnp.int32),
            jnp.asarray(rng.integers(0, 2, (shape["b"], shape["s"])), jnp.int32),
        )
    if rng.random() < 0.3:
        options["scale"] = 0.7
    if rng.random() < 0.5:
        options["dropout"] = (0.3, jax.random.key(seed))
    return x, options


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] * (n >= QUICK)) for n in range(12)])
def test_equals_reference_in_float64(seed):
    with jax.enable_x64(True):
        x, options = random_case(seed)
        ours, theirs = (run(x, implementation=name, **options) for name in ("xla", "reference"))
    assert_close(ours, theirs, 1e-10)


def test_the_grid_covers_what_it_should():
    with jax.enable_x64(True):
        cases = [random_case(seed) for seed in range(QUICK)]
    seen = {name for x, _ in cases for name in x} | {name for _, options in cases for name in options}
    assert seen >= {*FIELDS, "bias", "mask", "segment_ids", "scale", "dropout"}
    for name in FIELDS:
        ranks = {x[name].ndim for x, _ in cases if name in x}
        assert len(ranks) == 2, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 3e-2)])
@pytest.mark.parametrize("rows", [(), FIELDS])
def test_equals_the_float64_reference_at_lower_precision(dtype, tolerance, rows):
    x = example(0, t=6, s=7, e=8, rows=rows, dtype=dtype)
    options = {"mask": jnp.arange(7)[None] < jnp.asarray([[7], [4]]), "causal": True}
    ours = run(x, implementation="xla", **options)
    o, lse = jax.eval_shape(lambda x: attend(x, **options), x)
    assert (o.dtype, lse.dtype) == (dtype, jnp.float32)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(np.asarray(value, np.float64)) for name, value in x.items()}
        theirs = run(exact, implementation="reference", **options)
    assert_close(ours, theirs, tolerance)


def test_float32_virtual_tokens_beside_bfloat16_activations():
    x = example(0, dtype=jnp.bfloat16) | {
        name: v for name, v in example(0, dtype=jnp.float32).items() if name in FIELDS
    }
    grads = gradients(x)
    assert {name: g.dtype for name, g in grads.items()} == {name: value.dtype for name, value in x.items()}
    assert jax.eval_shape(attend, x)[0].dtype == jnp.bfloat16


def test_finite_differences():
    with jax.enable_x64(True):
        x = example(3, b=1, t=2, s=3, h=2, kv=1, e=2, e2=2, p=2, bias=(1, 2))
        x["mass"] = x["mass"] + 0.5
        value = compiled(loss)
        grads = gradients(x)
        for name in x:
            direction = jnp.asarray(np.random.default_rng(1).normal(size=x[name].shape))
            step = 1e-6
            up, down = (value(x | {name: x[name] + sign * step * direction}) for sign in (1, -1))
            numeric = float(up - down) / (2 * step)
            assert abs(numeric - float(jnp.sum(grads[name] * direction))) < 1e-8 * max(1, abs(numeric)), name


def test_gradient_of_the_log_normaliser_is_not_stopped():
    """An inducer's weight is `sigmoid(score - lse)`: its gradient must match, and must differ without the lse's."""

    def inducer(x, implementation, stop=False):
        o, lse = attend(x, implementation=implementation)
        lse = jax.lax.stop_gradient(lse) if stop else lse
        own = jnp.sum(x["q"] ** 2, -1).transpose(0, 2, 1)
        weight = jax.nn.sigmoid(own - lse).transpose(0, 2, 1)[..., None]
        return jnp.sum((1 - weight) * o)

    with jax.enable_x64(True):
        x = example(5, t=5, rows=("key_scale",))
        settings = (("xla",), ("reference",), ("xla", True))
        ours, theirs, stopped = (compiled(jax.grad(lambda x, s=s: inducer(x, *s)))(x) for s in settings)
        for name in ("q", "k", "keys", "mass", "key_scale", "bias"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-12)
            assert jnp.linalg.norm(stopped[name] - theirs[name]) > 0.01 * jnp.linalg.norm(theirs[name]), name


def assert_equal_at(i, many, single):
    np.testing.assert_allclose(many[i], single, atol=1e-12)


def test_maps_over_a_population_of_virtual_tokens():
    with jax.enable_x64(True):
        x = example(6)
        population = {name: jnp.stack([x[name], 2 * x[name]]) for name in FIELDS}
        keys = jax.random.split(jax.random.key(0), 2)
        rates = jnp.asarray([0.1, 0.4])

        def one(virtual, key, rate):
            return jax.value_and_grad(lambda y: loss(x | y, dropout=(rate, key)))(virtual)

        mapped = compiled(jax.vmap(one))(population, keys, rates)
        single = compiled(one)
        for i in range(2):
            alone = single({name: value[i] for name, value in population.items()}, keys[i], rates[i])
            jax.tree.map(partial(assert_equal_at, i), mapped, alone)
