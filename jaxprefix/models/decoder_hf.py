"""A decoder's `config.json`, both ways: the fields of `DecoderConfig` that it says, and what says these fields."""

from collections.abc import Mapping
from typing import Any

from jaxprefix.errors import UserError
from jaxprefix.models.rope import Rope

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
_LAYER_TYPES = {"full": "full_attention", "sliding": "sliding_attention"}


def read_fields(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `DecoderConfig` that the dict of a `config.json` of this kind says.

    Raises:
      UserError: it is not read by transformers, or asks for what is not computed here.
    """
    full = normalised(kind, config)
    return _read_gpt2(full) if kind == "gpt2" else _read_llama_family(kind, full)


def write_fields(config: Any) -> dict[str, Any]:
    """The keys of a `config.json` that say a `DecoderConfig`, as far as its family has keys."""
    made = _write_gpt2(config) if config.model_type == "gpt2" else _write_llama_family(config)
    return {
        "architectures": [ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        "dtype": "float32",
        **made,
    }


def normalised(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, defaults and renamed ones included."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"}).to_dict()
    except Exception as error:  # its errors are of every type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"config.json is no {kind} config ({reason}); save the model again.") from error


def _read_gpt2(c: Mapping[str, Any]) -> dict[str, Any]:
    if not c.get("scale_attn_weights", True) or c.get("scale_attn_by_inverse_layer_idx"):
        raise UserError("config.json scales attention in another way than 1/sqrt(E); take a model that does not.")
    if c.get("add_cross_attention"):
        raise UserError("config.json has add_cross_attention = true, but decoders stand alone here; take one without.")
    width, heads = c["n_embd"], c["n_head"]
    if width % heads:
        raise UserError(f"config.json has n_embd = {width}, which n_head = {heads} does not divide; correct one.")
    return {
        "model_type": "gpt2",
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


def _read_llama_family(kind: str, c: Mapping[str, Any]) -> dict[str, Any]:
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
        "model_type": kind,
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


def _pattern(kind: str, c: Mapping[str, Any]) -> tuple[tuple[str, ...], int | None]:
    """The shortest run of layer kinds whose repetition gives every layer its own, and the window."""
    window = c.get("sliding_window")
    if kind == "mistral":
        return (("sliding",), window) if window else (("full",), None)
    if not c.get("layer_types"):
        return ("full",), None
    names = {"full_attention": "full", "sliding_attention": "sliding"}
    unknown = set(c["layer_types"]) - names.keys()
    if unknown:
        raise UserError(
            f"config.json has layers of the type {min(unknown)!r}, which is not supported; "
            f"take a model with {' and '.join(names)} alone."
        )
    kinds = tuple(names[name] for name in c["layer_types"])
    period = next(p for p in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % p] for i in range(len(kinds))))
    return kinds[:period], window if "sliding" in kinds else None


def _write_gpt2(config: Any) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.positions,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": config.activation,
        "embd_pdrop": config.embedding_dropout,
        "resid_pdrop": config.hidden_dropout,
        "attn_pdrop": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "bos_token_id": None,  # GPT-2's defaults may lie beyond the vocabulary
        "eos_token_id": None,
        "tie_word_embeddings": config.tied,
    }


def _write_llama_family(config: Any) -> dict[str, Any]:
    made = {
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.positions,
        "rms_norm_eps": config.norm_eps,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tied,
    }
    gemma, full = config.model_type.startswith("gemma"), None if config.rope is None else rope_to_hf(config.rope)
    made["hidden_activation" if gemma else "hidden_act"] = config.activation
    made["rope_parameters"] = full
    if config.model_type not in ("mistral", "qwen2"):
        made["attention_bias"] = config.qkv_bias
    if config.model_type == "llama":
        made["mlp_bias"] = config.mlp_bias
    elif config.model_type == "mistral":
        made["sliding_window"] = config.window
    else:
        kinds = [config.pattern[layer % len(config.pattern)] for layer in range(config.layers)]
        made["layer_types"] = [_LAYER_TYPES[kind] for kind in kinds]
        made["sliding_window"], made["use_sliding_window"] = config.window, "sliding" in kinds
    if config.model_type == "gemma3_text":
        sliding = rope_to_hf(config.sliding_rope or Rope())
        made["rope_parameters"] = {"full_attention": full, "sliding_attention": sliding}
    if gemma:
        scalar = config.head_width if config.query_scale is None else config.query_scale**-2
        made["query_pre_attn_scalar"] = round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar
        made["final_logit_softcapping"] = config.logit_softcap
        made["attn_logit_softcapping"] = config.attention_softcap
    return made


def rope_to_hf(rope: Rope) -> dict[str, Any]:
    """One entry of `rope_parameters`."""
    made: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    if rope.scaling != "default":
        made["factor"] = rope.factor
    if rope.scaling in ("llama3", "yarn"):
        made["original_max_position_embeddings"] = rope.positions
    if rope.scaling == "llama3":
        made |= {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
    if rope.scaling == "yarn":
        made |= {"beta_slow": rope.low, "beta_fast": rope.high}
        made |= {"attention_factor": rope.amplitude, "truncate": rope.truncate}
    return made
