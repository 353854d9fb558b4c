"""Heads: from the encoder's hidden states to logits, and from logits to a loss.

A head is a plain frozen dataclass. What it trains lies under `trainable["head"]`; what it reads of the backbone (a
pooler, the masked-LM transform) stays in the backbone's tree.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int
from typing_extensions import override

from jaxprefix.attention import dropout
from jaxprefix.edits import Dims, declare
from jaxprefix.errors import UserError
from jaxprefix.models.encoder_config import ACTIVATIONS
from jaxprefix.models.linear import LayerNorm
from jaxprefix.trees import Tree

Pooling = Literal["mean", "first", "last", "pooler", "trained_pooler"]
IGNORED = -100  # the label of a position that has none


def _normal(key: Array, shape: tuple[int, ...], dims: Dims) -> Array:
    return dims.initializer_range * jax.random.normal(key, shape, jnp.float32)


def affine(params: Tree, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    """`x kernel + bias`, float32; without a bias where there is none."""
    y = x.astype(jnp.float32) @ params["kernel"].astype(jnp.float32)
    return y + params["bias"].astype(jnp.float32) if "bias" in params else y


def pool(
    pooling: Pooling, backbone: Tree, hidden: Float[Array, "B T D"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """One vector for each row, by the name of a pooling (`SequenceClassifier`)."""
    if pooling == "mean":
        weight = mask[..., None].astype(jnp.float32)
        return (hidden * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    if pooling == "last":
        last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    first = hidden[:, 0]
    return first if pooling == "first" else jnp.tanh(affine(backbone["pooler"], first))


def cross_entropy(
    logits: Float[Array, "*B C"],
    labels: Int[Array, "*B"],
    weight: Float[Array, "*B"],
    class_weights: tuple[float, ...] | None = None,
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The weighted sum of cross entropies in nats, and the sum of weights: a mean over any number of parts is exact.

    Class weights multiply each example's weight by that of its label, as torch's `CrossEntropyLoss` does. With
    smoothing `s` the target is `(1 - s)` on the label and `s / C` on every class (Szegedy et al. 2016, section 7).
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    safe = jnp.maximum(labels, 0)
    loss = -jnp.take_along_axis(log_p, safe[..., None], axis=-1)[..., 0]
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * log_p.mean(-1)
    if class_weights is not None:
        weight = weight * jnp.asarray(class_weights, weight.dtype)[safe]
    return (loss * weight).sum(), weight.sum()


class Head:
    """A frozen dataclass of settings; its leaves are passed to it."""

    task: ClassVar[str]  # the kind of task that it serves
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # of the subclasses

    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "*B C"]:
        """Logits of C labels or words, for each row or each token.

        Args:
          params: the head's leaves.
          backbone: the backbone's leaves.
          hidden: the last hidden states.
          mask: True for real tokens.
          dims: of the backbone.
          key: a typed key for dropout, which applies where there is one.
        """
        raise NotImplementedError

    def loss(
        self, logits: Float[Array, "*B C"], batch: dict[str, Array], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over what the batch's `labels` and `weight` count.

        Args:
          logits: what a call returned.
          batch: with `labels` and `weight`.
          smoothing: see `cross_entropy`.
        """
        raise NotImplementedError

    def init(self, key: Array, dims: Dims) -> Tree:
        """The leaves under `trainable["head"]`, float32."""
        return {}

    def init_missing(self, key: Array, dims: Dims, backbone: Tree) -> Tree:
        """Leaves that the head needs in the backbone's tree and the folder lacks."""
        return {}

    def trains(self, path: str) -> bool:
        """Whether the backbone's leaf at `path` moves to `trainable` for this head."""
        return False


@dataclasses.dataclass(frozen=True)
class _Classifier(Head):
    """Dropout and a linear map from D to C.

    Attributes:
      num_labels: C; a run fills it in from its task.
      dropout: rate before the linear map; None takes the backbone's hidden dropout (as P-Tuning v2 does).
      class_weights: one weight for each label in the loss, or None for equal ones.
      bias: whether the map has one; transformers' sequence classifiers on decoders have none.
    """

    num_labels: int | None = None
    dropout: float | None = None
    class_weights: tuple[float, ...] | None = None
    bias: bool = True

    def init(self, key: Array, dims: Dims) -> Tree:
        """Kernel N(0, initializer_range), bias 0."""
        if self.num_labels is None or self.num_labels < 1:
            raise UserError(f"{type(self).__name__} has num_labels = {self.num_labels}; say how many labels there are.")
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            raise UserError(
                f"class_weights has {len(self.class_weights)} entries for {self.num_labels} labels; give one for each."
            )
        kernel = _normal(key, (dims.width, self.num_labels), dims)
        made = {"kernel": declare("classifier/kernel", kernel, group="head", matrix=(0, 1))}
        if self.bias:
            made["bias"] = declare("classifier/bias", jnp.zeros(self.num_labels), group="head", decay=False)
        return {"classifier": made}

    def _classify(self, params: Tree, h: Float[Array, "*B D"], dims: Dims, key: Array | None) -> Float[Array, "*B C"]:
        rate = dims.hidden_dropout if self.dropout is None else self.dropout
        return affine(params["classifier"], h if key is None else dropout(h, rate, key))


