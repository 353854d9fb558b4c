"""Heads that are one linear map: of every token, or of one vector for each sequence."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from typing_extensions import override

from jaxprefix.attention import dropout
from jaxprefix.edits import Dims, declare
from jaxprefix.errors import UserError
from jaxprefix.models.heads.base import Canonical, Head, affine, normal
from jaxprefix.trees import Tree, merge
from jaxprefix.values import Count, NonNegative, Rate

Pooling = Literal["mean", "first", "last", "pooler", "trained_pooler"]
Place = Pooling | Literal["own_pooler"]


def pool(
    pooling: Pooling, backbone: Tree, hidden: Float[Array, "*B T D"], mask: Bool[Array, "*B T"]
) -> Float[Array, "*B D"]:
    """One vector for each sequence, by the name of a pooling (`PooledHead`)."""
    if pooling == "mean":
        weight = mask[..., None].astype(jnp.float32)
        return (hidden * weight).sum(-2) / jnp.maximum(weight.sum(-2), 1)
    if pooling == "last":
        last = mask.shape[-1] - 1 - jnp.argmax(mask[..., ::-1], axis=-1)
        return jnp.take_along_axis(hidden, last[..., None, None], axis=-2)[..., 0, :]
    first = jnp.take_along_axis(hidden, jnp.argmax(mask, axis=-1)[..., None, None], axis=-2)[..., 0, :]
    return first if pooling == "first" else jnp.tanh(affine(backbone["pooler"], first))


@dataclasses.dataclass(frozen=True)
class LinearHead(Head):
    """Dropout and a linear map from D to C; the logits of every token where a subclass says nothing else.

    Attributes:
      num_labels: C; a run fills it in from its task.
      dropout: rate before the linear map; None takes the backbone's hidden dropout (as P-Tuning v2 does).
      bias: whether the map has one; transformers' sequence classifiers on decoders have none.
    """

    num_labels: Count | None = None
    dropout: Rate | None = None
    bias: bool = dataclasses.field(default=True, kw_only=True)

    @property
    def padded_bias(self) -> float:
        """The bias of outputs that a bank adds, which no answer may show."""
        return -np.inf

    @property
    @override
    def count(self) -> int | None:
        return self.num_labels

    @override
    def with_count(self, count: int | None) -> "LinearHead":
        if count is not None and self.num_labels not in (None, count):
            raise UserError(f"head.num_labels is {self.num_labels}, but the data has {count} labels; remove it.")
        return self if count is None else dataclasses.replace(self, num_labels=count)

    @override
    def init(self, key: Array, dims: Dims) -> Tree:
        """Kernel N(0, initializer_range), bias 0."""
        if self.num_labels is None or self.num_labels < 1:
            raise UserError(f"{type(self).__name__} has num_labels = {self.num_labels}; say how many labels there are.")
        kernel = normal(key, (dims.width, self.num_labels), dims)
        made = {"kernel": declare("classifier/kernel", kernel, group="head", matrix=(0, 1))}
        if self.bias:
            made["bias"] = declare("classifier/bias", jnp.zeros(self.num_labels), group="head", decay=False)
        return {"classifier": made}

    def classify(self, params: Tree, h: Float[Array, "*B D"], dims: Dims, key: Array | None) -> Float[Array, "*B C"]:
        """Dropout, where there is a key, and the map."""
        rate = dims.hidden_dropout if self.dropout is None else self.dropout
        return affine(params["classifier"], h if key is None else dropout(h, rate, key))

    @override
    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "*B T D"],
        mask: Bool[Array, "*B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "*B T C"]:
        """Logits of every token, float32; dropout applies where a key is given."""
        return self.classify(params, hidden, dims, key)

    @override
    def canonical(self, trainable: Tree, initialized: Tree) -> Canonical | None:
        classifier = jax.tree.map(np.asarray, trainable["head"]["classifier"])
        bias = classifier.get("bias", np.zeros(classifier["kernel"].shape[1], np.float32))
        return Canonical(None, classifier["kernel"], bias, self.padded_bias, None)


@dataclasses.dataclass(frozen=True)
class LabelHead(LinearHead):
    """A linear map to labels of which one is right.

    Attributes:
      class_weights: one weight for each label in the loss, or None for equal ones.
    """

    class_weights: tuple[NonNegative, ...] | None = None
    targets: ClassVar[tuple[str, ...] | None] = ("labels",)
    fills: ClassVar[Mapping[str, float]] = {"logits": -np.inf}

    @override
    def init(self, key: Array, dims: Dims) -> Tree:
        """Kernel N(0, initializer_range), bias 0; refuses, as UserError, weights of another number than C."""
        made = super().init(key, dims)
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            raise UserError(
                f"class_weights has {len(self.class_weights)} entries for {self.num_labels} labels; give one for each."
            )
        if self.class_weights is not None and not any(self.class_weights):
            raise UserError("class_weights are all 0, so no row would count; give at least one above 0.")
        return made


@dataclasses.dataclass(frozen=True)
class PooledHead(LinearHead):
    """A linear map of one vector for each sequence.

    Attributes:
      pooling: where the vector comes from. "mean" (the default: needs nothing that a checkpoint may lack, and serves
        every backbone): the masked mean of the last layer. "first": its first token. "last": its last real token, the
        convention for decoders, where it alone has seen the whole row. "pooler": the convention of P-Tuning v2 and of
        Hugging Face PEFT, `tanh(dense(first token))` with the backbone's own pooler, frozen; where the folder has none
        it is drawn from N(0, initializer_range) and stays frozen, as those codes do (RoBERTa). "trained_pooler": the
        same form, trained, starting from the folder's pooler.
    """

    pooling: Pooling = dataclasses.field(default="mean", kw_only=True)

    @override
    def reads_pooler(self) -> bool:
        return self.pooling in ("pooler", "trained_pooler")

    @override
    def init_missing(self, key: Array, dims: Dims, backbone: Tree) -> Tree:
        if not self.reads_pooler() or "pooler" in backbone:
            return {}
        return {"pooler": {"kernel": normal(key, (dims.width, dims.width), dims), "bias": jnp.zeros(dims.width)}}

    @override
    def trains(self, path: str) -> bool:
        """The trained pooler is a backbone leaf that moves to `trainable`."""
        return self.pooling == "trained_pooler" and path.startswith("pooler/")

    @override
    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "*B T D"],
        mask: Bool[Array, "*B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "*B C"]:
        """Logits of every sequence, float32; dropout applies where a key is given."""
        return self.classify(params, pool(self.pooling, backbone, hidden, mask), dims, key)

    @override
    def canonical(self, trainable: Tree, initialized: Tree) -> Canonical | None:
        made: Any = super().canonical(trainable, initialized)
        if not self.reads_pooler():
            return made._replace(pooling=self.pooling)
        pooler = merge(initialized, trainable.get("backbone", {})).get("pooler")
        pooler = None if pooler is None else jax.tree.map(np.asarray, pooler)
        return made._replace(pooling="pooler" if pooler is None else "own_pooler", pooler=pooler)
