"""What columns may hold: texts, words, tags and labels, and what is refused by file and line (`tasks/cells.py`)."""

import csv
import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxprefix as jp
from jaxprefix.data import Rows
from jaxprefix.errors import UserError
from jaxprefix.tasks import encode_texts, prepare
from jaxprefix.tasks.cells import read_label, read_part, read_tags, read_text, read_words
from tests.data.conftest import write_rows

TEXTS = [{"text": "a", "label": "no"}, {"text": "the cat", "label": "yes"}]


def jsonl(folder, rows):
    return jp.Files(write_rows(folder / "train.jsonl", rows))


def one(value):
    """A row that holds a value, as a column's reader takes it."""
    rows = Rows("t.jsonl", "", 1, lambda index: {"c": value}, lambda index: "t.jsonl:1")
    return rows, {"c": value}, 0, "c"


# Texts and parts of templates


@pytest.mark.parametrize("text", ["", "a", "['a']", "café \U0001f600", " a "])
def test_a_text_is_itself(text):
    assert read_text(*one(text)) == read_part(*one(text)) == read_text(*one(text.encode())) == text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a", "b"], "a list"),
        ({"role": "user", "content": "a"}, "a dict"),
        ([{"role": "user", "content": "a"}], "a list"),
        (3, "a whole number"),
        (True, "a truth value"),
        (float("nan"), "a float"),
        (datetime.date(2020, 1, 2), "of type date"),
        (decimal.Decimal("1.0"), "of type Decimal"),
        (b"\xff", "no UTF-8"),
        ("half \ud83d of it", "surrogate"),
    ],
)
def test_what_is_no_text_is_refused_by_place_and_kind(value, said):
    with pytest.raises(UserError, match=r"^t.jsonl:1 has .*column 'c'.*\.$") as error:
        read_text(*one(value))
    assert said in str(error.value) and "\n" not in str(error.value)
    str(error.value).encode("utf-8")


@pytest.mark.parametrize("number", [0, -7, 3, 0.1, 2.0, 1e16, -2.5e-7, 10**30])
def test_a_template_takes_numbers_as_json_writes_them(number):
    assert read_part(*one(number)) == json.dumps(number)


@pytest.mark.parametrize("value", [True, [1], {}, float("inf"), float("nan"), decimal.Decimal(1)])
def test_a_template_takes_nothing_else(value):
    with pytest.raises(UserError, match=r"t.jsonl:1 has .*; a template takes strings and finite numbers"):
        read_part(*one(value))


@pytest.mark.parametrize("value", [["a", "b"], [{"role": "user", "content": "a"}], 3, {"a": 1}])
@pytest.mark.parametrize("kind", [jp.Classification, jp.MaskedLanguage])
def test_rows_of_other_values_are_refused_in_training_and_in_prediction(tokenizer, tmp_path, kind, value):
    source = jsonl(tmp_path, [*TEXTS, {"text": value, "label": "no"}])
    with pytest.raises(UserError, match=r"train.jsonl:3 has .* in column 'text'; a column of texts holds strings\.$"):
        prepare(kind(source), tokenizer)
    with pytest.raises(UserError, match=r"text 1 has .* in column 'text'"):
        encode_texts(kind(source), tokenizer, ["a", {"text": value}])


def test_a_lone_surrogate_of_a_json_row_is_refused(tokenizer, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "no"}\n{"text": "\\ud83d", "label": "yes"}\n')
    with pytest.raises(UserError, match=r"train.jsonl:2 has half of a surrogate pair \('\\ud83d'\) in column 'text'"):
        prepare(jp.Classification(jp.Files(str(tmp_path / "train.jsonl"))), tokenizer)


def parquet(folder, **columns):
    path = folder / "train.parquet"
    pq.write_table(pa.table(columns), path)
    return jp.Files(str(path))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([{"a": 1}, {"a": 2}]), "a dict"),
        (pa.array([datetime.date(2020, 1, 2)] * 2), "of type date"),
        (pa.array([datetime.datetime(2020, 1, 2)] * 2), "of type datetime"),
        (pa.array([b"\xff\xfe", b"\xff"]), "UTF-8"),
        (pa.array([decimal.Decimal("1.5")] * 2), "of type Decimal"),
        (pa.array([1.5, 2.5]), "a float"),
    ],
)
def test_columns_of_parquet_that_hold_no_text_are_refused_with_their_type(tokenizer, tmp_path, values, kind):
    source = parquet(tmp_path, text=values, label=["no", "yes"])
    with pytest.raises(UserError, match=r"train.parquet, row 0 has .* in column 'text'") as error:
        prepare(jp.Classification(source), tokenizer)
    assert kind in str(error.value)


