"""`.arrow`: Arrow's IPC format, as a file or as a stream, which is what Hugging Face `datasets` writes."""

import json
from collections.abc import Sequence
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
        table.validate(full=True)  # offsets and text as the format has them; reading does not look
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file {name} is not Arrow's IPC or is damaged ({error}); write it again.") from None
    return rows_of_table(table, table.columns, name, identity)


def rows_of_table(table: Any, columns: Sequence[Any], name: str, identity: str) -> Rows:
    """The rows of an Arrow table, whose columns may be given in another form; `UserError` where two have one name."""
    names: list[str] = table.column_names
    if len(set(names)) != len(names):
        raise UserError(f"{name} names a column twice ({', '.join(names)}); rename one.")
    by_name = dict(zip(names, columns, strict=True))

    def read(index: int) -> dict[str, Any]:
        found = {}
        for key, column in by_name.items():
            try:
                found[key] = column[index].as_py()
            except (ValueError, OverflowError, NotImplementedError) as error:  # times that Python has no value for
                raise UserError(
                    f"{name}, row {index} has a value of type {column.type} in column {key!r} that cannot be read "
                    f"({error}); convert the column or drop it."
                ) from None
        return found

    def locate(index: int) -> str:
        return f"{name}, row {index}"

    return Rows(name, identity, table.num_rows, read, locate, class_names(table.schema), tuple(names))


def class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """The names of the classes of an Arrow schema's columns, where `datasets` wrote them into its metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: names for column, feature in features.items() if (names := _names(feature))}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):  # written by somebody else
        return {}


def _names(feature: Any) -> tuple[str, ...]:
    """Of `ClassLabel`, or of a list of it, which is written as a list or as an object with a `feature`."""
    if isinstance(feature, list):
        feature = feature[0]
    feature = feature.get("feature", feature)
    return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else ()
