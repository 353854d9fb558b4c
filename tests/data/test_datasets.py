"""TFDS datasets through the same path as files, without TensorFlow."""

import json
import sys
import types

import pytest
import tensorflow_datasets as tfds

from jaxprefix.data import Tfds, datasets
from jaxprefix.errors import UserError
from jaxprefix.tasks import Classification, Tagging, prepare


class TinyTalk(tfds.core.GeneratorBasedBuilder):
    """Two labelled sentences per split, or one that has to be downloaded."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("plain", "far")]  # noqa: RUF012

    def _info(self):
        label = tfds.features.ClassLabel(names=["no", "yes"])
        features = {
            "text": tfds.features.Text(),
            "label": label,
            "words": tfds.features.Sequence(tfds.features.Text()),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-X"])),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        if self.builder_config.name == "far":
            dl_manager.download("http://nowhere.invalid/data.zip")
        return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for row in range(count):
            sentence = ["alice", "saw", "the", "cat"][: row + 1]
            tags = [1] + [0] * row
            yield row, {"text": " ".join([*sentence, "é"]), "label": row % 2, "words": sentence, "tags": tags}


@pytest.fixture
def prepared(tmp_path):
    tfds.builder("tiny_talk/plain", data_dir=tmp_path).download_and_prepare(file_format="array_record")
    return str(tmp_path)


def test_rows_are_decoded_and_labels_named(prepared, tokenizer):
    rows = Tfds("tiny_talk/plain", data_dir=prepared).open("train")
    texts = sorted(row["text"] for row in rows)
    assert texts == ["alice saw the cat é", "alice saw the é", "alice saw é", "alice é"]
    assert all(type(word) is str for row in rows for word in row["words"]) and type(rows[0]["label"]) is int
    task = Classification(Tfds("tiny_talk/plain", data_dir=prepared))
    examples = prepare(task, tokenizer)
    assert examples.labels == ("no", "yes") and sorted(examples.targets["labels"].values) == [0, 0, 1, 1]
    for index, row in enumerate(rows):
        assert examples.row(index)["ids"].tolist() == tokenizer(row["text"])["input_ids"]
        assert examples.targets["labels"].values[index] == row["label"] == (len(row["words"]) - 1) % 2
    swapped = prepare(task, tokenizer, facts={"labels": ["yes", "no"]})
    assert (
        swapped.labels == ("yes", "no")
        and (swapped.targets["labels"].values == 1 - examples.targets["labels"].values).all()
    )


def test_tags_are_named(prepared, tokenizer):
    task = Tagging(Tfds("tiny_talk/plain", data_dir=prepared), words="words")
    examples = prepare(task, tokenizer, "validation")
    assert examples.labels == ("O", "B-X")
    labels = sorted(examples.row(index)["labels"].tolist() for index in range(2))
    assert labels == [[-100, 1, -100], [-100, 1, 0, -100]]


def test_splits_may_be_slices(prepared):
    source = Tfds("tiny_talk/plain", train="train[:50%]+validation", data_dir=prepared)
    assert len(source.open("train")) == 4
    with pytest.raises(UserError, match=r"tiny_talk/plain has no split 'test'; it has train, validation"):
        source.open("test")
    with pytest.raises(UserError, match=r"split 'train\[:x\]' of tiny_talk/plain cannot be read"):
        Tfds("tiny_talk/plain", train="train[:x]", data_dir=prepared).open("train")


def test_datasets_are_prepared_on_demand_and_again_only_when_gone(tmp_path):
    source = Tfds("tiny_talk/plain", data_dir=str(tmp_path))
    first = source.open("train").identity
    assert source.open("train").identity == first
    assert list(tmp_path.rglob("*.array_record*"))


def test_the_embedded_world_is_found_by_name_and_kept_in_the_cache(monkeypatch, cache):
    found = types.ModuleType("a_module_that_defines_it")
    monkeypatch.setitem(sys.modules, found.__name__, found)
    monkeypatch.setitem(datasets.DEFINED_IN, "tiny_talk", found.__name__)
    monkeypatch.setattr(datasets, "GENERATED_HERE", ("tiny_talk",))
    assert len(Tfds("tiny_talk/plain").open("validation")) == 2
    assert (cache / "tfds" / "tiny_talk" / "plain" / "1.0.0").is_dir()
    assert datasets.DEFINED_IN["little_world"] == "jaxprefix.data.world.builder"


def test_datasets_that_tfds_registers_late_are_found(tmp_path):
    assert datasets._builder("glue/rte", str(tmp_path)).info.features["label"].names == ["entailment", "not_entailment"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_talks", r"no TFDS dataset 'tiny_talks'; did you mean .*tiny_talk"),
        ("litle_world/questions", r"did you mean little_world\?"),
        ("qqqqqqqqqq", r"no TFDS dataset 'qqqqqqqqqq'; import the module that defines it first"),
        ("tiny_talk/plane", r"tiny_talk has no config of that name \(tiny_talk/plane\); try plain"),
        ("super_glue/rte", r"super_glue/rte cannot be had without the package tensorflow"),
        ("not a name!", r"'not a name!' cannot be opened"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        Tfds(name, data_dir=str(tmp_path)).open("train")


def test_what_needs_a_download_says_so_without_network(tmp_path, monkeypatch):
    from tensorflow_datasets.core.download import downloader

    monkeypatch.setattr(downloader, "MAX_RETRIES", 10)
    with pytest.raises(UserError, match=r"tiny_talk/far is not prepared in .* and could not be downloaded .* network"):
        Tfds("tiny_talk/far", data_dir=str(tmp_path)).open("train")
    assert downloader.MAX_RETRIES == 10


def test_tfrecord_is_refused_with_the_remedy(prepared, tmp_path):
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_text(json.dumps({**json.loads(info.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"was prepared as tfrecord, .* file_format=\"array_record\""):
        Tfds("tiny_talk/plain", data_dir=prepared).open("train")


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written to .* make room there or name another data_dir"):
        Tfds("tiny_talk/plain", data_dir=str(tmp_path / "file")).open("train")