def test_bytes_that_are_utf8_are_text(tokenizer, tmp_path):
    named = prepare(jp.Classification(parquet(tmp_path, text=["the cat", "a"], label=["no", "yes"])), tokenizer)
    raw = parquet(tmp_path, text=[b"the cat", b"a"], label=[b"no", b"yes"])
    examples = prepare(jp.Classification(raw), tokenizer)
    assert examples.ids.tolist() == named.ids.tolist() and examples.labels == named.labels == ("no", "yes")
    held = jp.InMemory([{"text": b"the cat", "label": "no"}, {"text": b"a", "label": "yes"}])
    assert prepare(jp.Classification(held), tokenizer).ids.tolist() == named.ids.tolist()


def test_times_that_python_has_no_value_for_are_refused_by_row(tmp_path):
    source = parquet(tmp_path, text=["a"], at=pa.array([10**18], pa.timestamp("us")))
    with pytest.raises(UserError, match=r"train.parquet, row 0 has a value of type timestamp\[us\] in column 'at'"):
        source.open("train")[0]


# Words and tags


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["EU", "rejects"], ["EU", "rejects"]),
        (("EU",), ["EU"]),
        ([], []),
        ("EU rejects\tGerman  call ", ["EU", "rejects", "German", "call"]),
        ("New\u00a0York\u2003is", ["New\u00a0York\u2003is"]),
        ("a\x0bb c\u3000d", ["a\x0bb", "c\u3000d"]),
        ("['EU', 'rejects', \"it's\"]", ["EU", "rejects", "it's"]),
        ('["EU", "re\\u006aects"]', ["EU", "rejects"]),
        ("['EU', \n 'rejects']", ["EU", "rejects"]),
        ("[ not a list ]", ["[", "not", "a", "list", "]"]),
        ("[1, 2]", ["[1,", "2]"]),
        ("[['a'], 'b']", ["[['a'],", "'b']"]),
        ("[" * 5000 + "]" * 5000, ["[" * 5000 + "]" * 5000]),
    ],
)
def test_words_are_a_list_or_a_string_that_is_split_at_spaces_and_tabs(value, words):
    assert read_words(*one(value)) == words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a", None], "None in a list of column 'c'; each word is a string"),
        ([["a", "b"], "c"], r"a list"),
        (["a", 3], "3 (a whole number)"),
        (["a", float("nan")], "a float"),
        ({"a": 1}, "a dict"),
        (3, "give a list of words"),
        ("['EU' 'rejects']", "no comma"),
        (["a", "\udc00"], "surrogate"),
        ("['a', '\\udc00']", "surrogate"),
    ],
)
def test_what_are_no_words_is_refused(value, said):
    with pytest.raises(UserError, match=r"^t.jsonl:1 has .* column 'c'") as error:
        read_words(*one(value))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (["O", "B-PER"], ["O", "B-PER"]),
        ([0, 1], [0, 1]),
        ("O B-PER", ["O", "B-PER"]),
        ("0 1", ["0", "1"]),
        ("['O', 'B-PER']", ["O", "B-PER"]),
        ("[0, 1]", [0, 1]),
    ],
)
def test_tags_have_the_form_of_words_and_may_be_numbers(value, tags):
    assert read_tags(*one(value)) == tags


@pytest.mark.parametrize("value", ["", " ", "[0 1]", "['O' 'O']", 3, {"a": 1}])
def test_what_are_no_tags_is_refused(value):
    with pytest.raises(UserError, match=r"t.jsonl:1 has .* in column 'c'"):
        read_tags(*one(value))


