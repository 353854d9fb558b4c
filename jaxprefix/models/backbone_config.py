"""What the config of a backbone answers about its family, so that nobody asks which family it is."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jax import Array
from jax.sharding import PartitionSpec as P

from jaxprefix.contract import Contract, required
from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.models.leaves import Leaf, find_prefix
from jaxprefix.models.rope import Rope
from jaxprefix.models.stack import Remat


class Classifiers(NamedTuple):
    """The classifiers that transformers puts on a backbone: names of their linear maps in files.

    Attributes:
      rows: the map that classifies sequences.
      tokens: the one that classifies tokens; None where transformers has none.
      pooling: how `SequenceClassifier` calls the vector that `rows` reads.
      bias: whether `rows` has one.
      pooler: the map before `rows`, where there is one.
      pooler_is_trained: whether that map belongs to the classifier, and not to the frozen backbone.
    """

    rows: str = "classifier"
    tokens: str | None = "classifier"
    pooling: str = "pooler"
    bias: bool = True
    pooler: str | None = None
    pooler_is_trained: bool = False


class BackboneConfig(Contract):
    """Sizes and constants of a backbone: a frozen dataclass, hashable, with these fields at least.

    Attributes:
      model_type: the `model_type` of its `config.json`.
      vocab, width, layers, heads, head_width: V, D, L, H, E.
      hidden_dropout, attention_dropout: rates in training, in the residual stream and of the attention weights.
      initializer_range: standard deviation of a fresh kernel.
      model_types: the values of `model_type` that `from_hf` reads.
      causal: whether a query sees only the tokens before it, which makes the backbone a decoder.
      tied: whether the head of a language model is the word table.
      embedding_scale: multiplies the word embeddings.
      window: how many columns a sliding layer looks back, its own among them; None where no layer slides.
      accelerated_remat: what the backward pass keeps of a layer on accelerators, where a run does not say.
      new_starts: how leaves of a new backbone may be drawn (`models/fresh_init.py`).
      constants: how the names of tensors end which older versions of transformers saved with the weights.

    Raises:
      UserError: at construction, where a required member is missing.
    """

    model_type: str
    vocab: int
    width: int
    layers: int
    heads: int
    hidden_dropout: float
    attention_dropout: float
    initializer_range: float

    model_types: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = False
    tied: bool = True
    embedding_scale: float = 1.0
    window: int | None = None
    accelerated_remat: ClassVar[Remat] = "full"
    new_starts: ClassVar[tuple[str, ...]] = ("bert",)
    constants: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # of the subclasses

    @classmethod
    @required
    def from_hf(cls, config: Mapping[str, Any]) -> "BackboneConfig":
        """The config that the dict of a Hugging Face `config.json` says; refuses what is not computed here."""
        raise NotImplementedError

    @required
    def to_hf(self, parts: frozenset[str]) -> dict[str, Any]:
        """The dict of a `config.json` from which `from_hf` makes this config again, of a tree with these tops."""
        raise NotImplementedError

    @property
    @required
    def dims(self) -> Dims:
        """The sizes that methods and heads may ask for."""
        raise NotImplementedError

    @property
    @required
    def prefix(self) -> str:
        """What precedes the names of its tensors in files that are written."""
        raise NotImplementedError

    @property
    @required
    def anchor(self) -> str:
        """The end of the one tensor name by which the model, and with it the prefix, is found in files."""
        raise NotImplementedError

    @required
    def leaves(self, prefix: str = "") -> list[Leaf]:
        """All leaves that the tree may have, with the names of their tensors behind a prefix."""
        raise NotImplementedError

    @property
    def usable_positions(self) -> int:
        """How many tokens of one row, virtual ones included, can be numbered."""
        return self.dims.positions

    @property
    def has_token_types(self) -> bool:
        """Whether tokens of a pair's two texts have embeddings of their own."""
        return False

    @property
    def type_count(self) -> int | None:
        """How many types a token may have; None where they have no embeddings."""
        return None

    @property
    def has_word_types(self) -> bool:
        """Whether token types are words, whose embeddings are added to those of the tokens."""
        return False

    @property
    def layer_ropes(self) -> tuple[Rope | None, ...]:
        """The rotation of each of the L layers; None where positions are rows of a table."""
        return (None,) * self.layers

    @property
    def slides(self) -> bool:
        """Whether any layer sees a window of `window` tokens alone."""
        return False

    @property
    def classifiers(self) -> Classifiers | None:
        """transformers' own classifiers on this family; None where there are none to write."""
        return None

    @classmethod
    def reads(cls, config: Mapping[str, Any]) -> bool:
        """Whether the dict of a `config.json` is of this family."""
        return config.get("model_type") in cls.model_types

    def with_dropout(self, hidden: float | None, attention: float | None) -> "BackboneConfig":
        """The same with other rates; None leaves a rate as it is. `hidden` is that of the embeddings too."""
        rates = {"hidden_dropout": hidden, "embedding_dropout": hidden, "attention_dropout": attention}
        known = {field.name for field in dataclasses.fields(self)}
        fields = {name: rate for name, rate in rates.items() if rate is not None and name in known}
        return dataclasses.replace(self, **fields)

    def seen_tokens(self, layer: int, tokens: int) -> float:
        """How many of T real tokens a query of a layer sees, on average over the queries of a row without padding."""
        return (tokens + 1) / 2 if self.causal else float(tokens)


@runtime_checkable
class Module(Protocol):
    """What a backbone's Linen module has beside `init`, `apply` and `clone`.

    Attributes:
      config: sizes and rates.
      dtype: of the computation.
      unroll, remat, attention: see `Encoder`.
      parts: the tops of its own tree, without those of heads.
    """

    config: Any
    dtype: Any
    unroll: bool | None
    remat: Remat | None
    attention: str
    parts: ClassVar[tuple[str, ...]]
    init: Any
    apply: Any
    clone: Any

    @property
    def dims(self) -> Dims:
        """The config's."""
        ...

    def keys_and_values(self, params: Any, ids: Array) -> tuple[Array, Array]:
        """Keys and values `[L, P, K, E]`, as they enter the attention, of P tokens of one row."""
        ...


def frozen_spec(config: BackboneConfig, path: str, shape: tuple[int, ...], mesh: Any) -> P:
    """How a leaf of a backbone is divided over a mesh, by its table of leaves.

    Args:
      config: of the backbone.
      path: its keys joined by "/"; scales of int8 kernels have none of their own in the table.
      shape: its global shape.
      mesh: with `shape` a mapping from axes to sizes.

    Raises:
      UserError: the table has no such leaf.
    """
    table = leaves_by_path(config)
    leaf = table.get(path)
    if leaf is None and path.endswith("/kernel_scale"):
        kernel = table.get(path.removesuffix("_scale"))
        leaf = kernel and kernel.scale
    if leaf is None:
        raise UserError(
            f"the table of leaves of {type(config).__name__} has no {path}, so nothing says how it lies over a mesh; "
            f"add it to {type(config).__name__}.leaves, or take a head and a method that need no such leaf."
        )
    return leaf.spec(shape, mesh)


@functools.lru_cache(maxsize=64)
def leaves_by_path(config: BackboneConfig) -> Mapping[str, Leaf]:
    """The leaves of a backbone by path."""
    return {leaf.path: leaf for leaf in config.leaves()}


def leaves_in(config: BackboneConfig, names: Iterable[str]) -> list[Leaf]:
    """Where the leaves lie in files with these tensor names.

    Raises:
      UserError: the names are of no such model, or of several.
    """
    return config.leaves(find_prefix(names, config.anchor, "decoder" if config.causal else "encoder"))
