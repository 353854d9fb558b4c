"""Sizes of well-known backbones by their names on the hub, so that a run can be planned without a download.

They are what each model's published `config.json` says; a test compares the number of parameters with the published
one. Weights are never in here: a run that trains reads the folder.
"""

import re

from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.models.rope import Rope


def _bert(vocab: int, width: int, layers: int) -> EncoderConfig:
    return EncoderConfig("bert", vocab, width, layers, width // 64, 4 * width, positions=512)


def _roberta(width: int, layers: int) -> EncoderConfig:
    return EncoderConfig(
        *("roberta", 50265, width, layers, width // 64, 4 * width),
        positions=514,
        token_types=1,
        norm_eps=1e-5,
        padding_id=1,
    )


def _gpt2(width: int, layers: int) -> DecoderConfig:
    return DecoderConfig(
        *("gpt2", 50257, width, layers, width // 64, width // 64, 64, 4 * width),
        positions=1024,
        norm="layer",
        norm_eps=1e-5,
        gated_mlp=False,
        activation="gelu_new",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied=True,
        rope=None,
        embedding_dropout=0.1,
        hidden_dropout=0.1,
        attention_dropout=0.1,
    )


def _llama(
    vocab: int, width: int, layers: int, heads: int, kv_heads: int, mlp_width: int, positions: int, rope: Rope
) -> DecoderConfig:
    return DecoderConfig(
        *("llama", vocab, width, layers, heads, kv_heads, width // heads, mlp_width),
        positions=positions,
        norm_eps=1e-5,
        rope=rope,
    )


def _qwen2(
    vocab: int, width: int, layers: int, heads: int, kv_heads: int, mlp_width: int, **more: object
) -> DecoderConfig:
    return DecoderConfig(
        *("qwen2", vocab, width, layers, heads, kv_heads, width // heads, mlp_width),
        **{"positions": 131072, "qkv_bias": True, "rope": Rope(1e6), **more},
    )


def _qwen3(width: int, layers: int, heads: int, mlp_width: int, tied: bool) -> DecoderConfig:
    return DecoderConfig(
        *("qwen3", 151936, width, layers, heads, 8, 128, mlp_width),
        positions=40960,
        head_norms=True,
        tied=tied,
        rope=Rope(1e6),
    )


def _gemma2(
    width: int, layers: int, heads: int, kv_heads: int, head_width: int, mlp_width: int, query: int
) -> DecoderConfig:
    return DecoderConfig(
        *("gemma2", 256000, width, layers, heads, kv_heads, head_width, mlp_width),
        positions=8192,
        norm_offset=1.0,
        post_norms=True,
        activation="gelu_pytorch_tanh",
        tied=True,
        pattern=("sliding", "full"),
        window=4096,
        sliding_rope=Rope(),
        query_scale=query**-0.5,
        attention_softcap=50.0,
        logit_softcap=30.0,
        embedding_scale=width**0.5,
    )


_LLAMA_3, _LLAMA_31 = Rope(5e5), Rope(5e5, "llama3", 8.0, 8192, 1.0, 4.0)
_MISTRAL = DecoderConfig(
    *("mistral", 32000, 4096, 32, 32, 8, 128, 14336),
    positions=32768,
    norm_eps=1e-5,
    pattern=("sliding",),
    window=4096,
    sliding_rope=Rope(),
)

KNOWN: dict[str, BackboneConfig] = {
    "google-bert/bert-base-uncased": _bert(30522, 768, 12),
    "google-bert/bert-base-cased": _bert(28996, 768, 12),
    "google-bert/bert-large-uncased": _bert(30522, 1024, 24),
    "google-bert/bert-large-cased": _bert(28996, 1024, 24),
    "FacebookAI/roberta-base": _roberta(768, 12),
    "FacebookAI/roberta-large": _roberta(1024, 24),
    "openai-community/gpt2": _gpt2(768, 12),
    "openai-community/gpt2-medium": _gpt2(1024, 24),
    "openai-community/gpt2-large": _gpt2(1280, 36),
    "openai-community/gpt2-xl": _gpt2(1600, 48),
    "meta-llama/Llama-2-7b-hf": _llama(32000, 4096, 32, 32, 32, 11008, 4096, Rope()),
    "meta-llama/Llama-2-13b-hf": _llama(32000, 5120, 40, 40, 40, 13824, 4096, Rope()),
    "meta-llama/Llama-2-70b-hf": _llama(32000, 8192, 80, 64, 8, 28672, 4096, Rope()),
    "meta-llama/Meta-Llama-3-8B": _llama(128256, 4096, 32, 32, 8, 14336, 8192, _LLAMA_3),
    "meta-llama/Meta-Llama-3-70B": _llama(128256, 8192, 80, 64, 8, 28672, 8192, _LLAMA_3),
    "meta-llama/Llama-3.1-8B": _llama(128256, 4096, 32, 32, 8, 14336, 131072, _LLAMA_31),
    "meta-llama/Llama-3.1-70B": _llama(128256, 8192, 80, 64, 8, 28672, 131072, _LLAMA_31),
    "meta-llama/Llama-3.1-405B": _llama(128256, 16384, 126, 128, 8, 53248, 131072, _LLAMA_31),
    "mistralai/Mistral-7B-v0.1": _MISTRAL,
    "Qwen/Qwen2.5-0.5B": _qwen2(151936, 896, 24, 14, 2, 4864, positions=32768, tied=True),
    "Qwen/Qwen2.5-1.5B": _qwen2(151936, 1536, 28, 12, 2, 8960, tied=True),
    "Qwen/Qwen2.5-7B": _qwen2(152064, 3584, 28, 28, 4, 18944),
    "Qwen/Qwen2.5-72B": _qwen2(152064, 8192, 80, 64, 8, 29568, norm_eps=1e-5),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12288, tied=False),
    "Qwen/Qwen3-32B": _qwen3(5120, 64, 64, 25600, tied=False),
    "google/gemma-2-2b": _gemma2(2304, 26, 8, 4, 256, 9216, 256),
    "google/gemma-2-9b": _gemma2(3584, 42, 16, 8, 256, 14336, 256),
    "google/gemma-2-27b": _gemma2(4608, 46, 32, 16, 128, 36864, 144),
}  # fmt: skip
"""The hub's full names -> what the model is."""

_OWNER_OPTIONAL = ("google-bert", "FacebookAI", "openai-community")  # names of the hub's first years have no owner
_TUNED = re.compile(r"(-Instruct|-chat|-it)$")  # tuned further from the same sizes


def known_config(name: str) -> BackboneConfig | None:
    """What the model of that name on the hub is, or None where it is not known here.

    Args:
      name: with its owner, or without for models that the hub also finds so (`roberta-large`); names of the same sizes
        tuned further (`-Instruct`) are known too, `Meta-Llama-3.1-8B` as well as `Llama-3.1-8B`.
    """
    name = _TUNED.sub("", name.replace("-chat-hf", "-hf")).replace("Meta-Llama-3.1", "Llama-3.1")
    if name in KNOWN:
        return KNOWN[name]
    return next((KNOWN[full] for owner in _OWNER_OPTIONAL if (full := f"{owner}/{name}") in KNOWN), None)
