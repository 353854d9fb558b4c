"""Everything before the first step: backbone, data, model, mesh, and the checks that need them but no compiler."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import jaxprefix
from jaxprefix.data import Examples, given_splits
from jaxprefix.distributed.mesh import check_batch, make_mesh
from jaxprefix.distributed.processes import barrier
from jaxprefix.edits import Edits
from jaxprefix.errors import UserError
from jaxprefix.hf.loading import read_backbone
from jaxprefix.hf.sources import find_folder, read_config, read_tokenizer
from jaxprefix.models.backbones import BackboneConfig, Module, drawn_backbone, make_backbone, read_hf_config
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder import check_positions
from jaxprefix.models.fresh_init import adapt_start
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.models.tuned import TunedModel
from jaxprefix.starts import start
from jaxprefix.tasks import CausalLanguage, ConditionalGeneration, MaskedLanguage, prepare
from jaxprefix.tasks.formats.tokens import added_tokens, with_added_tokens
from jaxprefix.training.config import NewBackbone, Run
from jaxprefix.training.sharding import frozen_shardings, tree_shardings
from jaxprefix.trees import Tree
from jaxprefix.typed_json import to_json

log = logging.getLogger("jaxprefix")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A run's backbone as it was read.

    Attributes:
      module: the encoder or decoder, with the run's dropout rates, dtype, unroll and remat.
      tree: its leaves, in their places on the mesh (`frozen_shardings`).
      tokenizer: its transformers tokenizer, with the tokens that the run's task adds.
      identity: `source`, `identity` (one digest) and `fingerprint` (one per tensor); a new encoder has only a source.
    """

    module: Module
    tree: Tree
    tokenizer: Any
    identity: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run ready to compile.

    Attributes:
      examples: the tokenised rows by split; only those that the source gives.
      model: backbone, method and head, the head's number of labels filled in.
      trainable, frozen: the two trees as they are born.
    """

    run: Run
    mesh: Mesh
    backbone: Backbone
    examples: dict[str, Examples]
    model: TunedModel
    trainable: Tree
    frozen: Tree

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names in the order of the logits."""
        return next(iter(self.examples.values())).names


def read_run_backbone(run: Run, mesh: Mesh) -> Backbone:
    """The backbone of a run, straight into its dtype and onto the mesh."""
    dtype = jnp.dtype(run.precision)
    if isinstance(run.backbone, NewBackbone):
        config, tokenizer = run.backbone.config, read_tokenizer(run.backbone.tokenizer)
        if len(tokenizer) > config.vocab:
            raise UserError(
                f"backbone.config.vocab is {config.vocab}, but the tokenizer has {len(tokenizer)} entries; raise it."
            )
        start = run.backbone.start
        draw, key = lambda key: adapt_start(drawn_backbone(config, key), config, start), jax.random.key(run.seed)
        shapes = {"backbone": jax.eval_shape(draw, key)}
        places = tree_shardings(make_backbone(config), shapes, mesh)
        tree: Tree = jax.jit(draw, out_shardings=places["backbone"])(key)
        identity: dict[str, Any] = {"source": "new", "identity": "", "fingerprint": {}}
    else:
        module = make_backbone(read_hf_config(read_config(find_folder(run.backbone))))
        config, tree, report = read_backbone(
            run.backbone, dtype=dtype, sharding=frozen_shardings(module, mesh), quantize=run.quantize
        )
        for line in report.lines():
            log.info(line)
        tokenizer = read_tokenizer(run.backbone)
        if len(tokenizer) > config.vocab:
            raise UserError(
                f"the tokenizer of {run.backbone} has {len(tokenizer)} entries, but the word table only "
                f"{config.vocab}; put the tokenizer there that the model was trained with."
            )
        identity = {"source": run.backbone, "identity": report.identity, "fingerprint": report.fingerprint}
    tokenizer = with_added_tokens(run.task, tokenizer, config.vocab)
    module = make_backbone(with_dropout(config, run), dtype, run.unroll, run.remat)
    return Backbone(module, tree, tokenizer, identity)


def with_dropout(config: BackboneConfig, run: Run) -> BackboneConfig:
    """The backbone's config with the dropout rates of a run, where it has any of its own."""
    rates = {"hidden_dropout": run.hidden_dropout, "attention_dropout": run.attention_dropout}
    if isinstance(config, DecoderConfig):
        rates["embedding_dropout"] = run.hidden_dropout
    return dataclasses.replace(config, **{name: rate for name, rate in rates.items() if rate is not None})


