"""Rows for decoders: ids, shifted labels, ends, cuts, prompts; letters are tokens, so that ids are written by hand."""

from dataclasses import replace

import numpy as np
import pytest

from jaxprefix.data import Batches, Files
from jaxprefix.errors import UserError
from jaxprefix.tasks import CausalLanguage, ConditionalGeneration, encode_texts, prepare
from tests.data.conftest import letters, write_rows

END, BOS, LINE, SPACE, BAR, A, B, C, D = range(9)
NO = -100


def source(folder, rows):
    return Files(write_rows(folder / "train.jsonl", rows))


def texts(folder, *rows):
    return source(folder, [{"text": row} for row in rows])


def pairs(folder, *rows):
    return source(folder, [{"prompt": prompt, "target": target} for prompt, target in rows])


def row(examples, index):
    found = examples.row(index)
    return found["ids"].tolist(), found["labels"].tolist()


def test_a_text_predicts_each_next_token_and_its_end(tmp_path):
    examples = prepare(CausalLanguage(texts(tmp_path, "ab c", "a")), letters())
    assert row(examples, 0) == ([A, B, SPACE, C, END], [B, SPACE, C, END, NO])
    assert row(examples, 1) == ([A, END], [END, NO])
    assert examples.targets["labels"].spec.per == "token" and examples.labels == () and examples.max_length == 128


def test_a_target_alone_is_predicted(tmp_path):
    examples = prepare(ConditionalGeneration(pairs(tmp_path, ("ab", "cd"), ("a", "b"))), letters())
    assert row(examples, 0) == ([A, B, LINE, C, D, END], [NO, NO, C, D, END, NO])
    assert row(examples, 1) == ([A, LINE, B, END], [NO, B, END, NO])
    assert examples.max_length == 256


def test_padding_has_no_labels(tmp_path):
    examples = prepare(ConditionalGeneration(pairs(tmp_path, ("ab", "cd"), ("a", "b"))), letters())
    batch = Batches(examples, 2, 0, buckets=(8,)).batch(0)
    padded = batch["labels"][~batch["attention_mask"]]
    assert len(padded) == 2 + 4 and (padded == NO).all()
    assert batch["attention_mask"].sum(1).tolist() == [
        len(row(examples, int(i))[0]) for i in Batches(examples, 2, 0).rows(0)
    ]


def test_a_long_text_is_cut_and_still_ends(tmp_path):
    examples = prepare(CausalLanguage(texts(tmp_path, "abcd", "abc"), max_length=4), letters())
    assert row(examples, 0) == row(examples, 1) == ([A, B, C, END], [B, C, END, NO])


def test_prompt_and_target_are_cut_each_by_itself(tmp_path):
    task = ConditionalGeneration(pairs(tmp_path, ("abcd", "dcba"), ("a", "bcd")), separator="")
    cut = prepare(replace(task, max_prompt_length=2, max_target_length=3), letters())
    assert row(cut, 0) == ([A, B, D, C, END], [NO, D, C, END, NO])
    assert row(cut, 1) == ([A, B, C, END], [B, C, END, NO])
    assert cut.max_length == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_prompt_length": 2}, r"train.jsonl:2 has 3 tokens of prompt and there is room for 2; raise max_prompt_"),
        ({"max_target_length": 2}, r"train.jsonl:2 has 2 tokens of target and there is room for 1; raise max_target_"),
        ({"target": "answer"}, r"train.jsonl:1 has no column 'answer'; it has 'prompt', 'target'"),
        ({"template": "{question}"}, r"train.jsonl:1 has no column 'question'"),
    ],
)
def test_without_truncation_and_with_wrong_columns_the_row_is_named(tmp_path, changes, message):
    task = ConditionalGeneration(pairs(tmp_path, ("a", "b"), ("ab", "cd")), truncation=False)
    with pytest.raises(UserError, match=message):
        prepare(replace(task, **changes), letters())
    exact = prepare(replace(task, max_prompt_length=3, max_target_length=3), letters())
    assert row(exact, 1)[0] == [A, B, LINE, C, D, END]


def test_without_truncation_a_long_text_is_named(tmp_path):
    task = CausalLanguage(texts(tmp_path, "ab", "abc"), truncation=False, max_length=4)
    assert row(prepare(task, letters()), 1)[0] == [A, B, C, END]
    with pytest.raises(UserError, match=r"train.jsonl:2 has 3 tokens and there is room for 2; raise max_length"):
        prepare(replace(task, max_length=3), letters())
    with pytest.raises(UserError, match=r"train.jsonl:1 has no column 'body'"):
        prepare(replace(task, text="body"), letters())


