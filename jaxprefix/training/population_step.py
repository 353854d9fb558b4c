"""The compiled steps of a population: the pure steps of one run, mapped over members.

What members share has no axis of theirs: the frozen backbone, the batch (unless each has its own order), the step
count. So a product of hidden states with a frozen matrix stays one product, of K times as many rows, and no frozen
matrix and no batch is copied K times.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from jaxprefix.edits import Rates
from jaxprefix.models.tuned import TunedModel
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.training.sharding import by_rows, replicated
from jaxprefix.training.step import TrainState, pure_eval_step, pure_train_step, run_key
from jaxprefix.trees import Tree

OVER_MEMBERS = TrainState(None, 0, 0, 0)
FROZEN_AXES = {"backbone": None, "born": 0}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PopulationState:
    """All that a population carries from step to step.

    Attributes:
      train: the members' states, leaves `[K, ...]`; the step count is that of all.
      active: bool `[K]`, whether a member is still trained: neither failed nor stopped early.
      best: the members' trainable leaves at their best evaluations, `[K, ...]`.
    """

    train: Any
    active: Any
    best: Any


def init_population(trainable: Tree, optimizer: Optimizer, seeds: list[int], mesh: Mesh) -> PopulationState:
    """A state at step 0, replicated over the mesh; every member has the key that a run of its seed has."""

    def make(trainable: Tree, key: Array) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), key)

    keys = jnp.stack([run_key(seed) for seed in seeds])
    start = jax.jit(
        lambda trainable, keys: PopulationState(
            jax.vmap(make, out_axes=OVER_MEMBERS)(trainable, keys),
            jnp.ones(len(seeds), bool),
            jax.tree.map(jnp.copy, trainable),
        ),
        out_shardings=replicated(mesh),
    )
    return start(trainable, keys)


PopulationStep = Callable[..., tuple[TrainState, Bool[Array, "K"], dict[str, Float[Array, "K"]]]]


def make_population_step(
    model: TunedModel, optimizer: Optimizer, mesh: Mesh, *, own_order: bool = False, **options: Any
) -> PopulationStep:
    """The compiled update `(train, active, rates, dropout, frozen, batch) -> (train, active, metrics)`.

    A member that is not active, or whose update is not finite, keeps leaves and optimizer state; the latter is not
    active afterwards.

    Args:
      model: of any member.
      optimizer: of any member; the members' `rates()`, stacked `[K]`, are an argument of the update.
      mesh: where it runs.
      own_order: whether every member has its own batch, `[K, B, ...]`, instead of one `[B, ...]` for all.
      options: those of `pure_train_step`.

    Returns:
      The update. It donates `train` and `active`; its metrics are those of a run, `[K]` each, and `active`, whether a
      member was before the update.
    """
    update = pure_train_step(model, optimizer, **options)

    def member_step(
        state: TrainState, active: Array, rates: dict, dropout: Rates, frozen: Tree, batch: dict
    ) -> tuple[TrainState, Array, dict]:
        new, metrics = update(state, rates, frozen, batch, dropout)
        goes_on = active & (metrics["finite"] > 0)
        keep = lambda new, old: jnp.where(goes_on, new, old)  # noqa: E731
        trainable = jax.tree.map(keep, new.trainable, state.trainable)
        opt_state = jax.tree.map(keep, new.opt_state, state.opt_state)
        return TrainState(new.step, trainable, opt_state, state.key), goes_on, {**metrics, "active": active}

    def train_step(
        train: TrainState, active: Array, rates: dict, dropout: Rates, frozen: Tree, batch: dict
    ) -> tuple[TrainState, Array, dict]:
        axes = (OVER_MEMBERS, 0, 0, 0, FROZEN_AXES, 0 if own_order else None)
        return jax.vmap(member_step, in_axes=axes, out_axes=(OVER_MEMBERS, 0, 0))(
            train, active, rates, dropout, frozen, batch
        )

    whole = replicated(mesh)
    return jax.jit(
        train_step,
        donate_argnums=(0, 1),
        in_shardings=(whole, whole, whole, whole, None, by_rows(mesh, int(own_order))),
        out_shardings=(whole, whole, whole),
    )


def make_population_eval_step(model: TunedModel, mesh: Mesh) -> Callable[[Tree, Tree, dict], dict[str, Array]]:
    """The compiled look of all members at one batch: `predictions` `[B, K]` or `[B, K, T]`, and `losses` of the same
    shape where the batch has labels."""
    look = pure_eval_step(model)

    def eval_step(trainable: Tree, frozen: Tree, batch: dict) -> dict[str, Array]:
        found = jax.vmap(look, in_axes=(0, FROZEN_AXES, None), out_axes=1)(trainable, frozen, batch)
        return {name: value for name, value in found.items() if name != "logits"}

    whole = replicated(mesh)
    return jax.jit(eval_step, in_shardings=(whole, None, by_rows(mesh)), out_shardings=whole)


@jax.jit
def chosen(which: Bool[Array, "K"], these: Tree, others: Tree) -> Tree:
    """Of stacked trees `[K, ...]` the leaves of `these` for the members named by `which`, of `others` for the rest."""
    return jax.tree.map(
        lambda this, other: jnp.where(which.reshape(-1, *[1] * (this.ndim - 1)), this, other), these, others
    )