@dataclasses.dataclass(frozen=True)
class SequenceClassifier(_Classifier):
    """One label for a row, by a linear map of one vector.

    Attributes:
      pooling: where the vector comes from. "mean" (the default: needs nothing that a checkpoint may lack, and serves
        every backbone): the masked mean of the last layer. "first": its first token. "last": its last real token, the
        convention for decoders, where it alone has seen the whole row. "pooler": the convention of P-Tuning v2 and of
        Hugging Face PEFT, `tanh(dense(first token))` with the backbone's own pooler, frozen; where the folder has none
        it is drawn from N(0, initializer_range) and stays frozen, as those codes do (RoBERTa). "trained_pooler": the
        same form, trained, starting from the folder's pooler.
    """

    pooling: Pooling = "mean"
    task: ClassVar[str] = "classification"

    @override
    def init_missing(self, key: Array, dims: Dims, backbone: Tree) -> Tree:
        if self.pooling in ("mean", "first", "last") or "pooler" in backbone:
            return {}
        return {"pooler": {"kernel": _normal(key, (dims.width, dims.width), dims), "bias": jnp.zeros(dims.width)}}

    def trains(self, path: str) -> bool:
        """The trained pooler is a backbone leaf that moves to `trainable`."""
        return self.pooling == "trained_pooler" and path.startswith("pooler/")

    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "B C"]:
        """Logits, float32; dropout applies where a key is given."""
        return self._classify(params, pool(self.pooling, backbone, hidden, mask), dims, key)

    def loss(
        self, logits: Float[Array, "B C"], batch: dict[str, Array], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the rows."""
        return cross_entropy(logits, batch["labels"], batch["weight"], self.class_weights, smoothing)


@dataclasses.dataclass(frozen=True)
class TokenClassifier(_Classifier):
    """One label for each token: dropout and a linear map of the last layer (P-Tuning v2, named entities)."""

    task: ClassVar[str] = "tagging"

    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "B T C"]:
        """Logits, float32; dropout applies where a key is given."""
        return self._classify(params, hidden, dims, key)

    def loss(
        self, logits: Float[Array, "B T C"], batch: dict[str, Array], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the labelled tokens; a token's weight is its row's."""
        weight = batch["weight"][:, None] * (batch["labels"] != IGNORED)
        return cross_entropy(logits, batch["labels"], weight, self.class_weights, smoothing)


@dataclasses.dataclass(frozen=True)
class MaskedLM(Head):
    """The masked-language-model head: `norm(act(dense(h)))` times the word table (or an untied decoder), plus a bias.

    It owns no leaves: all of them are backbone leaves under `mlm`, drawn where the folder has none, and move to
    `trainable` with full fine-tuning.
    """

    task: ClassVar[str] = "masked_language"

    @override
    def init_missing(self, key: Array, dims: Dims, backbone: Tree) -> Tree:
        if "mlm" in backbone:
            return {}
        dense = {"kernel": _normal(key, (dims.width, dims.width), dims), "bias": jnp.zeros(dims.width)}
        norm = {"scale": jnp.ones(dims.width), "bias": jnp.zeros(dims.width)}
        return {"mlm": {"dense": dense, "norm": norm, "bias": jnp.zeros(dims.vocab)}}

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

    def loss(
        self, logits: Float[Array, "B T V"], batch: dict[str, Array], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the masked tokens."""
        weight = batch["weight"][:, None] * (batch["labels"] != IGNORED)
        return cross_entropy(logits, batch["labels"], weight, None, smoothing)


@dataclasses.dataclass(frozen=True)
class CausalLM(Head):
    """The language-model head of a decoder: the word table, or an untied kernel, and the soft cap that some have.

    It owns no leaves: all of them are the backbone's, and new words' rows (`Edits.words`) are the method's.
    """

    task: ClassVar[str] = "causal_language"

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
        tied = "lm_head" not in backbone
        kernel: Any = backbone["embeddings"]["word"]["embedding"].T if tied else backbone["lm_head"]["kernel"]
        logits = hidden @ kernel.astype(hidden.dtype)
        if "words" in backbone:
            logits = jnp.concatenate([logits, hidden @ backbone["words"].T.astype(hidden.dtype)], axis=-1)
        if dims.logit_softcap is not None:
            logits = dims.logit_softcap * jnp.tanh(logits / dims.logit_softcap)
        return logits

    def loss(
        self, logits: Float[Array, "B T V"], batch: dict[str, Array], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the tokens whose next token is a label."""
        weight = batch["weight"][:, None] * (batch["labels"] != IGNORED)
        return cross_entropy(logits, batch["labels"], weight, None, smoothing)
