"""What every trained leaf of a model declares: the one table that optimizer, sharding and `describe` go by."""

import re

import jax

from jaxprefix.edits import Dims
from jaxprefix.edits.leaves import Leaf, collect
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import flatten


def leaf_table(model: TunedModel) -> dict[str, Leaf]:
    """The declarations of a model's trained leaves by their paths in `trainable` (`method/...`, `head/...`,
    `backbone/...`); nothing is computed.

    Of the backbone there are all leaves that method or head would move, also those that a folder may lack.
    """
    dims, table = model.backbone.dims, {}
    # functions of their own, and no jit in them: what JAX has traced before is not run again, and declares nothing
    makers = {"method": lambda key: model.method.build(dims).init(key).get("params", {})}
    head = model.head
    if head is not None:
        makers["head"] = lambda key: head.init(key, dims)
    for part, make in makers.items():
        with collect() as declared, jax.disable_jit():
            shapes = flatten(jax.eval_shape(make, jax.random.key(0)))
        for path, leaf in shapes.items():
            table[f"{part}/{path}"] = declared.get(path) or undeclared(f"{part}/{path}", leaf.shape, dims)
    moved = {path: leaf for path, leaf in declared_backbone(model.backbone.config).items() if model.trains(path)}
    return table | {f"backbone/{path}": leaf for path, leaf in moved.items()}


def declared_backbone(config: BackboneConfig) -> dict[str, Leaf]:
    """The declarations of a backbone's leaves, by its own table: matrices decay, biases and norms do not."""
    return {
        leaf.path: Leaf(decay=len(leaf.shape) > 1, matrix=_matrix(leaf.top, len(leaf.shape), leaf.stacked))
        for leaf in config.leaves()
    }


def _matrix(top: str, axes: int, stacked: bool) -> tuple[int, int] | None:
    """The axes of a linear map; a table of embeddings is looked up and maps nothing."""
    return (int(stacked), int(stacked) + 1) if axes == 2 and top != "embeddings" else None


def undeclared(path: str, shape: tuple[int, ...], dims: Dims) -> Leaf:
    """What is taken for declared of a leaf that a person's own method or head makes without a word (`self.param`).

    The head's leaves have the head's rate, those under a module named `gate` the gate's; names of biases, norms and
    masses do not decay; the heads of leaves that are named and shaped like a prefix's or an inducer's follow tp.

    Args:
      path: in `trainable`.
      shape: of the leaf.
      dims: of the backbone.
    """
    part, *modules, name = path.split("/")
    group = "head" if part == "head" else "gate" if "gate" in modules else "base"
    decay = not (name.endswith(("bias", "scale", "_b")) or name in ("a", "b", "mass"))
    of_prefix = re.fullmatch(r"method/(\w+/)*(keys|values)", path) and len(shape) == 3 and shape[1] == dims.kv_heads
    of_inducer = re.fullmatch(r"method/(\w+/)*(key|value)/[AaBb]", path) and shape[:2] == (dims.layers, dims.heads)
    return Leaf(group, decay, tp=1 if of_prefix or of_inducer else None)
