"""Everything before the first step: backbone, data, model, mesh, and the checks that need them but no compiler.

`set_up` makes arrays of a run's folder and data, or shapes in their place (`Abstract`), by the same steps and checks.
"""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import jaxprefix
from jaxprefix.data import Examples
from jaxprefix.data.report import Report
from jaxprefix.distributed.mesh import check_batch, make_mesh
from jaxprefix.distributed.processes import barrier
from jaxprefix.edits import Edits
from jaxprefix.errors import UserError
from jaxprefix.hf.folders import ModelFolder, check_vocabulary, open_folder, open_hub_config
from jaxprefix.hf.loading import backbone_shapes, read_backbone
from jaxprefix.hf.sources import CONFIG, EMBEDDED, name_inputs, read_tokenizer
from jaxprefix.models.backbone_config import BackboneConfig, Module
from jaxprefix.models.backbones import drawn_backbone, make_backbone
from jaxprefix.models.encoder import check_positions
from jaxprefix.models.fresh_init import adapt_start
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.models.model_sizes import known_config
from jaxprefix.models.tuned import TunedModel
from jaxprefix.starts import start
from jaxprefix.tasks import prepare
from jaxprefix.tasks.base import Facts, check_stack
from jaxprefix.tasks.reporting import report_rows
from jaxprefix.training.config import NewBackbone, Run
from jaxprefix.training.provenance import Splits, described_splits, refuse_other_rows, tokenizer_digest
from jaxprefix.training.sharding import frozen_shardings, tree_shardings
from jaxprefix.trees import Tree
from jaxprefix.typed_json import to_json