def set_up(run: Run, splits: Sequence[str] | None = None, labels: Sequence[str] | None = None) -> Setup:
    """Reads the backbone and the data of a run and gives birth to its trees.

    Args:
      run: the run.
      splits: which splits to prepare; None for all that the source gives.
      labels: the labels' names where something trained fixes them.

    Raises:
      UserError: whatever does not fit, before anything is compiled.
    """
    mesh = make_mesh(run.mesh)
    check_batch("batch_size", run.batch_size, mesh, run.accumulate)
    check_batch("eval_batch_size", run.eval_batch_size or run.batch_size, mesh)
    backbone = read_run_backbone(run, mesh)
    dims = backbone.module.dims
    run.method.build(dims)  # what cannot be is refused before the data is read
    _refuse_other_side(run, backbone.module)
    examples = {
        split: prepare(run.task, backbone.tokenizer, split, labels)
        for split in (given_splits(run.task.source) if splits is None else splits)
    }
    names = next(iter(examples.values())).names
    model = TunedModel(backbone.module, run.method, run.resolve_head(len(names)))
    longest = max(int(rows.lengths.max(initial=0)) for rows in examples.values())
    # from here on all processes compute together
    word = hashlib.sha256(f"{jaxprefix.__version__} {to_json(run)}".encode()).hexdigest()
    barrier(f"the set-up of {run.folder}", word)
    trainable, frozen = init_trees(run, model, backbone, names)
    frozen = {**frozen, "initialized": jax.device_put(frozen["initialized"], tree_shardings(backbone.module, frozen, mesh)["initialized"])}
    edits = model.edits(trainable)
    check_positions(longest, edits.positions, dims)
    _check_new_words(run, edits)
    if edits.prompt is not None and getattr(run.task, "packed", False):
        raise UserError(
            f"{type(run.method).__name__} puts a prompt before each row, and a packed row holds several examples; set "
            "packed=False."
        )
    if run.optimizer.gate_learning_rate is not None and not any(
        leaf.group == "gate" for leaf in leaf_table(model).values()
    ):
        raise UserError(
            f"optimizer.gate_learning_rate is set, but {type(run.method).__name__} has no gate; leave it away, or take "
            "AdaptivePrefix."
        )
    if isinstance(run.task, MaskedLanguage) and "mlm" not in backbone.tree and not run.method.trains("mlm/bias"):
        raise UserError(
            f"{run.backbone} has no masked-LM head and {type(run.method).__name__} would leave a random one frozen; "
            "use FullFineTuning, or a backbone with that head."
        )
    return Setup(run, mesh, backbone, examples, model, trainable, frozen)


def _check_new_words(run: Run, edits: Edits) -> None:
    """Refuses a method without a new row for each token that the task's format adds."""
    needed, there = len(added_tokens(run.task)), 0 if edits.words is None else edits.words.shape[0]
    if needed and needed != there:
        raise UserError(
            f"{type(run.task.format).__name__} adds {needed} tokens and the method has new rows for {there}; put "
            f"NewTokens({needed}) into the method, as in {type(run.method).__name__}(...) + NewTokens({needed})."
        )


def init_trees(run: Run, model: TunedModel, backbone: Backbone, labels: Sequence[str]) -> tuple[Tree, Tree]:
    """The two trees of a run at step 0, drawn from its seed and put at its start."""
    trainable, frozen = model.init(jax.random.key(run.seed), backbone.tree)
    if run.start is not None:
        trainable = start(model, trainable, frozen, backbone.tokenizer, run.start, labels)
    return trainable, frozen


def _refuse_other_side(run: Run, module: Module) -> None:
    """Refuses a task for decoders on an encoder, and the other way round."""
    causal, name = isinstance(run.task, CausalLanguage | ConditionalGeneration), type(run.task).__name__
    if causal and not isinstance(module, Decoder):
        raise UserError(f"{name} needs a decoder and {run.backbone} is an encoder; take one such as 'tiny-decoder'.")
    if isinstance(run.task, MaskedLanguage) and isinstance(module, Decoder):
        raise UserError(f"{name} needs an encoder and {run.backbone} is a decoder; take CausalLanguage.")
