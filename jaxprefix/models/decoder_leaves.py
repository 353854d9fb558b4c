"""The table of leaves of decoders: GPT-2 and the Llama family."""

from typing import Any

from jaxprefix.models.leaves import COLUMNS, HEAD, ROWS, WORD, Leaf, linear, norm


def decoder_anchor(config: Any) -> str:
    """The end of the tensor name by which a decoder of this kind is found in its files."""
    return "wte.weight" if config.model_type == "gpt2" else "embed_tokens.weight"


def decoder_leaves(config: Any, prefix: str) -> list[Leaf]:
    """All leaves of a `DecoderConfig` that files with this prefix hold; a head's kernel only where it is not tied."""
    head = prefix.removesuffix("model.").removesuffix("transformer.")
    lm_head = f"{head}lm_head.weight"
    words = (f"{prefix}{decoder_anchor(config)}", *((lm_head,) if config.tied else ()))
    leaves = [
        Leaf(WORD, words, (config.vocab, config.width), axes=ROWS),
        *(_gpt2 if config.model_type == "gpt2" else _llama_family)(config, prefix),
    ]
    if not config.tied:
        leaves.append(Leaf(HEAD, (lm_head,), (config.width, config.vocab), transposed=True, axes=COLUMNS))
    return leaves


def _gpt2(config: Any, prefix: str) -> list[Leaf]:
    """GPT-2 keeps its kernels as [in, out], and those of queries, keys and values side by side."""
    width, inner, layer = config.width, config.mlp_width, f"{prefix}h.{{layer}}."
    leaves = [
        Leaf("embeddings/position/embedding", (f"{prefix}wpe.weight",), (config.positions, width)),
        *_layer_norm("norm", f"{prefix}ln_f", width, stacked=False),
        *_layer_norm("layers/attention_norm", f"{layer}ln_1", width),
        *_layer_norm("layers/mlp_norm", f"{layer}ln_2", width),
    ]
    for place, name in enumerate("qkv"):
        part = place * width, (place + 1) * width
        heads = config.heads if name == "q" else config.kv_heads
        where = {"stacked": True, "part": part, "whole": 3 * width, "heads": heads}
        kernel, bias = ((f"{layer}attn.c_attn.{tensor}",) for tensor in ("weight", "bias"))
        leaves += [
            Leaf(f"layers/{name}/kernel", kernel, (width, width), axes=COLUMNS, **where),
            Leaf(f"layers/{name}/bias", bias, (width,), axes=("tp",), **where),
        ]
    return [
        *leaves,
        *linear("layers/o", f"{layer}attn.c_proj", width, width, ROWS, heads=config.heads, transposed=False),
        *linear("layers/up", f"{layer}mlp.c_fc", width, inner, COLUMNS, transposed=False),
        *linear("layers/down", f"{layer}mlp.c_proj", inner, width, ROWS, transposed=False),
    ]


def _layer_norm(path: str, name: str, width: int, stacked: bool = True) -> list[Leaf]:
    return norm(path, {"scale": (f"{name}.weight",), "bias": (f"{name}.bias",)}, width, stacked=stacked)


def _llama_family(config: Any, prefix: str) -> list[Leaf]:
    width, inner, layer = config.width, config.mlp_width, f"{prefix}layers.{{layer}}."
    heads, kv_heads = config.heads * config.head_width, config.kv_heads * config.head_width
    maps = {
        "q": ("self_attn.q_proj", width, heads, COLUMNS, config.qkv_bias, config.heads),
        "k": ("self_attn.k_proj", width, kv_heads, COLUMNS, config.qkv_bias, config.kv_heads),
        "v": ("self_attn.v_proj", width, kv_heads, COLUMNS, config.qkv_bias, config.kv_heads),
        "o": ("self_attn.o_proj", heads, width, ROWS, config.output_bias, config.heads),
        "gate": ("mlp.gate_proj", width, inner, COLUMNS, config.mlp_bias, None),
        "up": ("mlp.up_proj", width, inner, COLUMNS, config.mlp_bias, None),
        "down": ("mlp.down_proj", inner, width, ROWS, config.mlp_bias, None),
    }
    norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if config.post_norms:
        norms = {
            "attention_norm": "input_layernorm",
            "attention_post_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    leaves = _rms_norm("norm", f"{prefix}norm", width, stacked=False)
    for name, (tensor, inputs, outputs, axes, bias, count) in maps.items():
        leaves += linear(f"layers/{name}", f"{layer}{tensor}", inputs, outputs, axes, bias=bias, heads=count)
    for name, tensor in norms.items():
        leaves += _rms_norm(f"layers/{name}", f"{layer}{tensor}", width)
    for name in "qk" if config.head_norms else "":
        leaves += _rms_norm(f"layers/{name}_norm", f"{layer}self_attn.{name}_norm", config.head_width)
    return leaves


def _rms_norm(path: str, name: str, width: int, stacked: bool = True) -> list[Leaf]:
    return norm(path, {"scale": (f"{name}.weight",)}, width, stacked=stacked)
