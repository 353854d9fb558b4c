"""Edits at the sites of a model of several: a decoder whose second attention stands in two of its three layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.edits import Context, Dims, Edits, LayerEdit, Tokens, check_stacked, edit
from jaxprefix.edits.hooks import LayerHooks
from jaxprefix.errors import UserError
from jaxprefix.methods.base import parts_of
from jaxprefix.models.self_attention import attention_block, self_attention
from jaxprefix.trees import flatten
from jaxprefix.typed_json import from_json, to_json

T, S, D = 3, 6, 8
SIZES = {"width": D, "mlp_width": 5, "vocab": 9, "positions": 32}
CROSS = Dims(layers=2, heads=4, kv_heads=2, head_width=3, **SIZES, site="cross", attention_only=True)
DIMS = Dims(layers=3, heads=2, kv_heads=2, head_width=4, **SIZES, causal=True, site="decoder", others=(CROSS,))
WITH_CROSS = (0, 2)  # the layers that have the second attention
QUERIES = np.array([[0, 1, 1], [1, 1, 0]], bool)  # padded on the left, on the right
KEYS = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
PREFIX = jp.PTuningV2(length=2, position_offset=False)
GATED = jp.AdaptivePrefix(length=3, position_offset=False, gate_bias=True)
INDUCER = jp.Inducer(key_rank=2, value_rank=2)
METHOD = PREFIX + jp.At("cross", GATED) + jp.At("cross", INDUCER) + jp.LoRA(("q",), rank=2)


def weights(dims, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.3, (dims.layers, *shape)) for name, shape in dims.maps.items()}


SELF_WEIGHTS, CROSS_WEIGHTS = weights(DIMS, 1), weights(CROSS, 2)
RNG = np.random.default_rng(3)
X, MEMORY = RNG.normal(size=(2, T, D)), RNG.normal(size=(2, S, D))


def positions(mask):
    return jnp.maximum(jnp.cumsum(mask, 1) - 1, 0)


def run(edits):
    """`[B, T, D]` and what the edits at `cross` show: layers of x + self-attention(x) + cross-attention(that), no MLP
    and no norm."""
    check_stacked(edits, DIMS)
    queries, keys = (Tokens(jnp.asarray(mask), positions(mask)) for mask in (QUERIES, KEYS))
    x, shown = jnp.asarray(X), []

    def attention(site, layer, x):
        dims = DIMS.at(site)
        own, params = (edits.layers, SELF_WEIGHTS) if site == "decoder" else (edits.sites.get(site, ()), CROSS_WEIGHTS)
        ctx = Context(queries, queries if site == "decoder" else keys, site=site)
        hooks = LayerHooks(jax.tree.map(lambda leaf: leaf[layer], own), ctx)

        def linear(name, z):
            return hooks.project(name, z, z @ jnp.asarray(params[name][layer]))

        if site == "decoder":
            return self_attention(x, linear, hooks, ctx, dims)[0]
        out, seen = attention_block(x, jnp.asarray(MEMORY), linear, hooks, ctx, dims, capture=True)
        shown.append(seen)
        return out

    for layer in range(3):
        x = x + attention("decoder", layer, x)
        if layer in WITH_CROSS:
            x = x + attention("cross", WITH_CROSS.index(layer), x)
    return x, shown


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain(leaves):
    """The same in numpy, a row, query and head at a time; values at padded queries are not used."""
    out = X.copy()
    alphas = np.zeros((2, 2, 3))
    prefix, gated, lora = leaves["p_tuning_v2"], leaves["cross_adaptive_prefix"], leaves["lora"]
    inducer = leaves["cross_inducer"]
    for layer in range(3):
        w = {name: kernel[layer] for name, kernel in SELF_WEIGHTS.items()}
        a = np.zeros_like(out)
        for b in range(2):
            x = out[b]
            q = x @ w["q"] + x @ lora["q"]["A"][layer].T @ lora["q"]["B"][layer].T
            q, k, v = (y.reshape(T, 2, 4) for y in (q, x @ w["k"], x @ w["v"]))
            heads = np.zeros((T, 2, 4))
            for t, h in np.ndindex(T, 2):
                tokens = [(prefix["keys"][2 * layer + p, h], prefix["values"][2 * layer + p, h]) for p in range(2)]
                tokens += [(k[s, h], v[s, h]) for s in range(t + 1) if QUERIES[b, s]]
                mass = np.array([np.exp(q[t, h] @ key / 2) for key, _ in tokens])
                heads[t, h] = mass @ np.stack([value for _, value in tokens]) / mass.sum()
            a[b] = heads.reshape(T, -1) @ w["o"]
        out = out + a
        if layer not in WITH_CROSS:
            continue
        at = WITH_CROSS.index(layer)
        w = {name: kernel[at] for name, kernel in CROSS_WEIGHTS.items()}
        own = slice(3 * at, 3 * at + 3)
        value, key = ({n: x[at] for n, x in inducer[name].items()} for name in ("value", "key"))
        a = np.zeros_like(out)
        for b in range(2):
            x = out[b]
            first = x[np.argmax(QUERIES[b])]  # of the queries, whatever the padding of the keys
            alphas[at, b] = sigmoid(gated["gate"]["kernel"][own] @ first + gated["gate"]["bias"][own])
            gates = gated["gate"]["scale"][at] * alphas[at, b]
            q = (x @ w["q"]).reshape(T, 4, 3)
            k, v = ((MEMORY[b] @ w[name]).reshape(S, 2, 3) for name in "kv")
            heads, extra = np.zeros((T, 4, 3)), np.zeros((T, D))
            for t, h in np.ndindex(T, 4):
                kv = h // 2
                tokens = [
                    (g * gated["keys"][3 * at + p, kv], g * gated["values"][3 * at + p, kv])
                    for p, g in enumerate(gates)
                ]
                tokens += [(k[s, kv], v[s, kv]) for s in range(S) if KEYS[b, s]]
                mass = np.array([np.exp(q[t, h] @ y / np.sqrt(3)) for y, _ in tokens])
                heads[t, h] = mass @ np.stack([y for _, y in tokens]) / mass.sum()
                kappa = q[t, h] + np.tanh(q[t, h] @ key["A"][h] + key["a"][h]) @ key["B"][h] + key["b"][h]
                p = sigmoid(q[t, h] @ kappa / np.sqrt(3) - np.log(mass.sum()))
                extra[t] += p * np.tanh(q[t, h] @ value["A"][h] + value["a"][h]) @ value["B"][h]
            a[b] = heads.reshape(T, -1) @ w["o"] + extra + value["b"]
        out = out + a
    return out, alphas


def random_leaves(method, dims=DIMS):
    params = jax.eval_shape(lambda key: method.build(dims).init(key)["params"], jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(4)
    return jax.tree.unflatten(structure, [0.5 * rng.normal(size=leaf.shape) for leaf in leaves])


def test_a_layer_with_both_attentions_is_that_of_the_equations():
    """L and H differ between the sites, T and S between queries and keys, and padding lies on different sides."""
    leaves = random_leaves(METHOD)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), leaves)
        edits = METHOD.build(DIMS).apply({"params": exact})
        found, shown = jax.jit(run)(edits)
    expected, alphas = plain(leaves)
    np.testing.assert_allclose(found[QUERIES], expected[QUERIES], atol=1e-10)
    for at, seen in enumerate(shown):
        np.testing.assert_allclose(seen[0]["alpha"], alphas[at], atol=1e-10)
        assert seen[0]["share"].shape == seen[1]["weight"].shape == (2, 4, T)


def test_each_placed_part_has_its_own_leaves_and_plain_ones_lie_where_they_lay():
    paths = set(flatten(random_leaves(METHOD)))
    assert {path.split("/")[0] for path in paths} == {
        *("p_tuning_v2", "cross_adaptive_prefix", "cross_inducer", "lora"),
    }
    assert set(flatten(random_leaves(jp.At("cross", GATED)))) == set(flatten(random_leaves(GATED)))
    shapes = {name: leaf.shape for name, leaf in flatten(random_leaves(jp.At("cross", GATED))).items()}
    assert shapes["keys"] == (2 * 3, 2, 3) and shapes["gate/kernel"] == (2 * 3, D)
    twice = (jp.At("cross", PREFIX) + PREFIX + jp.At("cross", PREFIX)).names
    assert twice == ("cross_p_tuning_v2", "p_tuning_v2", "cross_p_tuning_v2_2")
    assert jp.Run.__name__ == "Run"  # its module registers the methods
    assert from_json(to_json(METHOD)) == METHOD and parts_of(METHOD)[1] == jp.At("cross", GATED)


def made(method, dims=DIMS):
    """Its edits, from random leaves."""
    leaves = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), random_leaves(method, dims))
    return method.build(dims).apply({"params": leaves})


def test_at_the_default_site_a_placed_method_is_the_plain_one():
    ours, plain = made(jp.At("decoder", PREFIX)), made(PREFIX)
    assert ours.sites == {} and jax.tree.structure(ours) == jax.tree.structure(plain)
    np.testing.assert_array_equal(ours.layers[0].keys, plain.layers[0].keys)


def test_offsets_and_prompts_belong_to_their_stack():
    encoder = dataclasses.replace(DIMS, site="encoder", causal=False, others=())
    dims = dataclasses.replace(DIMS, others=(CROSS, encoder))
    shifted, prompt = jp.PTuningV2(length=2), jp.PromptTuning(length=4)
    method = shifted + jp.At("encoder", jp.PTuningV2(length=3)) + jp.At("encoder", prompt)
    edits = made(method, dims)
    check_stacked(edits, dims)
    assert (edits.positions, edits.prompt) == (2, None)
    own = edits.at("encoder")
    assert (own.positions, own.position_offset, own.prompt.shape, len(own.layers)) == (7, 3, (4, D), 1)
    assert edits.at("cross").layers == () and edits.at("cross").stack.empty


@edit
class Shift(LayerEdit):
    by: jax.Array

    def after_block(self, h, ctx):
        return h + self.by


REFUSED = {
    "no site 'crss'; choose one of 'decoder', 'cross'": lambda: jp.At("crss", PREFIX).build(DIMS),
    "has no site 'cross'; choose one of 'self'": lambda: jp.At("cross", PREFIX).build(
        dataclasses.replace(DIMS, site="self", others=())
    ),
    "the map 'up'; a layer has q, k, v, o": lambda: jp.At("cross", jp.LoRA(("up",))).build(DIMS),
    "must be the 2 layers": lambda: check_stacked(Edits(sites={"cross": made(PREFIX).layers}), DIMS),
    "acts at the MLP or the end of the layer": lambda: check_stacked(
        Edits(sites={"cross": (Shift(jnp.ones(2)),)}), DIMS
    ),
    "the site 'cross' is an attention alone": lambda: check_stacked(
        made(jp.At("cross", jp.ParallelAdapter(width=2))), DIMS
    ),
    "take position_offset=False": lambda: check_stacked(made(jp.At("cross", jp.PTuningV2(length=2))), DIMS),
    "and no prompt": lambda: check_stacked(made(jp.At("cross", jp.PromptTuning(length=2))), DIMS),
    "is the backbone's default site": lambda: check_stacked(Edits(sites={"decoder": made(PREFIX).layers}), DIMS),
    "belong to no site such as 'cross'": lambda: Edits(words=jnp.ones((1, D))).placed("cross"),
    "place each part on its own": lambda: jp.At("cross", PREFIX + INDUCER),
    "belong to no site; write it without": lambda: jp.At("cross", jp.BitFit()),
    "both own the low-rank update": lambda: jp.At("cross", jp.LoRA(("q",))) + jp.At("cross", jp.LoRA(("q", "v"))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_site_cannot_have_is_refused(message):
    with pytest.raises(UserError, match=message):
        REFUSED[message]()


def test_what_stands_at_different_sites_or_behind_the_attention_is_not():
    both = jp.LoRA(("q",)) + jp.At("cross", jp.LoRA(("q",)))
    assert both.names == ("lora", "cross_lora")
    check_stacked(made(jp.At("cross", jp.SequentialAdapter(width=2, place="attention"))), DIMS)
