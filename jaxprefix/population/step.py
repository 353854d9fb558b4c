"""The compiled steps of a population: the pure steps of one run, mapped over members.

What members share has no axis of theirs: the frozen backbone, the batch (unless each has its own order), the step
count. Side by side, a product of hidden states with a frozen matrix stays one product, of K times as many rows, and no
frozen matrix and no batch is copied K times. That is what an accelerator wants. A CPU is busy with the rows of one
member, and its caches do not hold the activations of many, so there the members of a step come one after another
(benchmarks/population.py): the same program but for a loop, a K-th of the memory.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool

from jaxprefix.distributed.mesh import by_rows, replicated
from jaxprefix.edits import Rates
from jaxprefix.models.tuned import TunedModel
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.training.step import OnMesh, TrainState, pure_eval_step, pure_train_step, run_key
from jaxprefix.trees import Tree


def resolve_vmap_size(vmap_size: int | None, members: int) -> int:
    """`vmap_size`, or where it is None: one member on a CPU, all elsewhere; never more than there are."""
    return min(members, (1 if jax.default_backend() == "cpu" else members) if vmap_size is None else vmap_size)


def over_members(f: Callable[[Any], Any], stacked: Any, vmap_size: int) -> Any:
    """`f` of every member's part of trees `[K, ...]`, `vmap_size` of them side by side; results are `[K, ...]`."""
    members = jax.tree.leaves(stacked)[0].shape[0]
    if vmap_size >= members > 1:  # an axis of one member would cost a tenth of a step
        return jax.vmap(f)(stacked)
    return jax.lax.map(f, stacked, batch_size=vmap_size if vmap_size > 1 else None)


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

    def make(trainable: Tree, keys: Array) -> PopulationState:
        train = TrainState(jnp.zeros((), jnp.int32), trainable, jax.vmap(optimizer.init)(trainable), keys)
        return PopulationState(train, jnp.ones(len(seeds), bool), jax.tree.map(jnp.copy, trainable))

    return jax.jit(make, out_shardings=replicated(mesh))(trainable, jnp.stack([run_key(seed) for seed in seeds]))


def make_population_step(
    model: TunedModel,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    vmap_size: int,
    independent_order: bool = False,
    **options: Any,
) -> OnMesh:
    """The compiled update `(train, active, rates, dropout, frozen, batch) -> (train, active, metrics)`.

    A member that is not active, or whose update is not finite, keeps leaves and optimizer state; the latter is not
    active afterwards.

    Args:
      model: of any member.
      optimizer: of any member; the members' `rates()`, stacked `[K]`, are an argument of the update.
      mesh: where it runs.
      vmap_size: how many members are computed side by side.
      independent_order: whether every member has its own batch, `[K, B, ...]`, instead of one `[B, ...]` for all.
      options: those of `pure_train_step`.

    Returns:
      The update. It donates `train` and `active`; its metrics are those of a run, `[K]` each, and `active`, whether a
      member was before the update. Of `frozen` the tree under `initialized` is stacked, `[K, ...]`.
    """
    update = pure_train_step(model, optimizer, **options)

    def train_step(
        train: TrainState, active: Array, rates: dict, dropout: Rates, frozen: Tree, batch: dict
    ) -> tuple[TrainState, Array, dict]:
        def member_step(own: dict) -> tuple[Tree, Any, Array, dict]:
            state = TrainState(train.step, own["trainable"], own["opt_state"], own["key"])
            tree, rows = {**frozen, "initialized": own["initialized"]}, own.get("batch", batch)
            new, metrics = update(state, own["rates"], tree, rows, own["dropout"])
            goes_on = own["active"] & (metrics["finite"] > 0)
            keep = lambda new, old: jnp.where(goes_on, new, old)  # noqa: E731
            leaves = jax.tree.map(keep, (new.trainable, new.opt_state), (state.trainable, state.opt_state))
            return *leaves, goes_on, {**metrics, "active": own["active"]}

        stacked = {
            "trainable": train.trainable,
            "opt_state": train.opt_state,
            "key": train.key,
            "active": active,
            "rates": rates,
            "dropout": dropout,
            "initialized": frozen["initialized"],
            **({"batch": batch} if independent_order else {}),
        }
        trainable, opt_state, active, metrics = over_members(member_step, stacked, vmap_size)
        return TrainState(train.step + 1, trainable, opt_state, train.key), active, metrics

    whole = replicated(mesh)
    step = jax.jit(
        train_step,
        donate_argnums=(0, 1),
        in_shardings=(whole, whole, whole, whole, None, by_rows(mesh, int(independent_order))),
        out_shardings=(whole, whole, whole),
    )
    return OnMesh(mesh, lambda *_: step)


def make_population_eval_step(model: TunedModel, mesh: Mesh, vmap_size: int) -> OnMesh:
    """The compiled evaluation of all members at one batch: the outputs of a run's, with an axis K behind B."""
    look = pure_eval_step(model)

    def eval_step(trainable: Tree, frozen: Tree, batch: dict) -> dict[str, Array]:
        def member_look(own: tuple[Tree, Tree]) -> dict[str, Array]:
            return look(own[0], {**frozen, "initialized": own[1]}, batch)

        found = over_members(member_look, (trainable, frozen["initialized"]), vmap_size)
        return {name: jnp.moveaxis(value, 0, 1) for name, value in found.items()}

    whole = replicated(mesh)
    look_at_all = jax.jit(eval_step, in_shardings=(whole, None, by_rows(mesh)), out_shardings=whole)
    return OnMesh(mesh, lambda *_: look_at_all)


@jax.jit
def chosen(which: Bool[Array, "K"], these: Tree, others: Tree) -> Tree:
    """Of stacked trees `[K, ...]` the leaves of `these` for the members named by `which`, of `others` for the rest."""
    return jax.tree.map(
        lambda this, other: jnp.where(which.reshape(-1, *[1] * (this.ndim - 1)), this, other), these, others
    )
