"""Shards are one table, compressed files are what they unpack to, and `.tsv` and `.arrow` are tables too."""

import gzip
import itertools
import json
import os
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprefix.data import Files, files
from jaxprefix.data.readers import READERS
from jaxprefix.data.readers import mapping as mapped
from jaxprefix.errors import UserError
from tests.data.conftest import write_rows

ROWS = [{"text": f'line {i} "é"', "label": str(i % 2)} for i in range(7)]


def opened(path):
    return Files(str(path)).open("train")


def write_tsv(path, rows):
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_arrow(path, rows, kind="file", compression=None, names=None):
    """As `datasets` does, in batches."""
    table = pa.Table.from_pylist(rows)
    if names is not None:
        feature = {"names": names, "dtype": "int64", "_type": "ClassLabel"}
        about = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}[kind]
    with pa.OSFile(str(path), "wb") as stream, new(stream, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)


def write_any(path, rows):
    {".tsv": write_tsv, ".arrow": write_arrow}.get(path.suffix, write_rows)(path, rows)
    return path


def pack(path, content, suffix):
    """The content in two parts, each compressed for itself, as tools that work in parallel leave it."""
    compress = {".gz": gzip.compress, ".zst": lambda part: pa.Codec("zstd").compress(part, asbytes=True)}[suffix]
    half = len(content) // 2
    packed = path.with_name(path.name + suffix)
    packed.write_bytes(compress(content[:half]) + compress(content[half:]))
    return packed


@pytest.mark.parametrize("suffix", READERS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(ROWS) - 1), unique=True, max_size=4))
def test_shards_are_one_file(tmp_path_factory, suffix, cuts):
    folder = tmp_path_factory.mktemp("shards")
    whole = write_any(folder / f"whole{suffix}", ROWS)
    shards = folder / "shards"
    shards.mkdir()
    edges = [0, *sorted(cuts), len(ROWS)]
    for number in reversed(range(len(edges) - 1)):  # written in another order than that of the names
        write_any(shards / f"part-{number}{suffix}", ROWS[edges[number] : edges[number + 1]])
    for name in ("README.md", "_SUCCESS", "dataset_info.json", f".part-0{suffix}"):
        (shards / name).write_text("no data")
    one = opened(whole)
    for rows in (opened(shards), opened(shards / f"part-*{suffix}"), opened(folder / "**" / f"part-*{suffix}")):
        assert [*rows] == [*one] == ROWS and len(rows) == len(one)
        assert [rows[index] for index in range(-7, 7)] == [one[index] for index in range(-7, 7)]
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            single = opened(shards / f"part-{number}{suffix}")
            assert [rows.locate(i) for i in range(start, end)] == [single.locate(i) for i in range(end - start)]


def test_the_identity_of_shards_is_that_of_their_content_in_its_order(tmp_path):
    def folder(name, *shards):
        (tmp_path / name).mkdir()
        for number, rows in enumerate(shards):
            write_rows(tmp_path / name / f"{number}.jsonl", rows)
        return opened(tmp_path / name).identity

    first = folder("first", ROWS[:3], ROWS[3:])
    assert first == folder("same", ROWS[:3], ROWS[3:])
    assert len({first, folder("turned", ROWS[3:], ROWS[:3]), folder("cut", ROWS[:4], ROWS[4:])}) == 3


@pytest.mark.parametrize("packing", mapped.UNPACKERS)
@pytest.mark.parametrize("suffix", READERS)
def test_a_compressed_file_is_what_it_unpacks_to(tmp_path, suffix, packing):
    plain = write_any(tmp_path / f"rows{suffix}", ROWS)
    packed = pack(plain, plain.read_bytes(), packing)
    one, other = opened(plain), opened(packed)
    assert [*one] == [*other] == ROWS and one.identity == other.identity  # so that tokens are cached once
    assert other.locate(3).startswith(str(packed))
    plain.unlink()
    assert [*opened(tmp_path)] == ROWS


def test_shards_may_be_compressed_in_part(tmp_path):
    path = write_any(tmp_path / "b.jsonl", ROWS[3:])
    write_any(tmp_path / "a.jsonl", ROWS[:3])
    pack(path, path.read_bytes(), ".gz")
    path.unlink()
    assert [*opened(tmp_path)] == ROWS


