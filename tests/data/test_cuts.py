"""What is longer than the task allows: where it is cut, and that it is said."""

import logging
import resource
import time

import numpy as np
import pytest
from tokenizers import Tokenizer

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.tasks import encode_texts, prepare
from jaxprefix.tasks.tokenizing import Tokenizing
from tests.data.conftest import WORDS, letters, write_rows

END, BOS, LINE, SPACE, BAR, A, B, C, D, E = range(10)


def source(folder, **splits):
    return jp.Files(**{name: write_rows(folder / f"{name}.jsonl", rows) for name, rows in splits.items()})


# Cuts of one text and of pairs are the tokenizer's own


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("kind", ["tokenizer", "byte_level"])
@pytest.mark.parametrize("max_length", [5, 6, 7, 12, 19])
def test_cuts_are_those_of_tokenizers(request, pairs, kind, max_length):
    tokenizer, random = request.getfixturevalue(kind), np.random.default_rng(max_length)
    words = [*WORDS, "catcat", "[SEP]", "</s>", "xyz"]

    def text():
        return " ".join(random.choice(words, size=random.integers(0, 15)))

    inputs = [(text(), text()) if pairs else text() for _ in range(60)]
    theirs = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    theirs.enable_truncation(max_length, strategy="longest_first")
    tokenizing = Tokenizing(tokenizer, max_length, True, pairs=pairs)
    cuts = 0
    for found, expected in zip(tokenizing(inputs, [""] * 60), theirs.encode_batch(inputs), strict=True):
        assert list(found.ids) == expected.ids and found.cut == bool(expected.overflowing)
        assert list(found.type_ids) == (expected.type_ids if tokenizing.typed else [])
        cuts += found.cut
    assert cuts > 5


def test_pairs_of_long_texts_take_the_memory_of_what_is_kept(tokenizer, tmp_path):
    text = " ".join(["cat", "alice"] * 2500)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    task = jp.Classification(jp.Files("none.jsonl"), text="a", text_pair="b", max_length=124)
    examples = encode_texts(task, tokenizer, [{"a": text, "b": text}])  # 519 s by the tokenizer's own pieces
    assert examples.lengths.tolist() == [124] and examples.cut == (1, 0)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


# Prompts


def prompts(folder, *texts, **fields):
    fields = {"max_prompt_length": 4, **fields}
    rows = [{"prompt": text, "target": "c"} for text in texts]
    return jp.ConditionalGeneration(source(folder, train=rows), **fields)


def prompt_ids(task, tokenizer, index=0):
    row = prepare(task, tokenizer).row(index)
    return row["ids"].tolist()[:-2]  # without the target and its end


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("separator", ["\n", "|", "\n\n", " | ", ""])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_prompt_keeps_what_stands_before_it_and_its_separator(tmp_path, first, separator, side):
    tokenizer = letters(first)
    before = [BOS] if first else []
    behind = tokenizer.encode(separator, add_special_tokens=False) if separator else []
    room = 6 - len(before) - len(behind)
    for text in ("abcdeabcde", "abcde    c", "a"):
        task = prompts(tmp_path, text, max_prompt_length=6, separator=separator, truncation_side=side)
        ids = tokenizer.encode(text, add_special_tokens=False)
        kept = ids if len(ids) <= room else ids[:room] if side == "right" else ids[-room:]
        assert prompt_ids(task, tokenizer) == [*before, *kept, *behind]
        asked = encode_texts(task, tokenizer, [text])
        assert asked.row(0)["ids"].tolist() == [*before, *kept, *behind]


def test_the_end_is_cut_where_nothing_is_said(tmp_path):
    assert jp.ConditionalGeneration(jp.Files("none.jsonl")).truncation_side == "right"
    assert prompt_ids(prompts(tmp_path, "abcde"), letters()) == [A, B, C, LINE]
    assert prompt_ids(prompts(tmp_path, "abcde", truncation_side="left"), letters()) == [C, D, E, LINE]
    with pytest.raises(UserError, match="truncation_side = 'middle'"):
        prompts(tmp_path, "a", truncation_side="middle")


