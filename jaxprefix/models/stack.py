"""The layer stack: one layer function over leaves stacked `[L, ...]`, scanned or unrolled, rematerialised or not."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

Remat = Literal["none", "dots", "full"]

UNROLL_ON_CPU = 12  # layers; a scan is slower there (benchmarks/step_speed.py), longer programs compile too slowly


def should_unroll(unroll: bool | None, layers: int) -> bool:
    """`unroll`, or where it is None: yes on a CPU up to 12 layers, no elsewhere."""
    return jax.default_backend() == "cpu" and layers <= UNROLL_ON_CPU if unroll is None else unroll


def run_layers(
    layer: Callable[[Any, Any], tuple[Any, Any]], carry: Any, stacked: Any, *, unroll: bool, remat: Remat
) -> tuple[Any, Any]:
    """Runs `layer(carry, leaves) -> (carry, out)` over the leading axis of every leaf of `stacked`.

    Args:
      layer: one layer; `leaves` is `stacked` without its leading axis.
      carry: what flows through, the hidden state `[B, T, D]`.
      stacked: a pytree of `[L, ...]` leaves: parameters, edits, keys.
      unroll: a Python loop instead of `lax.scan`. The scan's backward pass writes every residual into stacked
        buffers, which a loop does not need; its program is L times longer.
      remat: what the backward pass may keep: everything (`none`), the results of the linear maps (`dots`), or only
        the layers' inputs (`full`).

    Returns:
      The last carry, and the layers' outputs stacked `[L, ...]`.
    """
    if remat != "none":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
        layer = jax.checkpoint(layer, policy=policy, prevent_cse=unroll)
    if not unroll:
        return jax.lax.scan(layer, carry, stacked)
    outs = []
    for index in range(jax.tree.leaves(stacked)[0].shape[0]):
        carry, out = layer(carry, jax.tree.map(lambda leaf, index=index: leaf[index], stacked))
        outs.append(out)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)
