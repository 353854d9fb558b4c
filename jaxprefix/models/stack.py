"""The layer stack: one layer function over leaves stacked `[L, ...]`, scanned or unrolled, rematerialised or not."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprefix.models.linear import PRODUCT

Remat = Literal["none", "dots", "full"]

UNROLL_ON_CPU = 12  # layers; a scan is slower there (benchmarks/step_speed.py), longer programs compile too slowly


def should_unroll(unroll: bool | None, layers: int) -> bool:
    """`unroll`, or where it is None: yes on a CPU up to 12 layers, no elsewhere."""
    return jax.default_backend() == "cpu" and layers <= UNROLL_ON_CPU if unroll is None else unroll


def chosen_remat(remat: Remat | None, accelerated: Remat) -> Remat:
    """`remat`, or where it is None: `none` on a CPU, whose memory is large beside its speed, elsewhere the backbone's
    own."""
    if remat is not None:
        return remat
    return "none" if jax.default_backend() == "cpu" else accelerated


def stacked_params(module: nn.Module, init: Callable[[Any], Any]) -> Any:
    """The parameters `layers` of a backbone: those that it is applied to, else those that `init` draws from a key.

    Not `module.param`, which holds the leaves to those of `init`, and int8 kernels have scales beside them; each
    layer's modules check their own.
    """
    given = module.has_variable("params", "layers")
    return module.get_variable("params", "layers") if given else module.param("layers", init)


def run_layers(
    layer: Callable[[Any, Any, Any, int], tuple[Any, Any]],
    carry: Any,
    stacked: Any,
    *,
    unroll: bool,
    remat: Remat,
    period: int = 1,
) -> tuple[Any, Any]:
    """Runs `layer(carry, leaves, index, place) -> (carry, out)` over the leading axis of every leaf of `stacked`.

    Args:
      layer: one layer; `leaves` is `stacked` without its leading axis, `index` the layer's number (an int where
        unrolled), `place` its static place in the period.
      carry: the activations, the hidden state `[B, T, D]`.
      stacked: a pytree of `[L, ...]` leaves: parameters, edits, keys.
      unroll: a Python loop instead of `lax.scan`. The scan's backward pass writes every residual into stacked
        buffers, which a loop does not need; its program is L times longer.
      remat: what the backward pass may keep: everything (`none`), the results of the linear maps (`dots`), or only
        the layers' inputs (`full`).
      period: after how many layers their kinds repeat; a scan's body holds that many, and layers that fill no whole
        period come after it.

    Returns:
      The last carry, and the layers' outputs stacked `[L, ...]`.
    """
    if remat != "none":
        policies = jax.checkpoint_policies
        dots = policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(PRODUCT)
        )
        policy = dots if remat == "dots" else None
        static = (2, 3) if unroll else (3,)
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=unroll, static_argnums=static)
    count = jax.tree.leaves(stacked)[0].shape[0]

    def one_by_one(carry: Any, stacked: Any, layers: range, first: Any = 0) -> tuple[Any, list]:
        outs = []
        for index in layers:
            leaves = jax.tree.map(lambda leaf: leaf[index], stacked)  # noqa: B023
            carry, out = layer(carry, leaves, first + index, index % period)
            outs.append(out)
        return carry, outs

    if unroll or count < period:
        carry, outs = one_by_one(carry, stacked, range(count))
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)
    if period == 1:
        numbered = (stacked, jnp.arange(count))
        return jax.lax.scan(lambda carry, leaves: layer(carry, *leaves, 0), carry, numbered)

    whole = count - count % period

    def a_period(carry: Any, leaves: Any) -> tuple[Any, Any]:
        carry, outs = one_by_one(carry, leaves[0], range(period), leaves[1])
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)

    grouped = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, period, *leaf.shape[1:]), stacked)
    carry, outs = jax.lax.scan(a_period, carry, (grouped, jnp.arange(0, whole, period)))
    outs = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), outs)
    if whole == count:
        return carry, outs
    carry, rest = one_by_one(carry, stacked, range(whole, count))
    return carry, jax.tree.map(lambda first, *rest: jnp.concatenate([first, jnp.stack(rest)]), outs, *rest)
