"""The heads of language models: logits over the vocabulary, computed with leaves of the backbone."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from typing_extensions import override

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.models.encoder_config import ACTIVATIONS
from jaxprefix.models.heads.base import (
    IGNORED,
    Canonical,
    Head,
    Unit,
    cross_entropy,
    example_weights,
    label_outputs,
    label_targets,
    normal,
)
from jaxprefix.models.linear import LayerNorm
from jaxprefix.trees import Tree
from jaxprefix.typed_json import register


class LanguageHead(Head):
    """Logits over the vocabulary for every token."""

    unit: ClassVar[Unit] = "vocabulary"
    targets: ClassVar[tuple[str, ...] | None] = ("labels",)

    @override
    def loss(
        self, logits: Float[Array, "B T V"], batch: Mapping[str, Any], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the tokens that have a label; a token's weight is its row's."""
        labels = label_targets(batch, logits.shape[:-1])
        weight = example_weights(batch, len(logits))[:, None] * (labels != IGNORED)
        return cross_entropy(logits, labels, weight, None, smoothing)

    @override
    def outputs(self, logits: Float[Array, "B T V"], batch: Mapping[str, Any]) -> dict[str, Array]:
        """`predictions` int32 and, with labels, `losses` `[B, T]`."""
        return label_outputs(logits, batch)


@register
@dataclasses.dataclass(frozen=True)
class MaskedLM(LanguageHead):
    """The masked-language-model head: `norm(act(dense(h)))` times the word table (or an untied decoder), plus a bias.

    It owns no leaves: all of them are backbone leaves under `mlm`, drawn where the folder has none, and move to
    `trainable` with full fine-tuning.
    """

    task: ClassVar[str] = "masked_language"
    pretrained: ClassVar[str | None] = "mlm"

    @override
    def init_missing(self, key: Array, dims: Dims, backbone: Tree) -> Tree:
        if "mlm" in backbone:
            return {}
        dense = {"kernel": normal(key, (dims.width, dims.width), dims), "bias": jnp.zeros(dims.width)}
        norm = {"scale": jnp.ones(dims.width), "bias": jnp.zeros(dims.width)}
        return {"mlm": {"dense": dense, "norm": norm, "bias": jnp.zeros(dims.vocab)}}

    @override
    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits over the vocabulary in the dtype of `hidden`."""
        mlm, dtype = backbone["mlm"], hidden.dtype
        h = hidden @ mlm["dense"]["kernel"].astype(dtype) + mlm["dense"]["bias"].astype(dtype)
        h = LayerNorm(dims.norm_eps).apply({"params": mlm["norm"]}, ACTIVATIONS[dims.head_activation](h))
        decoder: Any = mlm["decoder"]["kernel"] if "decoder" in mlm else backbone["embeddings"]["word"]["embedding"].T
        return h @ decoder.astype(dtype) + mlm["bias"].astype(dtype)

    @override
    def products(self, config: BackboneConfig, kernels: Mapping[str, tuple[int, ...]], rows: int, tokens: int) -> dict:
        path = "embeddings/word/embedding" if config.tied else "mlm/decoder/kernel"
        return {"mlm/dense/kernel": 2 * tokens * config.width**2, path: 2 * tokens * config.width * config.vocab}


def _is_tied(backbone: Tree, dims: Dims) -> bool:
    """Whether the word table is the head; refuses, as UserError, a backbone whose own head is not there."""
    if "lm_head" not in backbone and not dims.tied:
        raise UserError(
            "this backbone has no head of a language model (a classifier's folder has none), and its config.json has "
            "tie_word_embeddings = false; name the folder of the language model."
        )
    return "lm_head" not in backbone


@register
@dataclasses.dataclass(frozen=True)
class CausalLM(LanguageHead):
    """The language-model head of a decoder: the word table, or an untied kernel, and the soft cap that some have.

    It owns no leaves: all of them are the backbone's, and new words' rows (`Edits.words`) are the method's.
    """

    task: ClassVar[str] = "causal_language"
    task_type: ClassVar[str | None] = "CAUSAL_LM"
    writes: ClassVar[bool] = True

    @override
    def init_missing(self, key: Array, dims: Dims, backbone: Tree) -> Tree:
        _is_tied(backbone, dims)
        return {}

    @override
    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "B T V2"]:
        """Logits over the vocabulary in the dtype of `hidden`, new words behind the others."""
        tied = _is_tied(backbone, dims)
        kernel: Any = backbone["embeddings"]["word"]["embedding"].T if tied else backbone["lm_head"]["kernel"]
        logits = hidden @ kernel.astype(hidden.dtype)
        if "words" in backbone:
            logits = jnp.concatenate([logits, hidden @ backbone["words"].T.astype(hidden.dtype)], axis=-1)
        if dims.logit_softcap is not None:
            logits = dims.logit_softcap * jnp.tanh(logits / dims.logit_softcap)
        return logits

    @override
    def products(self, config: BackboneConfig, kernels: Mapping[str, tuple[int, ...]], rows: int, tokens: int) -> dict:
        path = "embeddings/word/embedding" if config.tied else "lm_head/kernel"
        return {path: 2 * tokens * config.width * config.vocab}

    @override
    def canonical(self, trainable: Tree, initialized: Tree) -> Canonical | None:
        """One of no leaves: the backbone's are read."""
        return Canonical(None, np.zeros((1, 0), np.float32), np.zeros(0, np.float32), 0.0, None)
