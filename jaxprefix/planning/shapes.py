"""A run as shapes: model, trees, state and batches without a byte of weights, data or tokenizer."""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh

from jaxprefix.distributed.mesh import by_rows, replicated
from jaxprefix.models.stack import chosen_remat
from jaxprefix.models.tuned import TunedModel
from jaxprefix.training.config import Run
from jaxprefix.training.setup import Abstract, placed_shape, set_up
from jaxprefix.training.sharding import state_shardings
from jaxprefix.training.step import TrainState, first_state
from jaxprefix.trees import Tree


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What the steps of a run take, as `ShapeDtypeStruct`s with their places on a mesh.

    Attributes:
      run: whose it is.
      mesh: of absent or present devices.
      source: where the backbone's sizes come from, in words.
      model: backbone, method and head.
      state: the training state.
      frozen: the frozen tree.
      rates: the optimizer's.
      batch, eval_batch: global ones, of `tokens` columns.
      tokens: T.
      positions: those that the method takes from the position table.
    """

    run: Run
    mesh: Mesh
    source: str
    model: TunedModel
    state: TrainState
    frozen: Tree
    rates: dict[str, Any]
    batch: dict[str, Any]
    eval_batch: dict[str, Any]
    tokens: int
    positions: int


def run_shapes(run: Run, mesh: Mesh, *, tokens: int | None = None, labels: int | None = None) -> Shapes:
    """The shapes of a run on a mesh.

    Args:
      run: its data are not read.
      mesh: of any devices, absent ones too; layers are a scan on those, as on every accelerator.
      tokens: columns of a batch; None for the longest of `run.buckets`, or the task's longest row.
      labels: how many there are; None for what the head or the task says, or two.

    Raises:
      UserError: the backbone's sizes are not available, or something does not fit the mesh or the backbone.
    """
    run.check()
    setup = set_up(run, abstract=Abstract(mesh, tokens, labels))
    module = setup.backbone.module
    run = dataclasses.replace(
        run, unroll=module.unroll, remat=chosen_remat(module.remat, module.config.accelerated_remat)
    )
    optimizer = run.optimizer
    state = jax.eval_shape(functools.partial(first_state, optimizer), setup.trainable, jax.random.key(0))
    state = jax.tree.map(placed_shape, state, state_shardings(setup.model, state, mesh))
    rates = jax.tree.map(lambda leaf: placed_shape(leaf, replicated(mesh)), jax.eval_shape(optimizer.rates))
    eval_rows = run.eval_batch_size or run.batch_size
    assert setup.model.head is not None  # a run's model has one
    typed, count = module.config.has_token_types, setup.model.head.count
    batch, eval_batch = (_batch(run, typed, rows, setup.longest, count, mesh) for rows in (run.batch_size, eval_rows))
    return Shapes(
        run=run,
        mesh=mesh,
        source=setup.backbone.identity["source"],
        model=setup.model,
        state=state,
        frozen=setup.frozen,
        rates=rates,
        batch=batch,
        eval_batch=eval_batch,
        tokens=setup.longest,
        positions=setup.positions,
    )


def _batch(run: Run, typed: bool, rows: int, tokens: int, count: int | None, mesh: Mesh) -> dict[str, Any]:
    shapes, place = run.task.batch_shapes(rows, tokens, count, typed), by_rows(mesh)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place) for name, leaf in shapes.items()}
