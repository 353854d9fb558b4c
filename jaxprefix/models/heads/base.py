"""What a head is: from hidden states to logits, from logits to a loss and to what the host needs of them.

A head is a plain frozen dataclass. What it trains lies under `trainable["head"]`; what it reads of the backbone (a
pooler, the masked-LM transform) stays in the backbone's tree. A batch is `[B, T]`, or `[B, C, T]` where a row asks
about C sequences; the model folds C into the backbone's rows, and a head gets hidden states `[B, C, T, D]` again.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Integer

from jaxprefix.contract import Contract, required
from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.trees import Tree
from jaxprefix.typed_json import register

IGNORED = -100  # the label of a position that has none
Unit = Literal["row", "token", "vocabulary"]
H = TypeVar("H", bound=type)


def affine(params: Tree, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    """`x kernel + bias`, float32; without a bias where there is none."""
    y = x.astype(jnp.float32) @ params["kernel"].astype(jnp.float32)
    return y + params["bias"].astype(jnp.float32) if "bias" in params else y


def cross_entropy(
    logits: Float[Array, "*B C"],
    labels: Integer[Array, "*B"] | Integer[np.ndarray, "*B"],
    weight: Float[Array, "*B"] | Float[np.ndarray, "*B"],
    class_weights: tuple[float, ...] | None = None,
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The weighted sum of cross entropies in nats, and the sum of weights: a mean over any number of parts is exact.

    As torch's `CrossEntropyLoss`: with class weights `w` and smoothing `s` (Szegedy et al. 2016, section 7) the loss of
    label `y` is `(1 - s) w_y (-log p_y) + s / C sum_c w_c (-log p_c)` and its weight `w_y`, both times the example's
    own; a label of -100 has neither.

    Raises:
      UserError: labels in a NumPy array have a value that is no class; elsewhere it gives NaN.
    """
    count, counted = logits.shape[-1], labels != IGNORED
    if isinstance(labels, np.ndarray) and (wrong := labels[counted & ((labels < 0) | (labels >= count))]).size:
        raise UserError(f"a label is {wrong[0]}; it must be from 0 to {count - 1}, or {IGNORED} for none.")
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    labels = jnp.asarray(labels)
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))  # int8 may not hold the number of classes
    at = jnp.where(counted, jnp.where(labels < 0, count, labels), 0)  # what is beyond the classes is filled with NaN
    loss = -jnp.take_along_axis(log_p, at[..., None], axis=-1)[..., 0]
    weight = jnp.where(counted, weight, 0)
    if class_weights is None:
        if smoothing:
            loss = (1 - smoothing) * loss - smoothing * log_p.mean(-1)
        return (loss * weight).sum(), weight.sum()
    of_class = jnp.asarray(class_weights, weight.dtype)
    own = of_class[jnp.clip(at, 0, count - 1)]
    loss = own * loss
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * (of_class * log_p).mean(-1)
    return (loss * weight).sum(), (own * weight).sum()


def example_weights(batch: Mapping[str, Any], rows: int) -> Any:
    """`weight` of a batch, `[B]`; refuses, as UserError, one without, and one of another shape or of no numbers."""
    return read_target(batch, "weight", (rows,), "numbers, 1 for each row that counts and 0 for each that pads", REAL)