log = logging.getLogger("jaxprefix")
LABELS = 2  # where neither the head nor the task says how many there are


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A run's backbone as it was read.

    Attributes:
      module: the encoder or decoder, with the run's dropout rates, dtype, unroll and remat.
      tree: its leaves, in their places on the mesh (`frozen_shardings`), or their shapes.
      tokenizer: its transformers tokenizer, with the tokens that the run's task adds; None beside shapes.
      identity: `source`, `identity` (one digest), `fingerprint` (one per tensor) and the digest of the `tokenizer`; a
        new backbone has only source and tokenizer, and shapes have a source, which says where the sizes come from.
    """

    module: Module
    tree: Tree
    tokenizer: Any
    identity: dict[str, Any]

    def __repr__(self) -> str:
        return f"Backbone({self.module.config.model_type} of {self.identity['source']})"


@dataclasses.dataclass(frozen=True)
class Abstract:
    """What stands in for devices, data and labels where a run is set up as shapes.

    Attributes:
      mesh: of any devices, absent ones too.
      tokens: columns of a batch; None for the longest of the run's buckets, or the task's longest row.
      labels: how many there are; None for what the head or the task says, or two.
    """

    mesh: Mesh
    tokens: int | None = None
    labels: int | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run ready to compile.

    Attributes:
      examples: the tokenised rows by split; only those that the source gives, and none beside shapes.
      model: backbone, method and head, the head's number of labels filled in.
      trainable, frozen: the two trees as they are initialized, of arrays, or of shapes whose frozen ones have their
        places on the mesh.
      longest: tokens of the longest row, or columns of a batch of shapes.
      positions: those that the method takes from the position table.
      data: what checkpoints and adapters keep of the splits' content; nothing beside shapes.
    """

    run: Run
    mesh: Mesh
    backbone: Backbone
    examples: dict[str, Examples]
    model: TunedModel
    trainable: Tree
    frozen: Tree
    longest: int = 0
    positions: int = 0
    data: Splits = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names in the order of the logits, where the task has labels."""
        return tuple(self.facts.get("labels", ()))

    @property
    def facts(self) -> Facts:
        """What the task knows of its training rows."""
        return next(iter(self.examples.values())).facts

    @functools.cached_property
    def report(self) -> Report:
        """What there is to say of the rows of the splits."""
        return report_rows(self.run.task, self.backbone.tokenizer, self.examples)


def read_run_backbone(run: Run, mesh: Mesh) -> Backbone:
    """The backbone of a run, straight into its dtype and onto the mesh."""
    dtype = jnp.dtype(run.precision)
    if isinstance(run.backbone, NewBackbone):
        config, tokenizer, source = run.backbone.config, read_tokenizer(run.backbone.tokenizer), run.backbone.tokenizer
        draw, key = _drawing(run.backbone), jax.random.key(run.seed)
        places = tree_shardings(make_backbone(config), {"backbone": jax.eval_shape(draw, key)}, mesh)
        tree: Tree = jax.jit(draw, out_shardings=places["backbone"])(key)
        identity: dict[str, Any] = {"source": "new", "identity": "", "fingerprint": {}}
    else:
        folder = open_folder(run.backbone)
        place = frozen_shardings(make_backbone(folder.config), mesh)
        config, tree, report = read_backbone(folder, dtype=dtype, sharding=place, quantize=run.quantize)
        for line in report.lines():
            log.info(line)
        source = run.backbone if run.tokenizer is None else run.tokenizer
        tokenizer = read_tokenizer(source)
        identity = {"source": run.backbone, "identity": report.identity, "fingerprint": report.fingerprint}
        if report.tied_identity is not None:
            identity["tied_identity"] = report.tied_identity
    name_inputs(tokenizer, config.has_token_types)
    check_vocabulary(tokenizer, config, source)
    tokenizer = run.task.extend_tokenizer(tokenizer, config.vocab)
    identity["tokenizer"] = tokenizer_digest(tokenizer)
    return Backbone(_run_module(run, config), tree, tokenizer, identity)


def backbone_config(run: Run) -> tuple[BackboneConfig, str, ModelFolder | None]:
    """The sizes of a run's backbone, where they come from in words, and its folder where it is on this machine.

    Of a hub's model that is not known here `config.json` alone is fetched.

    Raises:
      UserError: they are not available.
    """
    if isinstance(run.backbone, NewBackbone):
        return run.backbone.config, "the config", None
    if run.backbone in EMBEDDED or Path(run.backbone).expanduser().is_dir():
        folder = open_folder(run.backbone)
        return folder.config, CONFIG, folder
    known = known_config(run.backbone)
    if known is not None:
        return known, "the sizes known for that name", None
    return open_hub_config(run.backbone).config, f"{CONFIG} of the hub", None


def read_backbone_shapes(run: Run, mesh: Mesh) -> Backbone:
    """The backbone of a run as shapes, without weights or a tokenizer.

    Raises:
      UserError: its sizes are not available.
    """
    config, source, folder = backbone_config(run)
    if isinstance(run.backbone, NewBackbone):
        tree = jax.eval_shape(_drawing(run.backbone), jax.random.key(run.seed))
    else:
        place = frozen_shardings(make_backbone(config), mesh)
        more = {"dtype": jnp.dtype(run.precision), "sharding": place, "quantize": run.quantize}
        tree = backbone_shapes(config, folder, **more)
    if mesh.devices.flat[0] not in jax.devices():  # what depends on the backend is what it would be there
        remat = run.remat or config.accelerated_remat
        run = dataclasses.replace(run, unroll=run.unroll or False, remat=remat)
    return Backbone(_run_module(run, config), tree, None, {"source": source, "identity": "", "fingerprint": {}})


def _drawing(new: NewBackbone) -> Any:
    """The function from a key to the tree of a new backbone."""
    return lambda key: adapt_start(drawn_backbone(new.config, key), new.config, new.start)


def _run_module(run: Run, config: BackboneConfig) -> Module:
    config = config.with_dropout(run.hidden_dropout, run.attention_dropout)
    return make_backbone(config, jnp.dtype(run.precision), run.unroll, run.remat)


def set_up(
    run: Run,
    splits: Sequence[str] | None = None,
    facts: Facts | None = None,
    *,
    stored: Mapping[str, Any] | None = None,
    abstract: Abstract | None = None,
) -> Setup:
    """Reads the backbone and the data of a run and initializes its trees; or its shapes, without a byte of either.

    Args:
      run: the run.
      splits: which splits to prepare; None for all that the source gives.
      facts: what the task knows of its training rows, where something trained fixes it.
      stored: what a checkpoint of the run keeps (`info`); its facts are taken, and other rows are refused.
      abstract: what stands in for devices and data; None reads them.

    Raises:
      UserError: whatever does not fit, before anything is compiled.
    """
    mesh = make_mesh(run.mesh) if abstract is None else abstract.mesh
    check_batch("batch_size", run.batch_size, mesh, run.accumulate)
    check_batch("eval_batch_size", run.eval_batch_size or run.batch_size, mesh)
    data: Splits = {}
    if abstract is None:
        data = described_splits(run.task, run.task.source.splits if splits is None else splits)
        if stored is not None:
            refuse_other_rows(run.folder, stored.get("data"), data)
            facts = stored["facts"]
    backbone = read_run_backbone(run, mesh) if abstract is None else read_backbone_shapes(run, mesh)
    dims = backbone.module.dims
    run.method.build(dims)  # what cannot be is refused before the data is read
    check_stack(run.task, dims.causal, run.backbone if isinstance(run.backbone, str) else "this backbone")
    examples: dict[str, Examples] = {}
    names: Sequence[str] = ()
    if abstract is None:
        examples = {
            split: prepare(run.task, backbone.tokenizer, split, facts)
            for split in (run.task.source.splits if splits is None else splits)
        }
        first = next(iter(examples.values()))
        names, count = first.labels, run.task.count(first.facts)
        longest = max(int(rows.lengths.max(initial=0)) for rows in examples.values())
    else:
        count = labels_of(run, abstract.labels)
        longest = abstract.tokens or (max(run.buckets) if run.buckets else run.task.max_length)
    model = TunedModel(backbone.module, run.method, run.resolve_head(count))
    if abstract is None:
        # from here on all processes compute together
        known = json.dumps(first.facts, sort_keys=True)
        word = hashlib.sha256(f"{jaxprefix.__version__} {to_json(run)} {known}".encode()).hexdigest()
        barrier(f"the set-up of {run.folder}", word)
        trainable, frozen = init_trees(run, model, backbone, names)
        if frozen["initialized"]:
            drawn = " and ".join(sorted(frozen["initialized"]))
            log.info("%s has no %s: drawn at random, and kept with the adapter.", backbone.identity["source"], drawn)
        places = tree_shardings(backbone.module, {"initialized": frozen["initialized"]}, mesh)
        frozen = {**frozen, "initialized": jax.device_put(frozen["initialized"], places["initialized"])}
    else:
        trainable, frozen = jax.eval_shape(model.init, jax.random.key(run.seed), backbone.tree)
        frozen = jax.tree.map(placed_shape, frozen, tree_shardings(backbone.module, frozen, mesh))
    edits = jax.eval_shape(model.edits, trainable)
    check_positions(longest, edits.positions, dims)
    _check_run(run, backbone, model, edits)
    return Setup(run, mesh, backbone, examples, model, trainable, frozen, longest, edits.positions, data)


def placed_shape(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    """The shape of a leaf with a place."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def labels_of(run: Run, labels: int | None) -> int:
    """How many labels a run has, as far as it says so itself."""
    known = None if run.head is None else run.head.count
    return labels or run.task.count(None) or known or LABELS


