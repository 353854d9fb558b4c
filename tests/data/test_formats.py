"""Published formats: ids, token types and labels written out by hand, their files, and their tokens."""

import json
from dataclasses import replace

import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.data import Batches, Files
from jaxprefix.errors import UserError
from jaxprefix.generation.texts import prompt_batches, with_tokens_of
from jaxprefix.tasks import encode_texts, prepare
from tests.data.conftest import letters, write_rows

END, FIRST, LINE, SPACE, BAR, A, B, C, D, E = range(10)
NO = -100
VOCAB = 31  # of the letters; the 16 tokens follow
PAD, BOS_QA, EOS_QA, QUESTION, ANSWER, DOCUMENT, BOS_SM, EOS_SM, SOURCE, SUMMARY = range(VOCAB, VOCAB + 10)
BOS_W, EOS_W, SUBJECT, PROPERTY, OBJECT, TARGET = range(VOCAB + 10, VOCAB + 16)


def task(path, made, **fields):
    return jp.ConditionalGeneration(Files(str(path), str(path), str(path)), format=made, **fields)


def extended(made):
    return task("none", made).extend_tokenizer(letters(), VOCAB)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def row(examples, index):
    return tuple(examples.row(index)[name].tolist() for name in ("ids", "token_type_ids", "labels"))


WEBNLG = {
    "entries": [
        {
            "1": {
                "category": "Food",
                "modifiedtripleset": [
                    {"subject": "a", "property": "b", "object": "cd"},
                    {"subject": "d", "property": "a", "object": "b"},
                ],
                "lexicalisations": [
                    {"comment": "good", "lang": "", "lex": "ab c", "xml_id": "Id1"},
                    {"comment": "bad", "lang": "", "lex": "bbb", "xml_id": "Id2"},
                    {"comment": "good", "lang": "", "lex": "d", "xml_id": "Id3"},
                ],
            }
        },
        {
            "2": {
                "modifiedtripleset": [{"subject": "e", "property": "b", "object": "c"}],
                "lexicalisations": [{"comment": "good", "lex": "e"}],
            }
        },
    ]
}


def test_webnlg_of_the_inducer_paper(tmp_path):
    given = task(written(tmp_path / "train.json", WEBNLG), jp.WebNLG())
    examples = prepare(given, extended(jp.WebNLG()))
    assert len(examples) == 3  # good lexicalisations, one row each
    ids, types, labels = row(examples, 0)
    assert ids == [
        *(BOS_W, SUBJECT, A, PROPERTY, B, OBJECT, C, D, SUBJECT, D, PROPERTY, A, OBJECT, B, TARGET),
        *(A, B, SPACE, C, EOS_W),
    ]
    assert types == [
        *(BOS_W, SUBJECT, SUBJECT, PROPERTY, PROPERTY, OBJECT, OBJECT, OBJECT),
        *(SUBJECT, SUBJECT, PROPERTY, PROPERTY, OBJECT, OBJECT),
        *[TARGET] * 6,
    ]
    assert labels == [*[NO] * 14, A, B, SPACE, C, EOS_W, NO]
    assert row(examples, 2)[0] == [BOS_W, SUBJECT, E, PROPERTY, B, OBJECT, C, TARGET, E, EOS_W]
    prompts, references = given.cases("test")
    assert references == [["ab c", "d"], ["e"]] and prompts[1]["triples"] == [["e", "b", "c"]]


@pytest.mark.parametrize(
    "triples", [[["a", "b", "c"], ["d", "e", "a"]], ["a | b | c", "d | e | a"], "a | b | c ; d | e | a"]
)
@pytest.mark.parametrize("names", [("triples", "text"), ("input", "target")])
def test_triples_are_given_in_several_ways(triples, names):
    made, found = jp.WebNLG(), dict(zip(names, (triples, "a"), strict=True))
    texts = [(piece.marker, piece.text) for piece in made.prompt(found, "x")]
    assert texts[1:4] == [("<subject>", "a"), ("<property>", "b"), ("<object>", "c")]
    assert len(texts) == 8 and made.target(found, "x").text == "a"


def test_webnlg_of_prefix_tuning(tmp_path):
    given = task(written(tmp_path / "train.json", WEBNLG), jp.WebNLGTable())
    examples = prepare(given, letters_with_colon())
    assert examples.token_type_ids is None
    colon = VOCAB
    source = [SPACE, SPACE, BAR, SPACE, E, SPACE, colon, SPACE, B, SPACE, colon, SPACE, C, SPACE]
    assert examples.row(2)["ids"].tolist() == [*source, FIRST, SPACE, E, SPACE, END]
    assert examples.row(2)["labels"].tolist() == [*[NO] * 14, SPACE, E, SPACE, END, NO]
    assert given.added_tokens == () and given.stops == ()


def letters_with_colon():
    tokenizer = letters()
    tokenizer.add_tokens([":"])
    return tokenizer


