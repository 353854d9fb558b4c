"""Files of buckets (`gs://bucket/rows.jsonl`), read by fsspec into temporary files without a name."""

import contextlib
import glob
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jaxprefix.errors import UserError

EXTRAS = {"gs": "gcs", "gcs": "gcs"}


def is_remote(path: str) -> bool:
    """Whether a path has a scheme."""
    return "://" in path


def list_files(path: str) -> list[str] | None:
    """The files of a folder or of a pattern, by whole names, sorted; None where the path is that of one file.

    Raises:
      UserError: the bucket cannot be opened, or there is nothing.
    """
    scheme = path.partition("://")[0]
    with _reading(path):
        system, inner = _system(path)
        if glob.has_magic(inner):
            found = [name for name in system.glob(inner) if system.isfile(name)]
        elif system.isdir(inner):
            found = [name for name in system.ls(inner, detail=False) if system.isfile(name)]
        else:
            return None
    return [f"{scheme}://{str(name).removeprefix(f'{scheme}://')}" for name in sorted(found)]


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A copy of a file with the ending of its name, which is there until the block ends: who maps it keeps it.

    Raises:
      UserError: the bucket cannot be opened, or there is no such file.
    """
    name = PurePosixPath(path).name
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        with _reading(path):
            system, inner = _system(path)
            with system.open(inner, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        yield copy


def _system(path: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(path)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        extra = EXTRAS.get(path.partition("://")[0])
        remedy = f"run `pip install -e '.[{extra}]'`" if extra else "install it"
        raise UserError(f"{path} needs a library of its bucket that is not here ({error}); {remedy}.") from error
    except FileNotFoundError as error:
        raise UserError(f"The file {path} does not exist; correct its name.") from error
    except Exception as error:  # every kind of bucket has error types of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"The file {path} cannot be read ({reason}); check its name and your rights.") from error