@pytest.mark.parametrize("target", ["", "  "])
def test_an_empty_target_is_named(tmp_path, target):
    task = ConditionalGeneration(pairs(tmp_path, ("a", "b"), ("ab", target)))
    with pytest.raises(UserError, match=r"train.jsonl:2 has an empty 'target'; fill it in or remove the row"):
        prepare(task, letters())


def test_an_empty_prompt_leaves_ids_and_labels_together(tmp_path):
    task = ConditionalGeneration(pairs(tmp_path, ("", "ab"), ("", "c"), ("d", "a")), separator="")
    examples = prepare(task, letters())
    assert row(examples, 0) == ([A, B, END], [B, END, NO])
    assert row(examples, 1) == ([C, END], [END, NO])
    assert row(examples, 2) == ([D, A, END], [A, END, NO])


def test_a_tokenizer_without_an_end_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"The tokenizer has no end token \(eos_token\); set one"):
        prepare(CausalLanguage(texts(tmp_path, "ab")), tokenizer)


def test_a_template_makes_the_prompt(tmp_path):
    rows = [{"x": "a", "y": "b", "target": "c"}]
    task = ConditionalGeneration(source(tmp_path, rows), template="{y}|{x}", separator=" ")
    examples = prepare(task, letters())
    assert row(examples, 0) == ([B, BAR, A, SPACE, C, END], [NO, NO, NO, C, END, NO])
    opened = task.source.open("train")
    assert task.prompt_text(opened, opened[0], 0) == "b|a "
    prompts = encode_texts(task, letters(), [{"x": "c", "y": "d"}])
    assert prompts.row(0)["ids"].tolist() == [D, BAR, C, SPACE]


def test_prompts_have_no_labels_and_are_what_training_rows_begin_with(tmp_path):
    task = ConditionalGeneration(pairs(tmp_path, ("ab", "cd")))
    examples = encode_texts(task, letters(), ["ab", {"prompt": "c"}])
    assert examples.targets == {} and set(examples.row(0)) == {"ids"}
    assert [examples.row(i)["ids"].tolist() for i in range(2)] == [[A, B, LINE], [C, LINE]]
    ids, _ = row(prepare(task, letters()), 0)
    assert ids[:3] == examples.row(0)["ids"].tolist()
    begun = encode_texts(CausalLanguage(Files("none.jsonl")), letters(), ["ab"])  # a text to go on, without an end
    assert begun.targets == {} and begun.row(0)["ids"].tolist() == [A, B]


def test_a_tokenizer_that_puts_a_token_first_does_so_once(tmp_path):
    tokenizer = letters(first=True)
    text = prepare(CausalLanguage(texts(tmp_path, "ab"), max_length=3), tokenizer)
    assert row(text, 0) == ([BOS, A, END], [A, END, NO])
    pair = prepare(ConditionalGeneration(pairs(tmp_path, ("a", "bc")), max_prompt_length=3), tokenizer)
    assert row(pair, 0) == ([BOS, A, LINE, B, C, END], [NO, NO, B, C, END, NO])
    empty = prepare(ConditionalGeneration(pairs(tmp_path, ("", "b")), separator=""), tokenizer)
    assert row(empty, 0) == ([BOS, B, END], [B, END, NO])


def test_a_tokenizer_that_ends_every_text_ends_each_once(tmp_path):
    from tokenizers import processors

    tokenizer = letters()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A <|end|>", special_tokens=[("<|end|>", END)]
    )
    task = CausalLanguage(texts(tmp_path, "abc"), max_length=4, truncation=False)
    assert row(prepare(task, tokenizer), 0) == ([A, B, C, END], [B, C, END, NO])
    pair = ConditionalGeneration(pairs(tmp_path, ("a", "b")))
    assert row(prepare(pair, tokenizer), 0) == ([A, LINE, B, END], [NO, B, END, NO])
    assert encode_texts(pair, tokenizer, ["a"]).row(0)["ids"].tolist() == [A, LINE]


def test_many_rows_keep_their_places(tmp_path):
    rows = [("ab" * (i % 5 + 1), "cd" * (i % 3 + 1)) for i in range(1203)]  # more than a chunk
    examples = prepare(ConditionalGeneration(pairs(tmp_path, *rows)), letters())
    assert len(examples) == 1203
    for index in (0, 1, 999, 1000, 1202):
        prompt, target = ([B - 1 + "abcd".index(letter) for letter in text] for text in rows[index])
        ids = [*prompt, LINE, *target, END]
        assert row(examples, index) == (ids, [*[NO] * len(prompt), *target, END, NO])
    assert np.diff(examples.offsets).sum() == len(examples.targets["labels"].values)
