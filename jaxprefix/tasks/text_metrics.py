"""Scores of texts against references: BLEU, chrF, ROUGE by the field's libraries, CoQA's exact match and F1.

Texts are strings; `references[i]` are all the references of text i, at least one. Scores are percentages.
"""

import collections
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from jaxprefix.errors import UserError

References = Sequence[Sequence[str]]


def text_metrics(texts: Sequence[str], references: References) -> dict[str, float]:
    """BLEU, chrF, and ROUGE-1, 2 and L of a whole split.

    Raises:
      UserError: no texts, a text without references, an empty reference, or a library that is not installed.
    """
    return {"bleu": bleu(texts, references), "chrf": chrf(texts, references), **rouge(texts, references)}


def bleu(texts: Sequence[str], references: References) -> float:
    """Corpus BLEU (Papineni et al. 2002) by sacrebleu with its defaults (13a tokens, mixed case, smoothing `exp`)."""
    _check(texts, references)
    return _library("sacrebleu").corpus_bleu(list(texts), _aligned(references)).score


def chrf(texts: Sequence[str], references: References) -> float:
    """Corpus chrF2 (Popović 2015) by sacrebleu with its defaults."""
    _check(texts, references)
    return _library("sacrebleu").corpus_chrf(list(texts), _aligned(references)).score


def rouge(texts: Sequence[str], references: References) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and sentence-level ROUGE-L (Lin 2004) by rouge-score with stemming: of each text the best
    over its references, and of these the mean."""
    _check(texts, references)
    names = ("rouge1", "rouge2", "rougeL")
    scorer = _library("rouge_score.rouge_scorer", "rouge-score").RougeScorer(names, use_stemmer=True)
    sums = dict.fromkeys(names, 0.0)
    for text, expected in zip(texts, references, strict=True):
        found = scorer.score_multi(list(expected), text)
        for name in names:
            sums[name] += found[name].fmeasure
    return {name: 100 * total / len(texts) for name, total in sums.items()}


def plain_rouge(texts: Sequence[str], references: References) -> dict[str, float]:
    """The home-made ROUGE of the inducer paper's code, for comparison with its figures: words between spaces, case and
    endings as they are; 1 and 2 from *sets* of n-grams, `F = 2 P R / (P + R + 1e-8)`; L with `beta = P / (R + 1e-12)`,
    `F = (1 + beta^2) R P / (R + beta^2 P)`; means over texts, of the best reference each."""
    _check(texts, references)
    scores = {
        "rouge1": lambda a, b: _overlap(a, b, 1),
        "rouge2": lambda a, b: _overlap(a, b, 2),
        "rougeL": _longest_common,
    }
    return {name: 100 * _mean_of_best(score, texts, references) for name, score in scores.items()}


def _mean_of_best(score: Callable[[list, list], float], texts: Sequence[str], references: References) -> float:
    best = [max(score(t.split(), r.split()) for r in rs) for t, rs in zip(texts, references, strict=True)]
    return sum(best) / len(best)


def _overlap(text: list[str], reference: list[str], n: int) -> float:
    grams = [{tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (text, reference)]
    common = len(grams[0] & grams[1])
    precision, recall = (common / len(found) if found else 0.0 for found in grams)
    return 2 * precision * recall / (precision + recall + 1e-8)


def _longest_common(text: list[str], reference: list[str]) -> float:
    lengths = [0] * (len(reference) + 1)
    for word in text:
        before = 0
        for place, other in enumerate(reference, 1):
            before, lengths[place] = (
                lengths[place],
                before + 1 if word == other else max(lengths[place], lengths[place - 1]),
            )
    common = lengths[-1]
    precision, recall = (common / len(words) if words else 0.0 for words in (text, reference))
    beta = precision / (recall + 1e-12)
    bottom = recall + beta**2 * precision
    return (1 + beta**2) * recall * precision / bottom if bottom else 0.0


def coqa(texts: Sequence[str], references: References) -> dict[str, float]:
    """Exact match and F1 as CoQA's official script has them (Reddy et al. 2019): lower case, without punctuation and
    articles; with several human answers, the mean over leaving each of them out of the best of the others."""
    _check(texts, references)

    def score(one: Callable[[str, str], float]) -> float:
        total = 0.0
        for text, answers in zip(texts, references, strict=True):
            if len(answers) == 1:
                total += one(text, answers[0])
                continue
            others = [[a for j, a in enumerate(answers) if j != i] for i in range(len(answers))]
            total += sum(max(one(text, answer) for answer in rest) for rest in others) / len(others)
        return 100 * total / len(texts)

    return {"em": score(lambda a, b: float(_normalised(a) == _normalised(b))), "f1": score(_word_f1)}


def _normalised(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _word_f1(text: str, answer: str) -> float:
    found, expected = _normalised(text).split(), _normalised(answer).split()
    if not found or not expected:
        return float(found == expected)
    common = sum((collections.Counter(found) & collections.Counter(expected)).values())
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def _check(texts: Sequence[str], references: References) -> None:
    if not len(texts):
        raise UserError("there are no texts to score; give at least one.")
    if len(texts) != len(references):
        raise UserError(f"there are {len(texts)} texts and references of {len(references)}; give each text its own.")
    for place, found in enumerate(references):
        if not found or not all(reference.strip() for reference in found):
            raise UserError(f"text {place} has no reference or an empty one; fill it in, or remove the text.")


def _aligned(references: References) -> list[list[str | None]]:
    """One list for each place of a reference, as sacrebleu wants them, None where a text has fewer."""
    most = max(map(len, references))
    return [[found[place] if place < len(found) else None for found in references] for place in range(most)]


def _library(module: str, package: str | None = None) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = package or module
        raise UserError(
            f"the package {name} scores texts and is not installed; install jaxprefix[generation]."
        ) from error
