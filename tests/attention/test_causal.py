"""What decoders ask of the attention: columns, windows, soft caps, scales of each query, tokens that leave a window."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.attention import VirtualTokens, kernel_attention
from jaxprefix.attention.virtual_tokens import ALWAYS
from jaxprefix.errors import UserError
from tests.attention import cases
from tests.attention.cases import FIELDS, assert_close, compiled, example

T, S, P = 4, 6, 3
UNTIL = (2, 4, ALWAYS)
ROWS = ("mass", "values")


def random_case(seed, dtype=np.float64):
    """Inputs and options: scales of each query, window, soft cap, columns beyond the end of what is filled."""
    rng = np.random.default_rng(seed)
    heads = ({"kv": 4}, {"kv": 2}, {"kv": 1})[seed % 3]
    x = example(seed, t=T, s=S, p=P, rows=ROWS[: seed % 3], bias=((), (1, 4))[seed % 2], dtype=dtype, **heads)
    for name in ("key_scale", "value_scale")[: 1 + seed % 2]:
        x[name] = rng.normal(size=(2, T, P))
    x = {name: jnp.asarray(value, dtype) for name, value in x.items()}
    options = {"causal": True, "window": (None, 2, 3)[seed % 3], "softcap": (0.8, None)[seed // 2 % 2]}
    options |= {
        "query_offset": (None, 1, jnp.asarray(2))[seed // 2 % 3],
        "visible_before": (None, UNTIL)[seed // 3 % 2],
    }
    options["mask"] = jnp.asarray(rng.random((2, S)) < 0.8)
    if seed % 4 == 3:
        options["dropout"] = (0.3, jax.random.key(seed))
    return x, options


def attend(x, visible_before=None, **options):
    virtual = VirtualTokens(
        **{name: x[name] for name in FIELDS if name in x},
        visible_before=None if visible_before is None else jnp.asarray(visible_before),
    )
    return kernel_attention(x["q"], x["k"], x["v"], virtual=virtual, bias=x.get("bias"), **options)


@pytest.fixture(autouse=True)
def with_until(monkeypatch):
    monkeypatch.setattr(cases, "attend", attend)


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_reference_in_float64(seed):
    with jax.enable_x64(True):
        x, options = random_case(seed)
        ours, theirs = (cases.run(x, implementation=name, **options) for name in ("xla", "reference"))
    assert_close(ours, theirs, 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 3e-5), (jnp.bfloat16, 4e-2)])
def test_equals_the_float64_reference_at_lower_precision(dtype, tolerance):
    x, options = random_case(5, dtype)
    assert {"visible_before", "window"} <= {name for name, value in options.items() if value is not None}
    options["softcap"] = 3.0
    ours = cases.run(x, **options)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(np.asarray(value, np.float64)) for name, value in x.items()}
        theirs = cases.run(exact, implementation="reference", **options)
    assert_close(ours, theirs, tolerance)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_against_sums_that_are_written_out(implementation):
    """Query t stands in column 1 + t, sees the last 3 columns, and virtual token p before column UNTIL[p]."""
    with jax.enable_x64(True):
        x, _ = random_case(1)
        options = {"causal": True, "window": 3, "query_offset": 1, "softcap": 0.9, "visible_before": UNTIL}
        o, lse = compiled(lambda x: attend(x, implementation=implementation, **options))(x)
    y = {name: np.asarray(value) for name, value in x.items()}
    assert y["key_scale"].ndim == y["value_scale"].ndim == 3 and y["mass"].ndim == 2

    def capped(score):
        return 0.9 * np.tanh(score / 0.9)

    for b, t, h in np.ndindex(2, T, 4):
        total, numerator = 0.0, np.zeros(3)
        for s in range(S):
            if t - 2 < s <= t + 1:
                score = capped(y["q"][b, t, h] @ y["k"][b, s, h // 2] / 2)
                w = np.exp(score + y["bias"][0, h, t, s])
                total, numerator = total + w, numerator + w * y["v"][b, s, h // 2]
        for p in range(P):
            if 1 + t < UNTIL[p]:
                score = capped(y["key_scale"][b, t, p] * (y["q"][b, t, h] @ y["keys"][p, h // 2]) / 2)
                w = y["mass"][b, p] * np.exp(score)
                total, numerator = total + w, numerator + w * y["value_scale"][b, t, p] * y["values"][p, h // 2]
        np.testing.assert_allclose(o[b, t, h], numerator / total, atol=1e-12)
        np.testing.assert_allclose(lse[b, h, t], np.log(total), atol=1e-12)


def test_the_first_column_is_that_of_the_last_queries_where_it_is_not_given():
    x, _ = random_case(0, np.float32)
    found = (compiled(lambda x, o=options: attend(x, causal=True, **o))(x) for options in ({}, {"query_offset": S - T}))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_scale_of_each_query_that_is_the_same_everywhere_is_one_of_the_row():
    with jax.enable_x64(True):
        x, _ = random_case(1)
        by_row = {name: x[name][:, 0] for name in ("key_scale", "value_scale")}
        spread = {name: jnp.broadcast_to(scale[:, None], (2, T, P)) for name, scale in by_row.items()}
        both = compiled(lambda spread, by_row: (attend({**x, **spread}), attend({**x, **by_row})))(spread, by_row)
        for ours, theirs in zip(*both, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_token_that_no_query_sees_any_more_is_no_token():
    x, _ = random_case(1, np.float32)
    gone = compiled(lambda x: attend(x, visible_before=(0, 0, 0)))(x)
    bare = compiled(kernel_attention)(x["q"], x["k"], x["v"], bias=x["bias"])
    for ours, theirs in zip(gone, bare, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_concatenation_of_scales_per_query_row_and_none_and_of_tokens_that_stay():
    """Joining is adding weights, whatever axes the parts' scales have."""
    with jax.enable_x64(True):
        x, _ = random_case(1)
        base = VirtualTokens(x["keys"], x["values"])
        parts = [
            dataclasses.replace(base, key_scale=x["key_scale"], visible_before=jnp.asarray(UNTIL)),
            dataclasses.replace(base, key_scale=x["key_scale"][:, 1]),
            dataclasses.replace(base, value_scale=x["value_scale"]),
        ]
        joined = VirtualTokens.concatenate(parts)
        assert joined.key_scale.shape == joined.value_scale.shape == (2, T, 3 * P)
        assert joined.keys.ndim == 3 and joined.visible_before.tolist() == [*UNTIL, *[ALWAYS] * 6]

        def sums(virtual):
            options = {"virtual": virtual, "causal": True, "query_offset": 0}
            o, lse = compiled(lambda q, k, v: kernel_attention(q, k, v, **options))(x["q"], x["k"], x["v"])
            total = np.exp(lse)
            return np.asarray(o) * total.transpose(0, 2, 1)[..., None], total

        bare, whole, *alone = map(sums, (None, joined, *parts))
        for index in range(2):
            added = sum(part[index] - bare[index] for part in alone)
            np.testing.assert_allclose(whole[index], bare[index] + added, atol=1e-10)


def test_what_does_not_fit_is_named():
    x, _ = random_case(0, np.float32)
    with pytest.raises(UserError, match="set causal=True with it"):
        attend(x, window=2)
    with pytest.raises(UserError, match=r"`visible_before` of 3 virtual tokens has shape \(2,\)"):
        attend(x, visible_before=(1, 2))
    with pytest.raises(UserError, match="key_scale of virtual tokens"):
        attend({**x, "key_scale": jnp.ones((2, T + 1, P))})
