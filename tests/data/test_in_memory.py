"""Rows in memory: the same whatever they lie in, described and never stored."""

import copy
import dataclasses
import sys

import grain.python as grain
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprefix as jp
from jaxprefix.data.memory import Table
from jaxprefix.errors import UserError
from jaxprefix.typed_json import differences, expression, from_json, to_json
from tests.data.containers import Dataset, Frame, NAType, Source, as_numpy

ROWS = [
    {"text": 'é "a"\n', "label": 1, "score": 0.5, "words": ["p", "q"], "flag": True},
    {"text": "b", "label": 0, "score": None, "words": [], "flag": False},
    {"text": None, "label": 2, "score": -1e300, "words": ["r"], "flag": True},
]
WHOLE = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False)
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # numpy's text drops zeros at its end
CELLS = {
    "text": st.none() | st.text(LETTERS, max_size=5),
    "count": WHOLE,
    "score": st.none() | FLOAT,
    "flag": st.booleans(),
    "words": st.none() | st.lists(st.text(LETTERS, max_size=3), max_size=3),
    "target": st.lists(FLOAT, max_size=3),
}
TABLES = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=5)
TYPES = pa.schema(
    [
        *(("text", pa.string()), ("count", pa.int64()), ("score", pa.float64()), ("flag", pa.bool_())),
        *(("words", pa.list_(pa.string())), ("target", pa.list_(pa.float64()))),
    ]
)


def digest(rows):
    return jp.InMemory(train=rows).train.table.digest


def containers(rows, schema=None):
    """The same rows in everything that is taken."""
    turned = [dict(reversed(row.items())) for row in rows]
    table = pa.Table.from_pylist(rows, schema)
    yield from (
        tuple(rows),
        turned,
        [{key: value for key, value in row.items() if value is not None} for row in turned],
    )
    yield from ([{key: as_numpy(value) for key, value in row.items()} for row in rows], Source(rows))
    yield from (table, pa.concat_tables([table.slice(0, 1), table.slice(1)]), table.to_batches()[0])
    yield from (Frame(rows), Frame(rows, None), Frame(rows, NAType()))
    yield from (Dataset(rows), Dataset(rows, form=np.array if len(rows) < 2 else list), Dataset(rows, form=pa.Table))


@settings(max_examples=25, deadline=None)
@given(TABLES)
def test_the_digest_does_not_tell_what_the_rows_lie_in(rows):
    # a column without a value in any row is one where rows say so, and unknown where they leave it out
    rows = [*rows, {"text": "", "count": 0, "score": 0.0, "flag": True, "words": [], "target": []}]
    assert {digest(found) for found in containers(rows, TYPES)} == {digest(rows)}


def test_rows_are_the_same_whatever_they_lie_in():
    for found in containers(ROWS):
        rows = jp.InMemory(train=found).open("train")
        assert [*rows] == ROWS and rows[-1] == ROWS[-1] and len(rows) == 3
        assert all(type(a[key]) is type(b[key]) for a, b in zip(rows, ROWS, strict=True) for key in b)
        assert rows.identity == jp.InMemory(test=ROWS).open("test").identity


@settings(max_examples=25, deadline=None)
@given(TABLES, st.data())
def test_any_other_cell_or_order_is_another_digest(rows, data):
    index = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(sorted(CELLS)))
    value = data.draw(CELLS[column])
    changed = [*rows[:index], {**rows[index], column: value}, *rows[index + 1 :]]
    same = repr(value) == repr(rows[index][column])  # 0.0 and -0.0 are equal, and two
    assert (digest(changed) == digest(rows)) == same
    order = data.draw(st.permutations(range(len(rows))))
    other = [rows[index] for index in order]
    same = [sorted(row.items()) for row in other], [sorted(row.items()) for row in rows]  # the order of columns is none
    assert (digest(other) == digest(rows)) == (repr(same[0]) == repr(same[1]))


