"""From rows to token ids: templates, pairs, alignment, labels, and what is refused."""

import copy

import numpy as np
import pytest

from jaxprefix.data import Batches, Files
from jaxprefix.errors import UserError
from jaxprefix.tasks import Classification, MaskedLanguage, Tagging, encode_texts, prepare
from jaxprefix.tasks.tagging import align
from tests.data.conftest import write_rows


def files(folder, **splits):
    return Files(**{split: write_rows(folder / f"{split}.jsonl", rows) for split, rows in splits.items()})


def decoded(tokenizer, examples, row):
    return tokenizer.convert_ids_to_tokens(examples.row(row)["ids"].tolist())


def test_ids_segments_and_labels_are_those_of_the_tokenizer(tokenizer, tmp_path, rows_of_text):
    examples = prepare(Classification(files(tmp_path, train=rows_of_text)), tokenizer)
    assert len(examples) == 40 and examples.labels == ("no", "yes")
    for index, row in enumerate(rows_of_text):
        assert examples.row(index)["ids"].tolist() == tokenizer(row["text"])["input_ids"]
        assert examples.labels[examples.row(index)["labels"]] == row["label"]
    assert examples.lengths.tolist() == [len(tokenizer(row["text"])["input_ids"]) for row in rows_of_text]


@pytest.mark.parametrize("max_length", [5, 8, 9, 14, 60])
def test_pairs_are_cut_as_transformers_cuts_them(tokenizer, tmp_path, rows_of_text, max_length):
    rows = [{"a": one["text"], "b": other["text"], "label": one["label"]}
            for one, other in zip(rows_of_text, rows_of_text[7:] + rows_of_text[:7], strict=True)]  # fmt: skip
    task = Classification(files(tmp_path, train=rows), text="a", text_pair="b", max_length=max_length)
    examples = prepare(task, tokenizer)
    columns = ([row["a"] for row in rows], [row["b"] for row in rows])
    theirs = tokenizer(*columns, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
    for index in range(len(rows)):
        assert examples.row(index)["ids"].tolist() == theirs["input_ids"][index]
        assert examples.row(index)["token_type_ids"].tolist() == theirs["token_type_ids"][index]
    assert examples.token_type_ids.max() == 1 and examples.lengths.max() <= max_length


def test_templates_make_texts_out_of_columns(tokenizer, tmp_path):
    rows = [{"s1": "the cat sat", "s2": "a cat ran", "word": "cat", "n": i, "label": bool(i)} for i in range(2)]
    source = files(tmp_path, train=rows)
    one = prepare(Classification(source, template="{s1} {s2} {word} {n}"), tokenizer)
    assert decoded(tokenizer, one, 1) == ["[CLS]", "the", "cat", "sat", "a", "cat", "ran", "cat", "1", "[SEP]"]
    assert one.labels == ("False", "True") and one.targets["labels"].values.tolist() == [0, 1]
    pair = prepare(Classification(source, template="{word}: {s1}", template_pair="{word}: {s2}"), tokenizer)
    assert decoded(tokenizer, pair, 0) == [
        "[CLS]",
        "cat",
        ":",
        "the",
        "cat",
        "sat",
        "[SEP]",
        "cat",
        ":",
        "a",
        "cat",
        "ran",
        "[SEP]",
    ]
    assert pair.row(0)["token_type_ids"].tolist() == [0] * 7 + [1] * 6


def test_tags_lie_on_first_sub_tokens(tokenizer, tmp_path):
    rows = [{"tokens": ["alice", "visiteds", "paris"], "tags": ["B-PER", "O", "B-LOC"]},
            {"tokens": ["xyz", "a"], "tags": ["B-PER", "O"]}]  # fmt: skip
    examples = prepare(Tagging(files(tmp_path, train=rows)), tokenizer)
    assert examples.labels == ("B-LOC", "B-PER", "O")
    assert decoded(tokenizer, examples, 0) == ["[CLS]", "alice", "visited", "##s", "paris", "[SEP]"]
    assert examples.row(0)["labels"].tolist() == [-100, 1, 2, -100, 0, -100]
    assert decoded(tokenizer, examples, 1) == ["[CLS]", "x", "##y", "##z", "a", "[SEP]"]
    assert examples.row(1)["labels"].tolist() == [-100, 1, -100, -100, 2, -100]
    cut = prepare(Tagging(files(tmp_path, train=rows), max_length=4), tokenizer)
    assert [cut.row(row)["labels"].tolist() for row in (0, 1)] == [[-100, 1, 2, -100], [-100, 1, -100, -100]]


def test_alignment_of_neighbouring_rows_and_words_without_tokens():
    tags = np.array([5, 6, 7, 8, 9], np.int32)
    words = [[None, 0, 0, 2, None], [], [0, 1, 1]]  # the second word of the first row has no token
    assert align(tags, [3, 0, 2], words).tolist() == [-100, 5, -100, 7, -100, 8, 9, -100]
    assert align(tags, [1, 2], [[0, 0], [0, 1]]).tolist() == [5, -100, 6, 7]  # without special tokens between


def test_byte_level_words_carry_the_space_before_them(byte_level, tmp_path):
    rows = [{"tokens": ["cat", "cat", "a"], "tags": ["X", "O", "O"]}]
    before = byte_level.backend_tokenizer.to_str()
    examples = prepare(Tagging(files(tmp_path, train=rows)), byte_level)
    assert decoded(byte_level, examples, 0) == ["<s>", "Ġcat", "Ġcat", "Ġa", "</s>"]
    assert examples.row(0)["labels"].tolist() == [-100, 1, 0, 0, -100]
    assert byte_level.backend_tokenizer.to_str() == before
    rows = [{"text": "cat cat", "label": "x"}, {"text": "cat", "label": "y"}]
    texts = prepare(Classification(files(tmp_path, train=rows)), byte_level)
    assert decoded(byte_level, texts, 0) == ["<s>", "cat", "Ġcat", "</s>"]
    assert (Batches(texts, 2, 0).batch(0)["input_ids"] == 1).any()  # padded with its own padding id


@pytest.mark.parametrize("kind", ["text", "tags"])
def test_the_three_file_formats_give_the_same_examples(tokenizer, tmp_path, rows_of_text, kind):
    if kind == "text":
        rows, task = [{**row, "text": row["text"] + ', "é"\n.'} for row in rows_of_text], Classification
    else:
        rows = [{"tokens": row["text"].split(), "tags": ["A" if w == "a" else "O" for w in row["text"].split()]}
                for row in rows_of_text]  # fmt: skip
        task = Tagging
    found = [
        prepare(task(Files(write_rows(tmp_path / f"train{suffix}", rows))), tokenizer)
        for suffix in (".jsonl", ".csv", ".parquet")
    ]
    for other in found[1:]:
        assert other.labels == found[0].labels
        for name in ("ids", "token_type_ids", "offsets", "labels"):
            np.testing.assert_array_equal(getattr(other, name), getattr(found[0], name))


def test_labels_of_other_splits_are_numbered_as_in_training(tokenizer, tmp_path):
    rows = [{"text": "a", "label": label} for label in (10, 9, 2)]
    source = files(tmp_path, train=rows, validation=rows[:1])
    assert prepare(Classification(source), tokenizer).labels == ("2", "9", "10")
    validation = prepare(Classification(source), tokenizer, "validation")
    assert validation.labels == ("2", "9", "10") and validation.targets["labels"].values.tolist() == [2]
    assert prepare(Classification(source), tokenizer, "validation", facts={"labels": ["10", "2"]}).targets[
        "labels"
    ].values.tolist() == [0]
    assert prepare(Classification(source, labels=("10", "9", "2")), tokenizer).targets["labels"].values.tolist() == [
        0,
        1,
        2,
    ]


def test_masked_language_rows_carry_no_labels_but_batches_do(tokenizer, tmp_path, rows_of_text):
    examples = prepare(MaskedLanguage(files(tmp_path, train=rows_of_text), mask_rate=0.5), tokenizer)
    assert examples.targets == {} and examples.labels == ()
    batch = Batches(examples, 16, 0).batch(0)
    assert (batch["input_ids"] == tokenizer.mask_token_id).any()
    assert not np.isin(batch["labels"], tokenizer.all_special_ids).any()


def test_masked_language_takes_pairs_and_single_texts(tokenizer, tmp_path):
    rows = [{"a": "the cat", "b": "a dog"}, {"a": "the cat", "b": ""}]
    task = MaskedLanguage(files(tmp_path, train=rows), text="a", text_pair="b", focus=("cat",))
    examples = prepare(task, tokenizer)
    assert decoded(tokenizer, examples, 0) == ["[CLS]", "the", "cat", "[SEP]", "a", "dog", "[SEP]"]
    assert decoded(tokenizer, examples, 1) == ["[CLS]", "the", "cat", "[SEP]"]
    assert examples.row(0)["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert examples.finish.focus_ids == (tokenizer.convert_tokens_to_ids("cat"),) and examples.finish.focus_rate == 0.5


def test_texts_to_predict(tokenizer, tmp_path, rows_of_text):
    source = Files("none.jsonl")
    examples = encode_texts(Classification(source), tokenizer, ["the cat", {"text": "a dog"}])
    assert examples.targets == {} and "labels" not in Batches(examples, 2, 0).batch(0)
    assert decoded(tokenizer, examples, 1) == ["[CLS]", "a", "dog", "[SEP]"]
    pair = Classification(source, text="a", text_pair="b", max_length=6)
    assert decoded(tokenizer, encode_texts(pair, tokenizer, [{"a": "the cat", "b": "dog"}]), 0) == (
        ["[CLS]", "the", "cat", "[SEP]", "dog", "[SEP]"]
    )
    with pytest.raises(UserError, match="Text 0 is one string, but the task reads a, b"):
        encode_texts(pair, tokenizer, ["the cat"])
    with pytest.raises(UserError, match=r"text 1 has no column 'b'; it has 'a'"):
        encode_texts(pair, tokenizer, [{"a": "the", "b": "cat"}, {"a": "the"}])
    words = encode_texts(Tagging(source), tokenizer, ["alice xyz", ["bob"]])
    assert words.row(0)["labels"].tolist() == [-100, 0, 1, -100, -100, -100]  # the words' numbers
    assert words.row(1)["labels"].tolist() == [-100, 0, -100]
    assert len(encode_texts(Classification(source), tokenizer, [])) == 0


GOOD = [{"text": "a", "label": "no"}, {"text": "the cat", "label": "yes"}]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (GOOD, {"text": "sentence"}, r"train.jsonl:1 has no column 'sentence'; it has 'text', 'label'"),
        (GOOD, {"label": "class"}, r"train.jsonl:1 has no column 'class'"),
        ([*GOOD, {"text": "a"}], {}, r"train.jsonl:3 has no column 'label'; it has 'text'"),
        ([*GOOD, {"text": None, "label": "no"}], {}, r"train.jsonl:3 has nothing in column 'text'"),
        (GOOD, {"labels": ("yes", "maybe")}, r"jsonl:1 has the label 'no' .* unknown to the label list \(yes, maybe\)"),
        (GOOD, {"labels": ("yes", "yes", "no")}, "name one twice"),
        (GOOD[:1], {}, r"training split .*train.jsonl have one label \(no\); give rows of two classes"),
        ([], {}, r"train split .*train.jsonl has no rows"),
        (
            GOOD,
            {"max_length": 3, "truncation": False},
            r"jsonl:2 is 4 tokens long and max_length is 3; raise max_length",
        ),
        (GOOD, {"max_length": 2}, "With max_length 2 there is no room for a text"),
        (GOOD, {"template": "{text} {other}"}, r"no column 'other'"),
        (GOOD, {"template": "{text"}, "template '{text' is malformed"),
        (GOOD, {"template": "{} is"}, "must name columns as {name}"),
        (GOOD, {"template": "{text!r}"}, "must name columns as {name}"),
    ],
)
def test_bad_rows_and_fields_are_named(tokenizer, tmp_path, cache, rows, fields, message):
    with pytest.raises(UserError, match=message):
        prepare(Classification(files(tmp_path, train=rows), **fields), tokenizer)
    assert not [path for path in cache.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"jsonl:2 has 2 words in 'tokens' and 1 tags in 'tags'"),
        ({"tokens": 3, "tags": ["O"]}, r"jsonl:2 has 3 \(a whole number\) in column 'tokens'; give a list"),
        ({"tokens": ["a"], "tags": None}, r"jsonl:2 has nothing in column 'tags'"),
    ],
)
def test_bad_tags_are_named(tokenizer, tmp_path, row, message):
    source = files(tmp_path, train=[{"tokens": ["a", "b"], "tags": ["X", "O"]}, row])
    with pytest.raises(UserError, match=message):
        prepare(Tagging(source), tokenizer)


