"""Rotation: scores depend on distances alone, and every scaling stretches what it should."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.models.rope import Rope, rotate, turns

E = 8
PLAIN = Rope(theta=100.0)
YARN = Rope(100.0, "yarn", factor=3.0, positions=64, low=1.0, high=4.0)
LLAMA3 = Rope(100.0, "llama3", factor=8.0, positions=64, low=1.0, high=4.0)


def rotated(x, positions, rope=PLAIN):
    """On the host."""
    return np.asarray(rotate(x, turns(rope, jnp.asarray([positions]), x.shape[-1])))


def test_pairs_turn_by_their_frequency():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, E)).astype(np.float32)
    found = rotated(jnp.asarray(x), [0, 1, 7])
    for row, position in enumerate((0, 1, 7)):
        for pair in range(E // 2):
            z = x[0, row, :, pair] + 1j * x[0, row, :, pair + E // 2]
            z = z * np.exp(1j * position * 100.0 ** (-2 * pair / E))
            np.testing.assert_allclose(found[0, row, :, pair], z.real, atol=1e-5)
            np.testing.assert_allclose(found[0, row, :, pair + E // 2], z.imag, atol=1e-5)


def test_scores_depend_on_distances_alone():
    q, k = (jnp.asarray(np.random.default_rng(i).normal(size=(1, 1, 1, E)), jnp.float32) for i in (0, 1))
    scores = [(rotated(q, [a]) * rotated(k, [b])).sum() for a, b in ((5, 2), (3, 0), (30, 27))]
    np.testing.assert_allclose(scores, [scores[0]] * 3, atol=1e-5)
    assert abs((rotated(q, [5]) * rotated(k, [3])).sum() - scores[0]) > 1e-2


@pytest.mark.parametrize("rope", [LLAMA3, YARN], ids=lambda rope: rope.scaling)
def test_high_frequencies_stay_and_low_ones_are_divided(rope):
    plain = dataclasses.replace(rope, scaling="default").frequencies(64)
    ratio = plain / rope.frequencies(64)
    np.testing.assert_allclose(ratio[0], 1)
    np.testing.assert_allclose(ratio[-1], rope.factor)
    assert (np.diff(ratio) > -1e-9).all() and ((ratio > 1.01) & (ratio < rope.factor - 0.01)).sum() >= 2


def test_linear_is_positions_divided_and_dynamic_is_plain_up_to_the_models_length():
    np.testing.assert_allclose(Rope(100.0, "linear", 4.0).frequencies(E), PLAIN.frequencies(E) / 4)
    np.testing.assert_array_equal(Rope(100.0, "dynamic", 4.0).frequencies(E), PLAIN.frequencies(E))


def test_the_amplitude_scales_queries_and_keys():
    x = jnp.ones((1, 2, 1, E))
    np.testing.assert_allclose(rotated(x, [1, 2], Rope(100.0, amplitude=0.5)), rotated(x, [1, 2]) / 2, atol=1e-6)


def test_the_dtype_is_kept_and_the_angles_are_not_rounded():
    x = jnp.ones((1, 1, 1, E))
    far = [4001]
    half = rotated(x.astype(jnp.bfloat16), far)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float32), rotated(x, far), atol=1e-2)


def test_reading_fills_in_what_transformers_would():
    made = Rope.from_hf({"rope_type": "yarn", "rope_theta": 10.0, "factor": 4.0}, 64)
    assert (made.low, made.high, made.positions, made.truncate) == (1.0, 32.0, 64, True)
    assert made.amplitude == pytest.approx(0.1 * np.log(4) + 1)
    stretched = {"rope_type": "yarn", "rope_theta": 10.0, "original_max_position_embeddings": 16}
    assert Rope.from_hf(stretched, 64) == dataclasses.replace(made, positions=16)
    assert Rope.from_hf({"rope_theta": 5.0}, 64) == Rope(5.0)
