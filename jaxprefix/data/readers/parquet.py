"""`.parquet`."""

from jaxprefix.data.readers.arrow import rows_of_table
from jaxprefix.data.readers.mapping import Content
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError


def read_parquet(content: Content, name: str, identity: str) -> Rows:
    """The table of a file; classes have the names that `datasets` stored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(pa.py_buffer(content)))
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file {name} is not parquet or is damaged ({error}); write it again.") from None
    return rows_of_table(table, [column.combine_chunks() for column in table.columns], name, identity)