def test_an_unknown_label_is_named_in_any_split(tokenizer, tmp_path):
    source = files(tmp_path, train=GOOD, validation=[*GOOD, {"text": "a", "label": "perhaps"}])
    with pytest.raises(UserError, match=r"validation.jsonl:3 has the label 'perhaps' .* \(no, yes\)"):
        prepare(Classification(source), tokenizer, "validation")
    with pytest.raises(UserError, match=r"no test split \(given: train, validation\)"):
        prepare(Classification(source), tokenizer, "test")


def test_tokenizers_that_cannot_serve_are_refused(tokenizer, tmp_path):
    source = files(tmp_path, train=GOOD)
    with pytest.raises(UserError, match="object is a tokenizer in Python"):
        prepare(Classification(source), object())
    with pytest.raises(UserError, match="mask_rate = 0"):
        prepare(MaskedLanguage(source, mask_rate=0.0), tokenizer)
    with pytest.raises(UserError, match="focus_rate = 1"):
        prepare(MaskedLanguage(source, focus_rate=1.0), tokenizer)
    with pytest.raises(UserError, match="breaks dogs; focus takes words that are one token"):
        prepare(MaskedLanguage(source, focus=("cat", "dogs")), tokenizer)
    unmasked = copy.deepcopy(tokenizer)
    unmasked.mask_token = None
    with pytest.raises(UserError, match="no mask token"):
        prepare(MaskedLanguage(source), unmasked)
