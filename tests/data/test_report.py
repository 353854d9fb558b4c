"""The report of the rows: every defect counted once, for every kind of task, and a table that fits on a page."""

import dataclasses
import json
import tracemalloc
import types
from pathlib import Path

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import jaxprefix as jp
from jaxprefix.checkpoints.place import Place
from jaxprefix.data.report import LINES, check_report, report_table
from jaxprefix.data.rows import Rows
from jaxprefix.tasks import prepare
from jaxprefix.tasks.inputs import is_empty, read_inputs
from jaxprefix.tasks.reporting import report_rows, text_lengths, unknown_token
from jaxprefix.training.host_loop import HostLoop
from tests.data.conftest import letters, write_rows
from tests.kinds import choice, soft_tags, windows

DEFECTS = Path(__file__).parent / "defects"
SPLITS = ("train", "validation", "test")
FILES = jp.Files(*(str(DEFECTS / f"{split}.jsonl") for split in SPLITS))
"""Train: two equal rows, an empty text, one of two tokens too many, one with an unknown word, and one without a fault.
Validation: a row of train, whose words are one string, and another, which test has too."""


def reported(task, tokenizer, splits=SPLITS):
    return report_rows(task, tokenizer, {split: prepare(task, tokenizer, split) for split in splits})


def general(report):
    """What is the same for all kinds, by split."""
    return {
        split: {name: found[name] for name in ("rows", "cut", "empty", "equal", "tokens")}
        for split, found in report["splits"].items()
    }


@pytest.fixture
def no_backend(monkeypatch):
    """JAX finds no device."""

    def fails(*args, **options):
        raise AssertionError("a backend was asked for")

    monkeypatch.setattr(jax._src.xla_bridge, "backends", fails)
    monkeypatch.setattr(jax._src.xla_bridge, "get_backend", fails)


def test_every_defect_is_counted_once(tokenizer, no_backend):
    found = reported(jp.Tagging(FILES, max_length=8), tokenizer)
    assert found == json.loads(json.dumps(found)) and found["columns"] == ["tokens"]
    expected = {
        "train": {
            "rows": 6,
            "examples": 6,
            "lengths": {"shortest": 2, "median": 4.5, "longest": 8},
            "cut": {"rows": 1, "words": 2},
            "empty": {"tokens": 1},
            "equal": {"train": 1},
            "tokens": {"all": 3 + 3 + 0 + 6 + 2 + 2, "unknown": 1},
            "targets": {
                "words with a label": 16,
                "scheme of the tags": "BIO, as in B-TYPE",
                "labels": {"B-LOC": 2, "B-PER": 3, "O": 11},
            },
        },
        "validation": {
            "rows": 2,
            "examples": 2,
            "lengths": {"shortest": 5, "median": 5.0, "longest": 5},
            "cut": {"rows": 0, "words": 0},
            "empty": {"tokens": 0},
            "equal": {"validation": 0, "train": 1},
            "tokens": {"all": 6, "unknown": 0},
            "targets": {
                "words with a label": 6,
                "scheme of the tags": "BIO, as in B-TYPE",
                "labels": {"B-LOC": 1, "B-PER": 1, "O": 4},
            },
        },
        "test": {
            "rows": 2,
            "examples": 2,
            "lengths": {"shortest": 5, "median": 5.0, "longest": 5},
            "cut": {"rows": 0, "words": 0},
            "empty": {"tokens": 0},
            "equal": {"test": 0, "train": 0, "validation": 1},
            "tokens": {"all": 6, "unknown": 0},
            "targets": {
                "words with a label": 6,
                "scheme of the tags": "BIO, as in B-TYPE",
                "labels": {"B-LOC": 0, "B-PER": 2, "O": 4},
            },
        },
    }
    assert found["splits"] == {
        split: {"name": str(DEFECTS / f"{split}.jsonl"), **numbers} for split, numbers in expected.items()
    }
    table = report_table(found)
    assert table.lines() == [
        "data                                      train  validation       test",
        "rows                                          6           2          2",
        "tokens, least / median / most       2 / 4.5 / 8   5 / 5 / 5  5 / 5 / 5",
        "rows cut                               1 (17 %)           0          0",
        "words with a label cut off                    2           0          0",
        "empty texts, tokens                    1 (17 %)           0          0",
        "input equal to a row of train          1 (17 %)    1 (50 %)          0",
        "input equal to a row of validation                        0   1 (50 %)",
        "input equal to a row of test                                         0",
        "unknown tokens                        1 (6.2 %)           0          0",
        "words with a label                           16           6          6",
        "labels: B-LOC                                 2           1          0",
        "labels: B-PER                                 3           1          2",
        "labels: O                                    11           4          4",
        "scheme of the tags: BIO, as in B-TYPE",
    ]
    assert [note.split(":")[0] for note in table.warnings] == [
        "1 of 2 rows of validation have the input of a row of train",
        "1 of 2 rows of test have the input of a row of validation",
    ]


