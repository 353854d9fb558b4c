"""Three kinds of task that live in tests go through everything with no edit to the package."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.data import Batches
from jaxprefix.planning.plan import plan_run
from jaxprefix.population import loop as population_loop
from jaxprefix.tasks import encode_texts, prepare
from jaxprefix.training import loop
from jaxprefix.training.setup import set_up
from jaxprefix.trees import flatten
from tests.kinds import choice, soft_tags, windows
from tests.training.worlds import NO_DROPOUT, write_encoder, write_jsonl

KINDS = {
    "choice": (choice, choice.Choice),
    "windows": (windows, windows.LongText),
    "soft": (soft_tags, soft_tags.SoftTags),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory, shared_steps):
    folder = tmp_path_factory.mktemp("kinds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        write_encoder(folder / "encoder")
        yield folder


def run_of(home, name, folder, **changes):
    module, kind = KINDS[name]
    files = [write_jsonl(home / f"{name}-{seed}.jsonl", module.rows(24, seed)) for seed in range(3)]
    backbone = "tiny-decoder" if kind.stack == "decoder" else str(home / "encoder")
    usual = {
        **NO_DROPOUT,
        "steps": 4,
        "batch_size": 8,
        "evaluate_every": 2,
        "buckets": (24,),
        "log_every": 1,
        "unroll": False,
        "optimizer": jp.Optimizer(learning_rate=2e-2),
        "folder": str(folder),
    }
    return jp.Run(kind(jp.Files(*files)), backbone, jp.PTuningV2(length=3), **{**usual, **changes})


@pytest.fixture(scope="module", params=KINDS)
def trained(request, home):
    run = run_of(home, request.param, home / "runs" / request.param)
    return request.param, run, jp.train(run)


def test_it_is_trained_evaluated_and_answers(trained):
    name, run, result = trained
    assert all(np.isfinite(list(found.values())).all() for found in result.metrics.values())
    adapter = jp.load_adapter(result.adapter)
    assert [found["rows"] for found in adapter.report["splits"].values()] == [24, 24, 24]
    card = (result.adapter / "README.md").read_text()
    assert "| rows | 24 | 24 | 24 |" in card and f"| test/{next(iter(result.metrics['test']))} |" in card
    assert adapter.evaluate(batch_size=run.batch_size) == pytest.approx(result.metrics["test"], abs=1e-6)
    rows = KINDS[name][0].rows(5, 7)
    answers = adapter.predict(rows)
    assert len(answers) == 5 and json.loads(json.dumps(answers)) == answers
    alone = [adapter.predict([row])[0] for row in rows]
    for one, among in zip(alone, answers, strict=True):
        assert one.keys() == among.keys()
        key = next(iter(one))
        assert one[key] == among[key]


def test_a_resumed_run_ends_with_the_same_bits(trained, home):
    name, run, result = trained
    folder = home / "resumed" / name
    real = loop.make_train_step

    def make(*args, **options):
        step, calls = real(*args, **options), []

        def counted(*arguments):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return step(*arguments)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_train_step", make)
        with pytest.raises(KeyboardInterrupt):
            jp.train(dataclasses.replace(run, folder=str(folder)))
    again = jp.train(dataclasses.replace(run, folder=str(folder)))
    assert again.metrics == result.metrics
    whole, resumed = (flatten(jp.load_adapter(found.adapter).trainable) for found in (result, again))
    for path, leaf in whole.items():
        np.testing.assert_array_equal(resumed[path], leaf, err_msg=path)


@pytest.mark.parametrize("trained", ["choice", "windows", pytest.param("soft", marks=pytest.mark.slow)], indirect=True)
def test_a_population_has_the_metrics_of_its_runs(trained, home):
    name, run, result = trained
    found = jp.train_population(dataclasses.replace(run, folder=str(home / "many" / name)), ({}, {"seed": 1}))
    assert found.members[0].metrics["test"] == pytest.approx(result.metrics["test"], abs=1e-5)
    assert found.members[1].metrics["test"].keys() == result.metrics["test"].keys()


def test_it_is_planned_from_its_sizes(trained):
    _, run, _ = trained
    plan = plan_run(run, None, evaluate=False)
    assert plan.train.flops >= plan.least.total > 0
    shapes = run.task.batch_shapes(8, 24, run.task.count(None), True)
    batch = Batches(set_up(run, ("train",)).examples["train"], 8, 0, (24,)).batch(0)
    assert {key: (leaf.dtype, leaf.ndim) for key, leaf in batch.items() if key in shapes} == {
        key: (leaf.dtype, len(leaf.shape)) for key, leaf in shapes.items() if key in batch
    }


def test_a_bank_answers_as_the_adapter_or_refuses(trained):
    name, _, result = trained
    adapter, rows = jp.load_adapter(result.adapter), KINDS[name][0].rows(5, 8)
    if name == "windows":
        bank = jp.Bank({"a": adapter, "b": adapter})
        found = bank(rows, ["a", "b", "a", "b", "a"])
        assert [one["label"] for one in found] == [one["label"] for one in adapter.predict(rows)]
    else:
        with pytest.raises(jp.UserError, match=r"no form that others share \(Head.canonical\)"):
            jp.Bank({"a": adapter})


@pytest.mark.slow
def test_it_is_compared(home, trained):
    name, run, _ = trained
    run = dataclasses.replace(run, folder=str(home / "compared" / name))
    found = jp.compare(run, ["p_tuning_v2", "lora"], seeds=2, rates=(1.0,))
    assert found.metric == run.task.metric and len(found.rows) == 2


# What each kind promises


@pytest.fixture(scope="module")
def asked(home):
    """A choice model with its adapter's leaves, and a batch of ragged rows."""
    setup = set_up(run_of(home, "choice", home / "asked"), ("train",))
    batch = Batches(setup.examples["train"], 8, 0, (24,)).batch(0)

    def logits(batch):
        return np.asarray(setup.model.apply(setup.trainable, setup.frozen, batch).logits)

    return batch, logits


