"""Starting points for encoders that are pretrained from nothing."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.trees import Tree

Start = Literal["bert", "small"]

_QK_STD = 0.07
_RESIDUAL = 0.5
_NEIGHBOURS = ((-1, 3.0, 1.0), (1, 3.0, 1.0), (0, 1.0, 0.5))  # of each head: offset in tokens, sharpness, strength
_COMPANY = 2.0  # sharpness of the heads that compare neighbours


def adapt_start(tree: Tree, config: BackboneConfig, start: Start) -> Tree:
    """A freshly drawn tree as BERT starts (unchanged), or as a small encoder learns soonest.

    `small` is for encoders of about a million parameters and a few million tokens, which from BERT's start stay at
    word frequencies for long: it begins with the circuit that repetition is predicted by (Olsson et al., "In-context
    Learning and Induction Heads", 2022), which so small a budget does not suffice to find.

    Positions are sinusoids (Vaswani et al. 2017, section 3.5). In the first layer three heads look at the token
    before, at the token after and at a few tokens around, by the positions alone, and write what they see into
    channels that words leave free. In the second layer two heads compare these channels: a token finds those in the
    same company, a masked one too. All other heads start with equal queries and keys, and find equal tokens. From the
    second layer on values and outputs are transposes of each other, so that a head copies what it looks at (as in
    Trockman & Kolter, "Mimetic Initialization of Self-Attention Layers", 2023). The kernels that end a residual branch
    are halved, for stability without a long warm-up. All of it can be unlearnt.

    Raises `UserError` where the family has no such start, or `small` meets fewer than four heads or two layers.
    """
    if start == "bert":
        return tree
    if start not in config.new_starts:
        raise UserError(
            f"The start {start!r} is not made for a {config.model_type}; "
            f"take {' or '.join(map(repr, config.new_starts))}."
        )
    if config.heads < 4 or config.layers < 2:
        raise UserError(
            f"The start 'small' needs four heads and two layers, and the encoder has {config.heads} heads and "
            f"{config.layers} layers; take 'bert'."
        )
    size = config.width // config.heads
    free = config.width - size  # the channels from here on are for the company
    frequencies = 10000.0 ** (-np.arange(0, config.width, 2) / config.width)
    layers = dict(tree["layers"])
    kernels = {name: layers[name]["kernel"] / config.initializer_range for name in ("q", "v", "o", "down")}

    query = key = kernels["q"] * _QK_STD
    value, out = _copying(kernels["v"])
    value = value.at[0].set(kernels["v"][0] / size**0.5 / 2).at[0, :size].set(0)
    out = out.at[0].set(kernels["o"][0] * config.initializer_range * _RESIDUAL)
    for head, (offset, sharpness, strength) in enumerate(_NEIGHBOURS):
        columns = slice(head * size, (head + 1) * size)
        query = query.at[0, :, columns].set(sharpness * _turned(frequencies, size, 0))
        key = key.at[0, :, columns].set(sharpness * _turned(frequencies, size, offset))
        out = out.at[0, columns, :free].set(0)
        out = out.at[0, columns, free:].set(strength * kernels["o"][0, columns, free:] / size**0.5)
    reader = np.zeros((config.width, 2 * size), np.float32)
    reader[free:, :size] = reader[free:, size:] = _COMPANY * np.eye(size)
    query, key = (kernel.at[1, :, : 2 * size].set(reader) for kernel in (query, key))
    down = kernels["down"] * config.initializer_range * _RESIDUAL
    for name, kernel in (("q", query), ("k", key), ("v", value), ("o", out), ("down", down)):
        layers[name] = {**layers[name], "kernel": kernel}

    embeddings = dict(tree["embeddings"])
    for name in set(embeddings) & {"word", "token_type"}:  # positions and company have channels of their own
        embeddings[name] = {"embedding": embeddings[name]["embedding"].at[:, :size].set(0).at[:, free:].set(0)}
    positions = embeddings["position"]["embedding"].shape[0]
    angles = np.arange(positions)[:, None] * frequencies
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    table[:, 1::2] *= -1  # the slow cosines would add up to a mean, which the layer norm takes from all
    table = 2**0.5 * config.initializer_range * table.reshape(positions, config.width)
    table[:, size:] = 0
    embeddings["position"] = {"embedding": jnp.asarray(table, jnp.float32)}
    return {**tree, "embeddings": embeddings, "layers": layers}


def _copying(drawn: Any) -> tuple[Any, Any]:
    """Value and output kernels `[L, D, D]` whose product is half the identity."""
    orthogonal = jnp.linalg.qr(drawn)[0]
    return _RESIDUAL**0.5 * orthogonal, _RESIDUAL**0.5 * orthogonal.swapaxes(1, 2)


def _turned(frequencies: np.ndarray, size: int, offset: int) -> np.ndarray:
    """The kernel [D, size] that reads positions `offset` tokens back, by turning each pair of sine and cosine.

    The product of a query at position t, not turned, and of a key at s is the sum of cos(w (t + offset - s)) over the
    `size / 2` highest frequencies w: largest where s = t + offset.
    """
    kernel = np.zeros((2 * len(frequencies), size), np.float32)
    for row in range(0, size - size % 2, 2):
        c, s = (function(frequencies[row // 2] * offset) for function in (np.cos, np.sin))
        kernel[row : row + 2, row : row + 2] = [[c, s], [-s, c]]
    return kernel