def test_a_prompt_without_room_beside_its_separator_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"With max_prompt_length 1 there is no room for the prompt of .*train.jsonl:1"):
        prepare(prompts(tmp_path, "ab", max_prompt_length=1), letters())
    with pytest.raises(UserError, match=r"train.jsonl:1 has 6 tokens of prompt and there is room for 4"):
        prepare(prompts(tmp_path, "abcde", truncation=False), letters())


# Counts


def said(caplog):
    return [record.message for record in caplog.records if "were cut" in record.message]


def test_rows_and_labelled_words_that_were_cut_are_counted_and_said_for_each_split(tokenizer, tmp_path, caplog):
    caplog.set_level(logging.INFO, "jaxprefix")
    long = {"tokens": ["a", "xyz", "alice", "\u200b", "bob"], "tags": ["O", "O", "B-PER", "O", "B-PER"]}
    short = {"tokens": ["alice", "sat"], "tags": ["B-PER", "O"]}
    task = jp.Tagging(source(tmp_path, train=[short, long, long], validation=[short]), max_length=7)
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        examples = prepare(task, tokenizer)
        assert examples.cut == (2, 2)  # of each [CLS] a x ##y ##z alice bob [SEP] is one too long
        assert said(caplog) == [
            f"{tmp_path}/train.jsonl: 2 of 3 rows are longer than the task allows and were cut, and 2 words with a "
            "label went with that"
        ]
    caplog.clear()
    assert prepare(task, tokenizer, "validation").cut == (0, 0) and not said(caplog)


def test_words_whose_last_tokens_alone_were_cut_keep_their_label(tokenizer, tmp_path):
    rows = [{"tokens": ["alice", "xyz"], "tags": ["B-PER", "O"]}]
    examples = prepare(jp.Tagging(source(tmp_path, train=rows), max_length=4), tokenizer)
    assert examples.cut == (1, 0) and examples.row(0)["labels"].tolist() == [-100, 0, 1, -100]


def test_cut_rows_of_every_kind_of_text_are_counted(tokenizer, tmp_path):
    texts = [{"text": text, "labels": ["x"], "label": text[0], "score": place}
             for place, text in enumerate(("a cat", "the cat sat on a mat", "a cat sat on the mat"))]  # fmt: skip
    for kind in (jp.Classification, jp.MultiLabelClassification, jp.Regression, jp.MaskedLanguage):
        assert prepare(kind(source(tmp_path, train=texts), max_length=5), tokenizer).cut == (2, 0)
        assert prepare(kind(source(tmp_path, train=texts)), tokenizer).cut == (0, 0)
    rows = [{"text": text} for text in ("abc", "abcd", "abcde")]
    for packed in (False, True):
        assert prepare(jp.CausalLanguage(source(tmp_path, train=rows), max_length=4, packed=packed), letters()).cut == (
            2,
            0,
        )
    rows = [
        {"prompt": prompt, "target": target}
        for prompt, target in (("ab", "ab"), ("abcd", "a"), ("a", "abc"), ("abcd", "abc"))
    ]
    task = jp.ConditionalGeneration(source(tmp_path, train=rows), max_prompt_length=3, max_target_length=3)
    assert prepare(task, letters()).cut == (3, 0)


def test_what_was_cut_stands_beside_the_metrics():
    task = jp.Tagging(jp.Files("none.jsonl"))
    labels = np.array([[0, 1]])
    arrays = {"predictions": labels, "losses": np.zeros((1, 2))}, {"labels": labels}, np.arange(1), None
    facts = {"labels": ["B-PER", "O"]}
    assert task.measure(jp.Evaluated(*arrays, facts, (3, 5))) == {
        "seqeval_f1": 1.0, "accuracy": 1.0, "loss": 0.0, "cut_rows": 3.0, "cut_words": 5.0,
    }  # fmt: skip
    assert task.measure(jp.Evaluated(*arrays, facts)) == {"seqeval_f1": 1.0, "accuracy": 1.0, "loss": 0.0}
