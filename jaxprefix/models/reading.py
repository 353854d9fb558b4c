"""Keys and values that a frozen backbone computes for a row of tokens, by its cache or by its projections."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.models.cache import Cache
from jaxprefix.trees import Tree

KeysValues = tuple[Float[Array, "L P K E"], Float[Array, "L P K E"]]


def cached_keys_and_values(backbone: Any, params: Tree, ids: Int[Array, "P"]) -> KeysValues:
    """Those that a pass over the row leaves in the cache, as they enter the attention (normed, rotated), float32."""
    cache = Cache.empty(backbone.dims, 1, ids.shape[0])
    filled = backbone.apply({"params": params}, {"input_ids": ids[None]}, cache=cache).cache
    return filled.keys[:, :, 0].swapaxes(1, 2), filled.values[:, :, 0].swapaxes(1, 2)


def projected_keys_and_values(backbone: Any, params: Tree, ids: Int[Array, "P"]) -> KeysValues:
    """The projections of the layers' inputs, float32: where these are not normed, keys not rotated, and both have
    biases."""
    dims = backbone.dims
    inputs = backbone.apply({"params": params}, {"input_ids": ids[None]}, capture=True).captured[:-1, 0]

    def projected(name: str) -> Float[Array, "L P K E"]:
        leaves = params["layers"][name]
        kernel, bias = (leaves[leaf].astype(inputs.dtype) for leaf in ("kernel", "bias"))
        made = jnp.einsum("ltd,ldo->lto", inputs, kernel)
        if "kernel_scale" in leaves:
            made = (made * leaves["kernel_scale"][:, None]).astype(inputs.dtype)
        made = made + bias[:, None]
        return made.reshape(dims.layers, -1, dims.kv_heads, dims.head_width).astype(jnp.float32)

    return projected("k"), projected("v")
