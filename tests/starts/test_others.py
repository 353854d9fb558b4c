"""Words, labels, the first token and other adapters as starts."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.checkpoints.adapter import write_adapter
from jaxprefix.methods import AdaptivePrefix, PrefixTuning, PromptTuning, PTuningV2
from jaxprefix.starts import AdapterStart, LabelStart, SinkStart, TextStart, VocabularyStart, start
from jaxprefix.training.config import Run
from jaxprefix.typed_json import from_json, to_json
from tests import decoders
from tests.exchange.cases import backbone as encoder_folder
from tests.starts.cases import assert_same, hidden, in_context, rows, tokenizer, tuned

P = 5


def started(kind, method, how, labels=(), seed=0):
    model, trainable, frozen = tuned(kind, method, seed=seed)
    return model, start(model, trainable, frozen, tokenizer(), how, labels), frozen


def leaves(kind, method, how, labels=()):
    return started(kind, method, how, labels)[1]["method"]


# Words


@pytest.mark.parametrize("method", [PTuningV2(length=P), PromptTuning(length=P)])
@pytest.mark.parametrize(
    ("how", "ids"),
    [(VocabularyStart(("w9", "w7 w8")), [9, 7, 8, 9, 7]), (LabelStart(), [20, 21, 30, 20, 21])],
)
def test_named_words_and_labels_are_read_one_after_another(how, ids, method):
    found = hidden(*started("llama", method, how, labels=("w20 w21", "w30")), rows())
    assert_same(found, in_context("llama", ids, rows()), rows()["attention_mask"])


def test_drawn_words_are_no_special_tokens_and_different_by_seed():
    drawn = [VocabularyStart(seed=seed).tokens(tokenizer(), 30, ()) for seed in range(4)]
    for ids in drawn:
        assert len(set(ids)) == 30
        assert min(ids) >= 2
        assert not set(ids) & set(tokenizer().all_special_ids)
    assert len(set(map(tuple, drawn))) == 4
    assert drawn[1] == VocabularyStart(seed=1).tokens(tokenizer(), 30, ())
    few = VocabularyStart(among=3).tokens(tokenizer(), 30, ())
    assert len(set(few)) == 3


@pytest.mark.parametrize("kind", ["bert", "llama", "gemma2"])
def test_a_prompt_has_the_rows_of_the_words(kind):
    found = leaves(kind, PromptTuning(length=2), VocabularyStart(("w9", "w6")))["prompt"]
    table = tuned(kind, PromptTuning(length=2))[2]["backbone"]["embeddings"]["word"]["embedding"]
    scale = decoders.config("gemma2").embedding_scale if kind == "gemma2" else 1
    np.testing.assert_allclose(found, scale * table[np.array([9, 6])], rtol=1e-6)


def test_what_has_no_words_is_refused():
    for how, words in (
        (LabelStart(), "this task has none; take VocabularyStart"),
        (VocabularyStart(()), "words of VocabularyStart have no tokens"),
        (SinkStart("nowhere"), "has no token 'nowhere'"),
    ):
        with pytest.raises(jp.UserError, match=words):
            started("llama", PTuningV2(length=P), how)


# The first token


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3_text", "bert"])
def test_every_virtual_token_is_the_first_one(kind):
    found = leaves(kind, PTuningV2(length=P), SinkStart("w9", noise=0.0))
    wanted = leaves(kind, PTuningV2(length=1), TextStart("w9"))
    for leaf in ("keys", "values"):
        made = np.asarray(found[leaf]).reshape(-1, P, *found[leaf].shape[1:])
        np.testing.assert_allclose(made, np.broadcast_to(np.asarray(wanted[leaf])[:, None], made.shape), atol=1e-5)


def test_noise_tells_them_apart_and_is_small():
    exact, noisy = (leaves("llama", PTuningV2(length=P), SinkStart("w9", noise=noise)) for noise in (0.0, 0.05))
    for leaf in ("keys", "values"):
        difference = np.asarray(noisy[leaf] - exact[leaf])
        assert 0.03 < difference.std() / np.sqrt((np.asarray(exact[leaf]) ** 2).mean()) < 0.08
        assert len(np.unique(noisy[leaf][:P, 0, 0])) == P
    prompt = leaves("llama", PromptTuning(length=P), SinkStart("w9"))["prompt"]
    assert len(np.unique(prompt[:, 0])) == P


def test_the_tokenizer_names_the_first_token():
    assert SinkStart().token_id(tokenizer()) == 2  # [CLS]
    with_end = dataclasses.replace(SinkStart(), token="[SEP]")
    assert with_end.token_id(tokenizer()) == 3


# Another adapter


def stored(folder, kind, method, seed=1):
    """An adapter folder of random leaves; returns a call for the hidden states that it gives, and its edits."""
    model, trainable, frozen = tuned(kind, method, seed=seed)
    random = np.random.default_rng(seed)
    trainable = jax.tree.map(lambda leaf: leaf + 0.5 * random.standard_normal(leaf.shape).astype(np.float32), trainable)
    run = Run(jp.CausalLanguage(jp.Files("x.csv")), method=method)
    backbone = {"name": kind, "architecture": kind, "parameters": 1, "digest": "", "fingerprint": {}}
    write_adapter(
        folder,
        leaves={"trainable": trainable, "initialized": {}},
        config_json=to_json(run),
        backbone=backbone,
        metrics={},
        facts={},
    )
    return lambda: hidden(model, trainable, frozen, rows()), model.edits(trainable)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("method", [PTuningV2(length=P), PrefixTuning(length=P, mlp_width=6)])
def test_the_same_length_is_the_same_function(kind, method, tmp_path):
    given, _ = stored(tmp_path / "a", kind, method)
    wanted = given()
    for own in (PTuningV2(length=P), PrefixTuning(length=P, mlp_width=9)):
        assert_same(
            hidden(*started(kind, own, AdapterStart(str(tmp_path / "a"))), rows()), wanted, rows()["attention_mask"]
        )


def test_so_it_is_under_another_convention_of_positions_where_they_are_rotations(tmp_path):
    wanted, _ = stored(tmp_path / "a", "gemma3_text", PTuningV2(length=P, position_offset=False))
    found = hidden(*started("gemma3_text", PTuningV2(length=P), AdapterStart(str(tmp_path / "a"))), rows())
    assert_same(found, wanted(), rows()["attention_mask"])


@pytest.mark.parametrize("length", [3, 12])
def test_another_length_takes_the_first_tokens_or_all_again(length, tmp_path):
    how = AdapterStart(str(tmp_path / "a"))
    _, edits = stored(tmp_path / "a", "gpt2", PTuningV2(length=P))
    found = started("gpt2", PTuningV2(length=length), how)
    np.testing.assert_array_equal(
        found[0].edits(found[1]).layers[0].values, edits.layers[0].values[:, np.arange(length) % P]
    )
    _, edits = stored(tmp_path / "b", "gpt2", PromptTuning(length=P))
    prompt = leaves("gpt2", PromptTuning(length=length), AdapterStart(str(tmp_path / "b")))["prompt"]
    np.testing.assert_array_equal(prompt, edits.prompt[np.arange(length) % P])


def test_gates_do_not_go_along(tmp_path):
    gated = AdaptivePrefix(length=P, gate_source="none", gate_std=1.0)
    wanted, _ = stored(tmp_path / "a", "llama", gated)  # gates that read nothing are scales
    found = hidden(*started("llama", PTuningV2(length=P), AdapterStart(str(tmp_path / "a"))), rows())
    assert_same(found, wanted(), rows()["attention_mask"])


def test_adapters_that_do_not_fit_are_refused(tmp_path):
    stored(tmp_path / "llama", "llama", PTuningV2(length=P))
    stored(tmp_path / "prompt", "llama", PromptTuning(length=P))
    stored(tmp_path / "some", "llama", PTuningV2(length=P, layers=(0,)))
    for kind, method, name, words in (
        ("gpt2", PTuningV2(length=P), "llama", "for a backbone of other sizes"),
        ("llama", PTuningV2(length=P), "prompt", "is no prefix of one length"),
        ("llama", PTuningV2(length=P), "some", "is no prefix of one length"),
        ("llama", PromptTuning(length=P), "llama", "has no prompt before the words"),
    ):
        with pytest.raises(jp.UserError, match=words):
            started(kind, method, AdapterStart(str(tmp_path / name)))


# In a run


def run_of(tmp_path, **fields):
    rows = [{"text": "hello world", "label": "world"}, {"text": "world", "label": "hello"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = jp.Classification(jp.Files(str(tmp_path / "rows.jsonl")), max_length=8)
    return Run(
        task,
        backbone=encoder_folder("bert"),
        batch_size=2,
        steps=1,
        folder=str(tmp_path / "run"),
        unroll=False,
        **fields,
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_run_begins_where_it_says(folder):
    from jaxprefix.population.members import init_leaves
    from jaxprefix.training.setup import set_up

    run = run_of(folder, method=PTuningV2(length=2), start=LabelStart())
    setup = set_up(run)
    wanted = start(setup.model, setup.trainable, setup.frozen, setup.backbone.tokenizer, TextStart("hello world"))
    assert setup.labels == ("hello", "world")
    assert from_json(to_json(run), Run) == run
    jax.tree.map(np.testing.assert_array_equal, setup.trainable, wanted)
    runs = [dataclasses.replace(run, seed=seed) for seed in (0, 1)]
    trainable, _, _ = init_leaves([setup.model] * 2, runs, setup.backbone, setup.labels)
    for member in range(2):
        np.testing.assert_array_equal(trainable["method"]["keys"][member], wanted["method"]["keys"])
    assert not np.array_equal(*trainable["head"]["classifier"]["kernel"])


@pytest.mark.slow  # where a run begins, and that it takes its start along, are the tests before and after this
def test_a_run_with_a_start_is_stored_and_trained(folder):
    run = run_of(folder, method=PTuningV2(length=2), start=TextStart("hello world"), baseline=PTuningV2(length=3))
    assert jp.train(run).steps == 1
    assert jp.load_adapter(folder / "run" / "baseline" / "adapter").run.start == TextStart("hello world", fit=True)
    with pytest.raises(jp.UserError, match=r"another config \(start\.text: 'hello world' -> 'world hello'\)"):
        jp.train(dataclasses.replace(run, start=TextStart("world hello")))


def test_other_methods_take_the_start_along_where_they_can():
    run = Run(jp.CausalLanguage(jp.Files("x.csv")), start=TextStart("a"), baseline=jp.HeadOnly())
    assert run.with_method(jp.HeadOnly()) == dataclasses.replace(run, method=jp.HeadOnly(), start=None, baseline=None)
    assert run.with_method(PTuningV2(length=3)).start == TextStart("a", fit=True)
    with pytest.raises(jp.UserError, match="HeadOnly has no virtual tokens"):
        dataclasses.replace(run, method=jp.HeadOnly()).check()


def test_the_command_line_overrides_its_fields(tmp_path):
    from jaxprefix.cli.configs import parse_run

    (tmp_path / "config.py").write_text(
        "import jaxprefix as jp\n"
        "def config():\n"
        "    return jp.Run(jp.CausalLanguage(jp.Files('x.csv')), start=jp.TextStart('a text'))\n"
    )
    run = parse_run([str(tmp_path / "config.py"), "--start.text", "another"], "jaxprefix train")
    assert run.start == TextStart("another")
