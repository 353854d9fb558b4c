"""Rows of files: random access, and one sentence for whatever is wrong with them."""

import pytest

from jaxprefix.data import Files
from jaxprefix.errors import UserError
from tests.data.conftest import write_rows

ROWS = [{"text": f'line {i}\nwith, "marks" é', "label": i % 2} for i in range(5)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_are_a_sequence_of_dicts(tmp_path, suffix):
    rows = Files(write_rows(tmp_path / f"rows{suffix}", ROWS)).open("train")
    expected = [{**row, "label": str(row["label"])} for row in ROWS] if suffix == ".csv" else ROWS
    assert len(rows) == 5 and list(rows) == expected
    assert rows[3] == expected[3] and rows[-1] == expected[4]
    with pytest.raises(IndexError):
        rows[5]


def test_the_identity_is_that_of_the_content(tmp_path):
    one, copy, other = (write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in
                        (("one", ROWS), ("copy", ROWS), ("other", ROWS[1:])))  # fmt: skip
    identities = [Files(path).open("train").identity for path in (one, copy, other)]
    assert identities[0] == identities[1] != identities[2]


def test_blank_lines_are_no_rows_and_keep_the_count_of_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"text": "a"}\n\n{"text": "b"}\n   \n{"text": }', encoding="utf-8")
    rows = Files(str(path)).open("train")
    assert [rows[0], rows[1]] == [{"text": "a"}, {"text": "b"}] and len(rows) == 3
    with pytest.raises(UserError, match=r"rows.jsonl:5 is not JSON in UTF-8 .*; correct the line"):
        list(rows)
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"a\nb",x\n\nc,y\nd\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"rows.csv:6 has 1 fields where the header has 2"):
        Files(str(path)).open("train")
    path.write_text(path.read_text().removesuffix("d\n"))
    rows = Files(str(path)).open("train")
    assert list(rows) == [{"text": "a\nb", "label": "x"}, {"text": "c", "label": "y"}]
    assert [rows.locate(index).rpartition(":")[2] for index in (0, 1)] == ["2", "5"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"[1, 2]\n", r"rows.jsonl:1 is not a JSON object"),
        ("rows.jsonl", b'{"text": "\xff"}\n', r"rows.jsonl:1 is not JSON in UTF-8"),
        ("rows.jsonl", b"", r"train split .*rows.jsonl has no rows"),
        ("rows.csv", b"", r"train split .*rows.csv has no rows"),
        ("rows.csv", b"text,label\n", r"has no rows"),
        ("rows.csv", b"text,text\na,b\n", r"rows.csv:1 names a column twice"),
        ("rows.csv", b'text\n"a" b\n', r"rows.csv:2 is not CSV in UTF-8"),
        ("rows.csv", b"text\n\xff\n", r"rows.csv:2 is not CSV in UTF-8"),
        ("rows.parquet", b"text,label\n", r"rows.parquet is not parquet or is damaged"),
        ("rows.txt", b"text", r"rows.txt is of no kind that can be read; use one of .jsonl, .csv, .parquet"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(Files(str(tmp_path / name)).open("train"))


def test_missing_files_and_splits_are_named(tmp_path):
    path = write_rows(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(UserError, match=r"trian.jsonl does not exist; .* holds train.jsonl"):
        Files(str(tmp_path / "trian.jsonl")).open("train")
    with pytest.raises(UserError, match=r"does not exist; nor does the folder"):
        Files(str(tmp_path / "data" / "train.jsonl")).open("train")
    with pytest.raises(UserError, match=r"no validation split \(given: train, test\); name one in the field source"):
        Files(path, test=path).open("validation")
    with pytest.raises(UserError, match=r"no split 'dev'; choose one of train, validation, test"):
        Files(path).open("dev")
    assert Files(path, test=path).splits == ("train", "test")
