"""The places of frozen leaves, by the table of leaves."""

import types

import pytest
from jax.sharding import PartitionSpec as P

from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import frozen_spec
from jaxprefix.trees import flatten
from tests import decoders, tiny

MODELS = {
    "bert": (tiny.config(), tiny.frozen_tree),
    "roberta": (tiny.config("roberta"), lambda: tiny.frozen_tree("roberta")),
    **{kind: (decoders.config(kind), lambda kind=kind: decoders.frozen_tree(kind)) for kind in decoders.KINDS},
}


def specs(config, leaves, mesh):
    return {path: frozen_spec(config, path, tuple(leaf.shape), mesh) for path, leaf in leaves.items()}


def mesh(data=1, fsdp=1, tp=1):
    return types.SimpleNamespace(shape={"data": data, "fsdp": fsdp, "tp": tp})


@pytest.mark.parametrize("kind", MODELS)
def test_every_leaf_has_a_place_and_every_kernel_is_divided_by_both_axes(kind):
    config, tree = MODELS[kind]
    found = specs(config, flatten(tree()), mesh(fsdp=2, tp=2))
    kernels = {path: spec for path, spec in found.items() if path.startswith("layers/") and path.endswith("kernel")}
    assert len(kernels) >= 6
    for path, spec in kernels.items():
        assert spec[0] is None, path
        assert set(spec[1:]) == {"fsdp", "tp"}, path


@pytest.mark.parametrize("kind", MODELS)
def test_on_one_device_nothing_is_divided_by_name_alone(kind):
    """Axes of size 1 divide everything: what the specs name has no effect."""
    config, tree = MODELS[kind]
    for spec in specs(config, flatten(tree()), mesh()).values():
        assert "data" not in spec


def test_columns_of_the_first_map_meet_rows_of_the_second():
    config = MODELS["bert"][0]
    up = frozen_spec(config, "layers/up/kernel", (3, 16, 24), mesh(fsdp=2, tp=4))
    down = frozen_spec(config, "layers/down/kernel", (3, 24, 16), mesh(fsdp=2, tp=4))
    assert (up, down) == (P(None, "fsdp", "tp"), P(None, "tp", "fsdp"))
    assert frozen_spec(config, "layers/up/bias", (3, 24), mesh(fsdp=2, tp=4)) == P(None, "tp")


def test_heads_are_divided_whole_or_not_at_all():
    """A llama of 4 heads, 2 of them for keys, over 4 devices: q [16, 16] divides, and so would k [16, 8]."""
    config = MODELS["llama"][0]
    assert frozen_spec(config, "layers/q/kernel", (3, 16, 16), mesh(tp=4)) == P(None, "fsdp", "tp")
    assert frozen_spec(config, "layers/k/kernel", (3, 16, 8), mesh(tp=4)) == P(None, "fsdp", None)
    assert frozen_spec(config, "layers/k/kernel", (3, 16, 8), mesh(tp=2)) == P(None, "fsdp", "tp")


def test_a_size_that_does_not_divide_is_left_whole():
    config = MODELS["bert"][0]
    assert frozen_spec(config, "embeddings/word/embedding", (60, 16), mesh(fsdp=8, tp=8)) == P(None, "fsdp")


@pytest.mark.parametrize("path", ["layers/adapter/kernel", "layers/q/kernel2", "embeddings/word", "mlm2/bias"])
def test_a_leaf_that_is_not_in_the_table_is_refused(path):
    with pytest.raises(UserError, match=f"the table of leaves of EncoderConfig has no {path}, so"):
        frozen_spec(MODELS["bert"][0], path, (3, 4, 4), mesh())