def test_types_columns_and_the_places_of_rows_are_in_the_digest():
    cells = [1, "1", True, 1.0, [1], ["1"], [True], [[1]], {"a": 1}, {"b": 1}, None, "", [], {}, "null", "[1]", 2]
    cells += [[None], [float("nan")], float("inf"), -0.0, 0.0, '1","b":"']
    tables = [[{"a": cell, "b": "x"}] for cell in cells]
    tables += [[{"a": 1, "c": "x"}], [{"a": 1, "b": "x", "c": None}], [{"a": 1, "b": "x"}] * 2, [{"a": "x", "b": 1}]]
    assert len({digest(rows) for rows in tables}) == len(tables)
    assert digest([{"a": float("nan"), "b": "x"}]) == digest([{"a": None, "b": "x"}])  # as libraries have it


def test_names_of_classes_are_those_of_labels_and_in_the_digest():
    classes = {"label": ["no", "yes", "maybe"]}
    named = jp.InMemory(train=Dataset(ROWS, classes))
    assert named.open("train").class_names == {"label": ("no", "yes", "maybe")}
    features = '{"info": {"features": {"label": {"names": ["no", "yes", "maybe"], "_type": "ClassLabel"}}}}'
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata({"huggingface": features})
    assert named == jp.InMemory(train=table) != jp.InMemory(train=ROWS)
    assert jp.InMemory(train=pa.Table.from_pylist(ROWS).replace_schema_metadata({"huggingface": "?"})) == jp.InMemory(
        train=ROWS
    )


def test_a_dataset_is_read_in_blocks():
    dataset = Dataset([{"text": str(index)} for index in range(2500)])
    assert [row["text"] for row in jp.InMemory(train=dataset).open("train")] == [str(index) for index in range(2500)]
    assert dataset.slices == 6  # three for the digest and three for the rows


def test_sources_of_grain_are_taken():
    dataset = grain.MapDataset.source(list(range(3))).map(lambda index: ROWS[index])
    assert jp.InMemory(train=dataset) == jp.InMemory(train=ROWS)
    with pytest.raises(UserError, match=r"^InMemory, split train has no end; give a sequence without repeat\(\)"):
        jp.InMemory(train=dataset.repeat(None))


