"""The same through the calls that people make: `jp.generate`, `Adapter.predict`, `Adapter.generate` and the bank, for
four methods: a text alone is answered as beside others, behind padding, in another order, operation by operation."""

import functools

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.hf.sources import read_tokenizer
from jaxprefix.training.setup import Backbone
from tests.invariances.subjects import LENGTH, TOKENS, backbone_tree, subject

METHODS = {
    "prefix": jp.PTuningV2(length=3),
    "apt": jp.AdaptivePrefix(length=3),
    "inducer": jp.Inducer(key_rank=2, value_rank=3),
    "lora": jp.LoRA(),
}
TEXTS = [  # of several padded lengths
    *("Karik likes tea", "the book", "Rigar produces songs , and Melto is known for tea in the old town of Fugar"),
    *("Peto owns the book", "tea"),
]
ORDER = [3, 0, 4, 2, 1]
DECODING = jp.Decoding(max_new_tokens=4, stop=())


def some(*quick):
    """The methods, those but `quick` among the slow tests."""
    marks = {name: () if name in quick else pytest.mark.slow for name in METHODS}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in METHODS])


@some()
def test_generate(name, record_property):
    one, decoding = subject("gemma3", METHODS[name]), DECODING
    texts = [one.row(LENGTH, 0), one.row(TOKENS, 1), one.row(3, 2)]

    def written(batch, one=one):
        return jax.device_get(jp.generate(one.model, one.trainable, one.frozen, batch, decoding))

    def same(found, expected, row, other, within=1e-5):
        np.testing.assert_array_equal(found.tokens[row], expected.tokens[other])
        np.testing.assert_allclose(found.scores[row], expected.scores[other], rtol=within)

    alone = written(one.batch([[(0, texts[0])]], LENGTH))
    batch = one.batch([[(TOKENS - len(text), text)] for text in texts])
    together = written(batch)
    same(together, alone, 0, 0)
    permuted = written({name: value[::-1] for name, value in batch.items()})
    for row in range(3):
        same(permuted, together, 2 - row, row)
    with jax.disable_jit():
        same(written(batch), alone, 0, 0)
    with jax.enable_x64(True):
        same(written(batch, one.wide()), alone, 0, 0, 1e-4)
    whole = np.concatenate([texts[0], alone.tokens[0][:-1]])
    out = one.model.apply(one.trainable, one.frozen, one.batch([[(0, whole)]], len(whole)))
    likely = np.asarray(jax.nn.log_softmax(out.logits[0, LENGTH - 1 :]))
    np.testing.assert_array_equal(likely.argmax(-1), alone.tokens[0])
    np.testing.assert_allclose(likely.max(-1).sum(), alone.scores[0], rtol=1e-5)
    outcomes = dict.fromkeys(("batch", "left", "permuted", "steps", "op by op", "float64"), "holds")
    for column, rows in {"right": [[(0, texts[0])]], "packed": [[(0, texts[2]), (3, texts[0])]]}.items():
        with pytest.raises(UserError, match=r"put the padding on the left|behind one prompt per row") as refusal:
            written(one.batch(rows))
        outcomes[column] = f"refused: {refusal.value}"
    record_property("invariances", [["jp.generate", name, *cell] for cell in outcomes.items()])


@functools.cache
def adapter(backbone, name):
    """An adapter with every leaf drawn, a classifier on BERT, one that writes on the decoder."""
    tokenizer = read_tokenizer("tiny-encoder" if backbone == "bert" else "tiny-decoder")
    changes = {"vocab": len(tokenizer)}
    one, source = subject(backbone, METHODS[name], **changes), jp.Files(train="train.jsonl")
    task = jp.Classification(source) if backbone == "bert" else jp.ConditionalGeneration(source)
    facts = {"labels": ["a", "b", "c"]} if backbone == "bert" else {}
    read = Backbone(
        one.model.backbone, backbone_tree(backbone, **changes), tokenizer, {"source": backbone, "identity": backbone}
    )
    return jp.Adapter(one.model, one.trainable, one.frozen, read, jp.Run(task, method=METHODS[name]), facts, {})


