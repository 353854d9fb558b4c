"""The devices that JAX finds, or a sentence on those that it was told to find."""

import importlib.util
import os
from typing import Any

import jax

from jaxprefix.errors import UserError

_PLUGINS = {"cpu": ("jaxlib",), "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin"), "tpu": ("libtpu",)}
_EXTRAS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}


def found_devices() -> list[Any]:
    """All devices, of all processes.

    Raises:
      UserError: the environment variable JAX_PLATFORMS asks for devices that this installation or machine lacks.
    """
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:  # JAX has no type of its own for it
        asked = os.environ.get("JAX_PLATFORMS") or jax.config.values.get("jax_platforms")
        if not asked:
            raise
        there = [name for name, plugins in _PLUGINS.items() if any(importlib.util.find_spec(one) for one in plugins)]
        extras = [f"'.[{_EXTRAS[name]}]'" for name in asked.split(",") if name in _EXTRAS and name not in there]
        remedy = (
            f"install the extra with `pip install -e {extras[0]}`, or unset it" if extras else "correct or unset it"
        )
        said = "" if extras or not str(error) else f" ({str(error).split(' (set')[0]})"
        raise UserError(
            f"JAX_PLATFORMS asks for {asked}, and jax is installed here for {' and '.join(there)}{said}; {remedy}."
        ) from error