def test_permuted_choices_have_permuted_logits(asked):
    batch, logits = asked
    order = np.array([2, 0, 3, 1])
    moved = {k: v[:, order] if k in ("input_ids", "attention_mask", "token_type_ids") else v for k, v in batch.items()}
    np.testing.assert_allclose(logits(moved), logits(batch)[:, order], atol=1e-5)


def test_a_masked_choice_changes_nothing(asked):
    batch, logits = asked
    padded = ~batch["attention_mask"].any(-1)  # [B, C]
    assert padded.any() and not padded.all()
    other = {**batch, "input_ids": np.where(padded[..., None], 9, batch["input_ids"])}
    np.testing.assert_array_equal(logits(other), logits(batch))
    assert (np.isneginf(logits(batch)) == padded).all()
    wider = {
        key: np.concatenate([value, np.zeros_like(value[:, :2])], 1)
        if key in ("input_ids", "attention_mask", "token_type_ids")
        else value
        for key, value in batch.items()
    }
    np.testing.assert_allclose(logits(wider)[:, :4], logits(batch), atol=1e-5)


def test_gradients_of_padded_choices_are_finite(home):
    setup = set_up(run_of(home, "choice", home / "gradients"), ("train",))
    batch = jax.tree.map(jnp.asarray, Batches(setup.examples["train"], 8, 0, (24,)).batch(0))

    def loss(trainable):
        total, weight = setup.model.head.loss(setup.model.forward(trainable, setup.frozen, batch).logits, batch)
        return total / weight

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(setup.trainable)))


def test_windows_of_a_row_answer_together_whatever_they_are_batched_with(home, trained):
    name, run, result = trained
    if name != "windows":
        return
    adapter, rows = jp.load_adapter(result.adapter), windows.rows(9, 3)
    examples = encode_texts(run.task, adapter.backbone.tokenizer, rows, adapter.facts)
    assert len(examples) > len(rows) and examples.row_numbers.max() == len(rows) - 1
    whole = adapter.predict(rows, batch_size=32)
    for size in (1, 2, 5):
        for one, other in zip(adapter.predict(rows, batch_size=size), whole, strict=True):
            assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_soft_targets_are_packed_with_their_tokens(home):
    run = run_of(home, "soft", home / "packed")
    tokenizer = set_up(run, ("train",)).backbone.tokenizer
    packed, plain = (prepare(dataclasses.replace(run.task, packed=packed), tokenizer) for packed in (True, False))
    assert len(packed) < len(plain)
    for name in ("first", "second"):
        sums = [np.sort(found.targets[name].values.sum(-1)) for found in (packed, plain)]
        np.testing.assert_allclose(*sums, atol=1e-6)
        assert packed.targets[name].values.shape == (len(packed.ids), soft_tags.KINDS)


# What is refused


def test_a_kind_that_lacks_a_member_is_refused_with_its_signature(home):
    @dataclasses.dataclass(frozen=True)
    class Unfinished(windows.LongText):
        encode = jp.Task.encode

    with pytest.raises(
        jp.UserError, match=r"Unfinished has no encode; give it `def encode\(self, tokenizer: Any, rows"
    ):
        Unfinished(jp.Files("x.jsonl"))


def test_what_is_not_registered_is_refused_by_the_run(home):
    @dataclasses.dataclass(frozen=True)
    class Unknown(windows.LongText):
        pass

    @dataclasses.dataclass(frozen=True)
    class Own(jp.SequenceClassifier):
        pass

    with pytest.raises(jp.UserError, match=r"Unknown is not registered.*@jp.register_task"):
        jp.Run(Unknown(jp.Files("x.jsonl"))).check()
    with pytest.raises(jp.UserError, match=r"Own is not registered.*@jp.register_head"):
        jp.Run(windows.LongText(jp.Files("x.jsonl")), head=Own()).check()


def test_a_row_without_choices_is_named(home):
    row = {"question": "a", "choices": [], "right": 0}
    path = write_jsonl(home / "empty.jsonl", [*choice.rows(2, 0), row])
    with pytest.raises(jp.UserError, match=r"empty.jsonl:3 asks about no sequence"):
        prepare(
            choice.Choice(jp.Files(path)), set_up(run_of(home, "choice", home / "e"), ("train",)).backbone.tokenizer
        )


def test_the_loop_of_populations_is_the_one_of_runs():
    assert population_loop.run_rows is loop.run_rows