KINDS = {
    "classification": (jp.Classification, {}, {"labels": {"long": 1, "short": 5}}),
    "several labels": (
        jp.MultiLabelClassification,
        {},
        {"labels a row, mean": 1.0, "rows without a label": 2, "labels": {"B-LOC": 3, "B-PER": 3}},
    ),
    "regression": (
        jp.Regression,
        {},
        {"score": {"mean": 3.0, "deviation": 2.44949, "least": 0.0, "largest": 8.0}},
    ),
    "masked words": (jp.MaskedLanguage, {}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_general_part_is_the_same_for_every_kind_of_text(kind, tokenizer, no_backend):
    make, fields, targets = KINDS[kind]
    found = reported(make(FILES, max_length=8, **fields), tokenizer)
    expected = general(reported(jp.Tagging(FILES, max_length=8), tokenizer))
    for numbers in expected.values():
        numbers["cut"]["words"] = 0
        numbers["empty"] = {"text": numbers["empty"]["tokens"]}
    assert general(found) == expected
    assert found["splits"]["train"]["targets"] == targets
    assert len(report_table(found).lines()) <= LINES


@pytest.mark.parametrize("packed", [False, True])
def test_language_and_prompts(packed, tmp_path, no_backend):
    rows = [{"text": text, "target": "ab"} for text in ("abc", "abc", "", "abcdefgh", "abcd")]
    source = jp.Files(write_rows(tmp_path / "train.jsonl", rows))
    tokenizer = letters()
    task = jp.CausalLanguage(source, max_length=6, packed=packed)
    examples = prepare(task, tokenizer)
    found = reported(task, tokenizer, ["train"])["splits"]["train"]
    assert sorted(text_lengths(examples)) == [1, 4, 4, 5, 6]  # with the end of each
    assert (found["rows"], found["examples"]) == (5, len(examples)) and (len(examples) < 5) == packed
    assert found["lengths"] == {"shortest": 1, "median": 4.0, "longest": 6}
    assert (found["cut"], found["empty"], found["equal"]) == ({"rows": 1, "words": 0}, {"text": 1}, {"train": 1})
    assert found["tokens"] == {"all": 3 + 3 + 0 + 5 + 4, "unknown": None}
    assert found["targets"] == {"tokens to predict": 15 + 5 - sum(1 for _ in rows)}

    task = jp.ConditionalGeneration(source, prompt="text", max_prompt_length=6, max_target_length=4, packed=packed)
    found = reported(task, tokenizer, ["train"])["splits"]["train"]
    assert (found["cut"], found["empty"], found["equal"]) == ({"rows": 1, "words": 0}, {"text": 1}, {"train": 1})
    assert found["targets"] == {"tokens to predict": 5 * 3}


def test_kinds_from_outside_have_the_general_part_and_count_their_targets(tokenizer, tmp_path, no_backend):
    rows = choice.rows(6, 0)
    rows += [rows[0], {**rows[1], "choices": ["cat " * 30, "dog " * 30], "right": 0}]
    sources = jp.Files(write_rows(tmp_path / "choice.jsonl", rows))
    found = reported(choice.Choice(sources), tokenizer, ["train"])["splits"]["train"]
    assert (found["rows"], found["examples"], found["equal"]) == (8, 8, {"train": 1})
    assert found["cut"] == {"rows": 1, "words": 0}  # of two sequences
    assert found["targets"] == {"right, per row": 8}

    rows = [{"text": " ".join(["good", *["the"] * count]), "label": "xy"[count % 2]} for count in range(2, 14, 2)]
    rows[0]["label"] = "y"
    sources = jp.Files(write_rows(tmp_path / "windows.jsonl", rows))
    found = reported(windows.LongText(sources), tokenizer, ["train"])["splits"]["train"]
    assert (found["rows"], found["examples"], found["targets"]) == (6, 9, {"labels": {"x": 8, "y": 1}})  # 8 words each

    rows = [{"words": ["cat"] * n, **dict.fromkeys(("first", "second"), [[1, 0, 0]] * n)} for n in (2, 3, 30)]
    sources = jp.Files(write_rows(tmp_path / "soft.jsonl", rows))
    found = reported(soft_tags.SoftTags(sources, packed=False), tokenizer, ["train"])["splits"]["train"]
    assert found["cut"] == {"rows": 1, "words": 8}
    assert found["targets"] == {"first, per token": 2 + 3 + 22, "second, per token": 2 + 3 + 22}


def test_inputs_of_published_formats_are_their_prompts(tmp_path):
    """Whatever the columns are called that they are made of."""
    triples = ["a | b | c", "a | b | c", "d | b | c"]
    for names in (("triples", "text"), ("input", "target")):
        rows = [dict(zip(names, (triple, "a"), strict=True)) for triple in triples]
        source = jp.Files(write_rows(tmp_path / f"{names[0]}.jsonl", rows))
        task = jp.ConditionalGeneration(source, format=jp.WebNLG())
        digests = read_inputs(task, task.open_rows("train")).digests
        assert digests[0] == digests[1] != digests[2]


def test_equal_inputs_are_equal_whatever_the_file_writes_numbers_as(tmp_path):
    rows = [{"text": "a", "n": 1, "label": "x"}, {"text": "a", "n": 2, "label": "y"}]
    found = []
    for suffix in (".jsonl", ".csv", ".parquet"):
        task = jp.Classification(jp.Files(write_rows(tmp_path / f"rows{suffix}", rows)), template="{text} {n}")
        found.append(read_inputs(task, task.open_rows("train")).digests.tolist())
    assert found[0] == found[1] == found[2] and len(set(found[0])) == 2


def test_rows_are_read_once_for_their_digests(tmp_path):
    path = write_rows(tmp_path / "train.jsonl", [{"text": "a", "label": "x"}, {"text": " \u200b", "label": "y"}])
    task = jp.Classification(jp.Files(path))
    rows = task.open_rows("train")
    found = read_inputs(task, rows)

    def fails(index):
        raise AssertionError("a row was read again")

    again = read_inputs(task, dataclasses.replace(rows, read=fails))
    assert (again.digests == found.digests).all() and again.empty == found.empty == {"text": 1}


@pytest.mark.parametrize(
    ("value", "empty"),
    [("", True), (" \t\u3000\u200b\ufeff", True), (None, True), ([], True), (["", " "], True), ({"a": ""}, True),
     ("a", False), (0, False), (["", "a"], False), (False, False)],
)  # fmt: skip
def test_a_text_is_empty_where_nothing_of_it_is_seen(value, empty):
    assert is_empty(value) is empty


def test_which_token_is_the_unknown_one(tokenizer, byte_level):
    assert unknown_token(tokenizer) == tokenizer.unk_token_id
    assert unknown_token(letters()) is None
    pieces = Tokenizer(models.Unigram([("<pad>", 0.0), ("<unk>", 0.0), ("a", -1.0)], unk_id=1))
    assert unknown_token(PreTrainedTokenizerFast(tokenizer_object=pieces)) == 1
    # GPT-2's end is its unknown token by name alone
    named = letters()
    named.add_special_tokens({"unk_token": "<|end|>"})
    assert named.unk_token_id == named.eos_token_id and unknown_token(named) is None


COUNTS = st.integers(0, 10**9)
TARGETS = st.dictionaries(
    st.text(max_size=50),
    COUNTS
    | st.floats()
    | st.text(max_size=50)
    | st.dictionaries(st.text(max_size=50), COUNTS, max_size=30)
    | st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), st.floats(), max_size=9), max_size=9),
    max_size=20,
)


