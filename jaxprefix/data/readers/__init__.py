"""The kinds of files, each a module with a function of the mapped content, the file's name for messages, and what
identifies the content: a new kind is such a module and a line here."""

from collections.abc import Callable

from jaxprefix.data.readers.arrow import read_arrow
from jaxprefix.data.readers.delimited import read_csv, read_tsv
from jaxprefix.data.readers.jsonl import read_jsonl
from jaxprefix.data.readers.mapping import Content
from jaxprefix.data.readers.parquet import read_parquet
from jaxprefix.data.rows import Rows

READERS: dict[str, Callable[[Content, str, str], Rows]] = {
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".tsv": read_tsv,
    ".arrow": read_arrow,
}