def _check_run(run: Run, backbone: Backbone, model: TunedModel, edits: Edits) -> None:
    """Refuses what method, task and optimizer do not have for each other."""
    needed, there = len(run.task.added_tokens), 0 if edits.words is None else edits.words.shape[0]
    if needed and needed != there:
        raise UserError(
            f"{type(run.task).__name__} adds {needed} tokens and the method has new rows for {there}; put "
            f"NewTokens({needed}) into the method, as in {type(run.method).__name__}(...) + NewTokens({needed})."
        )
    if run.task.packed and not model.backbone.dims.causal:
        raise UserError(
            f"{type(run.task).__name__} packs several texts into a row, which an encoder would read as one; set "
            "packed=False, or take a decoder."
        )
    if edits.prompt is not None and run.task.packed:
        raise UserError(
            f"{type(run.method).__name__} puts a prompt before each row, and a packed row holds several examples; set "
            "packed=False."
        )
    if run.optimizer.gate_learning_rate is not None and not any(
        leaf.group == "gate" for leaf in leaf_table(model).values()
    ):
        raise UserError(
            f"optimizer.gate_learning_rate is set, but {type(run.method).__name__} has no gate; remove it, or take "
            "AdaptivePrefix."
        )
    assert model.head is not None  # a run's model has one
    needed = model.head.pretrained
    if needed is not None and needed not in backbone.tree and not run.method.trains(f"{needed}/bias"):
        raise UserError(
            f"{run.backbone} has no leaves of {type(model.head).__name__} and {type(run.method).__name__} would leave "
            "random ones frozen; use FullFineTuning, or a backbone with that head."
        )


def init_trees(run: Run, model: TunedModel, backbone: Backbone, labels: Sequence[str]) -> tuple[Tree, Tree]:
    """The two trees of a run at step 0, drawn from its seed and put at its start."""
    trainable, frozen = model.init(jax.random.key(run.seed), backbone.tree)
    if run.start is not None:
        trainable = start(model, trainable, frozen, backbone.tokenizer, run.start, labels)
    return trainable, frozen