@st.composite
def reports(draw):
    splits = {}
    for place, split in enumerate(SPLITS[: draw(st.integers(1, 3))]):
        splits[split] = {
            "name": draw(st.text()),
            "rows": draw(COUNTS),
            "examples": draw(COUNTS),
            "lengths": {"shortest": draw(COUNTS), "median": draw(st.floats(0, 1e6)), "longest": draw(COUNTS)},
            "cut": {"rows": draw(COUNTS), "words": draw(COUNTS)},
            "empty": draw(st.dictionaries(st.text(max_size=50), COUNTS, max_size=4)),
            "equal": {other: draw(COUNTS) for other in (split, *SPLITS[:place])},
            "tokens": {"all": draw(COUNTS), "unknown": draw(st.none() | COUNTS)},
            "targets": draw(TARGETS),
        }
    return {"columns": [], "splits": splits}


@settings(max_examples=25, deadline=None)
@given(reports())
def test_a_table_has_at_most_so_many_lines_whatever_a_task_says(report):
    table = report_table(report)
    assert len(table.lines()) + 2 * len(table.warnings) <= LINES
    assert all(len(row) == len(table.head) for row in table.rows)
    names = [row[0] for row in table.rows]
    for split, found in report["splits"].items():
        place = table.head.index(split)
        assert table.rows[names.index("rows cut")][place].split(" ")[0] == f"{found['cut']['rows']:,}"
    check_report(report)