def assert_answers(found, expected):
    """Texts are equal, labels too, and their probabilities within rounding."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, str):
            assert one == other
            continue
        assert one["label"] == other["label"]
        np.testing.assert_allclose(list(one["scores"].values()), list(other["scores"].values()), rtol=1e-5, atol=1e-6)


def assert_text_by_text(ask, record, call, name):
    """`ask(texts, order)` gives what it gives for each text alone; `order` says which texts."""
    everything = list(range(len(TEXTS)))
    alone = [ask([index])[0] for index in everything]
    assert_answers(ask(everything), alone)
    assert_answers(ask(ORDER), [alone[index] for index in ORDER])
    assert_answers(ask([0, 2])[:1], alone[:1])  # padded as the longest is
    with jax.disable_jit():
        assert_answers(ask([1, 4]), [alone[1], alone[4]])
    assert len({str(answer) for answer in alone}) > 1
    record("invariances", [[call, name, column, "holds"] for column in ("batch", "permuted", "padded", "op by op")])


@some("inducer")
def test_adapter_predict(name, record_property):
    one = adapter("bert", name)
    assert_text_by_text(
        lambda rows: one.predict([TEXTS[row] for row in rows]), record_property, "Adapter.predict", name
    )


@some()
def test_adapter_generate(name, record_property):
    one = adapter("gemma3", name)
    assert_text_by_text(
        lambda rows: one.generate([TEXTS[row] for row in rows], DECODING), record_property, "Adapter.generate", name
    )


NAMES = [*METHODS, "apt"]  # of the rows' adapters


@pytest.mark.slow
def test_bank(record_property):
    bank = jp.Bank({name: adapter("bert", name) for name in METHODS})

    def ask(rows):
        return bank([TEXTS[row] for row in rows], [NAMES[row] for row in rows])

    assert_text_by_text(ask, record_property, "the bank", "all")
    assert_answers(ask([0, 2]), [adapter("bert", NAMES[row]).predict([TEXTS[row]])[0] for row in (0, 2)])


@pytest.mark.slow
def test_bank_generates(record_property):
    bank = jp.Bank({name: adapter("gemma3", name) for name in METHODS})

    def ask(rows):
        return bank.generate([TEXTS[row] for row in rows], [NAMES[row] for row in rows], DECODING)

    assert_text_by_text(ask, record_property, "the bank's generate", "all")
    for row in range(4):
        assert ask([row]) == adapter("gemma3", NAMES[row]).generate([TEXTS[row]], DECODING)


def test_a_banks_logits_on_either_side_and_packed(record_property):
    """Packed rows are refused on an encoder, and on a decoder read as the model reads them."""
    outcomes = {}
    for name, columns in (("bert", ("left", "right")), ("gemma3", ("left", "right", "packed"))):
        bank = jp.Bank({method: adapter(name, method) for method in ("apt", "inducer")})
        for method in bank.names:
            one = subject(name, METHODS[method], vocab=bank.backbone.module.dims.vocab)
            text, other = one.row(LENGTH, 0), one.row(TOKENS - LENGTH, 1)
            alone = one.model.apply(one.trainable, one.frozen, one.batch([[(0, text)]], LENGTH)).logits[0]
            rows = {"left": [(TOKENS - LENGTH, text)], "right": [(0, text)], "packed": [(0, other), (3, text)]}
            for column in columns:
                found = bank.logits(one.batch([rows[column]]), [method])[0]
                start = rows[column][-1][0]
                found = found[start : start + LENGTH] if one.causal else found
                np.testing.assert_allclose(found, alone, atol=1e-5 * float(np.std(alone)))
                outcomes[f"{name}, {column}"] = "holds"
        if name == "bert":
            with pytest.raises(UserError, match="an encoder reads one example per row") as refusal:
                bank.logits(one.batch([rows["packed"]]), [method])
            outcomes["bert, packed"] = f"refused: {refusal.value}"
    record_property("invariances", [["the bank's logits", "all", *cell] for cell in outcomes.items()])
