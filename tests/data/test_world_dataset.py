"""The embedded world as a dataset, and its tokenizer."""

import pytest

from jaxprefix.data.world import builder, lexicon, tokenizer
from tests.data.world_texts import SPLITS, TASKS, examples, passages, text_of

ALIKE = ("entailment", "senses", "corpus")  # in what their rows are made of, like questions and stories
CONFIGS = [
    pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name
    for name in (*TASKS, "corpus", "stories", "triples")
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_dataset_round_trips_through_tfds(config, tmp_path, monkeypatch):
    sizes = builder.LittleWorld.builder_configs[config]
    for split, count in {"train": 20, "validation": 5, "test": min(7, sizes.test)}.items():
        monkeypatch.setattr(sizes, split, count)
    dataset = builder.LittleWorld(config=config, data_dir=tmp_path, file_format="array_record")
    dataset.download_and_prepare()
    for split in ("train", "validation"):
        source = dataset.as_data_source(split=split)
        assert len(source) == {"train": 20, "validation": 5}[split]
        read = [_plain(dataset.info.features, row) for row in source]
        written = examples(config, split, len(source))
        assert sorted(map(text_of, read)) == sorted(map(text_of, written))
        assert sorted(map(str, map(_sorted, read))) == sorted(map(str, map(_sorted, written)))
    assert set(dataset.info.splits) == set(SPLITS) - ({"test"} if config in ("corpus", "stories") else set())


def _sorted(example: dict) -> list:
    return sorted(example.items())


def _plain(features, row: dict) -> dict:
    """A row with its bytes decoded and its labels named."""
    plain = {}
    for key, value in row.items():
        if key == "tags":
            plain[key] = [features[key].feature.int2str(int(v)) for v in value]
        elif key == "tokens":
            plain[key] = [v.decode() for v in value]
        else:
            plain[key] = features[key].int2str(int(value)) if key == "label" else value.decode()
    return plain


def test_the_dataset_has_its_name_and_sizes(tmp_path):
    dataset = builder.LittleWorld(config="questions", data_dir=tmp_path)
    assert dataset.name == "little_world"
    assert (dataset.builder_config.train, dataset.builder_config.validation, dataset.builder_config.test) == (
        4000,
        500,
        1000,
    )
    assert set(builder.LittleWorld.builder_configs) == {*TASKS, "corpus", "stories", "triples"}
    assert dataset.info.features["label"].names == ["no", "yes"]


def test_the_tokenizer_is_a_hugging_face_folder(tmp_path):
    from transformers import AutoTokenizer

    texts = passages(0, 600)
    for name in ("one", "two"):
        tokenizer.train_tokenizer(texts, 600, tmp_path / name)
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    read = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(read) == 600 and read.pad_token_id == 0 and read.mask_token == "[MASK]" and read.model_max_length == 128
    coded = read("Does Mira live in Torvale?", "No.")
    pieces = read.convert_ids_to_tokens(coded["input_ids"])
    assert pieces[0] == "[CLS]" and pieces.count("[SEP]") == 2 and "[UNK]" not in pieces
    assert coded["token_type_ids"] == [0] * (pieces.index("[SEP]") + 1) + [1] * (
        len(pieces) - pieces.index("[SEP]") - 1
    )
    names = [name.lower() for name in lexicon.names()]
    assert all(len(read.tokenize(name)) == 1 for name in names[: lexicon.CAST])