@settings(max_examples=25, deadline=None)
@given(reports(), st.data())
def test_what_is_no_report_is_a_value_error(report, data):
    """An adapter folder's description is anybody's."""
    place = report
    for _ in range(data.draw(st.integers(1, 4))):
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key]:
            break
        parent, place = place, place[key]
        if data.draw(st.booleans()):
            place, key = parent, key
            break
    key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(
        st.none() | st.booleans() | st.text() | st.integers() | st.floats() | st.lists(st.integers()) | st.just({})
    )
    for given_report in (report, place, [report], None):
        try:
            check_report(given_report)
        except ValueError:
            continue


def test_what_was_cut_of_the_training_rows_is_the_first_line_of_the_metrics(tmp_path):
    """Once, however often a run begins before its first checkpoint; and not where nothing was."""

    class NoSteps(HostLoop):
        step_of = next_batch = update = report = evaluate = info = lambda self, *args: 0

        def finished(self, step):
            return True

        def __init__(self, folder, cut):
            examples = types.SimpleNamespace(cut=cut)
            task = jp.Classification(jp.Files("none.jsonl"))
            self.run = jp.Run(task, "tiny-encoder", jp.PTuningV2(length=2), folder=str(folder))
            self.setup = types.SimpleNamespace(examples={"train": examples})
            self.checkpoints = types.SimpleNamespace(wait=lambda: None, place=Place())
            self.steps = 0

    for cut, written in (((3, 2), [{"step": 0, "train/cut_rows": 3.0, "train/cut_words": 2.0}]), ((0, 0), [])):
        folder = tmp_path / str(cut[0])
        folder.mkdir()
        for _ in range(2):
            NoSteps(folder, cut).loop(None, lambda: False)
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines] == written


def test_no_row_is_held():
    """A number for each, and nothing else of them."""
    count, text = 3_000, "x" * 2_000
    rows = Rows("r", "i", count, lambda index: {"text": f"{index} {text}"}, lambda index: f"{index}")
    task = jp.Classification(jp.Files("none.jsonl"))
    tracemalloc.start()
    found = read_inputs(task, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(found.digests.tolist())) == count and peak < 500_000  # bytes; the texts have 6 million