def test_an_unpacked_file_leaves_nothing_behind(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(mapped.tempfile, "tempdir", str(folder))
    path = write_any(tmp_path / "rows.jsonl", ROWS)
    rows = opened(pack(path, path.read_bytes(), ".gz"))
    assert [*rows] == ROWS and not list(folder.iterdir())


@pytest.mark.parametrize("packing", mapped.UNPACKERS)
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_damaged_compressed_files_are_named(tmp_path, packing, damage):
    path = write_any(tmp_path / "rows.jsonl", ROWS)
    packed = pack(path, os.urandom(5000), packing)
    content = packed.read_bytes()
    packed.write_bytes({"cut": content[: len(content) - 400], "other": b'{"text": "a"}\n', "empty": b""}[damage])
    with pytest.raises(UserError) as refused:
        list(opened(packed))
    assert str(packed) in str(refused.value)
    if damage != "empty":  # which unpacks to nothing with some tools
        assert f"does not unpack as {packing}" in str(refused.value)


def test_a_pyarrow_without_zstandard_is_named(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(b"")
    monkeypatch.setattr(pa, "Codec", SimpleNamespace(is_available=lambda name: False))
    with pytest.raises(UserError, match=r"rows.jsonl.zst is compressed by Zstandard, which this pyarrow was built wi"):
        opened(path)


def test_a_full_disk_is_no_damaged_file(tmp_path, monkeypatch):
    path = write_any(tmp_path / "rows.jsonl", ROWS)
    packed = pack(path, path.read_bytes(), ".gz")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match=r"cannot be read \(No space left on device\); make room .* TMPDIR\.$"):
        opened(packed)


def test_fields_of_tsv_hold_quotation_marks_as_they_are(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('\ufefftext\tlabel\r\n"open\t1\r\n\r\na "b" c,d\t0\r\n', encoding="utf-8")
    rows = opened(path)
    assert [*rows] == [{"text": '"open', "label": "1"}, {"text": 'a "b" c,d', "label": "0"}]
    assert [rows.locate(index).rpartition(":")[2] for index in (0, 1)] == ["2", "4"]
    path.write_text("text\tlabel\na\n")
    with pytest.raises(UserError, match=r"rows.tsv:2 has 1 fields where the header has 2; correct the line"):
        opened(path)
    path.write_bytes(b"text\n\xff\n")
    with pytest.raises(UserError, match=r"rows.tsv:2 is not TSV in UTF-8"):
        opened(path)


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_both_kinds_of_arrow_files(tmp_path, kind, compression):
    rows = [{"text": f"row {i}", "label": i % 2, "words": ["a"] * i, "score": None} for i in range(5)]
    path = tmp_path / "rows.arrow"
    write_arrow(path, rows, kind, compression)
    found = opened(path)
    assert [*found] == rows and found.locate(3) == f"{path}, row 3" and not found.class_names
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"rows.arrow is not Arrow's IPC or is damaged \(.*\); write it again"):
        opened(path)


def test_an_arrow_file_stays_mapped(tmp_path):
    write_arrow(tmp_path / "rows.arrow", [{"text": "x" * 1000}] * 3000, "stream")
    before = pa.total_allocated_bytes()
    rows = opened(tmp_path / "rows.arrow")
    assert len(rows) == 3000 and rows[2999]["text"] == "x" * 1000
    assert pa.total_allocated_bytes() - before < 100_000


def test_names_of_classes_are_those_that_datasets_wrote(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    write_arrow(tmp_path / "data-0.arrow", rows, "stream", names=["no", "yes"])
    write_arrow(tmp_path / "data-1.arrow", rows, "stream", names=["no", "yes"])
    assert opened(tmp_path).class_names == {"label": ("no", "yes")}
    write_arrow(tmp_path / "data-2.arrow", rows, "stream", names=["yes", "no"])
    with pytest.raises(UserError, match=r"data-2.arrow names other classes than .*data-0.arrow; give all shards"):
        opened(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".arrow"])
def test_a_shard_with_other_columns_is_named(tmp_path, suffix):
    for number in range(3):
        write_any(tmp_path / f"{number}{suffix}", ROWS)
    write_any(tmp_path / f"1{suffix}", [{"label": "1", "text": "a"}])  # another order is the same columns
    assert len(opened(tmp_path)) == 15
    write_any(tmp_path / f"2{suffix}", [{"text": "a", "lable": "1"}])
    with pytest.raises(
        UserError, match=rf"2\{suffix} has the columns text, lable, and .*0\{suffix} has text, label; give all shards"
    ):
        opened(tmp_path)


def test_a_row_of_a_shard_is_named_by_its_line(tmp_path):
    write_rows(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n\n{"lable": "1"}\n{"text"}\n')
    rows = opened(tmp_path)
    with pytest.raises(UserError, match=r"b.jsonl:3 has no column 'text'; it has 'lable'"):
        rows.value(rows[8], 8, "text")
    with pytest.raises(UserError, match=r"b.jsonl:4 is not JSON"):
        rows[9]


def test_places_without_files_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("")
    with pytest.raises(UserError, match=r"^The folder .*empty holds no data files; use .jsonl, .csv, .*or .zst\.$"):
        opened(tmp_path / "empty")
    write_rows(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UserError, match=r"^No file matches .*b\*.jsonl; .* holds a.jsonl\.$"):
        opened(tmp_path / "b*.jsonl")
    with pytest.raises(UserError, match=r"^No file matches .*/no/\*.jsonl; nor does the folder .*/no\.$"):
        opened(tmp_path / "no" / "*.jsonl")
    write_rows(tmp_path / "a.csv", ROWS)
    with pytest.raises(UserError, match=r"holds files of several kinds \(.csv, .jsonl\); name those of one, as in \*"):
        opened(tmp_path)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"^The train split .*none/a.jsonl has no rows"):
        opened(tmp_path / "none")


def test_a_name_with_a_bracket_is_a_name_where_there_is_such_a_file(tmp_path):
    assert [*opened(write_rows(tmp_path / "rows[1].jsonl", ROWS))] == ROWS


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_rows(tmp_path / "a.jsonl", ROWS)
    assert len(opened("~")) == len(opened("~/*.jsonl")) == len(opened("~/a.jsonl")) == 7


def test_a_new_kind_of_file_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(files.READERS, ".lines", lambda content, name, identity: READERS[".tsv"](content, name, "x"))
    (tmp_path / "a.lines").write_text("text\none\n")
    assert [*opened(tmp_path)] == [{"text": "one"}]
