"""Reading what other libraries wrote: JSON, safetensors without torch, and pickles with it."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.checkpoints.adapter import named_arrays
from jaxprefix.errors import UserError
from jaxprefix.paths import parse_json


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UserError: the file is absent, unreadable or holds something else.
    """
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} has no {path.name}; give the folder that holds the saved adapter.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy or download it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it is no table of settings; copy or download it again.")
    return found


def read_tensors(folder: Path, *stems: str) -> dict[str, np.ndarray]:
    """The tensors of the first file that is there: `stem.safetensors` for each stem, then `stem.bin`.

    Raises:
      UserError: none is there, it is damaged, or it is a pickle and torch is not installed.
    """
    names = [f"{stem}{suffix}" for suffix in (".safetensors", ".bin") for stem in stems]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder} has none of the files {', '.join(names)}; give the folder of a saved adapter.")
    return read_tensor_file(found)


def read_tensor_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one safetensors file or torch pickle, by name, in their own dtypes.

    Raises:
      UserError: as for `read_tensors`.
    """
    try:
        return named_arrays(path.read_bytes()) if path.suffix == ".safetensors" else _unpickled(path)
    except UserError:
        raise
    except Exception as error:  # both readers have error types of their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} cannot be read ({reason[0]}); copy or download it again.") from error


def _unpickled(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise UserError(
            f"{path} is a pickle, which only torch can read; install torch, or save it as safetensors where torch is."
        ) from error
    tensors = torch.load(path, map_location="cpu", weights_only=True)  # executes nothing
    return {name: (t.float() if t.is_floating_point() else t).detach().numpy() for name, t in tensors.items()}
