"""Backbones written as Hugging Face folders, and the starting points of new encoders."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.errors import UserError
from jaxprefix.hf.loading import read_backbone
from jaxprefix.hf.saving import save_pretrained
from jaxprefix.models.backbones import read_hf_config
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.fresh_init import adapt_start
from jaxprefix.models.heads import MaskedLM
from jaxprefix.models.rope import Rope
from jaxprefix.trees import flatten
from tests import decoders, tiny


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_written_folder_is_read_back_bit_for_bit(tmp_path, kind):
    config = tiny.config(kind)
    dims = tiny.encoder_dims(kind)
    tree = {**tiny.frozen_tree(kind), **MaskedLM().init_missing(jax.random.key(0), dims, {})}
    tree["pooler"] = {"kernel": jnp.arange(256.0).reshape(16, 16), "bias": jnp.arange(16.0)}
    save_pretrained(tmp_path / "folder", config, tree)
    again, loaded, report = read_backbone(str(tmp_path / "folder"))
    assert again == config and not report.unused and all("decoder" in path for path in report.missing)
    assert set(flatten(loaded)) == set(flatten(tree))
    for path, leaf in flatten(tree).items():
        np.testing.assert_array_equal(flatten(loaded)[path], leaf, err_msg=path)


@pytest.mark.parametrize("kind", decoders.KINDS)
def test_a_written_decoder_is_read_back_bit_for_bit(tmp_path, kind):
    changes = {} if kind == "gpt2" else {"rope": Rope(500.0)}
    if kind in ("mistral", "gemma2"):  # in these families both kinds of layers turn alike
        changes["sliding_rope"] = changes["rope"]
    config, tree = decoders.config(kind, **changes), decoders.frozen_tree(kind)
    config = dataclasses.replace(config, query_scale=10**-0.5) if kind.startswith("gemma") else config
    save_pretrained(tmp_path / "folder", config, tree)
    again, loaded, report = read_backbone(str(tmp_path / "folder"))
    assert again == config == read_hf_config(json.loads((tmp_path / "folder" / "config.json").read_text()))
    assert report.unused == report.missing == ()
    assert set(flatten(loaded)) == set(flatten(tree))
    for path, leaf in flatten(tree).items():
        np.testing.assert_array_equal(flatten(loaded)[path], leaf, err_msg=path)


@pytest.mark.parametrize(
    "rope",
    [
        Rope(7.0),
        Rope(10.0, "linear", 2.0),
        Rope(10.0, "dynamic", 2.0),
        Rope(10.0, "llama3", 2.0, positions=8, low=1.0, high=3.0),
        Rope(10.0, "yarn", 2.0, positions=8, low=2.0, high=16.0, amplitude=0.7, truncate=False),
    ],
    ids=lambda rope: rope.scaling,
)
def test_every_rotation_survives_its_config(rope):
    config = decoders.config("llama", rope=rope, qkv_bias=True, output_bias=True, mlp_bias=True)
    assert read_hf_config(config.to_hf()) == config


def test_what_no_config_of_the_family_says_is_refused(tmp_path):
    for kind, changes, named in (
        ("llama", {"qkv_bias": True}, "output_bias = False; a llama of these sizes has True"),
        ("mistral", {"mlp_bias": True}, "mlp_bias = True"),
        ("gemma2", {"sliding_rope": Rope(), "query_scale": None}, "query_scale = None; a gemma2 of .* has 0.5"),
        ("gpt2", {"rope": Rope()}, "rope = Rope"),
        ("qwen3", {"embedding_scale": 2.0}, "embedding_scale = 2.0"),
    ):
        with pytest.raises(UserError, match=named):
            decoders.config(kind, **{"layers": 2, **changes}).to_hf()
    assert decoders.config("llama", hidden_dropout=0.1).to_hf()  # the rate of a run
    with pytest.raises(UserError, match="has no embeddings/word/embedding; give the backbone's whole tree"):
        save_pretrained(tmp_path, decoders.config("llama"), {})


@functools.cache
def small_start():
    config = tiny.config(width=128, vocab=500, initializer_range=0.04)
    tree = jax.jit(Encoder(config).init)(jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})["params"]
    return config, tree, adapt_start(tree, config, "small")


def test_berts_start_is_left_alone_and_the_small_one_keeps_its_size():
    config, tree, started = small_start()
    assert adapt_start(tree, config, "bert") is tree
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), t) for t in (tree, started)]
    assert shapes[0] == shapes[1]
    with pytest.raises(UserError, match="needs four heads and two layers, and the encoder has 2"):
        adapt_start(tiny.frozen_tree(), tiny.config(heads=2), "small")


def test_the_small_start_finds_equal_tokens_and_copies_them():
    _, tree, started = small_start()
    layers = {name: np.asarray(leaf["kernel"]) for name, leaf in started["layers"].items() if "kernel" in leaf}
    np.testing.assert_array_equal(layers["q"][1:], layers["k"][1:])
    np.testing.assert_array_equal(layers["q"][0, :, 96:], layers["k"][0, :, 96:])  # the head without an offset
    for value, out in zip(layers["v"][1:], layers["o"][1:], strict=True):
        np.testing.assert_allclose(value @ out, np.eye(128) / 2, atol=1e-5)
    np.testing.assert_array_equal(layers["up"], tree["layers"]["up"]["kernel"])
    assert not layers["q"][1, :96, :64].any()  # two heads compare nothing but the company
    assert not layers["o"][0, :96, :96].any() and layers["o"][0, :96, 96:].all()  # which three heads have written


def test_in_the_small_start_three_heads_look_at_neighbours():
    _, _, started = small_start()
    tables = {name: np.asarray(leaf["embedding"]) for name, leaf in started["embeddings"].items() if name != "norm"}
    products = tables["position"] @ tables["position"].T
    assert np.all(products.argmax(1) == np.arange(40))  # each position is nearest to itself
    # sinusoids: the product of two positions depends on their distance alone
    np.testing.assert_allclose(np.diagonal(products, 3), products[0, 3], rtol=1e-4)
    ids = np.random.default_rng(0).integers(2, 500, 40)
    x = tables["word"][ids] + tables["position"] + tables["token_type"][0]
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    query, key = ((x @ np.asarray(started["layers"][name]["kernel"][0])).reshape(40, 4, 32) for name in "qk")
    weight = np.asarray(jax.nn.softmax(np.einsum("qhd,khd->hqk", query, key) / 32**0.5, -1))
    places = np.arange(1, 39)
    for head, offset in enumerate((-1, 1, 0)):
        assert np.mean(weight[head, 1:39].argmax(-1) == places + offset) > 0.8
    near = [np.mean([weight[head, t, t - 3 : t + 4].sum() for t in range(5, 35)]) for head in (0, 2, 3)]
    assert near[0] > 0.95 and 0.5 < near[1] < near[0] and near[2] < 0.6
