"""Encoders written as Hugging Face folders, and the starting points of new ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_the_small_start_attends_to_equal_tokens_and_berts_is_left_alone():
    config, tree = tiny.config(), tiny.frozen_tree()
    assert adapt_start(tree, config, "bert") is tree
    started = adapt_start(tree, config, "small")
    layers = started["layers"]
    np.testing.assert_array_equal(layers["q"]["kernel"], layers["k"]["kernel"])
    np.testing.assert_allclose(layers["o"]["kernel"], tree["layers"]["o"]["kernel"] / 2)
    np.testing.assert_array_equal(layers["up"]["kernel"], tree["layers"]["up"]["kernel"])
    positions = np.asarray(started["embeddings"]["position"]["embedding"])
    np.testing.assert_allclose(positions.std(), config.initializer_range, rtol=0.2)
    products = positions @ positions.T
    assert np.all(products.argmax(1) == np.arange(40))  # each position is nearest to itself
    # sinusoids: the product of two positions depends on their distance alone
    np.testing.assert_allclose(np.diagonal(products, 3), products[0, 3], rtol=1e-4)
