"""Content of files, mapped into memory: of a compressed one, what it unpacks to, in a temporary file without a name."""

import gzip
import mmap
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from jaxprefix.errors import UserError

Content = mmap.mmap | bytes
"""Mapped bytes; of an empty file, which cannot be mapped, `b""`."""


def _zstd(file: Path) -> Any:
    import pyarrow as pa  # whose streams unpack several frames, which not every library does

    if not pa.Codec.is_available("zstd"):
        raise UserError(
            f"The file {file} is compressed by Zstandard, which this pyarrow was built without; unpack the file."
        )
    return pa.CompressedInputStream(pa.OSFile(str(file)), "zstd")


UNPACKERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".zst": _zstd}
"""By the suffix of a compressed file, the stream of what it unpacks to."""


def map_file(file: Path, name: str) -> Content:
    """The content of a file, unpacked where its suffix says that it is compressed.

    Args:
      file: its path.
      name: what messages call it.

    Raises:
      UserError: what it is compressed by cannot be read, or it is damaged.
      OSError: of the system.
    """
    if file.suffix not in UNPACKERS:
        with file.open("rb") as stream:
            return _mapped(stream)
    try:
        # in the folder for temporary files, because what people compress may be larger than memory
        with tempfile.TemporaryFile() as target, UNPACKERS[file.suffix](file) as source:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            return _mapped(target)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of what the file holds
            raise
        raise UserError(
            f"The file {name} does not unpack as {file.suffix} ({error}); it is damaged or of another kind, so write "
            "it again."
        ) from None


def _mapped(stream: BinaryIO | Any) -> Content:
    if not stream.seek(0, 2):
        return b""
    # A mapping keeps its file open, and shards may be many; from Python 3.13 on it need not.
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ, **options)
