"""The table of a backbone's leaves: where each lies in the tree, in Hugging Face folders, and over a mesh.

Kernels are divided over both fsdp and tp, so that a chip holds 1 / (fsdp * tp) of the model: over tp by heads or MLP
units (Shoeybi et al. 2019, "Megatron-LM": columns of q, k, v, gate, up; rows of o, down), over fsdp along the other
axis, gathered layer by layer where it is used. The axis of layers is never divided: a scan takes its slices.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from jax.sharding import PartitionSpec as P

from jaxprefix.distributed.constraints import divided
from jaxprefix.errors import UserError

WORD = "embeddings/word/embedding"
HEAD = "lm_head/kernel"

MeshAxes = tuple[str | None, ...]
COLUMNS: MeshAxes = ("fsdp", "tp")
"""Of a kernel `[I, O]` whose outputs are heads or units: q, k, v, gate, up."""
ROWS: MeshAxes = ("tp", "fsdp")
"""Of a kernel `[I, O]` whose inputs are heads or units (o, down), and of the word table."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the frozen tree.

    Attributes:
      path: keys joined by "/".
      names: Hugging Face tensor names, the preferred one first; those of a stacked leaf contain `{layer}`.
      shape: in our orientation, without the axis of layers.
      stacked: whether it is stacked `[L, ...]`, from one tensor per layer.
      transposed: torch's kernels are [out, in], ours [in, out].
      part: which of the outputs of the tensor, `whole` in all, where it holds more than this leaf.
      axes: the axes of the mesh that divide those of `shape`; what is not named is not divided.
      heads: how many heads lie along the axis that is divided over tp: it is divided by whole heads or not at all.
      optional: the part of the model that files may lack as a whole ("pooler"), in words; None where the leaf must be
        there. All leaves of one top are of one part.
      tied_to: path of the leaf whose values, transposed, this one may repeat; it is then not in the tree.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool = False
    transposed: bool = False
    part: tuple[int, int] | None = None
    whole: int | None = None
    axes: MeshAxes = ()
    heads: int | None = None
    optional: str | None = None
    tied_to: str | None = None

    @property
    def top(self) -> str:
        """The top of its path."""
        return self.path.split("/", 1)[0]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of its tensors in the files."""
        shape = self.shape if self.whole is None else (*self.shape[:-1], self.whole)
        return shape[::-1] if self.transposed else shape

    def tensor_names(self, layers: int) -> list[tuple[str, ...]]:
        """The names of its tensors: for each layer those that it may have, the preferred one first."""
        if not self.stacked:
            return [self.names]
        return [tuple(name.replace("{layer}", str(layer)) for name in self.names) for layer in range(layers)]

    def full_shape(self, layers: int) -> tuple[int, ...]:
        """The whole leaf's shape, with the axis of layers where it has one."""
        return (layers, *self.shape) if self.stacked else self.shape

    def spec(self, shape: tuple[int, ...], mesh: Any) -> P:
        """How a leaf of this global shape (that of another tree perhaps) is divided over a mesh.

        Args:
          shape: with the axis of layers where it is stacked.
          mesh: with `shape` a mapping from axes to sizes.

        Returns:
          The axes named, less those that the sizes do not divide by.
        """
        if not any(self.axes):
            return P(*[None] * len(shape))
        names = [*([None] if self.stacked else []), *self.axes]
        names += [None] * (len(shape) - len(names))
        if self.heads is not None and divided(self.heads, "tp", mesh) is None:
            names = [None if name == "tp" else name for name in names]
        return P(*(divided(size, name, mesh) for size, name in zip(shape, names, strict=True)))

    @property
    def scale(self) -> "Leaf":
        """The scales beside a kernel `[I, O]` that is kept as int8: one for each output."""
        axes = self.axes[-1:]
        return dataclasses.replace(self, path=f"{self.path}_scale", names=(), shape=self.shape[-1:], axes=axes)


def linear(
    path: str,
    name: str,
    inputs: int,
    outputs: int,
    axes: MeshAxes = (),
    *,
    bias: bool = True,
    heads: int | None = None,
    stacked: bool = True,
    transposed: bool = True,
    optional: str | None = None,
) -> list[Leaf]:
    """Kernel `[I, O]` and perhaps bias of a linear map, under torch's names `weight` and `bias`."""
    more = {"stacked": stacked, "heads": heads, "optional": optional}
    leaves = [Leaf(f"{path}/kernel", (f"{name}.weight",), (inputs, outputs), transposed=transposed, axes=axes, **more)]
    # a bias lies as the outputs do where these are heads or units; where they are the residual's it is whole
    own = axes[-1:] if axes[-1:] == ("tp",) and stacked else ()
    return leaves + ([Leaf(f"{path}/bias", (f"{name}.bias",), (outputs,), axes=own, **more)] if bias else [])


def norm(
    path: str, names: dict[str, tuple[str, ...]], width: int, *, stacked: bool = True, optional: str | None = None
) -> list[Leaf]:
    """The leaves of a norm, on every device whole; `names` are those in files of `scale` and perhaps `bias`."""
    return [Leaf(f"{path}/{leaf}", own, (width,), stacked, optional=optional) for leaf, own in names.items()]


def find_prefix(names: Iterable[str], anchor: str, model: str) -> str:
    """What precedes the model's own tensor names in these files: "", "bert.", "roberta.", "0.auto_model.", ...

    Args:
      names: of the files' tensors.
      anchor: the end of a name that every model of the family has once.
      model: "encoder" or "decoder", for the sentence.

    Raises:
      UserError: no such model or several.
    """
    prefixes = sorted(name.removesuffix(anchor) for name in names if name.endswith(anchor))
    if len(prefixes) != 1:
        found = f"{len(prefixes)} {model}s ({', '.join(map(repr, prefixes))})" if prefixes else f"no {model}"
        raise UserError(
            f"the safetensors files hold {found}: one tensor name must end with {anchor!r}; "
            "take the folder of one model whose weights belong to its config.json."
        )
    return prefixes[0]
