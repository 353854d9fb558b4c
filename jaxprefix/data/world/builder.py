"""The TFDS dataset `little_world`: one config per task and one for each corpus, written without TensorFlow.

    LittleWorld(config="questions", data_dir=folder, file_format="array_record").download_and_prepare()

needs no network. Importing this module imports tensorflow_datasets (a second or two).
"""

import dataclasses
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxprefix.data.world import corpus, mentions, stories, tasks

_TEXT = tfds.features.Text


def _label(*names: str) -> tfds.features.ClassLabel:
    return tfds.features.ClassLabel(names=list(names))


@dataclasses.dataclass(kw_only=True)
class WorldConfig(tfds.core.BuilderConfig):
    """Which text, and how many examples each split has."""

    train: int = 4000
    validation: int = 500
    test: int = 1000


def _examples(config: str, split: str) -> Iterator[tasks.Example]:
    """The endless stream of one split; its seed depends on nothing but the two names."""
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(config.encode()), zlib.crc32(split.encode())]))
    while True:
        if config == "corpus":
            yield dict(zip(("text", "text_pair"), corpus.draw_passage(rng), strict=True))
        elif config == "stories":
            yield {"text": stories.draw_story(rng)}
        elif config == "triples":
            yield from stories.verbalised(rng, split)
        elif config == "questions":
            yield tasks.question(rng, split)[0]
        elif config == "entailment":
            yield tasks.entailment(rng, split)[0]
        elif config == "senses":
            yield tasks.sense_pair(rng, split)[0]
        else:
            yield tasks.entities(rng, split)


class LittleWorld(tfds.core.GeneratorBasedBuilder):
    """Text about an invented world: two unlabelled corpora and five tasks."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {  # noqa: RUF012 (the name and the type are those of tfds)
        "1.0.0": "First version.",
        "2.0.0": "Fewer names, relations and senses; false claims that foreign words give away; a corpus of pairs.",
    }
    BUILDER_CONFIGS = [  # noqa: RUF012
        WorldConfig(name="corpus", description="Unlabelled passages.", train=80_000, validation=1000, test=0),
        WorldConfig(name="stories", description="Unlabelled text for decoders.", train=80_000, validation=1000, test=0),
        WorldConfig(name="triples", description="Triples and a passage that says them."),
        WorldConfig(name="questions", description="Yes/no questions about a passage."),
        WorldConfig(name="entailment", description="Does the premise entail the hypothesis?"),
        WorldConfig(name="senses", description="Does a word have one sense in two sentences?"),
        WorldConfig(name="entities", description="Named entities in BIO tags."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "corpus": {"text": _TEXT(), "text_pair": _TEXT()},
            "stories": {"text": _TEXT()},
            "triples": {"triples": _TEXT(), "text": _TEXT()},
            "questions": {"question": _TEXT(), "passage": _TEXT(), "label": _label("no", "yes")},
            "entailment": {"premise": _TEXT(), "hypothesis": _TEXT(), "label": _label("entailment", "not_entailment")},
            "senses": {"sentence1": _TEXT(), "sentence2": _TEXT(), "word": _TEXT(), "label": _label("false", "true")},
            "entities": {
                "tokens": tfds.features.Sequence(_TEXT()),
                "tags": tfds.features.Sequence(_label(*mentions.TAGS)),
            },
        }[self._config().name]
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description="English-like text about an invented world, generated from a seed.",
        )

    def _config(self) -> Any:
        assert self.builder_config is not None  # TFDS takes one of BUILDER_CONFIGS
        return self.builder_config

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        config = self._config()
        sizes = {"train": config.train, "validation": config.validation, "test": config.test}
        return {split: self._generate_examples(split, count) for split, count in sizes.items() if count}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, tasks.Example]]:
        yield from enumerate(itertools.islice(_examples(self._config().name, split), count))
