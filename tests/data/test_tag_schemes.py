"""Tags: which scheme they are of, what their entities are, and where their names come from."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxprefix as jp
from jaxprefix.data.examples import IGNORED
from jaxprefix.errors import UserError
from jaxprefix.tasks import prepare
from jaxprefix.tasks.tag_schemes import Scheme, find_scheme
from tests.data.conftest import write_rows

NONE = jp.Files("none.jsonl")
WRITTEN = {"B-T": "{0}-{1}", "T-B": "{1}-{0}", "B_T": "{0}_{1}", "T_B": "{1}_{0}"}
LETTERS = {"BIO": "BI", "IOB1": "IB", "BIOES": "BIES", "BILOU": "BILU"}


def entities_to_tags(entities, length, scheme, written):
    """The tags of entities [(start, end, type)] in the order of the words, by the schemes' definitions."""
    tags = ["O"] * length
    for place, (start, end, kind) in enumerate(entities):
        inside = ["I"] * (end - start)
        if scheme == "BIO":
            inside[0] = "B"
        elif scheme == "IOB1":
            before = entities[place - 1] if place else None
            inside[0] = "B" if before is not None and before[1] == start and before[2] == kind else "I"
        elif scheme != "IO":
            last, single = ("E", "S") if scheme == "BIOES" else ("L", "U")
            inside = [single] if end - start == 1 else ["B", *inside[2:], last]
        tags[start:end] = [kind if scheme == "IO" else WRITTEN[written].format(letter, kind) for letter in inside]
    return tags


def drawn(random, length, apart):
    """Entities of two types that do not overlap; none follows one of its type where they are `apart`."""
    found, place = [], 0
    while place < length:
        end = min(length, place + int(random.integers(1, 4)))
        kind = ["PER", "ORG-X"][int(random.integers(2))]
        touches = bool(found) and found[-1][1:] == (place, kind)
        if random.random() < 0.6 and not (apart and touches):
            found.append((place, end, kind))
        place = end
    return found


def measured(task, gold, found):
    """Metrics of two lists of lists of tags."""
    names = sorted({tag for row in (*gold, *found) for tag in row})
    width = max(map(len, gold))
    arrays = [
        np.array([[names.index(tag) for tag in row] + [IGNORED] * (width - len(row)) for row in rows], np.int32)
        for rows in (gold, found)
    ]
    outputs = {"predictions": arrays[1], "losses": np.zeros(arrays[0].shape, np.float32)}
    return task.measure(jp.Evaluated(outputs, {"labels": arrays[0]}, np.arange(len(gold)), None, {"labels": names}))


@pytest.mark.parametrize("scheme", ["IO", *LETTERS])
@pytest.mark.parametrize("written", WRITTEN)
def test_f1_is_that_of_the_entities_whatever_the_scheme(scheme, written):
    random, task = np.random.default_rng(0), jp.Tagging(NONE)
    rows = [(drawn(random, 12, scheme == "IO"), drawn(random, 12, scheme == "IO")) for _ in range(20)]
    gold, found = ({(row, *one) for row, pair in enumerate(rows) for one in pair[place]} for place in (0, 1))
    tags = [[entities_to_tags(pair[place], 12, scheme, written) for pair in rows] for place in (0, 1)]
    expected = 2 * len(gold & found) / (len(gold) + len(found))
    assert 0 < expected < 1
    assert measured(task, *tags)["seqeval_f1"] == pytest.approx(expected)
    recognised = find_scheme(sorted({tag for row in (*tags[0], *tags[1]) for tag in row}))
    # from the set of its tags IOB1 is told from BIO where a type never begins with B
    assert isinstance(recognised, Scheme) and recognised.name in {scheme, *(["BIO"] if scheme == "IOB1" else [])}


