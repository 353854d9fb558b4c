"""The device mesh, and where a run's arrays live on it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.distributed.constraints import divided
from jaxprefix.distributed.mesh import replicated
from jaxprefix.models.backbone_config import Module, frozen_spec
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree, flatten, unflatten


def frozen_shardings(module: Module, mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """From path and shape of a backbone's leaf to its place, by the backbone's table of leaves."""
    return lambda path, shape: NamedSharding(mesh, frozen_spec(module.config, path, tuple(shape), mesh))


def tree_shardings(module: Module, tree: Tree, mesh: Mesh) -> Tree:
    """The shardings of `frozen` as `TunedModel.init` gives it: leaves under `backbone` and under `initialized` by the
    backbone's rules."""
    place = frozen_shardings(module, mesh)
    return {part: _by_path(leaves, place) for part, leaves in tree.items()}


def trainable_shardings(model: TunedModel, trainable: Tree, mesh: Mesh) -> Tree:
    """The places of trainable leaves: replicated, except along an axis that a leaf declares to follow tp, where its
    size divides, and leaves of the backbone, which its rules place."""
    place, table = frozen_shardings(model.backbone, mesh), leaf_table(model)

    def where(path: str, shape: tuple[int, ...]) -> NamedSharding:
        if path.startswith("backbone/"):
            return place(path.removeprefix("backbone/"), shape)
        axis = table[path].tp
        if axis is None:
            return replicated(mesh)
        return NamedSharding(mesh, P(*(divided(n, "tp", mesh) if i == axis else None for i, n in enumerate(shape))))

    return _by_path(trainable, where)


def state_shardings(model: TunedModel, state: Any, mesh: Mesh) -> Any:
    """The places of a `TrainState` of arrays or shapes: what the optimizer keeps of a leaf lies where the leaf lies."""
    places = flatten(trainable_shardings(model, state.trainable, mesh))
    shapes = {path: leaf.shape for path, leaf in flatten(state.trainable).items()}

    def where(keys: tuple, leaf: Any) -> NamedSharding:
        path = "/".join(str(key.key) for key in keys if isinstance(key, jax.tree_util.DictKey))
        return places[path] if shapes.get(path) == leaf.shape else replicated(mesh)

    return jax.tree_util.tree_map_with_path(where, state)


def _by_path(tree: Tree, where: Callable[[str, tuple[int, ...]], NamedSharding]) -> Tree:
    return unflatten({path: where(path, leaf.shape) for path, leaf in flatten(tree).items()})
