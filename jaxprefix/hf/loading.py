"""Loading a pretrained backbone: Hugging Face folder in, frozen tree out, straight into dtype and sharding.

One leaf is in the making at a time, and of it one shard (`shards.py`): beside the tree itself the host holds at most
the largest shard and one tensor. Every process reads what its own devices hold, and hashes its share of the tensors.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprefix.errors import UserError, listed
from jaxprefix.hf.folders import ModelFolder, check_vocabulary, open_folder
from jaxprefix.hf.headers import has_tensors
from jaxprefix.hf.safetensors_files import TensorFiles
from jaxprefix.hf.shards import load_leaf
from jaxprefix.hf.sources import has_tokenizer, name_inputs, read_tokenizer
from jaxprefix.models.backbone_config import BackboneConfig, Module, leaves_in
from jaxprefix.models.backbones import make_backbone
from jaxprefix.models.leaves import HEAD, Leaf
from jaxprefix.models.quantizing import Quantize, quantized, quantized_shapes
from jaxprefix.models.stack import Remat
from jaxprefix.trees import Tree, unflatten

Placement = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
"""The sharding of every leaf, or a function from a leaf's path (`layers/q/kernel`) and whole shape to its sharding."""

logger = logging.getLogger("jaxprefix")


@dataclasses.dataclass(frozen=True)
class Report:
    """What was read, and what did not fit.

    Attributes:
      source: the model as the person named it.
      path: the folder that was read.
      config: the backbone's.
      missing: paths of our leaves that the files do not have (a pooler, a masked-LM head); they are not in the tree.
      unused: Hugging Face names of tensors that have no place in the tree (other heads).
      fingerprint: Hugging Face name -> SHA-256 in hex of the stored bytes, for every tensor that was used.
    """

    source: str
    path: Path
    config: BackboneConfig
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    fingerprint: dict[str, str]

    @property
    def identity(self) -> str:
        """One hex digest over config and fingerprints: equal for equal backbones, wherever their folder lies."""
        config = dataclasses.asdict(self.config)
        config["kind"] = config.pop("model_type")  # its name when the first adapters were tied to these digests
        content = {"config": config, "tensors": self.fingerprint}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def tied_identity(self) -> str | None:
        """The identity that the folder had while its head was taken for the word table; None where it is so."""
        own = {name: digest for name, digest in self.fingerprint.items() if name.endswith("lm_head.weight")}
        if not self.config.causal or self.config.tied or not own:
            return None
        rest = {name: digest for name, digest in self.fingerprint.items() if name not in own}
        return dataclasses.replace(self, config=dataclasses.replace(self.config, tied=True), fingerprint=rest).identity

    def lines(self) -> list[str]:
        """What a person should know, a line each; none when everything fitted."""
        lines = []
        if self.unused:
            lines.append(f"{self.source} holds {len(self.unused)} tensors that are not used: {listed(self.unused)}.")
        return lines


class Pretrained(NamedTuple):
    """A backbone ready to be tuned: module, tree, and transformers tokenizer, None where its folder has none."""

    backbone: Module
    frozen: Tree
    tokenizer: Any


def load_pretrained(
    source: str | Path,
    *,
    dtype: Any = jnp.float32,
    sharding: Placement | None = None,
    quantize: Quantize | None = None,
    unroll: bool | None = None,
    remat: Remat | None = None,
) -> Pretrained:
    """Loads a backbone; what was missing or unused is logged under "jaxprefix".

    Args:
      source: a local folder, an embedded backbone (`tiny-encoder`), or a name on the Hugging Face hub.
      dtype: of the tree and of the computation.
      sharding: of every leaf, or a function from a leaf's path (`layers/q/kernel`) and shape to its sharding.
      quantize: `int8` keeps the kernels of the layers as int8 with a float32 scale per output (`models/quantizing.py`).
      unroll: see `Encoder`.
      remat: see `Encoder`.

    Raises:
      UserError: the folder is not available or is of no supported architecture, its files are damaged, or its tokenizer
        has more entries than its word table.
    """
    config, frozen, report = read_backbone(source, dtype=dtype, sharding=sharding, quantize=quantize)
    for line in report.lines():
        logger.info(line)
    tokenizer = None
    if has_tokenizer(report.path):
        tokenizer = read_tokenizer(report.path)
        name_inputs(tokenizer, config.has_token_types)
        check_vocabulary(tokenizer, config, report.path)
    return Pretrained(make_backbone(config, dtype, unroll, remat), frozen, tokenizer)


