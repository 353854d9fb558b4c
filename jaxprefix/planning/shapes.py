"""A run as shapes: model, trees, state and batches without a byte of weights, data or tokenizer."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxprefix.distributed.mesh import by_rows, check_batch, replicated
from jaxprefix.errors import UserError
from jaxprefix.hf.sources import CONFIG, EMBEDDED, find_folder, read_config
from jaxprefix.models.backbones import BackboneConfig, drawn_backbone, make_backbone, read_hf_config
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.decoder_leaves import decoder_leaves
from jaxprefix.models.encoder import check_positions
from jaxprefix.models.encoder_leaves import DECODER, encoder_leaves
from jaxprefix.models.model_sizes import known_config
from jaxprefix.models.quantizing import quantized_shapes
from jaxprefix.models.stack import chosen_remat
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import CausalLanguage, Classification, ConditionalGeneration, MaskedLanguage
from jaxprefix.tasks.formats.tokens import added_tokens
from jaxprefix.training.config import NewBackbone, Run
from jaxprefix.training.setup import with_dropout
from jaxprefix.training.sharding import state_shardings, tree_shardings
from jaxprefix.training.step import TrainState, first_state
from jaxprefix.trees import Tree, unflatten

LABELS = 2  # where neither the head nor the task says how many there are


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
      UserError: the backbone's sizes are not to be had, or something does not fit the mesh or the backbone.
    """
    run.check()
    eval_rows = run.eval_batch_size or run.batch_size
    check_batch("batch_size", run.batch_size, mesh, run.accumulate)
    check_batch("eval_batch_size", eval_rows, mesh)
    config, source = backbone_config(run)
    absent = mesh.devices.flat[0] not in jax.devices()
    unroll, remat, accelerated = run.unroll, run.remat, make_backbone(config).accelerated_remat
    if absent:  # what depends on the backend is what it would be there
        unroll, remat = unroll or False, remat or accelerated
    remat = chosen_remat(remat, accelerated)
    run = dataclasses.replace(run, unroll=unroll, remat=remat)
    module = make_backbone(with_dropout(config, run), jnp.dtype(run.precision), unroll, remat)
    _refuse_other_side(run, module)
    model = TunedModel(module, run.method, run.resolve_head(labels_of(run, labels)))
    trainable, frozen = jax.eval_shape(model.init, jax.random.key(0), frozen_shapes(run, config))
    tokens = tokens or (max(run.buckets) if run.buckets else run.task.max_length)
    edits = jax.eval_shape(model.edits, trainable)
    check_positions(tokens, edits.positions, module.dims)
    new_tokens = len(added_tokens(run.task))
    if new_tokens and (edits.words is None or edits.words.shape[0] != new_tokens):
        raise UserError(f"the task's format adds {new_tokens} tokens; put NewTokens({new_tokens}) into the method.")
    frozen = jax.tree.map(_placed, frozen, tree_shardings(module, frozen, mesh))
    optimizer = run.optimizer
    state = jax.eval_shape(functools.partial(first_state, optimizer), trainable, jax.random.key(0))
    state = jax.tree.map(_placed, state, state_shardings(model, state, mesh))
    rates = jax.tree.map(lambda leaf: _placed(leaf, replicated(mesh)), jax.eval_shape(optimizer.rates))
    batch, eval_batch = (_batch(run, model, rows, tokens, mesh) for rows in (run.batch_size, eval_rows))
    return Shapes(run, mesh, source, model, state, frozen, rates, batch, eval_batch, tokens, edits.positions)


def backbone_config(run: Run) -> tuple[BackboneConfig, str]:
    """The sizes of a run's backbone and where they come from; of a hub's model that is not known here `config.json`
    alone is fetched.

    Raises:
      UserError: they are not to be had.
    """
    if isinstance(run.backbone, NewBackbone):
        return run.backbone.config, "the config"
    name = run.backbone
    if name in EMBEDDED or Path(name).expanduser().is_dir():
        return read_hf_config(read_config(find_folder(name))), CONFIG
    known = known_config(name)
    if known is not None:
        return known, "the sizes known for that name"
    return read_hf_config(read_config(_only_config(name))), f"{CONFIG} of the hub"


def _only_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, CONFIG)).parent
    except Exception as error:  # the HTTP client's errors are not the hub library's
        raise UserError(
            f"the sizes of {name!r} are neither known here nor to be had from the hub ({type(error).__name__}); give "
            f"a folder with its {CONFIG}."
        ) from error


def frozen_shapes(run: Run, config: BackboneConfig) -> Tree:
    """The frozen tree before `TunedModel.init`, every leaf that a whole folder of this model has."""
    if isinstance(run.backbone, NewBackbone):
        return jax.eval_shape(lambda key: drawn_backbone(config, key), jax.random.key(0))
    decoder = isinstance(config, DecoderConfig)
    leaves = decoder_leaves(config, "") if decoder else encoder_leaves(config, "")
    dtype, layers = jnp.dtype(run.precision), config.layers
    flat = {
        leaf.path: jax.ShapeDtypeStruct((layers, *leaf.shape) if leaf.stacked else leaf.shape, dtype)
        for leaf in leaves
        if leaf.path != DECODER  # tied in every encoder that is known
    }
    if run.quantize is not None:
        flat = {new: leaf for path, old in flat.items() for new, leaf in quantized_shapes(path, old).items()}
    return unflatten(flat)


def labels_of(run: Run, labels: int | None) -> int:
    """How many labels a run has, as far as it says so itself."""
    if labels is not None:
        return labels
    named = getattr(run.task, "labels", None)
    known = getattr(run.head, "num_labels", None)
    return len(named) if named else known or LABELS


def _refuse_other_side(run: Run, module: Any) -> None:
    causal, decoder = isinstance(run.task, CausalLanguage | ConditionalGeneration), isinstance(module, Decoder)
    if causal != decoder and (causal or isinstance(run.task, MaskedLanguage)):
        kinds = ("a decoder", "an encoder") if causal else ("an encoder", "a decoder")
        raise UserError(f"{type(run.task).__name__} needs {kinds[0]} and {run.backbone} is {kinds[1]}; take another.")


def _batch(run: Run, model: TunedModel, rows: int, tokens: int, mesh: Mesh) -> dict[str, Any]:
    by_token = {"input_ids": jnp.int32, "attention_mask": jnp.bool_, "token_type_ids": jnp.int32}
    if getattr(run.task, "packed", False):
        by_token["segment_ids"] = jnp.int32
    per_row = isinstance(run.task, Classification)
    if not per_row:
        by_token["labels"] = jnp.int32
    place = by_rows(mesh)
    batch = {name: jax.ShapeDtypeStruct((rows, tokens), dtype, sharding=place) for name, dtype in by_token.items()}
    batch["weight"] = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=place)
    if per_row:
        batch["labels"] = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=place)
    return batch


def _placed(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
