"""Names of TPU slices are counted as they are sold."""

import pytest

from jaxprefix.analysis import topologies
from jaxprefix.analysis.topologies import CHIPS, find_topology, near_sizes, slice_shape, topology_devices
from jaxprefix.errors import UserError


@pytest.mark.parametrize(
    ("name", "library", "chips", "devices"),
    [
        ("v5e-16", "v5e:4x4", 16, 16),
        ("v5litepod-256", "v5e:16x16", 256, 256),
        ("v6e-8", "v6e:2x4", 8, 8),
        ("v4-8", "v4:2x2x1", 4, 4),
        ("v4-64", "v4:2x4x4", 32, 32),
        ("v5p-128", "v5:4x4x4", 64, 64),
        ("V5P-256", "v5:4x4x8", 128, 128),
        ("v5p-1024", "v5:8x8x8", 512, 512),
        ("tpu7x-16", "tpu7x:2x2x2", 8, 16),
        ("tpu7x-128", "tpu7x:4x4x4", 64, 128),
        ("2xv5e-256", "v5e:16x16", 512, 512),
    ],
)
def test_what_a_name_means(name, library, chips, devices):
    found = find_topology(name)
    assert (found.library_name, found.chips, found.devices) == (library, chips, devices)


def test_slices_may_be_said_in_either_place():
    assert find_topology("v5e-16", 4) == find_topology("4xv5e-16")
    with pytest.raises(UserError, match="say it once"):
        find_topology("4xv5e-16", 2)
    with pytest.raises(UserError, match="at least 1"):
        find_topology("v5e-16", 0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("v5e-17", "v5e-16 and v5e-32"),
        ("v5p-127", "two to a chip; the nearest are v5p-64 and v5p-128"),
        ("v6e-512", "the nearest are v6e-256"),
        ("v5-16", "did you mean v5p-16|did you mean v5e-16"),
        ("trilium-16", "did you mean trillium-16"),
        ("v5e", "v5p-128"),
    ],
)
def test_a_wrong_name_is_answered_with_near_ones(name, hint):
    with pytest.raises(UserError, match=hint):
        find_topology(name)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_every_size_on_sale_has_a_shape_of_that_many_chips(chip):
    """Walks up through the sizes, each the next one above the one before."""
    size, seen = 0, 0
    while above := [other for other in near_sizes(chip, size) if other > size][:1]:
        size = above[0]
        shape = slice_shape(chip, size // chip.counts)
        assert len(shape) == chip.axes
        product = 1
        for side in shape:
            product *= side
        assert product * chip.counts == size
        seen += 1
        if seen > 20:
            break
    assert seen > 5


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_a_program_may_use_most_of_the_memory(chip):
    assert 0.95 * chip.hbm < chip.usable <= chip.hbm


def test_clocks_are_those_of_processors():
    assert all(0.9e9 < chip.clock < 2.5e9 for chip in CHIPS.values())


def test_without_the_compiler_it_says_which_extra_to_install(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxprefix\[tpu\]'"):
        topology_devices(find_topology("v5e-16"))
