"""What a decoder is: its sizes and constants, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jaxprefix.errors import UserError
from jaxprefix.models.encoder_config import ACTIVATIONS
from jaxprefix.models.rope import Rope

LayerKind = Literal["full", "sliding"]

DECODER_KINDS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Hugging Face's `model_type` of the decoders that are computed here."""


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and constants of a causal decoder; hashable. All are pre-norm; defaults are Llama's.

    Where it stops, each refused where a `config.json` asks for it: encoder-decoders and cross-attention, mixtures of
    experts, other architectures than `DECODER_KINDS` (parallel attention and MLP, ALiBi, state spaces, images),
    attention in both directions, layers that are neither full nor sliding (chunked, linear), partial rotation,
    LongRoPE, `dynamic` rotation beyond `max_position_embeddings`, scores scaled by layer, quantised weights.

    Attributes:
      kind: its `model_type`, one of `DECODER_KINDS`. It names tensors in files; the fields below say what is computed.
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

    kind: str
    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    positions: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
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
    window: int | None = None
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    sliding_rope: Rope | None = None
    query_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    embedding_dropout: float = 0.0
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    @property
    def has_token_types(self) -> bool:
        """Whether tokens of a pair's two texts have embeddings of their own; GPT-2's token types are words."""
        return False

    @property
    def usable_positions(self) -> int:
        """How many tokens of one row, virtual ones included, can be numbered."""
        return self.positions

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
        full = _normalised(kind, config)
        made = cls(**(_gpt2(full) if kind == "gpt2" else _llama_family(kind, full)))
        made.check()
        return made

    def check(self) -> None:
        """Refuses sizes and names that cannot be, as `UserError`."""
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"the decoder's activation is {self.activation!r}; it must be one of {', '.join(ACTIVATIONS)}."
            )
        for name in ("vocab", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width", "positions"):
            if getattr(self, name) < 1:
                raise UserError(f"the decoder's {name} is {getattr(self, name)}; it must be at least 1.")
        if self.heads % self.kv_heads:
            raise UserError(
                f"the decoder has {self.heads} query heads and {self.kv_heads} key/value heads; the second must "
                "divide the first."
            )
        if "sliding" in self.pattern and not self.window:
            raise UserError("the decoder has sliding layers and no window; give it one of at least 1.")
        if self.rope is not None and self.head_width % 2:
            raise UserError(f"rotation turns pairs of channels, but the head width is {self.head_width}; make it even.")


def _normalised(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, defaults and renamed ones included."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"}).to_dict()
    except Exception as error:  # its errors are of every type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"config.json is no {kind} config ({reason}); save the model again.") from error


def _gpt2(c: Mapping[str, Any]) -> dict[str, Any]:
    if not c.get("scale_attn_weights", True) or c.get("scale_attn_by_inverse_layer_idx"):
        raise UserError("config.json scales attention in another way than 1/sqrt(E); take a model that does not.")
    if c.get("add_cross_attention"):
        raise UserError("config.json has add_cross_attention = true, but decoders stand alone here; take one without.")
    width, heads = c["n_embd"], c["n_head"]
    if width % heads:
        raise UserError(f"config.json has n_embd = {width}, which n_head = {heads} does not divide; correct one.")
    return {
        "kind": "gpt2",
        "vocab": c["vocab_size"],
        "width": width,
        "layers": c["n_layer"],
        "heads": heads,
        "kv_heads": heads,
        "head_width": width // heads,
        "mlp_width": c.get("n_inner") or 4 * width,
        "positions": c["n_positions"],
        "norm": "layer",
        "norm_eps": c["layer_norm_epsilon"],
        "gated_mlp": False,
        "activation": c["activation_function"],
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "tied": c.get("tie_word_embeddings", True),
        "rope": None,
        "embedding_dropout": c["embd_pdrop"],
        "hidden_dropout": c["resid_pdrop"],
        "attention_dropout": c["attn_pdrop"],
        "initializer_range": c["initializer_range"],
    }


def _llama_family(kind: str, c: Mapping[str, Any]) -> dict[str, Any]:
    gemma = kind.startswith("gemma")
    if c.get("use_bidirectional_attention"):
        raise UserError("config.json has use_bidirectional_attention = true; take a model that is causal.")
    pattern, window = _pattern(kind, c)
    positions, rotation = c["max_position_embeddings"], c["rope_parameters"]
    if "rope_type" in rotation or "rope_theta" in rotation:
        rotation = {"full_attention": rotation, "sliding_attention": rotation}
    ropes = {name: Rope.from_hf(parameters, positions) for name, parameters in rotation.items()}
    attention_bias = kind not in ("mistral", "qwen2") and bool(c.get("attention_bias"))
    return {
        "kind": kind,
        "vocab": c["vocab_size"],
        "width": c["hidden_size"],
        "layers": c["num_hidden_layers"],
        "heads": c["num_attention_heads"],
        "kv_heads": c.get("num_key_value_heads") or c["num_attention_heads"],
        "head_width": c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
        "mlp_width": c["intermediate_size"],
        "positions": positions,
        "norm_eps": c["rms_norm_eps"],
        "norm_offset": 1.0 if gemma else 0.0,
        "post_norms": gemma,
        "head_norms": kind in ("qwen3", "gemma3_text"),
        "activation": c["hidden_activation"] if gemma else c["hidden_act"],
        "qkv_bias": kind == "qwen2" or attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": kind == "llama" and bool(c.get("mlp_bias")),
        "tied": c["tie_word_embeddings"],
        "pattern": pattern,
        "window": window,
        "rope": ropes["full_attention"],
        "sliding_rope": ropes["sliding_attention"] if "sliding" in pattern else None,
        "query_scale": c["query_pre_attn_scalar"] ** -0.5 if gemma else None,
        "attention_softcap": c.get("attn_logit_softcapping") if kind == "gemma2" else None,
        "logit_softcap": c.get("final_logit_softcapping") if gemma else None,
        "embedding_scale": c["hidden_size"] ** 0.5 if gemma else 1.0,
        "attention_dropout": c.get("attention_dropout") or 0.0,
        "initializer_range": c["initializer_range"],
    }


def _pattern(kind: str, c: Mapping[str, Any]) -> tuple[tuple[LayerKind, ...], int | None]:
    """The shortest run of layer kinds whose repetition gives every layer its own, and the window."""
    window = c.get("sliding_window")
    if kind == "mistral":
        return (("sliding",), window) if window else (("full",), None)
    if not c.get("layer_types"):
        return ("full",), None
    names: dict[str, LayerKind] = {"full_attention": "full", "sliding_attention": "sliding"}
    unknown = set(c["layer_types"]) - names.keys()
    if unknown:
        raise UserError(
            f"config.json has layers of the type {min(unknown)!r}, which is not supported; "
            f"take a model with {' and '.join(names)} alone."
        )
    kinds = tuple(names[name] for name in c["layer_types"])
    period = next(p for p in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % p] for i in range(len(kinds))))
    return kinds[:period], window if "sliding" in kinds else None
