"""Scores of texts: by hand, and beside what the libraries say themselves."""

import math

import pytest

from jaxprefix.errors import UserError
from jaxprefix.tasks import text_metrics as metrics

TEXTS = ["the cat sat on the mat", "alice lives in paris"]
REFERENCES = [["the cat sat on the red mat", "a cat was on the mat"], ["alice is at home in paris"]]


def test_bleu_by_hand():
    # four words, reference of five: precisions 4/4, 3/3, 2/2, 1/1 and brevity exp(1 - 5/4)
    assert metrics.bleu(["a b c d"], [["a b c d e"]]) == pytest.approx(100 * math.exp(-0.25))
    # precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert metrics.bleu(["a b c d x"], [["a b c d e"]]) == pytest.approx(expected)
    # of two references the better; the corpus is one: 8 of 8, 6 of 6, 4 of 4, 2 of 2
    texts = ["a b c d", "e f g h"]
    assert metrics.bleu(texts, [["x y z u", "a b c d"], ["e f g h"]]) == pytest.approx(100)


def test_libraries_say_the_same():
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    columns = [["the cat sat on the red mat", "alice is at home in paris"], ["a cat was on the mat", None]]
    assert metrics.bleu(TEXTS, REFERENCES) == sacrebleu.corpus_bleu(TEXTS, columns).score
    assert metrics.chrf(TEXTS, REFERENCES) == sacrebleu.corpus_chrf(TEXTS, columns).score
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name, score in metrics.rouge(TEXTS, REFERENCES).items():
        best = [
            max(scorer.score(reference, text)[name].fmeasure for reference in references)
            for text, references in zip(TEXTS, REFERENCES, strict=True)
        ]
        assert score == pytest.approx(50 * sum(best))


def test_rouge_by_hand():
    found = metrics.rouge(["the cat sat"], [["the cats ran far"]])  # stemming: cats is cat
    assert found["rouge1"] == pytest.approx(100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"] == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert found["rougeL"] == pytest.approx(found["rouge1"])


def test_plain_rouge_by_hand():
    # words "a a b" and "a b c d": as sets 2 in common of 2 and of 4; pairs aa ab and ab bc cd: 1 of 2 and of 3
    found = metrics.plain_rouge(["a a b"], [["a b c d"]])
    assert found["rouge1"] == pytest.approx(100 * 2 * 1.0 * 0.5 / 1.5)
    assert found["rouge2"] == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    # longest common sequence a b: P = 2/3, R = 2/4, beta = P / R = 4/3
    precision, recall, beta = 2 / 3, 1 / 2, 4 / 3
    expected = (1 + beta**2) * recall * precision / (recall + beta**2 * precision)
    assert found["rougeL"] == pytest.approx(100 * expected)
    # case and endings count; nothing in common is 0; an empty text is 0
    assert metrics.plain_rouge(["The cats", ""], [["the cat"], ["a"]]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}
    # the best reference of each, the mean over texts
    both = metrics.plain_rouge(["a b", "c"], [["x", "a b"], ["d"]])
    assert both["rouge1"] == pytest.approx(50) and both["rougeL"] == pytest.approx(50)


def test_the_longest_common_sequence_need_not_be_connected():
    score = metrics.plain_rouge(["a x b y c"], [["a b c"]])["rougeL"]
    precision, recall = 3 / 5, 1.0
    beta = precision / recall
    expected = (1 + beta**2) * recall * precision / (recall + beta**2 * precision)
    assert score == pytest.approx(100 * expected)


def test_coqa_by_hand():
    assert metrics.coqa(["The cat."], [["a cat"]]) == {"em": 100, "f1": 100}
    found = metrics.coqa(["white cat"], [["the cat sat"]])
    assert found["em"] == 0 and found["f1"] == pytest.approx(100 * 2 * 0.5 * 0.5 / 1.0)
    # leaving out each of "yes" and "no" leaves the other: right in one case of two
    assert metrics.coqa(["yes"], [["yes", "no"]]) == {"em": 50, "f1": 50}
    # of three answers two are right, so the best of any two is right
    assert metrics.coqa(["yes"], [["yes", "Yes!", "no"]])["em"] == 100
    assert metrics.coqa(["the"], [["a"]])["f1"] == 100  # nothing is left on both sides
    assert metrics.coqa(["the"], [["cat"]])["f1"] == 0
    # words are counted as often as they occur: 1 in common of 3 and of 1
    assert metrics.coqa(["cat cat cat"], [["cat"]])["f1"] == pytest.approx(50)


def test_all_metrics_together():
    found = metrics.text_metrics(TEXTS, REFERENCES)
    assert list(found) == ["bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    assert all(0 < score < 100 for score in found.values())
    perfect = metrics.text_metrics(["a b c d"], [["x", "a b c d"]])
    assert all(score == pytest.approx(100) for score in perfect.values())


SCORES = (metrics.text_metrics, metrics.bleu, metrics.chrf, metrics.rouge, metrics.plain_rouge, metrics.coqa)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("texts", "references", "message"),
    [
        ([], [], "there are no texts to score"),
        (["a", "b"], [["a"]], "there are 2 texts and references of 1"),
        (["a", "b"], [["a"], []], "text 1 has no reference or an empty one"),
        (["a"], [["a", " "]], "text 0 has no reference or an empty one"),
    ],
)
def test_what_cannot_be_scored_is_named(score, texts, references, message):
    with pytest.raises(UserError, match=message):
        score(texts, references)


def test_a_missing_library_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    for score, name in ((metrics.bleu, "sacrebleu"), (metrics.rouge, "rouge-score")):
        with pytest.raises(UserError, match=rf"the package {name} .* install jaxprefix\[generation\]"):
            score(["a"], [["a"]])
    assert metrics.plain_rouge(["a"], [["a"]])["rouge1"] == pytest.approx(100)