def test_no_library_of_tables_is_imported():
    import subprocess

    script = (
        "import sys, jaxprefix as jp; jp.InMemory(train=[{'a': 1}]).open('train'); "
        "assert not {'pandas', 'datasets', 'pyarrow', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("library", ["pandas", "datasets"])
def test_the_real_libraries(library):
    module = pytest.importorskip(library)
    if library == "pandas":
        frame = module.DataFrame(ROWS, index=[7, 7, 8])
        found = [frame, frame.convert_dtypes(), frame.assign(text=frame["text"].astype("category"))]
    else:
        dataset = module.Dataset.from_list(ROWS)
        forms = (None, "arrow")  # that of numpy has 32 bits for a float
        found = [dataset.with_format(form) for form in forms] + [dataset.select([2, 0, 1]).select([1, 2, 0])]
    assert {digest(rows) for rows in found} == {digest(ROWS)}


# What is stored


def test_what_is_stored_is_a_description(tmp_path):
    source = jp.InMemory(train=ROWS, validation=ROWS[:2])
    run = jp.Run(jp.Classification(source))
    text = to_json(run)
    assert "é" not in text and '"rows": 3' in text and '"digest": "' in text and len(text) < 5000
    read = from_json(text, jp.Run)
    assert read == run and hash(read.task) == hash(run.task) and to_json(read) == text
    assert read.task.source.splits == source.splits == ("train", "validation")
    stored = read.task.source.train
    assert (type(stored), stored.columns, stored.rows) == (Table, ("flag", "label", "score", "text", "words"), 3)
    assert differences(read, run) == differences(run, read) == []


def test_sources_hash_and_compare_by_the_digest():
    one, same, other = (jp.InMemory(train=rows) for rows in (ROWS, pa.Table.from_pylist(ROWS), ROWS[:2]))
    assert one == same != other and hash(one) == hash(same) and len({one, same, other}) == 2
    assert one != jp.InMemory(test=ROWS) and one != jp.Files("train.jsonl")
    lines = differences(one, other)
    assert [line.split(":")[0] for line in lines] == ["train.rows", "train.digest"]
    assert [line.split(":")[0] for line in differences(one, dataclasses.replace(one, test=ROWS))] == ["test"]


def test_nothing_that_is_shown_holds_rows():
    many = [{"text": "secret", "label": index} for index in range(500)]
    source = jp.InMemory(train=many)
    assert repr(source) == "InMemory(train=<500 rows of a list>, validation=None, test=None)"
    table = from_json(to_json(source)).train
    assert repr(table) == f"<500 rows, digest {table.digest[:12]}>"
    for text in (repr(source), to_json(source), expression(source, "jp."), str(differences(source, jp.InMemory()))):
        assert "secret" not in text and len(text) < 600


def test_rows_are_walked_once_and_never_copied():
    class Counting(Source):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

        def __deepcopy__(self, copies):
            raise AssertionError("rows were copied")

    rows = Counting(ROWS)
    source = jp.InMemory(train=rows)
    assert rows.reads == 0  # nothing is read until somebody asks
    task = jp.Classification(source)
    for _ in range(3):
        hash(task), to_json(source), source == jp.InMemory(train=source.train), source.open("train").identity
        dataclasses.asdict(task), copy.deepcopy(task), dataclasses.replace(source, test=source.train)
    assert rows.reads == len(ROWS)


# What is refused


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"^InMemory, split train has no rows; give some, or None\.$"),
        ("train.jsonl", r"^InMemory, split train is text; give a list .*, or name files by jp.Files\.$"),
        ({"text": ["a"], "label": [1]}, r"is of type dict with 'text', 'label'; give the rows of one split as a list"),
        (iter(ROWS), r"is of type list_iterator, which has no length or no rows by number; give a list of dicts"),
        (7, r"is of type int, which has no length"),
        ([ROWS[0], "text"], r"^InMemory, split train, row 1 is of type str and not a dict; give a list of dicts"),
        (np.zeros((2, 2)), r"row 0 is of type ndarray and not a dict"),
        ([{}], r"^InMemory, split train has no columns"),
        ([{"text": "a"}, {3: "a"}], r"row 1 has the column 3, which is no text; rename it\.$"),
        (
            [{"text": b"\xff"}],
            r"row 0 has a value of type bytes in column 'text'; rows hold text.*convert the column or",
        ),
        ([{"text": "a"}, {"text": [{"b": object()}]}], r"row 1 has a value of type object in column 'text'"),
        ([{"time": np.datetime64("2020-01-01")}], r"row 0 has an array of datetime64\[D\] in column 'time'"),
        ([{"a": {1: 2}}], r"row 0 has a dict by something else than text in column 'a'"),
        ([{"a": np.zeros(2, complex)}], r"row 0 has an array of complex128 in column 'a'"),
        (pa.table([[1], [2]], ["a", "a"]), r"^InMemory, split train names a column twice \(a, a\); rename one\.$"),
        (pa.table({"image": [b"\x89PNG"]}), r"row 0 has a value of type bytes in column 'image'"),
    ],
)
def test_what_are_no_rows_is_refused_in_a_sentence(rows, message):
    with pytest.raises(UserError, match=message) as refused:
        jp.InMemory(train=rows).open("train")
    assert str(refused.value).count(". ") == 0


def test_a_sequence_that_fails_is_named():
    class Broken(Source):
        def __getitem__(self, index):
            return self._rows[index + 1]

    with pytest.raises(UserError, match=r"split test, row 2 cannot be read \(IndexError: list index out of range\)"):
        jp.InMemory(test=Broken(ROWS)).open("test")


def test_splits_have_the_same_columns():
    source = jp.InMemory(train=ROWS, test=[{"text": "a", "lable": 1}])
    with pytest.raises(
        UserError, match=r"^InMemory, split test has the columns text, lable, and the train split has flag, label.*same"
    ):
        source.open("test")
    mixed = dataclasses.replace(from_json(to_json(jp.InMemory(train=ROWS))), test=[{"text": "a"}])
    with pytest.raises(UserError, match="give all splits the same"):
        mixed.open("test")


def test_splits_that_are_not_there_are_refused():
    with pytest.raises(UserError, match=r"no test split \(given: train\); name one in the field source.test"):
        jp.InMemory(train=ROWS).open("test")
    with pytest.raises(UserError, match=r"The rows of the train split \(3 of flag, .*\) were in memory and are not st"):
        from_json(to_json(jp.InMemory(train=ROWS))).open("train")