def test_printed_lists_of_a_csv_file_are_the_lists(tokenizer, tmp_path):
    rows = [{"tokens": ["alice", "sat"], "tags": ["B-PER", "O"]}, {"tokens": ["a", "cat"], "tags": ["O", "O"]}]
    lists = prepare(jp.Tagging(jsonl(tmp_path, rows)), tokenizer)
    path = tmp_path / "printed.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["tokens", "tags"], *([str(row["tokens"]), str(row["tags"])] for row in rows)])
    printed = prepare(jp.Tagging(jp.Files(str(path))), tokenizer)
    assert printed.ids.tolist() == lists.ids.tolist() and printed.labels == lists.labels == ("B-PER", "O")
    assert printed.targets["labels"].values.tolist() == lists.targets["labels"].values.tolist()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "None in a list of column 'tokens'"),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, "has None in column 'tags'; fill in the label"),
        ({"tokens": ["a", "b"], "tags": ["O", ""]}, "has '' in column 'tags'; a label is not empty"),
        ({"tokens": ["a", "b"], "tags": ["O", ["B"]]}, r"\(a list\) in column 'tags'"),
        ({"tokens": ["a", "b"], "tags": ["O", " X"]}, "has ' X' in column 'tags'; it has white space around it"),
        ({"tokens": ["a", "b"], "tags": ["O", 0.5]}, "labels are no fractions"),
        ({"tokens": [["a", "b"], "c"], "tags": ["O", "O"]}, r"\(a list\) in a list of column 'tokens'"),
    ],
)
def test_rows_of_words_and_tags_are_refused_by_line(tokenizer, tmp_path, row, said):
    source = jsonl(tmp_path, [{"tokens": ["a", "b"], "tags": ["X", "O"]}, row])
    with pytest.raises(UserError, match=rf"train.jsonl:2 has .*{said}|train.jsonl:2 {said}"):
        prepare(jp.Tagging(source), tokenizer)


# Labels


@pytest.mark.parametrize(
    ("value", "label"),
    [("pos", "pos"), ("1", "1"), (1, 1), (1.0, 1), (-0.0, 0), (True, "True"), ("very good", "very good"), (b"x", "x")],
)
def test_labels_are_strings_whole_numbers_and_truth_values(value, label):
    found = read_label(one(value)[0], 0, "c", value)
    assert found == label and type(found) is type(label)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, "Regression"),
        ([0, 1], "MultiLabelClassification"),
        ([1], "MultiLabelClassification"),
        (float("nan"), "fill in the label or remove the row"),
        (float("inf"), "fill in the label"),
        (None, "fill in the label"),
        ("", "a label is not empty"),
        (" pos", "white space around it"),
        ("pos\u200b", "white space around it"),
        ("pos\n", "white space around it"),
        ({"a": 1}, "a dict"),
        (decimal.Decimal("1.0"), "of type Decimal"),
        (datetime.date(2020, 1, 1), "of type date"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_is_no_label_is_refused(value, said):
    with pytest.raises(UserError, match=r"^t.jsonl:1 has .* in column 'c'.*") as error:
        read_label(one(value)[0], 0, "c", value)
    assert said in str(error.value)


def labels_of(tokenizer, source, **fields):
    examples = prepare(jp.Classification(source, **fields), tokenizer)
    return examples.labels, examples.targets["labels"].values.tolist()


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        ([1, "1", 0], ("0", "1"), [1, 1, 0]),
        ([True, "True", False], ("False", "True"), [1, 1, 0]),
        ([1.0, 0.0, 1], ("0", "1"), [1, 0, 1]),
        (["1.0", "0.0", "1.0"], ("0.0", "1.0"), [1, 0, 1]),
        (["1.5", "two", "1.5"], ("1.5", "two"), [0, 1, 0]),
    ],
)
def test_one_label_has_one_class_however_it_is_written(tokenizer, tmp_path, labels, names, indices):
    rows = [{"text": "a", "label": label} for label in labels]
    assert labels_of(tokenizer, jsonl(tmp_path, rows)) == (names, indices)


@pytest.mark.parametrize("labels", [["0.5", "1", "2"], ["1", "1.0", "2"], ["01", "1", "2"], ["1e0", "-.5", "2."]])
def test_a_column_of_numbers_is_none_of_labels(tokenizer, tmp_path, labels):
    path = write_rows(tmp_path / "train.csv", [{"text": "a", "label": label} for label in labels])
    with pytest.raises(UserError, match=r"train.csv:\d has .* in column 'label'.*(Regression|write them alike)"):
        prepare(jp.Classification(jp.Files(path)), tokenizer)
    assert labels_of(tokenizer, jp.Files(path), labels=tuple(labels)) == (tuple(labels), [0, 1, 2])


