"""Files of buckets are read as local ones are; fsspec's bucket in memory stands for all."""

import gzip
import json

import pytest

import jaxprefix as jp
from jaxprefix.data.files import open_files
from jaxprefix.errors import UserError

fsspec = pytest.importorskip("fsspec")
ROWS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    system.pipe("/data/rows.jsonl", b"".join(lines))
    system.pipe("/data/rows.jsonl.gz", gzip.compress(b"".join(lines)))
    system.pipe("/shards/part-0.jsonl", b"".join(lines[:2]))
    system.pipe("/shards/part-1.jsonl", b"".join(lines[2:]))
    system.pipe("/shards/README.md", b"about")
    yield system
    system.rm("/data", recursive=True)
    system.rm("/shards", recursive=True)


@pytest.mark.parametrize("path", ["data/rows.jsonl", "data/rows.jsonl.gz", "shards", "shards/part-*.jsonl"])
def test_a_bucket_is_read_as_a_folder_is(bucket, path, tmp_path):
    found = open_files(f"memory://{path}")
    assert list(found) == ROWS
    assert found.locate(0).startswith("memory://")
    (tmp_path / "rows.jsonl").write_bytes(bucket.cat("/data/rows.jsonl"))
    if path == "data/rows.jsonl":
        assert found.identity == open_files(str(tmp_path / "rows.jsonl")).identity
        assert list(jp.Files(f"memory://{path}").open("train")) == ROWS


def test_what_is_not_there_is_a_sentence(bucket, monkeypatch):
    with pytest.raises(UserError, match=r"memory://data/none.jsonl does not exist"):
        open_files("memory://data/none.jsonl")
    with pytest.raises(UserError, match=r"foo://bucket/x.jsonl cannot be read"):
        open_files("foo://bucket/x.jsonl")

    def absent(*_, **__):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(UserError, match=r"Please install gcsfs.*pip install -e '.\[gcs\]'"):
        open_files("gs://bucket/x.jsonl")
