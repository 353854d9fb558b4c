"""Inputs of an attention, and a scalar that depends on each output in a different way."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprefix.attention import VirtualTokens, kernel_attention

FIELDS = ("keys", "values", "key_scale", "value_scale", "mass")


def example(seed, *, b=2, t=3, s=5, h=4, kv=2, e=4, e2=3, p=3, rows=(), fields=FIELDS, bias=(1, 4), dtype=np.float64):
    """Every differentiable input; `rows` names the virtual fields that are per row, and token 1 has mass 0."""
    inner = {"keys": (p, kv, e), "values": (p, kv, e2), "key_scale": (p,), "value_scale": (p,), "mass": (p,)}
    shapes = {name: (b, *inner[name]) if name in rows else inner[name] for name in fields}
    shapes |= {"q": (b, t, h, e), "k": (b, s, kv, e), "v": (b, s, kv, e2)}
    if bias:
        shapes["bias"] = (*bias, t, s)
    rng = np.random.default_rng(seed)
    x = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if "mass" in x:
        x["mass"] = np.abs(x["mass"])
        x["mass"][..., 1:2] = 0
    return {name: jnp.asarray(value, dtype) for name, value in x.items()}


def attend(x, **options):
    virtual = VirtualTokens(**{name: x[name] for name in FIELDS if name in x}) if "keys" in x else None
    return kernel_attention(x["q"], x["k"], x["v"], virtual=virtual, bias=x.get("bias"), **options)


def loss(x, **options):
    o, lse = attend(x, **options)
    acc = lse.dtype
    by_output = jnp.cos(jnp.arange(o.size, dtype=acc)).reshape(o.shape)
    by_lse = jnp.sin(1 + jnp.arange(lse.size, dtype=acc)).reshape(lse.shape)
    return jnp.sum(o.astype(acc) * by_output) + jnp.sum(jnp.where(lse > -1e29, lse, 0) * by_lse)


def compiled(f):
    """`jax.jit` for tests: eager operations compile one by one, and optimised code takes twice as long to compile."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def outputs(x, **options):
    """On the host, where no comparison is compiled."""
    return jax.device_get(compiled(lambda x: attend(x, **options))(x))


def gradients(x, **options):
    """On the host."""
    return jax.device_get(compiled(jax.grad(lambda x: loss(x, **options)))(x))


def run(x, **options):
    """Outputs and gradients by name."""

    def everything(x):
        o, lse = attend(x, **options)
        grads = jax.grad(lambda x: loss(x, **options))(x)
        return {"o": o, "lse": lse} | {f"d {name}": grad for name, grad in grads.items()}

    return {name: np.asarray(value, np.float64) for name, value in compiled(everything)(x).items()}


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.all(np.isfinite(ours[name])), name
        assert ours[name].shape == theirs[name].shape, name
        if ours[name].size:
            error = np.max(np.abs(ours[name] - theirs[name])) / max(1, np.max(np.abs(theirs[name])))
            assert error <= tolerance, (name, error)
