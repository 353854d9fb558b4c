"""What `predict` and `generate` are asked: one line out for each line in, and what is no row is refused at once."""

import functools
import inspect
import io
import json

import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.cli.main import main
from jaxprefix.errors import UserError
from jaxprefix.tasks.asked import asked_names, asked_rows

TEXTS = ["tea", "the milk", "hello world"]


class Bytes:
    """Standard input of given bytes."""

    def __init__(self, content):
        self.buffer = io.BytesIO(content)


@pytest.fixture
def given(monkeypatch):
    return lambda content: monkeypatch.setattr("sys.stdin", Bytes(content))


def unchecked(method, value):
    """A method without the tests' own check of its arguments, which people do not have."""
    return functools.partial(inspect.unwrap(method), value)


def answers(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(scope="module")
def loaded(adapter):
    return jp.load_adapter(adapter)


def close(found, wanted):
    return [one["label"] for one in found] == [one["label"] for one in wanted] and np.allclose(
        [one["score"] for one in found], [one["score"] for one in wanted], atol=1e-5
    )


def test_lines_of_arguments_files_and_standard_input_are_the_same_rows(adapter, loaded, given, capsys, tmp_path):
    wanted = loaded.predict(TEXTS)
    assert main(["predict", adapter, *TEXTS]) == 0
    assert close(answers(capsys), wanted)
    lines = b'tea\r\n{"text": "the milk"}\nhello world'
    for content in (lines, lines + b"\n", b"\xef\xbb\xbf" + lines):
        given(content)
        assert main(["predict", adapter]) == 0
        assert close(answers(capsys), wanted)
    (tmp_path / "rows.jsonl").write_bytes(lines)
    (tmp_path / "rows.csv").write_text("id,text\n1,tea\n2,the milk\n3,hello world\n")
    for name in ("rows.jsonl", "rows.csv"):
        assert main(["predict", adapter, "--file", str(tmp_path / name)]) == 0
        assert close(answers(capsys), wanted)
    out = tmp_path / "answers.jsonl"
    assert main(["predict", adapter, *TEXTS, "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert close([json.loads(line) for line in out.read_text().splitlines()], wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "rows.csv", "rows.jsonl"]


def test_an_argument_that_is_a_file_is_refused(adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "tea"}\n')
    for command in ("predict", "generate"):
        assert main([command, adapter, "rows.jsonl"]) == 2
        said = capsys.readouterr()
        assert "'rows.jsonl' is a file" in said.err and "--file rows.jsonl, or < rows.jsonl" in said.err
        assert said.out == ""
    assert main(["predict", adapter, "rows.jsonl", "--text"]) == 0
    assert len(answers(capsys)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"tea\n\nmilk\n", "line 2 of standard input is empty"),
        (b"tea\n \t\nmilk\n", "line 2 of standard input is empty"),
        (b"\n", "line 1 of standard input is empty"),
        (b"tea\n\n", "line 2 of standard input is empty"),
        (b"caf\xe9\n", "line 1 of standard input is not UTF-8 (byte 4)"),
        (b"tea\nmilk\xff", "line 2 of standard input is not UTF-8 (byte 5)"),
        (b'tea\n{"text": "a\n', "line 2 of standard input begins like JSON but is not"),
        (
            b"tea\n" + b'{"a":' * 100_000 + b"\n",
            "line 2 of standard input begins like JSON but is not (it is too deep)",
        ),
    ],
)
@pytest.mark.parametrize("command", ["predict", "generate"])
def test_a_line_that_is_no_row_is_refused_by_its_number(adapter, given, capsys, command, content, words):
    given(content)
    assert main([command, adapter]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.out == ""


def test_text_takes_lines_as_they_are(adapter, loaded, given, capsys):
    given(b'{tea}\n{"text": "a\n')
    assert main(["predict", adapter, "--text"]) == 0
    assert close(answers(capsys), loaded.predict(["{tea}", '{"text": "a']))


@pytest.mark.parametrize(
    "args", [["--batch-size", "0"], ["--batch-size", "-3"], ["--batch-size", "1.5"], ["--batch-size", "many"]]
)
@pytest.mark.parametrize("command", ["predict", "generate", "evaluate", "gates"])
def test_a_batch_size_that_cannot_be(adapter, capsys, command, args):
    with pytest.raises(SystemExit) as exit:
        main([command, adapter, *args])
    assert exit.value.code == 2
    assert f"{args[1]!r} is no whole number of at least 1" in capsys.readouterr().err


def test_out_must_be_a_file_in_a_folder(adapter, capsys, tmp_path):
    for place in (tmp_path, tmp_path / "none" / "x"):
        assert main(["predict", adapter, "tea", "--out", str(place)]) == 2
        assert "--out is" in capsys.readouterr().err


# From Python


def test_rows_may_be_whatever_gives_texts_one_after_another(loaded):
    wanted = loaded.predict(TEXTS)
    for rows in (
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        (text for text in TEXTS),
        dict.fromkeys(TEXTS).keys(),
    ):
        assert loaded.predict(rows) == wanted
    assert loaded.predict([{"text": text} for text in TEXTS]) == wanted
    bank = jp.load_adapters({"a": loaded})
    assert close(bank(np.array(TEXTS), np.array(["a"] * 3)), wanted)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("tea", r"is given one text and takes a list of rows; write predict\(\[text\]\)"),
        (b"tea", "is given bytes"),
        ({"text": "tea"}, r"is given one row .* write predict\(\[row\]\)"),
        (3, "is given a int"),
        (None, "is given None"),
        (np.array("tea"), "is given a ndarray"),
        (["tea", 3], "row 1 of predict is a int"),
        (["tea", b"tea"], "row 1 of predict is a bytes"),
        ([["tea"]], "row 0 of predict is a list"),
        ([("tea", "milk")], "row 0 of predict is a tuple"),
        ([None], "row 0 of predict is None"),
        (np.array([1.0, 2.0]), "row 0 of predict is a float64"),
    ],
)
def test_what_is_no_list_of_rows_is_refused(loaded, rows, words):
    with pytest.raises(UserError, match=words):
        asked_rows("predict", rows)
    with pytest.raises(UserError, match=words):
        unchecked(jp.Adapter.predict, loaded)(rows)


