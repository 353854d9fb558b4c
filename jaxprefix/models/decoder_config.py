"""What a decoder is: its sizes and constants, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig, Classifiers
from jaxprefix.models.decoder_hf import read_fields, write_fields
from jaxprefix.models.decoder_leaves import decoder_anchor, decoder_leaves
from jaxprefix.models.encoder_config import ACTIVATIONS
from jaxprefix.models.leaves import Leaf
from jaxprefix.models.rope import Rope
from jaxprefix.models.stack import Remat
from jaxprefix.old_names import answer_old_names
from jaxprefix.values import Extent, NonNegative, Positive, Rate

LayerKind = Literal["full", "sliding"]

DECODER_KINDS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Hugging Face's `model_type` of the decoders that are computed here."""


@answer_old_names
@dataclasses.dataclass(frozen=True)
class DecoderConfig(BackboneConfig):
    """Sizes and constants of a causal decoder; hashable. All are pre-norm; defaults are Llama's.

    Where it stops, each refused where a `config.json` asks for it: encoder-decoders and cross-attention, mixtures of
    experts, other architectures than `DECODER_KINDS` (parallel attention and MLP, ALiBi, state spaces, images),
    attention in both directions, layers that are neither full nor sliding (chunked, linear), partial rotation,
    LongRoPE, `dynamic` rotation beyond `max_position_embeddings`, scores scaled by layer, quantised weights.

    Attributes:
      model_type: its `model_type`, one of `DECODER_KINDS`. It names tensors in files; the fields below say what is
        computed.
      vocab: V.
      width: D.
      layers: L.
      heads: H.
      kv_heads: K, divides H.
      head_width: E.
      mlp_width: the inner width of the MLP.
      positions: the longest row in tokens, virtual ones included; rows of the position table where there is one.
      norm: `rms` (Zhang & Sennrich 2019) or `layer`.
      norm_eps: added to the variance in every norm.
      norm_offset: added to the scale of every RMS norm (1 in Gemma).
      post_norms: whether the outputs of both sublayers are normed as well (Gemma).
      head_norms: whether the queries and keys of each head are normed, before the rotation (Qwen 3, Gemma 3).
      gated_mlp: `down(act(gate(z)) * up(z))` instead of `down(act(up(z)))`.
      activation: a key of `ACTIVATIONS`.
      qkv_bias, output_bias, mlp_bias: which linear maps have biases.
      tied: whether the head is the word table.
      pattern: the kinds of layers that follow each other, over and over.
      window: how many columns a sliding layer looks back, its own among them.
      rope: rotation in full layers; None for a learned position table instead.
      sliding_rope: rotation in sliding layers.
      query_scale: scores are multiplied by this; None for 1/sqrt(E).
      attention_softcap, logit_softcap: what bounds scores and logits (Gemma 2); None for nothing.
      embedding_scale: multiplies the word embeddings (sqrt(D) in Gemma).
      embedding_dropout, hidden_dropout, attention_dropout: rates in training.
      initializer_range: standard deviation of a fresh kernel.
    """

    model_type: str
    vocab: Extent
    width: Extent
    layers: Extent
    heads: Extent
    kv_heads: Extent
    head_width: Extent
    mlp_width: Extent
    positions: Extent
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: Positive = 1e-6
    norm_offset: float = 0.0
    post_norms: bool = False
    head_norms: bool = False
    gated_mlp: bool = True
    activation: str = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    pattern: tuple[LayerKind, ...] = ("full",)
    window: Extent | None = None
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    sliding_rope: Rope | None = None
    query_scale: Positive | None = None
    attention_softcap: Positive | None = None
    logit_softcap: Positive | None = None
    embedding_scale: float = 1.0
    embedding_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    initializer_range: NonNegative = 0.02

    model_types: ClassVar[tuple[str, ...]] = DECODER_KINDS
    causal: ClassVar[bool] = True
    accelerated_remat: ClassVar[Remat] = "dots"  # by the TPU compiler (docs/benchmarks.md, plans)
    constants: ClassVar[tuple[str, ...]] = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")

    @property
    def dims(self) -> Dims:
        """The sizes that methods and heads may ask for."""
        return Dims(
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            width=self.width,
            head_width=self.head_width,
            mlp_width=self.mlp_width,
            vocab=self.vocab,
            positions=self.positions,
            norm_eps=self.norm_eps,
            initializer_range=self.initializer_range,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            causal=True,
            gated_mlp=self.gated_mlp,
            tied=self.tied,
            logit_softcap=self.logit_softcap,
        )

    @property
    def type_count(self) -> int | None:
        """How many types a token may have; None where they have no embeddings."""
        return self.vocab if self.has_word_types else None

    @property
    def has_word_types(self) -> bool:
        """Whether token types are words, whose embeddings are added to those of the tokens."""
        return self.model_type == "gpt2"

    @property
    def prefix(self) -> str:
        """What precedes the names of its tensors in files that are written."""
        return "transformer." if self.model_type == "gpt2" else "model."

    @property
    def anchor(self) -> str:
        """The end of the one tensor name by which it is found in files."""
        return decoder_anchor(self)

    def leaves(self, prefix: str = "") -> list[Leaf]:
        """The table of its leaves, tensor names behind a prefix."""
        return decoder_leaves(self, prefix)

    @property
    def layer_ropes(self) -> tuple[Rope | None, ...]:
        """The rotation of each of the L layers; None where positions are rows of a table."""
        by_kind = {"full": self.rope, "sliding": self.sliding_rope}
        return tuple(by_kind[self.pattern[layer % len(self.pattern)]] for layer in range(self.layers))

    @property
    def slides(self) -> bool:
        """Whether any layer sees a window of `window` tokens alone."""
        return "sliding" in self.pattern

    @property
    def classifiers(self) -> Classifiers:
        """transformers' own classifiers on this kind."""
        tokens = {"gpt2": "classifier", "gemma3_text": None}.get(self.model_type, "score")
        return Classifiers("score", tokens, pooling="last", bias=False)

    def seen_tokens(self, layer: int, tokens: int) -> float:
        """How many of T tokens a query of a layer sees on average: those before it, where it slides in a window."""
        sliding = self.pattern[layer % len(self.pattern)] == "sliding"
        window = min(self.window or tokens, tokens) if sliding else tokens
        return (window * (window + 1) / 2 + (tokens - window) * window) / tokens

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "DecoderConfig":
        """Reads the dict of a Hugging Face `config.json`, old and new spellings, by transformers' own reader.

        Raises:
          UserError: another architecture, an unknown activation or rotation, quantised weights, impossible sizes.
        """
        kind = config.get("model_type")
        if kind not in DECODER_KINDS:
            raise UserError(
                f"config.json has model_type = {kind!r}, which is no supported decoder; "
                f"take a model of one of these: {', '.join(DECODER_KINDS)}."
            )
        if config.get("quantization_config"):
            raise UserError(
                "config.json has a quantization_config, but only unquantised weights can be read; take those."
            )
        made = cls(**read_fields(kind, config))
        made.check()
        return made

    def to_hf(self, parts: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The dict of a `config.json` from which `from_hf` makes this config again.

        Dropout rates that its family has no key for are left out, since they belong to a run.

        Raises:
          UserError: a field has a value that the family does not have, so that transformers would compute something
            else.
        """
        made = write_fields(self)
        again = DecoderConfig.from_hf(made)
        differing = [
            field.name
            for field in dataclasses.fields(self)
            if getattr(again, field.name) != getattr(self, field.name) and not field.name.endswith("_dropout")
        ]
        if differing:
            raise UserError(
                f"no config.json of a {self.model_type} says {differing[0]} = {getattr(self, differing[0])!r}; "
                f"a {self.model_type} of these sizes has {getattr(again, differing[0])!r}, so write it with that."
            )
        return made

    def check(self) -> None:
        """Refuses sizes and names that cannot be, as `UserError`."""
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"the decoder's activation is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}."
            )
        if self.heads % self.kv_heads:
            raise UserError(
                f"the decoder has {self.heads} query heads and {self.kv_heads} key/value heads; the second must "
                "divide the first."
            )
        if "sliding" in self.pattern and not self.window:
            raise UserError("the decoder has sliding layers and no window; give it one of at least 1.")
        if self.rope is not None and self.head_width % 2:
            raise UserError(f"rotation turns pairs of channels, but the head width is {self.head_width}; make it even.")