def label_targets(batch: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """`labels` of a batch as a loss reads them: whole numbers; refuses, as UserError, what is missing or none."""
    return read_target(batch, "labels", shape, "integers", (jnp.integer,))


REAL = (jnp.integer, jnp.floating, jnp.bool_)


def read_target(batch: Mapping[str, Any], name: str, shape: tuple[int, ...], what: str, kinds: tuple[Any, ...]) -> Any:
    """What a loss reads of a batch.

    Args:
      batch: holds it.
      name: its key.
      shape: that it must have; others would be repeated along an axis without a word.
      what: what it must hold, in words.
      kinds: the kinds of dtype that it may have.

    Raises:
      UserError: it is missing, no array, or of another shape or dtype.
    """
    if name not in batch:
        raise UserError(f"the batch has no {name!r}, which its loss needs; give {what}, {list(shape)}.")
    value = batch[name]
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise UserError(f"{name} is a {type(value).__name__}; make it an array, as in numpy.array({name}).")
    if tuple(value.shape) != tuple(shape):
        raise UserError(f"{name} has the shape {list(value.shape)} and its loss needs {list(shape)}; correct it.")
    if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise UserError(f"{name} is {value.dtype}; give it as {what}.")
    return value


def label_outputs(logits: Float[Array, "*B C"], batch: Mapping[str, Any]) -> dict[str, Array]:
    """`predictions` int32 `[*B]`, the largest logit's; and where the batch has `labels`, `losses` `[*B]`, their cross
    entropies in nats (meaningless where a label is -100)."""
    found = {"predictions": logits.argmax(-1).astype(jnp.int32)}
    if "labels" in batch:
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        found["losses"] = -jnp.take_along_axis(log_p, jnp.maximum(batch["labels"], 0)[..., None], -1)[..., 0]
    return found


class Canonical(NamedTuple):
    """A head in the one form in which the heads of many adapters share a program: a linear map of a pooled vector, or
    of every token.

    Attributes:
      pooling: where the vector comes from (`Place`); None for every token.
      kernel: `[D, C]`; C may be padded.
      bias: `[C]`.
      fill: the bias of outputs that pad C.
      pooler: leaves of a pooler of the head's own, or None.
    """

    pooling: str | None
    kernel: np.ndarray
    bias: np.ndarray
    fill: float
    pooler: Tree | None


class Head(Contract):
    """A frozen dataclass of settings; its leaves are passed to it. One of your own is registered with
    `jp.register_head`.

    Attributes:
      task: the kind of question that it answers, a word that its task asks for (`Task.question`).
      unit: what one vector of logits stands for: a row, a token, or a token with the vocabulary for its labels.
      writes: whether text is written by it, token after token.
      fills: what pads each output (`outputs`) where rows of several lengths are put together; -100 for integers and
        NaN for other numbers where it says nothing.
      over_labels: the outputs whose last axis is that of the labels, C.
      task_type: what PEFT calls what it answers; None where it has no word. "SEQ_CLS" is for a `PooledHead`.
      problem_type: what transformers' sequence classifiers call it; None where they have no word.
      targets: the targets that `loss` and `outputs` read from a batch; None lets keys of any other name through.
      smooths: whether `label_smoothing` means something for it.
      pretrained: the top of the backbone's tree that it reads and that is of no use where it was drawn at random and
        stays frozen; None where there is none.

    Raises:
      UserError: at construction, where a required member is missing.
    """

    task: ClassVar[str] = ""
    unit: ClassVar[Unit] = "row"
    writes: ClassVar[bool] = False
    fills: ClassVar[Mapping[str, float]] = {}
    over_labels: ClassVar[tuple[str, ...]] = ("logits",)
    task_type: ClassVar[str | None] = None
    problem_type: ClassVar[str | None] = None
    targets: ClassVar[tuple[str, ...] | None] = None
    smooths: ClassVar[bool] = True
    pretrained: ClassVar[str | None] = None
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # of the subclasses

    @required
    def __call__(
        self,
        params: Tree,
        backbone: Tree,
        hidden: Float[Array, "*B T D"],
        mask: Bool[Array, "*B T"],
        dims: Dims,
        key: Array | None = None,
    ) -> Float[Array, "..."]:
        """Logits of C labels or words, for each row or each token.

        Args:
          params: the head's leaves.
          backbone: the backbone's leaves.
          hidden: the last hidden states, `[B, T, D]` or `[B, C, T, D]`.
          mask: True for real tokens; a sequence that pads a row has none.
          dims: of the backbone.
          key: a typed key for dropout, which applies where there is one.
        """
        raise NotImplementedError

    @required
    def loss(
        self, logits: Float[Array, "..."], batch: Mapping[str, Any], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over what the batch's targets and `weight` count.

        Args:
          logits: what a call returned.
          batch: with `weight` `[B]` and the task's targets under their names.
          smoothing: see `cross_entropy`.
        """
        raise NotImplementedError

    @required
    def outputs(self, logits: Float[Array, "..."], batch: Mapping[str, Any]) -> dict[str, Array]:
        """What metrics and answers need of a batch, `[B, ...]` each, reduced inside the compiled step (no `[B, T, V]`).

        Where the batch has targets, `losses` is among them, `[B]` or `[B, T]`.
        """
        raise NotImplementedError

    def scores(self, logits: Float[Array, "..."]) -> dict[str, Array]:
        """What answers with scores need beyond `outputs`, `[B, ...]` each."""
        return {}

    def fill(self, name: str, dtype: Any) -> float:
        """What pads the output `name` of a dtype."""
        return float(self.fills.get(name, IGNORED if np.issubdtype(dtype, np.integer) else np.nan))

    @property
    def count(self) -> int | None:
        """C, where the head says it itself."""
        return None

    def with_count(self, count: int | None) -> "Head":
        """The head for C labels, as its task counts them; refuses, as UserError, another number than its own."""
        return self

    def init(self, key: Array, dims: Dims) -> Tree:
        """The leaves under `trainable["head"]`, float32."""
        return {}

    def init_missing(self, key: Array, dims: Dims, backbone: Tree) -> Tree:
        """Leaves that the head needs in the backbone's tree and the folder lacks."""
        return {}

    def trains(self, path: str) -> bool:
        """Whether the backbone's leaf at `path` moves to `trainable` for this head."""
        return False

    def reads_pooler(self) -> bool:
        """Whether it reads the backbone's pooler."""
        return False

    def products(self, config: BackboneConfig, kernels: Mapping[str, tuple[int, ...]], rows: int, tokens: int) -> dict:
        """FLOPs of each product, forwards, by the path of its kernel: `head/...` where it is the head's own, else that
        of the backbone's leaf.

        Args:
          config: of the backbone.
          kernels: shapes of the head's own kernels by path.
          rows: pooled vectors of a batch, one for each sequence.
          tokens: of a batch.
        """
        count = rows if self.unit == "row" else tokens
        found = {f"head/{path}": 2 * count * int(np.prod(shape)) for path, shape in kernels.items()}
        return {"pooler/kernel": 2 * rows * config.width**2, **found} if self.reads_pooler() else found

    def shared(self) -> "Head":
        """The head without what it has for itself in a bank (C, dropout, weights in the loss): adapters of equal
        shared heads have their outputs made by one function."""
        return type(self)()

    def canonical(self, trainable: Tree, initialized: Tree) -> Canonical | None:
        """The form in which a bank computes it; None where there is none, and the head is served alone."""
        return None


def register_head(cls: H) -> H:
    """Makes a head of your own known to runs, checkpoints and adapters; a class decorator above `@dataclass`.

    Raises:
      UserError: it is no frozen dataclass that derives from `jp.Head`, or its name is taken.
    """
    if not issubclass(cls, Head):
        raise UserError(f"{cls.__name__} is no head; derive it from jp.Head.")
    return register(cls)


def normal(key: Array, shape: tuple[int, ...], dims: Dims) -> Array:
    """A fresh kernel, N(0, initializer_range)."""
    return dims.initializer_range * jax.random.normal(key, shape, jnp.float32)
