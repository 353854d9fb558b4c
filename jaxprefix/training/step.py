"""The steps: one update of the trainable leaves, and one evaluation of a batch, as pure functions and compiled.

The compiled update donates its state and nothing else, pins the shardings of what it returns, and differentiates with
respect to the trainable tree alone, so no gradient of a frozen leaf exists in its program. `population_step.py` maps
the same pure functions over members.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from jaxprefix.distributed.mesh import by_rows, replicated
from jaxprefix.edits import BUILT_RATES, Rates
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.models.tuned import TunedModel
from jaxprefix.training.optimizer import Optimizer, global_norm
from jaxprefix.training.sharding import state_shardings
from jaxprefix.trees import Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step.

    Attributes:
      step: updates done so far, int32. (No field has a type of arrays: JAX also builds states of shapes and axes.)
      trainable: the trainable tree, float32.
      opt_state: the optimizer's.
      key: the run's typed key; step `t` uses `fold_in(key, t)`, so the key itself never changes.
    """

    step: Any
    trainable: Any
    opt_state: Any
    key: Any


def first_state(optimizer: Optimizer, trainable: Tree, key: Array) -> TrainState:
    """A state at step 0, wherever its leaves are; pure."""
    return TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable), key)


def init_state(model: TunedModel, trainable: Tree, optimizer: Optimizer, key: Array, mesh: Mesh) -> TrainState:
    """A state at step 0, in its places on the mesh (`state_shardings`)."""
    make = functools.partial(first_state, optimizer)
    places = state_shardings(model, jax.eval_shape(make, trainable, key), mesh)
    return jax.jit(make, out_shardings=places)(trainable, key)


class OnMesh:
    """A function compiled for a mesh, which is set while it is traced and called, so that the activations of a
    model are laid out over it.

    Args:
      mesh: where it runs.
      build: from its first arguments to the jitted function, whose shardings may depend on them.
    """

    def __init__(self, mesh: Mesh, build: Callable[..., Any]):
        self._mesh, self._build = mesh, build
        self.jitted: Any = None

    def __call__(self, *args: Any) -> Any:
        """The result of the compiled function."""
        with self._set(args):
            return self.jitted(*args)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """As of `jax.jit`; arguments may be shapes with shardings."""
        with self._set(args):
            return self.jitted.lower(*args)

    def _set(self, args: tuple) -> Any:
        if self.jitted is None:
            self.jitted = self._build(*args)
        return contextlib.nullcontext() if self._mesh.size == 1 else jax.set_mesh(self._mesh)


def run_key(seed: int) -> Array:
    """The key of a run's steps: not the one that its leaves are drawn from, since a split and a fold of one key can
    coincide."""
    return jax.random.fold_in(jax.random.key(seed), 0xD40)


TrainStep = Callable[..., tuple[TrainState, dict[str, Float[Array, ""]]]]
EvalStep = Callable[[Tree, Tree, dict], dict[str, Array]]