def test_e2e_in_all_its_files(tmp_path):
    lines = "a : b | c : d||ab\n\na : b | c : d||e\n"
    given = task(written(tmp_path / "src1_train.txt", lines), jp.E2E())
    examples = prepare(given, letters_with_colon())
    table = [SPACE, A, SPACE, VOCAB, SPACE, B, SPACE, BAR, SPACE, C, SPACE, VOCAB, SPACE, D, SPACE]
    assert examples.row(0)["ids"].tolist() == [*table, FIRST, SPACE, A, B, SPACE, END]
    assert examples.row(0)["labels"].tolist() == [*[NO] * 15, SPACE, A, B, SPACE, END, NO]
    assert given.cases("train")[1] == [["ab", "e"]]
    expected = jp.E2E().prompt({"table": "a : b | c : d"}, "x")
    cells = {"column_header": ["a", "c"], "content": ["b", "d"], "row_number": [1, 1]}
    listed = [{"column_header": "a", "content": "b"}, {"column_header": "c", "content": "d"}]
    for other in (
        {"input_text": {"table": cells}, "target_text": "e"},  # TFDS e2e_cleaned
        {"input_text": {"table": listed}, "target_text": "e"},
        {"meaning_representation": "a[b], c[d]", "target": "e"},  # TFDS gem/e2e_nlg
    ):
        assert jp.E2E().prompt(other, "x") == expected and jp.E2E().target(other, "x").text == " e "
    many = {"meaning_representation": "a[b, c]", "target": "e", "references": ["e", "d"]}
    assert jp.E2E().prompt(many, "x")[0].text == " a : b, c " and jp.E2E().references(many, "x") == ["e", "d"]
    with pytest.raises(UserError, match=r"src.txt:2 has no \|\|; write the table"):
        task(written(tmp_path / "src.txt", "a||b\nc\n"), jp.E2E()).open_rows("train")


COQA = {
    "train": [
        {
            "document": ["abcde"],
            "utterances": [
                {"history": ["a"], "candidates": ["x", "b"]},
                {"history": ["a", "b", "c", "d", "e", "a", "bb"], "candidates": ["cd"]},
            ],
        }
    ],
    "valid": [{"document": ["e"], "utterances": [{"history": ["d"], "candidates": ["c"]}]}],
}


def test_coqa(tmp_path):
    made = jp.CoQA(max_document=3)
    given = task(written(tmp_path / "data2.json", COQA), made)
    examples = prepare(given, extended(made))
    ids, types, labels = row(examples, 0)
    assert ids == [BOS_QA, DOCUMENT, A, B, C, QUESTION, A, ANSWER, B, EOS_QA]
    assert types == [*[DOCUMENT] * 5, QUESTION, QUESTION, *[ANSWER] * 3]
    assert labels == [*[NO] * 7, B, EOS_QA, NO]
    ids, types, labels = row(examples, 1)  # the last five turns of seven
    turns = [QUESTION, C, ANSWER, D, QUESTION, E, ANSWER, A, QUESTION, B, B]
    assert ids == [BOS_QA, DOCUMENT, A, B, C, *turns, ANSWER, C, D, EOS_QA]
    marks = [QUESTION] * 2 + [ANSWER] * 2 + [QUESTION] * 2 + [ANSWER] * 2 + [QUESTION] * 3
    assert types == [*[DOCUMENT] * 5, *marks, *[ANSWER] * 4]
    assert labels == [*[NO] * 16, C, D, EOS_QA, NO]
    assert row(prepare(given, extended(made), "validation"), 0)[0] == (
        [BOS_QA, DOCUMENT, E, QUESTION, D, ANSWER, C, EOS_QA]
    )
    with pytest.raises(UserError, match=r"data2.json has no test split \(it has train, valid\)"):
        prepare(given, extended(made), "test")
    short = prepare(task(tmp_path / "data2.json", jp.CoQA(max_history=0)), extended(made))
    assert row(short, 1)[0][7:10] == [QUESTION, B, B]
    answers = {"document": "a", "history": ["b"], "answer": "c", "answers": ["c", "d"]}
    assert made.references(answers, "x") == ["c", "d"]


def test_cnn_dailymail(tmp_path):
    rows = [
        {"src": "abcde", "tgt": "bcd"},
        {"src": "a", "tgt": "bcd"},
        {"src": "ab", "tgt": "b"},
        {"src": "ab", "tgt": "cd"},
    ]
    made = jp.CnnDailyMail(max_source=4, max_summary=2)
    given = task(written(tmp_path / "data.json", {"train": rows, "val": rows[3:]}), made)
    examples = prepare(given, extended(made))
    assert len(examples) == 2  # two have a side of one token
    ids, types, labels = row(examples, 0)
    assert ids == [BOS_SM, SOURCE, A, B, C, D, SUMMARY, B, C, EOS_SM]
    assert types == [BOS_SM, *[SOURCE] * 5, *[SUMMARY] * 4]
    assert labels == [*[NO] * 6, B, C, EOS_SM, NO]
    assert row(examples, 1)[0] == [BOS_SM, SOURCE, A, B, SUMMARY, C, D, EOS_SM]
    assert len(prepare(given, extended(made), "validation")) == 1
    assert encode_texts(given, extended(made), ["a"]).row(0)["ids"].tolist() == [BOS_SM, SOURCE, A, SUMMARY]


