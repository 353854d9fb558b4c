"""Starting points for encoders that are pretrained from nothing."""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxprefix.models.config import EncoderConfig
from jaxprefix.trees import Tree

Start = Literal["bert", "small"]

_QK_STD = 0.07
_RESIDUAL = 0.5


def adapt_start(tree: Tree, config: EncoderConfig, start: Start) -> Tree:
    """A freshly drawn tree as BERT starts (unchanged), or as a small encoder learns soonest.

    `small` is for encoders of about a million parameters and a few million tokens, which from BERT's start stay at
    word frequencies for long. Positions are sinusoids (Vaswani et al. 2017, section 3.5), which tell neighbours from
    the first step; queries and keys start from the same kernel with a deviation of 0.07, so that attention finds equal
    tokens before it is taught to; the kernels that end a residual branch are halved, for stability without a long
    warm-up.
    """
    if start == "bert":
        return tree
    angles = np.arange(config.positions)[:, None] * 10000.0 ** (-np.arange(0, config.width, 2) / config.width)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(config.positions, config.width)
    layers = dict(tree["layers"])
    kernel = layers["q"]["kernel"] * (_QK_STD / config.initializer_range)
    layers["q"], layers["k"] = {**layers["q"], "kernel": kernel}, {**layers["k"], "kernel": jnp.array(kernel)}
    for name in ("o", "down"):
        layers[name] = {**layers[name], "kernel": layers[name]["kernel"] * _RESIDUAL}
    scale = 2**0.5 * config.initializer_range
    position = {"embedding": jnp.asarray(scale * table, jnp.float32)}
    return {**tree, "embeddings": {**tree["embeddings"], "position": position}, "layers": layers}