def test_runs_of_equal_tags_are_entities_and_none_is_an_o_by_its_letter():
    gold, found = [["PER", "O", "ORG", "O", "LOC"]], [["PER", "O", "O", "O", "LOC"]]
    assert measured(jp.Tagging(NONE), gold, found)["seqeval_f1"] == pytest.approx(0.8)
    assert measured(jp.Tagging(NONE), gold, gold)["seqeval_f1"] == 1.0


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("O B-PER I-PER", "BIO, as in B-TYPE"),
        ("O B-PER", "BIO, as in B-TYPE"),
        ("O I-PER I-LOC", "IOB1, as in B-TYPE"),
        ("O B-LOC I-LOC I-PER", "IOB1, as in B-TYPE"),
        ("O PER-B PER-I", "BIO, as in TYPE-B"),
        ("O B_PER I_PER", "BIO, as in B_TYPE"),
        ("O PER_B PER_I", "BIO, as in TYPE_B"),
        ("O S-PER B-LOC E-LOC", "BIOES, as in B-TYPE"),
        ("O U-PER B-LOC L-LOC", "BILOU, as in B-TYPE"),
        ("O S-B S-I", "BIO, as in TYPE-B"),
        ("O B I", "BIO, one type"),
        ("O PER ORG", "IO, a run of equal tags is an entity"),
        ("O art-music person-actor", "IO, a run of equal tags is an entity"),
        ("O X", "IO, a run of equal tags is an entity"),
    ],
)
def test_schemes_are_recognised_from_the_set_of_tags_and_said(tokenizer, tmp_path, caplog, tags, said):
    caplog.set_level(logging.INFO, "jaxprefix")
    assert str(find_scheme(tags.split())) == str(find_scheme(tags.split()[::-1])) == said
    rows = [{"tokens": ["a"] * len(tags.split()), "tags": tags.split()}]
    prepare(jp.Tagging(jp.Files(write_rows(tmp_path / "train.jsonl", rows))), tokenizer)
    assert [record.message for record in caplog.records if said in record.message]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("O B-PER LOC", "of no scheme that is known"),
        ("O B-PER I_PER", "of no scheme that is known"),
        ("O B-PER PER-I", "of no scheme that is known"),
        ("O B-PER L-PER S-PER", "of no scheme that is known"),
        ("O B-PER M-PER E-PER", "of no scheme that is known"),
        ("O B:PER I:PER", "of no scheme that is known"),
        ("B-PER I-PER", "have no 'O'"),
        ("NOUN VERB", "have no 'O'"),
        ("o b-per", "have no 'O'"),
        ("0 1 2", "are numbers"),
    ],
)
def test_a_mixture_or_no_outside_tag_is_refused_but_for_accuracy(tokenizer, tmp_path, tags, said):
    tags = tags.split()
    source = jp.Files(write_rows(tmp_path / "train.jsonl", [{"tokens": ["a"] * len(tags), "tags": tags}]))
    with pytest.raises(UserError, match=rf"train.jsonl (are )?{said}.*metric='accuracy'\.$"):
        prepare(jp.Tagging(source), tokenizer)
    task = jp.Tagging(source, metric="accuracy")
    assert prepare(task, tokenizer).labels == tuple(sorted(tags))
    assert measured(task, [tags], [tags]) == {"accuracy": 1.0, "loss": 0.0}
    with pytest.raises(UserError, match=r"The tags .*metric='accuracy'"):
        measured(jp.Tagging(source), [tags], [tags])


# Names of whole numbers

ROWS = [{"tokens": ["alice", "sat"], "tags": [1, 0]}, {"tokens": ["a", "cat"], "tags": [0, 0]}]
NAMES = ("O", "B-PER", "I-PER")


def test_names_of_parquet_metadata_are_those_of_numbers(tokenizer, tmp_path):
    feature = {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"}
    about = json.dumps({"info": {"features": {"tags": feature}}})
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS).replace_schema_metadata({"huggingface": about}), path)
    examples = prepare(jp.Tagging(jp.Files(str(path))), tokenizer)
    assert examples.labels == NAMES and examples.row(0)["labels"].tolist() == [-100, 1, 0, -100]
    old = prepare(
        jp.Tagging(jp.Files(str(path)), metric="accuracy"), tokenizer, facts={"labels": ["0", "1"]}
    )  # before names were read
    assert old.row(0)["labels"].tolist() == [-100, 1, 0, -100]


@pytest.mark.parametrize("spelled", [int, str, float])
def test_given_names_are_those_of_a_column_of_whole_numbers(tokenizer, tmp_path, spelled):
    rows = [{**row, "tags": [spelled(tag) for tag in row["tags"]]} for row in ROWS]
    examples = prepare(jp.Tagging(jp.Files(write_rows(tmp_path / "train.jsonl", rows)), labels=NAMES), tokenizer)
    assert examples.labels == NAMES and examples.row(0)["labels"].tolist() == [-100, 1, 0, -100]


def texts(folder, labels):
    return jp.Files(write_rows(folder / "train.jsonl", [{"text": "a", "label": label} for label in labels]))


def test_given_names_number_the_labels_of_classifications(tokenizer, tmp_path):
    for labels in ([1, 0], ["1", "0"], [1.0, 0.0]):
        examples = prepare(jp.Classification(texts(tmp_path, labels), labels=("neg", "pos")), tokenizer)
        assert examples.labels == ("neg", "pos") and examples.targets["labels"].values.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0, 2], ("neg", "pos"), r"train.jsonl:2 carries no label \(2\)"),
        ([0, -1], ("neg", "pos"), r"train.jsonl:2 carries no label \(-1\)"),
        ([1, 0, "neg"], ("neg", "pos"), r"train.jsonl:1 has the label '1' in column 'label', unknown"),
        ([1, 0], ("2", "neg"), r"train.jsonl:1 has the label '1' in column 'label', unknown"),
    ],
)
def test_numbers_without_a_name_are_refused(tokenizer, tmp_path, labels, names, said):
    with pytest.raises(UserError, match=said):
        prepare(jp.Classification(texts(tmp_path, labels), labels=names), tokenizer)


def test_numbers_as_names_are_found_by_their_spelling(tokenizer, tmp_path):
    examples = prepare(jp.Classification(texts(tmp_path, [0, 1]), labels=("1", "0")), tokenizer)
    assert examples.targets["labels"].values.tolist() == [1, 0]
