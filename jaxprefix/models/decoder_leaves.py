"""Where each leaf of a decoder's tree lies in a Hugging Face folder."""

from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder_leaves import WORD, Leaf

HEAD = "lm_head/kernel"


def anchor(config: DecoderConfig) -> str:
    """The end of the tensor name by which a decoder of this kind is found in its files."""
    return "wte.weight" if config.kind == "gpt2" else "embed_tokens.weight"


def decoder_leaves(config: DecoderConfig, prefix: str) -> list[Leaf]:
    """All leaves that files with this prefix hold; the head's kernel only where it is not tied."""
    head = prefix.removesuffix("model.").removesuffix("transformer.")
    lm_head = f"{head}lm_head.weight"
    leaves = [
        Leaf(WORD, (f"{prefix}{anchor(config)}", *((lm_head,) if config.tied else ())), (config.vocab, config.width)),
        *(_gpt2 if config.kind == "gpt2" else _llama_family)(config, prefix),
    ]
    if not config.tied:
        leaves.append(Leaf(HEAD, (lm_head,), (config.width, config.vocab), transposed=True))
    return leaves


def is_decoder_buffer(name: str) -> bool:
    """Whether a tensor is a constant that older versions of transformers saved with the weights."""
    return name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq"))


def _gpt2(config: DecoderConfig, prefix: str) -> list[Leaf]:
    """GPT-2 keeps its kernels as [in, out], and those of queries, keys and values side by side."""
    width, inner, layer = config.width, config.mlp_width, f"{prefix}h.{{layer}}."
    leaves = [
        Leaf("embeddings/position/embedding", (f"{prefix}wpe.weight",), (config.positions, width)),
        *_layer_norm("norm", f"{prefix}ln_f", width),
        *_layer_norm("layers/attention_norm", f"{layer}ln_1", width, stacked=True),
        *_layer_norm("layers/mlp_norm", f"{layer}ln_2", width, stacked=True),
    ]
    for place, name in enumerate("qkv"):
        part = place * width, (place + 1) * width
        for leaf, tensor, shape in (("kernel", "weight", (width, width)), ("bias", "bias", (width,))):
            names = (f"{layer}attn.c_attn.{tensor}",)
            leaves.append(Leaf(f"layers/{name}/{leaf}", names, shape, stacked=True, part=part, whole=3 * width))
    maps = {"o": ("attn.c_proj", width, width), "up": ("mlp.c_fc", width, inner), "down": ("mlp.c_proj", inner, width)}
    for name, (tensor, inputs, outputs) in maps.items():
        leaves += [
            Leaf(f"layers/{name}/kernel", (f"{layer}{tensor}.weight",), (inputs, outputs), stacked=True),
            Leaf(f"layers/{name}/bias", (f"{layer}{tensor}.bias",), (outputs,), stacked=True),
        ]
    return leaves


def _layer_norm(path: str, name: str, width: int, stacked: bool = False) -> list[Leaf]:
    return [
        Leaf(f"{path}/scale", (f"{name}.weight",), (width,), stacked),
        Leaf(f"{path}/bias", (f"{name}.bias",), (width,), stacked),
    ]


def _llama_family(config: DecoderConfig, prefix: str) -> list[Leaf]:
    width, inner, layer = config.width, config.mlp_width, f"{prefix}layers.{{layer}}."
    heads, kv_heads = config.heads * config.head_width, config.kv_heads * config.head_width
    maps = {
        "q": ("self_attn.q_proj", width, heads, config.qkv_bias),
        "k": ("self_attn.k_proj", width, kv_heads, config.qkv_bias),
        "v": ("self_attn.v_proj", width, kv_heads, config.qkv_bias),
        "o": ("self_attn.o_proj", heads, width, config.output_bias),
        "gate": ("mlp.gate_proj", width, inner, config.mlp_bias),
        "up": ("mlp.up_proj", width, inner, config.mlp_bias),
        "down": ("mlp.down_proj", inner, width, config.mlp_bias),
    }
    norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if config.post_norms:
        norms = {
            "attention_norm": "input_layernorm",
            "attention_post_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    leaves = [Leaf("norm/scale", (f"{prefix}norm.weight",), (width,))]
    for name, (tensor, inputs, outputs, bias) in maps.items():
        shape = inputs, outputs
        leaves.append(Leaf(f"layers/{name}/kernel", (f"{layer}{tensor}.weight",), shape, stacked=True, transposed=True))
        if bias:
            leaves.append(Leaf(f"layers/{name}/bias", (f"{layer}{tensor}.bias",), (outputs,), stacked=True))
    for name, tensor in norms.items():
        leaves.append(Leaf(f"layers/{name}/scale", (f"{layer}{tensor}.weight",), (width,), stacked=True))
    for name in "qk" if config.head_norms else "":
        tensor = f"{layer}self_attn.{name}_norm.weight"
        leaves.append(Leaf(f"layers/{name}_norm/scale", (tensor,), (config.head_width,), stacked=True))
    return leaves
