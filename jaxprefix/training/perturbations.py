"""What a self-check changes to see who notices: leaves a step away, other rows of the batch, other words at pads.

Everything is computed on the host, so that nothing is compiled for it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxprefix.trees import Tree, flatten, unflatten

STEP = 0.1


def perturb(trainable: Tree, part: str = "") -> Tree:
    """Every leaf whose path starts with `part`, a random step away; the others as they are.

    Leaves of the method move by 0.1 (up where they are 0, since a mass below 0 is none), so that a method which starts
    gently is heard; the others by a tenth of their size.

    Args:
      trainable: leaves that lie whole on this host.
      part: for instance `method/`; the empty text stands for all leaves.
    """
    random, new = np.random.default_rng(0), {}
    for path, leaf in flatten(trainable).items():
        if not path.startswith(part):
            new[path] = leaf
            continue
        leaf = np.asarray(leaf)
        noise = random.standard_normal(leaf.shape, np.float32)
        noise = noise if np.any(leaf) else np.abs(noise)
        size = 1.0 if path.startswith("method/") else float(np.sqrt(np.mean(np.square(leaf)))) or 0.5
        new[path] = (leaf + STEP * size * noise).astype(leaf.dtype)
    return unflatten(new)


def other_rows(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The first and the last row of a batch where they are, among copies of themselves; at least three rows."""
    rows = len(batch["input_ids"])
    order = np.where(np.arange(rows) < rows // 2, 0, rows - 1)
    return {name: value[order] for name, value in batch.items()}


def other_words_at_pads(
    ids: Int[np.ndarray, "*B T"], mask: Bool[np.ndarray, "*B T"], vocab: int
) -> Int[np.ndarray, "*B T"]:
    """Token ids with other words in place of pads."""
    return np.where(mask, ids, (ids + 7) % vocab)