def test_types_reach_batches_and_prompts(tmp_path):
    rows = [{"triples": "a | b | c", "text": "d"}, {"triples": "a | b | c ; d | e | a", "text": "ab"}]
    given = task(write_rows(tmp_path / "train.jsonl", rows), jp.WebNLG())
    tokenizer = extended(jp.WebNLG())
    examples = prepare(given, tokenizer)
    batch = Batches(examples, 2, 0, buckets=(24,)).batch(0)
    assert batch["token_type_ids"].dtype == np.int32 and (batch["token_type_ids"][~batch["attention_mask"]] == 0).all()
    assert (batch["input_ids"][~batch["attention_mask"]] == PAD).all()
    prompts = encode_texts(given, tokenizer, ["a | b | c", {"triples": [["d", "a", "e"]]}])
    assert prompts.row(0)["ids"].tolist() == [BOS_W, SUBJECT, A, PROPERTY, B, OBJECT, C, TARGET]
    ((batch, index),) = prompt_batches(prompts, 2, 40)
    assert index.tolist() == [0, 1] and batch["token_type_ids"].shape == (2, 16)
    assert batch["token_type_ids"][1].tolist() == [
        *[0] * 8, BOS_W, SUBJECT, SUBJECT, PROPERTY, PROPERTY, OBJECT, OBJECT, TARGET
    ]  # fmt: skip
    packed = prepare(replace(given, packed=True), tokenizer)
    assert len(packed) == 1 and packed.token_type_ids.tolist() == examples.token_type_ids.tolist()
    decoding = with_tokens_of(jp.Decoding(), tokenizer, given.stops)
    assert set(decoding.stop) == {BOS_W, EOS_W, SUBJECT, PROPERTY, OBJECT, TARGET} and decoding.pad == PAD


@pytest.mark.parametrize(
    ("made", "rows", "message"),
    [
        (jp.WebNLG(), [{"text": "a"}], r"jsonl:1 has no column 'triples' or 'input'; it has 'text'"),
        (jp.WebNLG(), [{"triples": "a | b", "text": "a"}], r"jsonl:1 has the triple 'a \| b'; write it as subject"),
        (jp.WebNLG(), [{"triples": "a | b | c", "text": " "}], r"jsonl:1 has an empty target"),
        (jp.CoQA(), [{"document": "a", "history": [], "answer": "b"}], r"jsonl:1 has an empty 'history'"),
        (
            jp.CnnDailyMail(max_source=9),
            [{"src": "abcdefgh", "tgt": "ab"}],
            r"jsonl:1 has 11 tokens of prompt and max_",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, made, rows, message):
    given = task(write_rows(tmp_path / "train.jsonl", rows), made, max_prompt_length=10)
    with pytest.raises(UserError, match=message):
        prepare(given, extended(made))


@pytest.mark.parametrize("made", [jp.WebNLG(), jp.CoQA(), jp.CnnDailyMail()])
def test_damaged_files_are_named(tmp_path, made):
    for content in ("{", {"train": [{}]}, {"entries": [1]}, []):
        path = written(tmp_path / "train.json", content)
        with pytest.raises(UserError, match=r"train.json (is no|is not JSON|has no train split)"):
            task(path, made).open_rows("train")


def test_tokens_are_added_to_a_copy_behind_the_word_table():
    tokenizer = letters()
    given = task("none", jp.WebNLG())
    assert len(given.added_tokens) == 16
    more = given.extend_tokenizer(tokenizer, VOCAB)
    assert len(tokenizer) == VOCAB and len(more) == VOCAB + 16
    assert more.convert_tokens_to_ids(list(given.added_tokens)) == list(range(VOCAB, VOCAB + 16))
    assert (more.eos_token_id, more.pad_token_id) == (EOS_W, PAD)
    assert more.decode([A, SUBJECT, B, EOS_W], skip_special_tokens=True) == "ab"
    assert len(given.extend_tokenizer(more, VOCAB)) == len(more)
    wide = given.extend_tokenizer(tokenizer, 50)  # a word table with rows that no token has
    assert wide.convert_tokens_to_ids("<pad>") == 50 and len(wide) == 66
    with pytest.raises(
        UserError, match="the tokens of WebNLG have ids from 31 on in this tokenizer instead of from 40"
    ):
        given.extend_tokenizer(more, 40)
    assert jp.CausalLanguage(Files("x.jsonl")).extend_tokenizer(tokenizer, VOCAB) is tokenizer
    with pytest.raises(UserError, match="The tokenizer has no token <bos_webnlg>; add the tokens of the format"):
        encode_texts(given, tokenizer, ["a | b | c"])


def test_formats_travel_as_json():
    from jaxprefix.typed_json import from_json, to_json

    run = jp.Run(task("data.json", jp.CoQA(max_history=1)), method=jp.Inducer() + jp.NewTokens(16))
    assert from_json(to_json(run), jp.Run) == run
