"""The embedded world: determinism, balance, disjointness, labels re-derived from the text alone."""

import collections
import hashlib
import itertools
import json
import re

import numpy as np
import pytest

from jaxprefix.data.world import corpus, facts, language, lexicon, mentions, senses
from tests.data.world_texts import (
    SPLITS,
    TASKS,
    drawn,
    examples,
    expression,
    passages,
    read_clause,
    read_passage,
    text_of,
)


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_to_a_question_follows_from_its_passage_alone(split):
    for example in examples("questions", split):
        said, denied = read_passage(example["passage"])
        assert not said & denied
        asked = re.sub("^is it (true|false) that ", "", example["question"].rstrip("?"), flags=re.IGNORECASE)
        claim, negative, _ = read_clause(asked)
        assert not negative and claim in said | denied
        false = example["question"].startswith("Is it false")
        assert example["label"] == ("yes" if (claim in denied) == false else "no"), example


@pytest.mark.parametrize("split", SPLITS)
def test_entailment_follows_from_the_premise_alone(split):
    for example in examples("entailment", split):
        said, denied = read_passage(example["premise"])
        claim, negative, _ = read_clause(example["hypothesis"].rstrip("."))
        assert claim in said | denied
        assert example["label"] == ("entailment" if (claim in denied) == negative else "not_entailment"), example


def test_some_false_claims_of_the_corpus_need_the_binding_of_names():
    rng, foreign = np.random.default_rng(0), []
    for _ in range(300):
        scene = facts.draw_scene(rng, "corpus")
        false = facts.corrupt(rng, scene, lexicon.pick(rng, scene.facts))
        known = {e for f in scene.facts for e in (f.subject, f.object)}
        assert not scene.holds(false)
        foreign.append(len({false.subject.name, false.object.name} - {e.name for e in known}))
    assert max(foreign) == 1 and 0.6 < np.mean(foreign) < 0.95


def test_senses_follow_from_the_classes_of_the_frames():
    uses = collections.defaultdict(set)
    for word, classes in senses.WORDS.items():
        for kind in classes:
            for frame in senses.CLASSES[kind]:
                uses[expression(frame.replace("{w}", word))].add((word, kind))
    for example in examples("senses", "train", 100):
        kinds = []
        for text in (example["sentence1"], example["sentence2"]):
            matches = [k for e, found in uses.items() if e.match(text.rstrip(".")) for w, k in found]
            assert len(matches) == 1
            kinds += matches
            assert re.search(rf"\b{example['word']}\b", text, re.IGNORECASE)
        assert example["label"] == ("true" if kinds[0] == kinds[1] else "false")
    assert all(len(frames) == len(set(frames)) == 8 for frames in senses.CLASSES.values())


@pytest.mark.parametrize("split", SPLITS)
def test_tags_are_valid_bio(split):
    for example in examples("entities", split):
        assert len(example["tokens"]) == len(example["tags"])
        assert set(example["tags"]) <= set(mentions.TAGS)
        for before, tag in itertools.pairwise(["O", *example["tags"]]):
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_names_serve_every_class_and_some_are_kept_from_training():
    classes = collections.defaultdict(set)
    known = set()
    for example in examples("entities", "train", 600):
        for word, tag in zip(example["tokens"], example["tags"], strict=True):
            if word in lexicon.names():
                classes[word].add(tag[2:])
                known.add(word)
    assert np.mean([len(c) >= 2 for c in classes.values()]) > 0.9
    tested = [w for e in examples("entities", "test") for w, t in zip(e["tokens"], e["tags"], strict=True)]
    unseen = {w for w in tested if w in lexicon.names()} - known
    assert len(unseen) >= 30 and all(not mentions.is_known(w) for w in unseen)


@pytest.mark.parametrize("config", ["questions", "entailment", "senses"])
@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(config, split):
    count = 600
    counts = collections.Counter(e["label"] for e in examples(config, split, count))
    assert len(counts) == 2
    assert abs(max(counts.values()) - count / 2) < 3 * np.sqrt(count) / 2


def test_entity_classes_are_balanced():
    counts = collections.Counter(
        t[2:] for e in examples("entities", "train", 600) for t in e["tags"] if t.startswith("B")
    )
    assert set(counts) == set(mentions.CLASSES)
    assert max(counts.values()) < 1.6 * min(counts.values())


@pytest.mark.parametrize("config", TASKS)
def test_splits_share_no_example(config):
    texts = {split: {text_of(e) for e in examples(config, split, 600)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not texts[one] & texts[other]


def test_a_cast_belongs_to_one_realm_only():
    rng = np.random.default_rng(0)
    for realm in facts.REALMS:
        for _ in range(30):
            scene = facts.draw_scene(rng, realm)
            assert facts.realm_of(scene.cast) == realm


def test_the_corpus_holds_no_example_of_a_test_split():
    written = passages(5, 1000)
    joined = "\n".join(written).lower()
    found = collections.defaultdict(set)  # sentence -> passages
    for number, passage in enumerate(written):
        for told in re.split(r"(?<=[.?]) ", passage.lower()):
            found[told].add(number)
    for config, field in (("questions", "passage"), ("entailment", "premise")):
        for example in examples(config, "test", 300):
            told = re.split(r"(?<=\.) ", example[field].lower())
            # single sentences recur; the passage as a whole, or all of its sentences in another order, must not
            assert example[field].lower() not in joined or len(told) == 1
            assert len(told) < 3 or not set.intersection(*(found[s] for s in told))
    tagged = [
        mentions.as_text(list(zip(e["tokens"], e["tags"], strict=True))) for e in examples("entities", "test", 300)
    ]
    assert not {t.lower() for t in tagged} & {p.lower() for p in written}


def test_patterns_of_a_relation_are_different_and_facts_are_triples():
    for relation in lexicon.RELATIONS.values():
        assert len({p.statement for p in relation.patterns}) == len(relation.patterns) >= 2
        assert not relation.pair or any(p.flip for p in relation.patterns)
    scene = facts.draw_scene(np.random.default_rng(3), "train")
    for fact in scene.facts:
        assert len(fact.triple) == 3
        assert not scene.holds(facts.corrupt(np.random.default_rng(0), scene, fact))
        assert language.state(fact, lexicon.RELATIONS[fact.relation].patterns[0]).startswith(fact.subject.name)


def test_the_same_seed_gives_the_same_text():
    streams = {c: examples(c, "train", 30) for c in (*TASKS, "corpus")}
    assert all(streams[c] == drawn.__wrapped__(c, "train", 30) for c in streams)
    assert hashlib.sha256(json.dumps(streams, sort_keys=True).encode()).hexdigest()[:16] == "ccda6caaa9ef5d56"


def test_texts_are_short():
    longest = [max(len(text_of(e).split()) for e in examples(c, "test")) for c in TASKS]
    assert max(longest) <= 56
    words = [len(passage.split()) for passage in passages(0, 600)[:200]]
    assert max(words) <= 1.25 * corpus.LENGTH and np.mean(words) > 0.7 * corpus.LENGTH
