"""The input of a linear map before the product, on every backbone: to scale it is to scale the rows of the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.edits.hooks import LayerHooks
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.encoder import Encoder
from tests import decoders, tiny

ENCODERS = ("bert", "roberta")


@jp.edit
class ScaleInputs(jp.LayerEdit):
    by: dict[str, jax.Array]

    def before_project(self, name, x, ctx):
        return x * self.by[name].astype(x.dtype) if name in self.by else x


def of_kind(kind):
    if kind in ENCODERS:
        return Encoder(tiny.config(kind), unroll=False), tiny.frozen_tree(kind), tiny.batch(kind=kind)
    return Decoder(decoders.config(kind), unroll=False), decoders.frozen_tree(kind), decoders.batch()


FAST = ("bert", "gpt2", "gemma2")  # post-norm, pre-norm, and a gated MLP in a period of two


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k not in FAST)) for k in (*ENCODERS, *decoders.KINDS)]
)
def test_scaled_inputs_are_scaled_rows_of_every_kernel(kind):
    """All maps at once, each by vectors of its own: a hook that is missing at one of them would show."""
    backbone, tree, batch = of_kind(kind)
    dims, rng = backbone.dims, np.random.default_rng(0)
    by = {
        name: jnp.asarray(rng.uniform(0.5, 1.5, (dims.layers, inputs)), "float32")
        for name, (inputs, _) in dims.maps.items()
    }
    layers = dict(tree["layers"])
    for name, scales in by.items():
        layers[name] = {**layers[name], "kernel": scales[:, :, None] * layers[name]["kernel"]}
    params = {name: tree[name] for name in backbone.parts}
    run = jax.jit(lambda params, edits: backbone.apply({"params": params}, batch, edits).hidden)
    found = run(params, jp.Edits((ScaleInputs(by),)))
    expected = run({**params, "layers": layers}, jp.Edits())
    plain = run(params, jp.Edits())
    real = np.asarray(batch["attention_mask"])
    np.testing.assert_allclose(found[real], expected[real], atol=2e-5, rtol=2e-4)
    assert np.abs(found - plain)[real].max() > 1e-2


def test_edits_act_in_order_in_the_dtype_of_the_input_and_project_sees_the_result():
    seen = []

    @jp.edit
    class Add(jp.LayerEdit):
        by: jax.Array

        def before_project(self, name, x, ctx):
            return x.astype(jnp.float32) + self.by

        def project(self, name, x, y, ctx):
            seen.append(np.asarray(x))
            return y

    @jp.edit
    class Times(jp.LayerEdit):
        by: jax.Array

        def before_project(self, name, x, ctx):
            return x * self.by if name == "up" else x

    from jaxprefix.models.linear import Linear

    ctx = jp.Context.of(jnp.ones((1, 2), bool), jnp.zeros((1, 2), int))
    hooks = LayerHooks((Add(jnp.float32(1)), Times(jnp.float32(3))), ctx)
    x = jnp.full((1, 2, 4), 2.0, jnp.bfloat16)
    assert hooks.before_project("up", x).dtype == jnp.bfloat16
    assert (hooks.before_project("up", x) == (2 + 1) * 3).all() and (hooks.before_project("down", x) == 3).all()
    linear = Linear(4, jnp.bfloat16, use_bias=False, name="up")
    y = linear.apply({"params": {"kernel": jnp.eye(4)}}, x, hooks)
    assert (y == 9).all() and (seen[0] == 9).all()
