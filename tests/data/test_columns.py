"""Which columns make up the input: templates, and columns that hold the answer."""

import logging

import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.tasks import prepare
from jaxprefix.tasks.base import check_task
from tests.data.conftest import letters, write_rows

ROWS = [{"q": "the cat", "q.text": "a dog", "a[0]": "bob", "a": ["x"], "label": "no"},
        {"q": "a", "q.text": "the", "a[0]": "mat", "a": ["y"], "label": "yes"}]  # fmt: skip


def source(folder, rows=ROWS):
    return jp.Files(write_rows(folder / "train.jsonl", rows))


def decoded(tokenizer, examples, row):
    return tokenizer.convert_ids_to_tokens(examples.row(row)["ids"].tolist())[1:-1]


@pytest.mark.parametrize("template", ["text", "{{q}}", " ", "is it {{text}}?"])
@pytest.mark.parametrize("field", ["template", "template_pair"])
def test_a_template_without_a_column_is_refused(tokenizer, tmp_path, template, field):
    for kind in (jp.Classification, jp.MultiLabelClassification, jp.Regression):
        with pytest.raises(UserError, match="names no column"):
            prepare(kind(source(tmp_path), text="q", **{field: template}), tokenizer)


def test_a_prompt_template_without_a_column_is_refused(tmp_path):
    rows = [{"prompt": "a", "target": "b"}]
    with pytest.raises(UserError, match="names no column"):
        prepare(jp.ConditionalGeneration(source(tmp_path, rows), template="prompt"), letters())


def test_braces_hold_a_name_and_are_no_expression(tokenizer, tmp_path):
    examples = prepare(jp.Classification(source(tmp_path), template="{q.text} on {a[0]} {{a}}"), tokenizer)
    assert decoded(tokenizer, examples, 0)[:4] == ["a", "dog", "on", "bob"]
    for template in ("{q.upper}", "{a[1]}", "{q.__class__}", "{ q}"):
        with pytest.raises(UserError, match=r"train.jsonl:1 has no column .*'label'"):
            prepare(jp.Classification(source(tmp_path), template=template), tokenizer)


def test_a_prompt_reads_columns_in_the_same_way(tmp_path):
    rows = [{"a.b": "ab", "n": 3, "target": "c"}]
    task = jp.ConditionalGeneration(source(tmp_path, rows), template="{a.b} {n}", separator="|")
    opened = task.open_rows("train")
    assert task.prompt_text(opened, opened[0], 0) == "ab 3|"
    with pytest.raises(UserError, match=r"train.jsonl:1 has no column 'target.x'"):
        task = jp.ConditionalGeneration(source(tmp_path, rows), template="{target.x}")
        task.prompt_text(opened, opened[0], 0)


@pytest.mark.parametrize(
    "task",
    [
        lambda data: jp.Classification(data, template="{q} {label}"),
        lambda data: jp.Classification(data, text="q", template_pair="{label}"),
        lambda data: jp.Classification(data, text="label", label="label"),
        lambda data: jp.Classification(data, text="q", text_pair="label"),
        lambda data: jp.MultiLabelClassification(data, text="labels"),
        lambda data: jp.Regression(data, text="q", text_pair="score"),
        lambda data: jp.Regression(data, template="{q} {b}", target=("a", "b")),
        lambda data: jp.Tagging(data, words="tags"),
        lambda data: jp.ConditionalGeneration(data, template="{q} {target}"),
        lambda data: jp.ConditionalGeneration(data, prompt="target"),
    ],
)
def test_a_column_that_holds_the_answer_is_no_input(tokenizer, tmp_path, task):
    made = task(source(tmp_path))
    for check in (lambda: check_task(made, None, 0.0), lambda: prepare(made, tokenizer)):
        with pytest.raises(UserError, match="as input and as what is to be answered"):
            check()


def test_more_classes_than_half_the_rows_are_said(tokenizer, tmp_path, caplog):
    caplog.set_level(logging.INFO, "jaxprefix")
    texts = [{"text": word, "label": word} for word in ("a", "the", "cat")]
    prepare(jp.Classification(source(tmp_path, texts)), tokenizer)
    assert "has 3 labels for 3 rows; is the column one of labels?" in caplog.text
    caplog.clear()
    prepare(jp.Classification(source(tmp_path, [{"text": "a", "label": place % 2} for place in range(4)])), tokenizer)
    assert "is the column one of labels" not in caplog.text


@pytest.mark.parametrize(
    ("made", "row", "name"),
    [
        (jp.WebNLGTable(), {"triples": [["a", "b", "c"]], "text": ["a"]}, "text"),
        (jp.WebNLGTable(), {"triples": [["a", None, "c"]], "text": "a"}, "triples"),
        (jp.WebNLGTable(), {"triples": 3, "text": "a"}, "triples"),
        (jp.WebNLGTable(), {"triples": [3], "text": "a"}, "triple"),
        (jp.E2E(), {"table": 3, "text": "a"}, "table"),
        (jp.E2E(), {"table": [{"a": 1}], "text": "a"}, "table"),
        (jp.E2E(), {"table": {"column_header": ["a"], "content": [["b"]]}, "text": "a"}, "table"),
        (jp.E2E(), {"table": "a : b", "text": {"a": 1}}, "text"),
    ],
)
def test_published_formats_follow_the_same_rule(tmp_path, made, row, name):
    task = jp.ConditionalGeneration(source(tmp_path, [row]), format=made)
    with pytest.raises(UserError, match=rf"train.jsonl:1 has .*{name}"):
        prepare(task, letters())
