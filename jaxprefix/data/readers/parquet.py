"""`.parquet`."""

from jaxprefix.data.readers.mapping import Content
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError


def read_parquet(content: Content, name: str, identity: str) -> Rows:
    """The table of a file; names of classes that a library stored beside it are not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(pa.py_buffer(content)))
    except pa.ArrowInvalid as error:
        raise UserError(f"The file {name} is not parquet or is damaged ({error}); write it again.") from None
    columns = dict(zip(table.column_names, (column.combine_chunks() for column in table.columns), strict=True))
    return Rows(
        name,
        identity,
        table.num_rows,
        lambda index: {key: column[index].as_py() for key, column in columns.items()},
        lambda index: f"{name}, row {index}",
        columns=tuple(table.column_names),
    )
