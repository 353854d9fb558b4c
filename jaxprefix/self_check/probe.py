"""What a model computes on a batch, dropout off, with its own edits or others, and how far two such looks differ."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprefix.edits import Edits
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree, flatten


class Probe(NamedTuple):
    """What a model shows of a batch, on the host: `hidden` `[B, T, D]`, `logits` if there is a head, and what each of
    its layer edits shows."""

    hidden: np.ndarray
    logits: np.ndarray | None
    observed: tuple[dict[str, np.ndarray], ...]


@functools.partial(jax.jit, static_argnums=0)
def _compute(model: TunedModel, trainable: Tree, frozen: Tree, batch: Tree, edits: Edits) -> tuple:
    out = model.forward(trainable, frozen, batch, capture=True, edits=edits)
    return out.hidden, out.logits, out.observed


def forward_probe(model: TunedModel, trainable: Tree, frozen: Tree, batch: Tree, edits: Edits) -> Probe:
    """What the model shows of a batch with these edits, dropout off."""
    seen = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    return Probe(*jax.device_get(_compute(model, trainable, frozen, seen, edits)))


@functools.partial(jax.jit, static_argnums=0)
def own_edits(model: TunedModel, trainable: Tree) -> Edits:
    """The method's edits, in one program."""
    return model.edits(trainable)


@functools.partial(jax.jit, static_argnums=0)
def live_gradients(model: TunedModel, trainable: Tree, frozen: Tree, batch: Tree) -> dict[str, Array]:
    """Whether each trainable leaf has a gradient that is more than rounding, by path.

    A gradient may be small, and one that should be 0 may be left with what rounding makes of it (the bias of the keys).
    The first is linear in the objective; the second is not, so it is another one under a third of the objective.
    """

    def objective(trainable: Tree) -> Array:
        out = model.forward(trainable, frozen, batch)
        told = {} if model.head is None or out.logits is None else model.head.outputs(out.logits, batch)
        if model.head is not None and out.logits is not None and "weight" in batch and "losses" in told:
            total, weight = model.head.loss(out.logits, batch)  # the batch has the head's targets
            return total / jnp.maximum(weight, 1e-8)
        outputs = out.hidden if out.logits is None else out.logits
        return (outputs * jax.random.normal(jax.random.key(0), outputs.shape)).sum() / outputs.shape[0]

    def live(both: Array) -> Array:
        whole, third = both
        return (jnp.abs(whole).max() > 0) & (jnp.linalg.norm(whole - 3 * third) < 0.3 * jnp.linalg.norm(whole))

    parts = jax.lax.map(
        lambda part: jax.grad(lambda leaves: part * objective(leaves))(trainable), jnp.array([1, 1 / 3])
    )
    return {path: live(leaf) for path, leaf in flatten(parts).items()}


def distance(a: Probe, b: Probe, mask: np.ndarray) -> float:
    """The largest difference at real tokens of hidden states and logits, in sizes (rms) of the former."""
    pairs = [(a.hidden[mask], b.hidden[mask])]
    if a.logits is not None and b.logits is not None:
        pairs.append((a.logits, b.logits) if a.logits.ndim == 2 else (a.logits[mask], b.logits[mask]))
    pairs = [(np.asarray(x, np.float32), np.asarray(y, np.float32)) for x, y in pairs]
    return max(float(np.abs(x - y).max() / (np.sqrt(np.mean(x * x)) + 1e-30)) for x, y in pairs)


def tolerance(probe: Probe) -> float:
    """What rounding may do to outputs, in their sizes."""
    return 1e-3 if probe.hidden.dtype == np.float32 else 0.1