def test_a_bank_takes_lists(loaded):
    bank = jp.load_adapters({"a": loaded, "b": loaded})
    for rows, names in (("te", ["a", "b"]), (["te", "ea"], "ab"), (["te"], [3]), (["te"], None), ([3], ["a"])):
        with pytest.raises(UserError):
            unchecked(jp.Bank.__call__, bank)(rows, names)
    with pytest.raises(UserError, match="the adapter of row 1"):
        asked_names("bank", ["a", None])
    assert len(bank(["te", "ea"], ["a", "b"])) == 2


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "3", None])
def test_a_batch_size_from_python(loaded, size):
    with pytest.raises(UserError, match="batch_size"):
        unchecked(jp.Adapter.predict, loaded)(["tea"], batch_size=size)
    with pytest.raises(UserError, match="batch_size"):
        unchecked(jp.Bank.__call__, jp.load_adapters({"a": loaded}))(["tea"], ["a"], batch_size=size)


def test_open_adapters_make_a_bank_and_are_shown_in_a_line(loaded, adapter):
    bank = jp.load_adapters({"a": loaded, "b": adapter})
    assert bank.names == ("a", "b")
    for value in (loaded, loaded.backbone, bank):
        assert "\n" not in repr(value) and len(repr(value)) < 200
    for wrong in (adapter, loaded, [loaded]):
        with pytest.raises(UserError, match="load_adapters"):
            inspect.unwrap(jp.load_adapters)(wrong)
