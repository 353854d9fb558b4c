"""A decoder's config as the `config.json` that transformers reads: the way back from `DecoderConfig.from_hf`."""

import dataclasses
from typing import Any

from jaxprefix.errors import UserError
from jaxprefix.models.decoder_config import DecoderConfig
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


def decoder_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The dict of a `config.json` from which `DecoderConfig.from_hf` makes this config again.

    Dropout rates that its family has no key for are left out, since they belong to a run.

    Raises:
      UserError: a field has a value that the family does not have, so that transformers would compute something else.
    """
    made = {
        "architectures": [ARCHITECTURES[config.kind]],
        "model_type": config.kind,
        "dtype": "float32",
        **(_gpt2(config) if config.kind == "gpt2" else _llama_family(config)),
    }
    again = DecoderConfig.from_hf(made)
    differing = [
        field.name
        for field in dataclasses.fields(config)
        if getattr(again, field.name) != getattr(config, field.name) and not field.name.endswith("_dropout")
    ]
    if differing:
        raise UserError(
            f"no config.json of a {config.kind} says {differing[0]} = {getattr(config, differing[0])!r}; "
            f"a {config.kind} of these sizes has {getattr(again, differing[0])!r}, so write it with that."
        )
    return made


def _gpt2(config: DecoderConfig) -> dict[str, Any]:
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


def _llama_family(config: DecoderConfig) -> dict[str, Any]:
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
    gemma, full = config.kind.startswith("gemma"), None if config.rope is None else rope_to_hf(config.rope)
    made["hidden_activation" if gemma else "hidden_act"] = config.activation
    made["rope_parameters"] = full
    if config.kind not in ("mistral", "qwen2"):
        made["attention_bias"] = config.qkv_bias
    if config.kind == "llama":
        made["mlp_bias"] = config.mlp_bias
    elif config.kind == "mistral":
        made["sliding_window"] = config.window
    else:
        kinds = [config.pattern[layer % len(config.pattern)] for layer in range(config.layers)]
        made["layer_types"] = [_LAYER_TYPES[kind] for kind in kinds]
        made["sliding_window"], made["use_sliding_window"] = config.window, "sliding" in kinds
    if config.kind == "gemma3_text":
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