def test_floats_are_refused_with_the_task_that_takes_them(tokenizer, tmp_path):
    source = jsonl(tmp_path, [{"text": "a", "label": 0.1 * place} for place in range(3)])
    with pytest.raises(UserError, match=r"train.jsonl:2 has 0.1 \(a float\) in column 'label'; .*Regression"):
        prepare(jp.Classification(source), tokenizer)


def test_floats_keep_the_names_that_an_adapter_has_for_them(tokenizer, tmp_path):
    source = jsonl(tmp_path, [{"text": "a", "label": label} for label in (0.0, 1.0)])
    old = prepare(jp.Classification(source), tokenizer, facts={"labels": ["0.0", "1.0"]})
    assert old.targets["labels"].values.tolist() == [0, 1]


@pytest.mark.parametrize(
    "content", ["text,label\na,no\nb,\n", "text,label\na,no\nb, yes\n", 'text,label\na,no\nb, "yes"\n']
)
def test_empty_and_spaced_labels_of_a_csv_file_are_refused(tokenizer, tmp_path, content):
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(UserError, match=r"train.csv:3 has .* in column 'label'"):
        prepare(jp.Classification(jp.Files(str(tmp_path / "train.csv"))), tokenizer)


def test_a_header_with_a_space_is_said_to_have_one(tokenizer, tmp_path):
    (tmp_path / "train.csv").write_text("text, label\na,no\nb,yes\n")
    with pytest.raises(UserError, match=r"no column 'label', but one .* has white space around it \(' label'\)"):
        prepare(jp.Classification(jp.Files(str(tmp_path / "train.csv"))), tokenizer)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", None], "has None"),
        (["a", ""], "not empty"),
        (["a", "a"], "'a' twice"),
        ([1, "1"], "'1' twice"),
        ([0.5], "Regression"),
        ("a", "give a list of labels"),
    ],
)
def test_labels_of_several_follow_the_same_rule(tokenizer, tmp_path, labels, said):
    source = jsonl(tmp_path, [{"text": "a", "labels": ["a", "b"]}, {"text": "a", "labels": labels}])
    with pytest.raises(UserError, match=rf"train.jsonl:2 has .*{said}|train.jsonl:2 {said}"):
        prepare(jp.MultiLabelClassification(source), tokenizer)


# What readers of files let through


def test_a_cell_of_a_csv_file_may_be_long(tokenizer, tmp_path):
    limit = csv.field_size_limit()
    source = jp.Files(write_rows(tmp_path / "train.csv", [{"text": "a" * 200_000, "label": "x"}, *TEXTS]))
    assert len(source.open("train")[0]["text"]) == 200_000 and csv.field_size_limit() == limit


@pytest.mark.parametrize("deep", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_rows_that_are_nested_without_end_are_refused(tmp_path, deep):
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": ' + deep + "}\n")
    rows = jp.Files(str(tmp_path / "train.jsonl")).open("train")
    with pytest.raises(UserError, match=r"train.jsonl:2 is nested too deeply"):
        rows[1]
    endless = []
    endless.append(endless)
    for value in (endless, json.loads("[" * 500 + "]" * 500)):
        with pytest.raises(UserError, match=r"row 0 has lists or dicts within each other, 100 deep"):
            jp.InMemory([{"text": value}]).open("train")


def test_a_row_that_is_nested_within_bounds_is_refused_in_a_sentence(tokenizer, tmp_path):
    source = jsonl(tmp_path, [{"text": json.loads("[" * 400 + "]" * 400), "label": "a"}])
    with pytest.raises(UserError, match=r"train.jsonl:1 has \[.*\(a list\) in column 'text'") as error:
        prepare(jp.Classification(source), tokenizer)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_table_with_a_byte_changed_is_read_or_refused_in_one_line(tmp_path, kind):
    table, path = pa.table({"tokens": [["a", "the cat"], ["b"]], "label": ["no", "yes"]}), tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            [*jp.Files(str(path)).open("train")]
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).endswith(".")
    assert refused