def pure_train_step(
    model: TunedModel,
    optimizer: Optimizer,
    *,
    steps: int,
    epoch_steps: int,
    accumulate: int = 1,
    label_smoothing: float = 0.0,
) -> TrainStep:
    """The update `(state, rates, frozen, batch, dropout) -> (state, metrics)`, not compiled yet.

    Args:
      model: with a head.
      optimizer: its `rates()` are the second argument of the update.
      steps: updates in all, for the schedule.
      epoch_steps: updates of an epoch, for the schedule.
      accumulate: how many equal parts of the batch are differentiated one after another; the gradient is that of the
        whole batch, since sums of losses and of weights are added up before they are divided.
      label_smoothing: see `cross_entropy`.

    Returns:
      The update. Its `dropout` (`Rates`) may be left out: the rates are then those that the model was built with. Its
      metrics are float32 scalars: `loss` (mean over the batch's weights), `gradient_norm` before clipping, `rate` (the
      schedule's factor times the base learning rate), `finite` (1 where loss, norm and all updated leaves are).
    """

    table, head = leaf_table(model), model.head
    assert head is not None, "a model without a head has no loss"

    def loss_sum(trainable: Tree, frozen: Tree, batch: dict, key: Array, dropout: Rates) -> tuple[Array, Array]:
        out = model.forward(trainable, frozen, batch, key=key, training=True, rates=dropout)
        assert out.logits is not None  # there is a head
        return head.loss(out.logits, batch, label_smoothing)

    def train_step(
        state: TrainState, rates: dict, frozen: Tree, batch: dict, dropout: Rates = BUILT_RATES
    ) -> tuple[TrainState, dict]:
        def differentiate(trainable: Tree, frozen: Tree, batch: dict, key: Array) -> tuple[Array, Array, Tree]:
            (loss, weight), grads = jax.value_and_grad(loss_sum, has_aux=True)(trainable, frozen, batch, key, dropout)
            return loss, weight, grads

        key = jax.random.fold_in(state.key, state.step)
        if accumulate == 1:
            loss, weight, grads = differentiate(state.trainable, frozen, batch, key)
        else:
            # part i takes rows i, i + accumulate, ...: every device keeps its own rows
            parts = jax.tree.map(
                lambda x: jnp.moveaxis(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0), batch
            )
            add = lambda total, part: (  # noqa: E731
                jax.tree.map(
                    jnp.add, total, differentiate(state.trainable, frozen, part[0], jax.random.fold_in(key, part[1]))
                ),
                None,
            )
            zero = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.trainable))
            (loss, weight, grads), _ = jax.lax.scan(add, zero, (parts, jnp.arange(accumulate)))
        weight = jnp.maximum(weight, 1e-8)
        loss, grads = loss / weight, jax.tree.map(lambda g: g / weight, grads)
        norm, factor = global_norm(grads), optimizer.factor(state.step, steps, epoch_steps)
        trainable, opt_state = optimizer.update(grads, state.opt_state, state.trainable, rates, factor, table)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        for leaf in jax.tree.leaves(trainable):  # a step that is too long may leave them so while its loss was fine
            finite &= jnp.isfinite(leaf).all()
        metrics = {"loss": loss, "gradient_norm": norm, "rate": factor * rates["base"], "finite": finite}
        metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
        return TrainState(state.step + 1, trainable, opt_state, state.key), metrics

    return train_step


def make_train_step(model: TunedModel, optimizer: Optimizer, mesh: Mesh, **options: Any) -> OnMesh:
    """The compiled update `(state, rates, frozen, batch) -> (state, metrics)` of one run on a mesh; `options` and
    results are those of `pure_train_step`. It donates the state, which stays in its places."""
    update, whole = pure_train_step(model, optimizer, **options), replicated(mesh)

    def build(state: TrainState, *_: Any) -> Any:
        places = state_shardings(model, state, mesh)
        return jax.jit(
            update,
            donate_argnums=0,
            in_shardings=(places, whole, None, by_rows(mesh)),
            out_shardings=(places, whole),
        )

    return OnMesh(mesh, build)


def pure_eval_step(model: TunedModel, scores: bool = False) -> EvalStep:
    """One evaluation `(trainable, frozen, batch) -> dict`, not compiled yet: the head's outputs (`Head.outputs`), and
    with `scores` what answers with scores need beside them."""
    head = model.head
    assert head is not None, "a model without a head predicts nothing"

    def eval_step(trainable: Tree, frozen: Tree, batch: dict) -> dict[str, Array]:
        logits = model.forward(trainable, frozen, batch).logits
        assert logits is not None  # there is a head
        return {**head.outputs(logits, batch), **(head.scores(logits) if scores else {})}

    return eval_step


def make_eval_step(model: TunedModel, mesh: Mesh, scores: bool = False) -> OnMesh:
    """The compiled evaluation of one run on a mesh; see `pure_eval_step`."""
    step = pure_eval_step(model, scores)
    look = jax.jit(step, in_shardings=(None, None, by_rows(mesh)), out_shardings=replicated(mesh))
    return OnMesh(mesh, lambda *_: look)