def read_backbone(
    source: str | Path | ModelFolder,
    *,
    dtype: Any = jnp.float32,
    sharding: Placement | None = None,
    quantize: Quantize | None = None,
) -> tuple[BackboneConfig, Tree, Report]:
    """The frozen tree of a backbone, without its tokenizer.

    Args:
      source: as for `load_pretrained`, or a folder that is open.
      dtype: of the leaves; float64 needs jax's x64 mode.
      sharding: as for `load_pretrained`; None puts the leaves on the default device. Where it spans processes, all of
        them must call this, with the same arguments.
      quantize: as for `load_pretrained`; each kernel is quantized on its devices before the next leaf is read.

    Returns:
      The config; the tree as nested dicts: `embeddings`, `layers` (leaves `[L, ...]`, kernels `[L, in, out]`), of
      a decoder `norm` and where it is not tied `lm_head`, of an encoder where the files have them `pooler` and `mlm`
      (with `decoder` only where it is not the word table); the report.

    Raises:
      UserError: as for `load_pretrained`.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"weights cannot be loaded as {jnp.dtype(dtype).name}; take float32, bfloat16 or float16.")
    source, folder, config, untied = open_folder(source)
    files = TensorFiles(folder)
    if _spans_processes(sharding, config):
        files.share_hashing(jax.process_index(), jax.process_count())
    plan, missing = _plan(config, files, folder, untied)
    _check_shapes(plan, files, folder)

    tree: dict[str, jax.Array] = {}
    for leaf, tensors in plan:
        where = sharding(leaf.path, leaf.full_shape(config.layers)) if callable(sharding) else sharding
        array = load_leaf(leaf, tensors, files, dtype, where)
        tree.update({leaf.path: array} if quantize is None else quantized(leaf.path, array))
    fingerprint = files.fingerprints(sorted({tensor for _, tensors in plan for tensor in tensors}))
    unused = _unused(plan, config, files, fingerprint)
    files.remember()
    return config, unflatten(tree), Report(source, folder, config, missing, unused, fingerprint)


def backbone_shapes(
    config: BackboneConfig,
    folder: ModelFolder | None,
    *,
    dtype: Any = jnp.float32,
    sharding: Placement | None = None,
    quantize: Quantize | None = None,
) -> Tree:
    """The frozen tree of a backbone as shapes, dtypes and shardings; no tensor is read.

    Args:
      config: of the backbone.
      folder: where its files lie; None, or one without tensors, gives every leaf that a whole folder of this family
        has, the head tied where it may be.
      dtype: as for `read_backbone`, which gives a tree equal to this one, leaf by leaf.
      sharding: as for `read_backbone`.
      quantize: as for `read_backbone`.
    """
    leaves = [leaf for leaf in config.leaves() if leaf.tied_to is None]
    if folder is not None and has_tensors(folder.path):
        plan, _ = _plan(config, TensorFiles(folder.path), folder.path, folder.untied)
        leaves = [leaf for leaf, _ in plan]
    tree: dict[str, jax.ShapeDtypeStruct] = {}
    for leaf in leaves:
        shape = leaf.full_shape(config.layers)
        where = sharding(leaf.path, shape) if callable(sharding) else sharding
        one = jax.ShapeDtypeStruct(shape, dtype, sharding=where)
        tree.update({leaf.path: one} if quantize is None else quantized_shapes(leaf.path, one))
    return unflatten(tree)


Plan = list[tuple[Leaf, list[str]]]


def _plan(config: BackboneConfig, files: TensorFiles, folder: Path, untied: bool) -> tuple[Plan, tuple[str, ...]]:
    """Which tensors make which leaf, and the paths of the leaves that are not there."""
    found = {leaf: _tensors(leaf, config, files) for leaf in leaves_in(config, files.places)}
    # of an untied decoder that is no language model, the head is asked for where a head needs it
    found = {leaf: tensors for leaf, tensors in found.items() if leaf.path != HEAD or None not in tensors}
    for leaf in [leaf for leaf in found if leaf.tied_to is not None]:
        _settle_tie(leaf, found, files, folder, untied)

    absent = [leaf for leaf, tensors in found.items() if None in tensors]
    lacking = [leaf for leaf in absent if leaf.optional is None]
    if lacking:
        names = [
            leaf.names[0].replace("{layer}", str(layer))
            for leaf in lacking
            for layer, tensor in enumerate(found[leaf])
            if tensor is None
        ]
        raise UserError(
            f"the safetensors files in {folder} lack {listed(dict.fromkeys(names))}, which its config.json calls for; "
            "copy or download the folder again."
        )
    parts = {leaf.top for leaf in absent}  # half a head would be no head
    there = {leaf: [tensor for tensor in tensors if tensor is not None] for leaf, tensors in found.items()}
    plan = [(leaf, tensors) for leaf, tensors in there.items() if leaf.top not in parts]
    return plan, tuple(leaf.path for leaf in absent)


def _settle_tie(leaf: Leaf, found: dict[Leaf, list], files: TensorFiles, folder: Path, untied: bool) -> None:
    """Removes a leaf that repeats another one, as a masked-LM decoder does the word table: only the values tell."""
    other = next(tensors for other, tensors in found.items() if other.path == leaf.tied_to)
    if untied and other == found[leaf]:
        raise UserError(f"{folder} lacks the tensor of {leaf.tied_to} beside {leaf.path}; copy or download it again.")
    tied = not untied if None in found[leaf] else _equal(files, other, found[leaf])
    if tied:
        del found[leaf]


def _tensors(leaf: Leaf, config: BackboneConfig, files: TensorFiles) -> list[str | None]:
    return [next((name for name in names if name in files.places), None) for names in leaf.tensor_names(config.layers)]


def _equal(files: TensorFiles, first: list[str], second: list[str]) -> bool:
    digests = files.fingerprints([*first, *second])
    return [digests[name] for name in first] == [digests[name] for name in second]


def _check_shapes(plan: Plan, files: TensorFiles, folder: Path) -> None:
    for leaf, tensors in plan:
        expected = leaf.stored_shape
        for name in tensors:
            if files.places[name].shape != expected:
                raise UserError(
                    f"{files.places[name].file} holds {name} with shape {files.places[name].shape}, but config.json "
                    f"calls for {expected}; put the config.json that belongs to these weights into {folder}."
                )


def _spans_processes(sharding: Placement | None, config: BackboneConfig) -> bool:
    """Whether the tree is one of several processes; a function is asked for one leaf, since all share a mesh."""
    if sharding is None or jax.process_count() == 1:
        return False
    first = next(iter(config.leaves()))
    where = sharding(first.path, first.full_shape(config.layers)) if callable(sharding) else sharding
    return not where.is_fully_addressable


def _unused(plan: Plan, config: BackboneConfig, files: TensorFiles, fingerprint: dict[str, str]) -> tuple[str, ...]:
    """What is left over, less old constants and second copies of tied tensors."""
    second_names = {name for leaf, _ in plan for name in leaf.names}
    left = [name for name in files.places if name not in fingerprint and not name.endswith(config.constants)]
    seconds = files.fingerprints(name for name in left if name in second_names)
    tied = {name for name, digest in seconds.items() if digest in set(fingerprint.values())}
    return tuple(name for name in left if name not in tied)
