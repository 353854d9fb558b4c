"""Folders of decoders give the tree that was saved, leaf by leaf; what cannot be read is refused in one sentence."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxprefix.errors import UserError
from jaxprefix.hf.folders import open_folder
from jaxprefix.hf.loading import backbone_shapes, load_pretrained, read_backbone
from jaxprefix.models.backbones import read_hf_config
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.heads import CausalLM
from jaxprefix.models.rope import Rope
from jaxprefix.trees import flatten
from tests.models import decoder_folders, folders
from tests.models.test_bad_folders import refusal
from tests.models.test_loading import SHARDED, assert_tree, run

D, F, L = decoder_folders.D, decoder_folders.F, decoder_folders.L
ALL_BIASES = ("q", "k", "v", "o", "gate", "up", "down")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def saved(tmp_path, kind="llama", shards=1, changes=(), **variant):
    tensors, expected = decoder_folders.model(kind, **variant)
    settings = decoder_folders.config(kind, **dict(changes))
    return folders.write(tmp_path / "m", tensors, settings, shards=shards), tensors, expected


VARIANTS = [
    *({"kind": kind} for kind in decoder_folders.KINDS),
    {"kind": "gpt2", "prefix": ""},
    {"kind": "gpt2", "tied": False, "changes": {"tie_word_embeddings": False}},
    {"kind": "llama", "prefix": ""},
    {"kind": "llama", "prefix": "language_model.model.", "head": "language_model."},
    {"kind": "qwen2", "tied": True, "changes": {"tie_word_embeddings": True}},
    {"kind": "llama", "biases": ALL_BIASES, "changes": {"attention_bias": True, "mlp_bias": True}, "shards": 3},
    {"kind": "llama", "biases": ("q", "k", "v", "o"), "changes": {"attention_bias": True}},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_reads_what_was_saved_and_it_is_the_decoders_own_tree(tmp_path, variant):
    folder, tensors, expected = saved(tmp_path, **variant)
    config, frozen, report = read_backbone(str(folder))
    assert_tree(frozen, expected)
    assert report.unused == report.missing == () and set(report.fingerprint) == set(tensors)
    made = jax.eval_shape(Decoder(config).init, jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})["params"]
    shapes = {path: leaf.shape for path, leaf in flatten(made).items()}
    assert shapes == {path: leaf.shape for path, leaf in expected.items() if not path.startswith("lm_head")}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_tied_head_counts_by_the_config_under_either_name(tmp_path, kind, tied):
    tensors, expected = decoder_folders.model(kind, tied=True)
    word = next(name for name in tensors if name.endswith(("wte.weight", "embed_tokens.weight")))
    both = {**tensors, "lm_head.weight": tensors[word]}
    settings = decoder_folders.config(kind, tie_word_embeddings=tied)
    _, frozen, report = read_backbone(folders.write(tmp_path / "both", both, settings))
    kernel = {} if tied else {"lm_head/kernel": tensors[word].T}
    assert_tree(frozen, {**expected, **kernel})
    assert report.unused == ()
    if not tied:
        config, frozen, _ = read_backbone(folders.write(tmp_path / "none", tensors, settings))
        assert_tree(frozen, expected)
        said = refusal(CausalLM().init_missing, jax.random.key(0), config.dims, frozen)
        assert "has no head of a language model" in said


def test_a_head_that_differs_from_the_words_is_a_head_whatever_the_config_says(tmp_path):
    tensors, expected = decoder_folders.model("gpt2")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1
    folder = folders.write(tmp_path / "m", tensors, decoder_folders.config("gpt2"))
    config, frozen, report = read_backbone(folder)
    assert_tree(frozen, {**expected, "lm_head/kernel": tensors["lm_head.weight"].T})
    assert report.unused == () and not config.tied and not config.dims.tied
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    config, _, alike = read_backbone(folders.write(tmp_path / "alike", tensors, decoder_folders.config("gpt2")))
    assert config.tied and alike.tied_identity is None
    assert report.tied_identity == alike.identity  # what an adapter was tied to that took the words for the head
    shapes = backbone_shapes(open_folder(folder).config, open_folder(folder))
    assert {path: leaf.shape for path, leaf in flatten(shapes).items()} == {
        path: leaf.shape for path, leaf in flatten(frozen).items()
    }


def test_buffers_of_old_versions_are_passed_over_and_other_heads_reported(tmp_path):
    for kind, buffers in (
        ("gpt2", ("transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias")),
        ("llama", ("model.layers.0.self_attn.rotary_emb.inv_freq",)),
    ):
        tensors, expected = decoder_folders.model(kind)
        tensors |= dict.fromkeys(buffers, np.ones(3, np.float32)) | {"score.weight": np.ones((2, D), np.float32)}
        folder = folders.write(tmp_path / kind, tensors, decoder_folders.config(kind))
        _, frozen, report = read_backbone(folder)
        assert_tree(frozen, expected)
        assert report.unused == ("score.weight",)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
def test_dtypes_of_a_fused_tensor(tmp_path, stored):
    folder, _, expected = saved(tmp_path, "gpt2", dtype=stored)
    assert_tree(read_backbone(folder, dtype=jnp.bfloat16)[1], expected, jnp.bfloat16)


SHARD_COLUMNS = 'jax.P(*[None] * (path.startswith("layers") + 1), "fsdp")'


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_leaves_land_in_their_shards(tmp_path, kind):
    folder, _, _ = saved(tmp_path, kind, tied=True, changes={"tie_word_embeddings": True})
    run(SHARDED.replace('jax.P(None, "fsdp")', SHARD_COLUMNS), folder)


def test_what_is_missing_or_of_another_shape_is_named(tmp_path):
    for kind, name, transposed in (
        ("gpt2", "transformer.h.1.attn.c_attn.weight", (D, 3 * D)),
        ("llama", "model.layers.2.self_attn.k_proj.weight", (12, D)),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight", (6,)),
    ):
        tensors, _ = decoder_folders.model(kind)
        right, settings = tensors.pop(name), decoder_folders.config(kind)
        assert right.shape == transposed
        said = refusal(read_backbone, str(folders.write(tmp_path / f"{kind} less", tensors, settings)))
        assert f"lack {name}, which its config.json calls for" in said
        tensors[name] = right[:-1]
        said = refusal(read_backbone, str(folders.write(tmp_path / f"{kind} other", tensors, settings)))
        assert f"{name} with shape {(transposed[0] - 1, *transposed[1:])}" in said and str(transposed) in said


def test_files_of_no_decoder_or_of_two(tmp_path):
    settings = decoder_folders.config("llama")
    two = decoder_folders.model(prefix="a.")[0] | decoder_folders.model(prefix="b.")[0]
    said = refusal(read_backbone, str(folders.write(tmp_path / "two", two, settings)))
    assert "2 decoders ('a.', 'b.')" in said
    said = refusal(read_backbone, str(folders.write(tmp_path / "gpt2", decoder_folders.model("gpt2")[0], settings)))
    assert "no decoder" in said and "'embed_tokens.weight'" in said


def test_load_pretrained_gives_what_a_notebook_needs(tmp_path):
    folder, _, expected = saved(tmp_path)
    folders.write_tokenizer(folder)
    backbone, frozen, _ = load_pretrained(folder, dtype=jnp.bfloat16, unroll=False, remat="full")
    config = DecoderConfig.from_hf(decoder_folders.config("llama"))
    assert backbone == Decoder(config, jnp.bfloat16, False, "full") and hash(backbone) == hash(backbone)
    assert_tree(frozen, expected, jnp.bfloat16)


YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}
LONGROPE = {**YARN, "rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [2.0] * 3}
BAD = [
    ("mixtral", {}, r"model_type = 'mixtral'.*bert.*gpt2, llama"),
    ("t5", {}, "model_type = 't5'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"rope_parameters": LONGROPE}, "rope_type = 'longrope'.*default, linear"),
    ("llama", {"rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"num_key_value_heads": 3}, "4 query heads and 3 key/value heads"),
    ("llama", {"head_dim": 5}, "even.*head_dim|head width is 5; make it even"),
    ("llama", {"hidden_act": "quick_gelu"}, "activation is 'quick_gelu'.*gelu_new"),
    ("llama", {"num_hidden_layers": 0}, "layers = 0"),
    ("llama", {"vocab_size": "many"}, "no llama config.*vocab_size"),
    ("llama", {"hidden_size": 10, "head_dim": ...}, "hidden size.*10"),
    ("gpt2", {"n_head": 3}, "n_embd = 8, which n_head = 3"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scales attention in another way"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "'chunked_attention'"),
]


@pytest.mark.parametrize(("kind", "changes", "named"), BAD, ids=str)
def test_configs_of_something_else(tmp_path, kind, changes, named):
    settings = decoder_folders.config("gpt2" if kind == "gpt2" else "llama", **changes) | {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert re.search(named, refusal(read_backbone, str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pattern": ("sliding",)}, "sliding layers and no window"),
        ({"activation": "swish"}, "activation is 'swish'"),
        ({"heads": 3}, "the second must divide the first"),
        ({"head_width": 5}, "head width is 5; make it even"),
    ],
)
def test_a_config_of_ones_own_is_checked_as_well(changes, reason):
    made = DecoderConfig.from_hf(decoder_folders.config("llama"))
    with pytest.raises(UserError, match=reason):
        dataclasses.replace(made, **changes).check()


def test_old_and_new_spellings_of_the_rotation_are_one():
    scaled = {"rope_type": "linear", "factor": 3.0}
    old = decoder_folders.config("llama", rope_theta=500.0, rope_scaling=scaled)
    older = decoder_folders.config("llama", rope_theta=500.0, rope_scaling={"type": "linear", "factor": 3.0})
    new = decoder_folders.config("llama", rope_parameters={"rope_theta": 500.0, **scaled})
    made = [read_hf_config(raw) for raw in (old, older, new)]
    assert made[0] == made[1] == made[2] and made[0].rope == Rope(500.0, "linear", 3.0)


def test_patterns_are_the_shortest_that_repeat():
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    for layers, pattern in ((5, ("sliding", "sliding", "full")), (2, ("sliding",))):
        raw = decoder_folders.config("gemma3_text", num_hidden_layers=layers, layer_types=(kinds * 2)[:layers])
        assert read_hf_config(raw).pattern == pattern
    assert read_hf_config(decoder_folders.config("qwen2")).window is None  # use_sliding_window is off
    assert read_hf_config(decoder_folders.config("mistral", sliding_window=None)).pattern == ("full",)
