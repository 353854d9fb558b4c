"""The embedded world has no shortcuts: what a model without word order, or without the passage, could use."""

import collections

import numpy as np
import pytest

from jaxprefix.data.world import lexicon, mentions
from tests.data.world_texts import PARTS, examples, text_of


def _bag_of_words(train: list[str], train_labels: list, test: list[str], test_labels: list, **options) -> float:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(token_pattern=r"\S+", **options)
    model = LogisticRegression(C=0.1, max_iter=300).fit(words.fit_transform(train), train_labels)
    return model.score(words.transform(test), test_labels)


@pytest.mark.slow
@pytest.mark.parametrize("config, bound", [("questions", 0.6), ("entailment", 0.6), ("senses", 0.65)])
@pytest.mark.parametrize("options", [{}, {"binary": True}, {"ngram_range": (1, 2)}], ids=["counts", "binary", "pairs"])
def test_a_bag_of_words_is_near_chance(config, bound, options):
    train, test = examples(config, "train", 4000), examples(config, "test", 1000)
    labels = [e["label"] for e in train], [e["label"] for e in test]
    score = _bag_of_words([text_of(e) for e in train], labels[0], [text_of(e) for e in test], labels[1], **options)
    print(config, options, round(score, 3))
    if "binary" in options:
        # which words are there at all tells something: "not" in neither part, or "lives" beside "live", and the parts
        # agree or not; tuning has to beat this, not chance
        bound = {"questions": 0.7, "entailment": 0.8}.get(config, bound)
    assert score <= bound


@pytest.mark.slow
@pytest.mark.parametrize("config, part", [(c, p) for c, parts in PARTS.items() for p in parts])
def test_one_part_alone_is_near_chance(config, part):
    train, test = examples(config, "train", 4000), examples(config, "test", 1000)
    labels = [e["label"] for e in train], [e["label"] for e in test]
    for options in ({}, {"ngram_range": (1, 3)}):
        score = _bag_of_words([e[part] for e in train], labels[0], [e[part] for e in test], labels[1], **options)
        print(config, part, options, round(score, 3))
        assert score <= 0.6


@pytest.mark.slow
def test_the_usual_tag_of_a_word_is_not_enough():
    from seqeval.metrics import f1_score

    train, test = examples("entities", "train", 4000), examples("entities", "test", 1000)
    usual = collections.defaultdict(collections.Counter)
    for example in train:
        for word, tag in zip(example["tokens"], example["tags"], strict=True):
            usual[word.lower()][tag] += 1
    guesses = [[usual[w.lower()].most_common(1)[0][0] if usual[w.lower()] else "O" for w in e["tokens"]] for e in test]
    score = f1_score([e["tags"] for e in test], guesses)
    print("entities, usual tag:", round(score, 3))
    assert score <= 0.45
    lengths = [
        g == t
        for e, guess in zip(test, guesses, strict=True)
        for w, t, g in zip(e["tokens"], e["tags"], guess, strict=True)
        if w in lexicon.names() and not mentions.is_known(w)
    ]
    assert np.mean(lengths) <= 0.1
