"""The embedded world's text for decoders: stories and triples."""

import collections
import itertools
import re

import numpy as np
import pytest

from jaxprefix.data.world import facts, lexicon
from tests.data.world_texts import SPLITS, drawn, examples, read_passage


def read_triples(text: str) -> list[tuple[str, ...]]:
    """Linearised triples, read back; an article at the start of a name is written large, as `read_passage` has it."""
    triples = [tuple(part.strip() for part in triple.split(" | ")) for triple in text.split(" ; ")]
    return [tuple(part[0].upper() + part[1:] if place != 1 else part for place, part in enumerate(t)) for t in triples]


@pytest.mark.parametrize("split", SPLITS)
def test_a_passage_says_exactly_its_triples(split):
    for example in examples("triples", split):
        triples = read_triples(example["triples"])
        assert all(len(triple) == 3 and triple[1] in lexicon.RELATIONS for triple in triples)
        assert len(set(triples)) == len(triples)
        said, denied = read_passage(example["text"])
        assert said == set(triples) and not denied, example


def test_splits_of_triples_share_no_cast():
    proper = set(lexicon.names())
    casts = {}
    for split in SPLITS:
        found = set()
        for example in examples("triples", split, 600):
            everything = frozenset(name for s, _, o in read_triples(example["triples"]) for name in (s, o))
            found.add(frozenset(name for name in everything if name in proper) or everything)
        casts[split] = found
    for one, other in itertools.combinations(SPLITS, 2):
        assert not casts[one] & casts[other]


def test_triples_that_are_measured_on_have_two_references_each():
    for split in ("validation", "test"):
        rows = examples("triples", split, 600)
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        assert all(one["triples"] == other["triples"] for one, other in pairs)
        assert np.mean([one["text"] != other["text"] for one, other in pairs]) > 0.95
        assert len({one["triples"] for one, _ in pairs}) > 0.9 * len(pairs)  # few common things recur
    rows = examples("triples", "train", 600)
    assert len({row["triples"] for row in rows}) > 0.9 * len(rows)


def test_the_same_seed_gives_the_same_text_for_decoders():
    streams = {config: examples(config, "train", 30) for config in ("stories", "triples")}
    assert all(streams[config] == drawn.__wrapped__(config, "train", 30) for config in streams)
    for split in ("validation", "test"):
        assert examples("triples", split, 30) == drawn.__wrapped__("triples", split, 30)


def test_stories_show_no_triples_and_only_casts_of_the_corpus():
    shown = collections.Counter()
    for example in examples("stories", "train", 600):
        text = example["text"]
        assert "|" not in text and ";" not in text
        lines = text.split("\n ")
        shown[len(lines)] += 1
        assert len(lines) <= 2
        if len(lines) == 1:
            continue  # names described; the realm of their casts is that of `draw_tagged`
        said, denied = read_passage(lines[0])
        assert said and not denied
        names = {name for s, _, o in said for name in (s, o)}
        cast = {name for name in names if name in set(lexicon.names())} or {_lower(name) for name in names}
        assert facts.realm_of(cast) == "corpus", text
        if re.search(r"\?|\b(true|false)\b", lines[1], re.IGNORECASE):
            shown["judged"] += 1
        else:
            assert read_passage(lines[1]) == (said, denied)
            shown["told twice"] += 1
    assert shown[1] and shown["judged"] and shown["told twice"] > 0.5 * shown[2]


def _lower(name: str) -> str:
    """A common name as a scene has it: without the capital of a sentence's start."""
    return name[0].lower() + name[1:]
