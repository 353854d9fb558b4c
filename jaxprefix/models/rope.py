"""Rotary position embeddings, RoPE (Su et al. 2021): pairs of channels of queries and keys turn with the position."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.errors import UserError
from jaxprefix.typed_json import register
from jaxprefix.values import Natural, Positive

SCALINGS = ("default", "linear", "dynamic", "yarn", "llama3")


@register
@dataclasses.dataclass(frozen=True)
class Rope:
    """The frequencies of one kind of layer, as `rope_parameters` of a Hugging Face config says them; hashable.

    Attributes:
      theta: base of the frequencies: pair i of n turns by `position * theta^(-i/n)`.
      scaling: `default`; `linear` (all frequencies divided by `factor`: Chen et al. 2023); `llama3` (low ones divided,
        high ones kept, those between interpolated: Llama 3.1); `yarn` (the same idea with a linear ramp, and cosines
        and sines scaled: Peng et al. 2023); `dynamic` is `default` up to `positions`, and longer rows are refused.
      factor: by how much positions are stretched.
      positions: the length that the model was made for before it was stretched.
      low, high: `llama3`: wavelengths per `positions` below and above which frequencies are divided and kept; `yarn`:
        turns per `positions`, `beta_slow` and `beta_fast`.
      amplitude: of cosines and sines.
      truncate: `yarn`: whether the ramp's ends are whole pairs.
    """

    theta: Positive = 10000.0
    scaling: str = "default"
    factor: Positive = 1.0
    positions: Natural = 0
    low: Positive = 1.0
    high: Positive = 4.0
    amplitude: Positive = 1.0
    truncate: bool = True

    @classmethod
    def from_hf(cls, parameters: Mapping[str, Any], positions: int) -> "Rope":
        """Reads one entry of `rope_parameters`; `positions` is `max_position_embeddings`.

        Raises `UserError` for a scaling that is not one of `SCALINGS`.
        """
        scaling = parameters.get("rope_type") or "default"
        if scaling not in SCALINGS:
            raise UserError(
                f"config.json has rope_type = {scaling!r}, which is not supported; take a model with one of these: "
                f"{', '.join(SCALINGS)}."
            )
        if parameters.get("partial_rotary_factor", 1.0) != 1.0:
            raise UserError("config.json has a partial_rotary_factor, which is not supported; take a model without.")
        theta, factor = float(parameters["rope_theta"]), float(parameters.get("factor") or 1.0)
        original = int(parameters.get("original_max_position_embeddings") or positions)
        if scaling == "llama3":
            low, high = float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"])
            return cls(theta, scaling, factor, original, low, high)
        if scaling == "yarn":
            factor = float(parameters.get("factor") or positions / original)
            low, high = float(parameters.get("beta_slow") or 1), float(parameters.get("beta_fast") or 32)
            amplitude = parameters.get("attention_factor") or _yarn_amplitude(parameters, factor)
            return cls(theta, scaling, factor, original, low, high, amplitude, bool(parameters.get("truncate", True)))
        return cls(theta, scaling, factor)

    def frequencies(self, head_width: int) -> np.ndarray:
        """`[E / 2]`, radians per position, float64."""
        pairs = np.arange(0, head_width, 2) / head_width
        plain = self.theta**-pairs
        if self.scaling == "linear":
            return plain / self.factor
        if self.scaling == "llama3":
            wavelength = 2 * np.pi / plain
            kept = (self.positions / wavelength - self.low) / (self.high - self.low)
            return _between(plain / self.factor, plain, kept)
        if self.scaling == "yarn":
            ends = [
                head_width * math.log(self.positions / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
                for turns in (self.high, self.low)
            ]
            if self.truncate:
                ends = [math.floor(ends[0]), math.ceil(ends[1])]
            first, last = max(ends[0], 0), min(ends[1], head_width - 1)
            ramp = (np.arange(head_width // 2) - first) / (last - first or 0.001)
            return _between(plain, plain / self.factor, ramp)
        return plain


def _between(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)
    return start * (1 - share) + end * share


def _yarn_amplitude(parameters: Mapping[str, Any], factor: float) -> float:
    def scale(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    by, over = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return scale(by) / scale(over) if by and over else scale(1.0)


Turns = tuple[Float[Array, "*B T 1 F"], Float[Array, "*B T 1 F"]]
"""Cosines and sines of every position and pair, ready to meet `[B, T, H, E]`."""


def turns(rope: Rope, positions: Int[Array, "*B T"], head_width: int) -> Turns:
    """Cosines and sines, float32, times the amplitude."""
    frequencies = jnp.asarray(rope.frequencies(head_width), jnp.promote_types(jnp.float32, jnp.result_type(float)))
    angles = positions[..., None, None].astype(frequencies.dtype) * frequencies
    return jnp.cos(angles) * rope.amplitude, jnp.sin(angles) * rope.amplitude


def rotate(x: Float[Array, "*B T H E"], by: Turns) -> Float[Array, "*B T H E"]:
    """Turns channel i with channel i + E/2, in float32 or wider, returned in the dtype of `x`."""
    cos, sin = by
    first, second = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
