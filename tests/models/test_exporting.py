"""Encoders written as Hugging Face folders, and the starting points of new ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.errors import UserError
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.exporting import save_pretrained
from jaxprefix.models.heads import MaskedLM
from jaxprefix.models.initial import adapt_start
from jaxprefix.models.loading import read_backbone
from jaxprefix.trees import flatten
from tests import tiny


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_written_folder_is_read_back_bit_for_bit(tmp_path, kind):
    config = tiny.config(kind)
    dims = tiny.encoder_dims(kind)
    tree = {**tiny.frozen_tree(kind), **MaskedLM().born(jax.random.key(0), dims, {})}
    tree["pooler"] = {"kernel": jnp.arange(256.0).reshape(16, 16), "bias": jnp.arange(16.0)}
    save_pretrained(tmp_path / "folder", config, tree)
    again, loaded, report = read_backbone(str(tmp_path / "folder"))
    assert again == config and not report.unused and all("decoder" in path for path in report.missing)
    assert set(flatten(loaded)) == set(flatten(tree))
    for path, leaf in flatten(tree).items():
        np.testing.assert_array_equal(flatten(loaded)[path], leaf, err_msg=path)


def small_start(**sizes):
    config = tiny.config(width=128, vocab=500, initializer_range=0.04, **sizes)
    tree = Encoder(config).init(jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})["params"]
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
