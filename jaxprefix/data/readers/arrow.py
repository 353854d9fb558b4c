"""`.arrow`: Arrow's IPC format, as a file or as a stream, which is what Hugging Face `datasets` writes."""

import json
from typing import Any

from jaxprefix.data.readers.mapping import Content
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError

MAGIC = b"ARROW1"  # an IPC file begins and ends with it


def read_arrow(content: Content, name: str, identity: str) -> Rows:
    """The table of a file, which stays mapped where it is not compressed; classes have the names that `datasets`
    stored."""
    import pyarrow as pa

    source = pa.BufferReader(pa.py_buffer(content))
    is_file = content[: len(MAGIC)] == MAGIC
    try:
        table = (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"The file {name} is not Arrow's IPC or is damaged ({error}); write it again.") from None
    names: list[str] = table.column_names
    if len(set(names)) != len(names):
        raise UserError(f"{name} names a column twice ({', '.join(names)}); rename one.")
    columns = dict(zip(names, table.columns, strict=True))
    return Rows(
        name,
        identity,
        table.num_rows,
        lambda index: {key: column[index].as_py() for key, column in columns.items()},
        lambda index: f"{name}, row {index}",
        class_names(table.schema),
        tuple(names),
    )


def class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """The names of the classes of an Arrow schema's columns, where `datasets` wrote them into its metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: names for column, feature in features.items() if (names := _names(feature))}
    except (KeyError, TypeError, ValueError, AttributeError):  # written by somebody else
        return {}


def _names(feature: Any) -> tuple[str, ...]:
    """Of `ClassLabel`, or of a list of it, which is written as a list or as an object with a `feature`."""
    if isinstance(feature, list):
        feature = feature[0]
    feature = feature.get("feature", feature)
    return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else ()
