"""A run from its config to its adapter: what it trains, leaves alone, keeps, and can go on from."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from jaxprefix.adapters.adapter import load_adapter, predict
from jaxprefix.checkpoints.adapter import read_adapter
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.errors import RunFailed
from jaxprefix.methods import FullFineTuning, HeadOnly, PrefixTuning, PTuningV2
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.tasks import SequenceClassifier
from jaxprefix.training import loop
from jaxprefix.training.config import NewBackbone
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.trees import flatten
from tests.training.watching import bits, kept_steps, lines, record, same_end, watched
from tests.training.worlds import DROPOUT, HEADS, MLP, POSITIONS, WIDTH, sentences, words_of

EPOCH, PASSES = 6, 10  # 96 rows in batches of 16
STEPS = {"steps": 10, **DROPOUT}  # of runs that need nothing else: they share a program
RESUMED = {**STEPS, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A run of ten epochs in two buckets, with dropout; nobody may change its folder."""
    folder = tmp_path_factory.mktemp("trained")
    return watched(world.run(folder, epochs=float(PASSES), optimizer=Optimizer(5e-2), buckets=(14, 32), **DROPOUT))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The folder of a run of ten steps that nothing happened to; nobody may change it."""
    folder = tmp_path_factory.mktemp("whole")
    watched(world.run(folder, **RESUMED))
    return folder


# What comes of a run


def test_the_loss_falls_and_every_step_is_in_the_metrics(trained):
    found = lines(trained.result.folder)
    losses = [line["loss"] for line in found if "loss" in line]
    assert [line["step"] for line in found if "loss" in line] == list(range(1, PASSES * EPOCH + 1))
    assert np.mean(losses[-EPOCH:]) < np.mean(losses[:EPOCH]) - 0.05
    assert [line["step"] for line in found if "validation/accuracy" in line] == [
        EPOCH * n for n in range(1, PASSES + 1)
    ]
    for line in found:
        expected = (
            {"loss", "gradient_norm", "rate"}
            if "loss" in line
            else {"validation/accuracy", "validation/f1_macro", "validation/loss"}
        )
        assert set(line) == {"step", *expected}
    rates = [line["rate"] for line in found if "rate" in line]
    np.testing.assert_allclose(rates, [5e-2 * (1 - t / (PASSES * EPOCH)) for t in range(PASSES * EPOCH)], rtol=1e-5)


def test_the_result_tells_what_was_reached(trained):
    result = trained.result
    assert result.steps == PASSES * EPOCH
    assert set(result.metrics) == {"validation", "test"}
    assert result.metrics["test"]["accuracy"] > 0.8
    validation = [line["validation/accuracy"] for line in lines(result.folder) if "validation/accuracy" in line]
    assert result.metrics["validation"]["accuracy"] == max(validation)
    assert json.loads((result.adapter / "metrics.json").read_text()) == result.metrics


def test_the_adapter_answers_as_the_run_did(trained, world):
    adapter = load_adapter(trained.result.adapter)
    assert adapter.run == trained.setup.run
    assert adapter.labels == ("bad", "good")
    assert adapter.evaluate() == pytest.approx(trained.result.metrics["test"], abs=1e-6)
    assert adapter.evaluate(split="validation", batch_size=7) == pytest.approx(
        trained.result.metrics["validation"], abs=1e-6
    )
    assert adapter.evaluate(file=world.source.test) == pytest.approx(trained.result.metrics["test"], abs=1e-6)
    rows = sentences(37, 2)
    found = adapter.predict([row["text"] for row in rows], batch_size=7)
    right = np.mean([one["label"] == row["label"] for one, row in zip(found, rows, strict=True)])
    assert right == trained.result.metrics["test"]["accuracy"]
    for one in found:
        assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-6)
        assert one["score"] == max(one["scores"].values()) == one["scores"][one["label"]]
    again = predict(trained.result.adapter, [{"text": rows[0]["text"]}])
    assert again[0]["scores"] == pytest.approx(found[0]["scores"], abs=1e-6)
    assert adapter.predict([]) == []


def test_nothing_frozen_is_kept(trained):
    files = read_adapter(trained.result.adapter)
    shapes = {path: np.shape(leaf) for path, leaf in flatten(files.trainable).items()}
    head_width = WIDTH // HEADS
    assert shapes == {
        "method/keys": (4, HEADS, head_width),
        "method/values": (4, HEADS, head_width),
        "head/classifier/kernel": (WIDTH, 2),
        "head/classifier/bias": (2,),
    }
    assert flatten(files.initialized) == {}
    size = 4 * sum(math.prod(shape) for shape in shapes.values())
    assert (trained.result.adapter / "adapter.safetensors").stat().st_size < size + 1000
    stored = record(trained.result.folder)
    trainable = {name.removeprefix("trainable/") for name in stored["leaves"] if name.startswith("trainable/")}
    assert trainable == set(shapes)
    sizes = [
        math.prod(map(int, filter(None, spec.split("[")[1][:-1].split(",")))) for spec in stored["leaves"].values()
    ]
    assert sum(sizes) <= 3 * sum(math.prod(shape) for shape in shapes.values()) + 5  # the leaves, Adam's two means


def test_the_frozen_tree_is_as_it_was_and_alive(trained):
    for path, leaf in flatten(trained.setup.frozen).items():
        assert not leaf.is_deleted(), path
        assert np.array_equal(np.asarray(leaf), trained.frozen_before[path]), path


def test_the_step_is_compiled_once_for_each_bucket(trained):
    widths = {shape[1] for shape in trained.calls}
    assert len(widths) > 1
    assert {shape[0] for shape in trained.calls} == {16}
    assert trained.step.jitted._cache_size() == len(widths)


def test_the_checkpoint_names_run_backbone_and_labels(trained, world):
    info = record(trained.result.folder)["info"]
    assert info["facts"] == {"labels": ["bad", "good"]}
    assert info["backbone"]["source"] == world.bert
    assert len(info["backbone"]["fingerprint"]) > 10
    assert json.loads(info["run"])["method"]["length"] == 4


def test_a_finished_run_does_not_train_again(trained):
    adapter, folder = trained.result.adapter / "adapter.safetensors", trained.result.folder
    before = adapter.read_bytes(), lines(folder)
    again = watched(trained.setup.run)
    assert again.calls == []
    assert again.result == trained.result
    assert (adapter.read_bytes(), lines(folder)) == before


# The best, and the end before the end


def scripted(monkeypatch, metrics):
    """Evaluations while training give these, one after another."""
    script = iter(metrics)
    monkeypatch.setattr(loop._Loop, "measure", lambda self, trainable, split: {"accuracy": next(script)})


def test_the_adapter_is_the_best_checkpoint_not_the_last(world, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.2, 0.9, 0.9, 0.1, 0.5])
    seen = watched(world.run(tmp_path, **STEPS, evaluate_every=2))
    assert kept_steps(tmp_path) == [4, 8, 10]  # the best, of equal ones the first, and the two newest
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        step, best, info = checkpoints.restore_best(seen.state)
    assert (step, info["history"]) == (4, {"best_step": 4, "best_metric": 0.9, "without_progress": 0})
    adapter = bits(read_adapter(seen.result.adapter).trainable)
    assert adapter == bits(best.trainable)
    assert adapter != bits(seen.state.trainable)
    assert seen.result.steps == 10


def test_it_stops_after_evaluations_without_progress(world, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.2, 0.5, 0.4, 0.5, 0.9])
    run = world.run(tmp_path, **STEPS, evaluate_every=2, patience=2)
    seen = watched(run)
    assert seen.result.steps == len(seen.calls) == 8
    assert record(tmp_path)["info"]["history"] == {"best_step": 4, "best_metric": 0.5, "without_progress": 2}
    assert watched(run).calls == []  # it has ended, and stays so


@pytest.mark.slow
def test_less_is_better_for_perplexity(world, tmp_path, monkeypatch):
    script = iter([9.0, 4.0, 6.0])
    monkeypatch.setattr(loop._Loop, "measure", lambda self, trainable, split: {"perplexity": next(script)})
    task = world.unlabelled(metric="perplexity")
    watched(
        world.run(tmp_path, task=task, method=FullFineTuning(), backbone=new_encoder(world), steps=3, evaluate_every=1)
    )
    assert record(tmp_path)["info"]["history"]["best_step"] == 2


def test_evaluation_every_so_many_steps(world, tmp_path):
    watched(world.run(tmp_path, **STEPS, evaluate_every=3, log_every=4))
    found = lines(tmp_path)
    assert [line["step"] for line in found if "validation/accuracy" in line] == [3, 6, 9, 10]
    assert [line["step"] for line in found if "loss" in line] == [4, 8, 10]


def test_without_a_validation_split_the_last_checkpoint_counts(world, tmp_path):
    source = dataclasses.replace(world.source, validation=None)
    task = dataclasses.replace(world.run(tmp_path).task, source=source)
    seen = watched(world.run(tmp_path, task=task, **STEPS, checkpoint_every=3))
    assert kept_steps(tmp_path) == [9, 10]
    assert set(seen.result.metrics) == {"test"}
    assert bits(read_adapter(seen.result.adapter).trainable) == bits(seen.state.trainable)


# Backbones, methods, tasks


def new_encoder(world):
    config = EncoderConfig("bert", len(words_of()), WIDTH, 1, HEADS, MLP, POSITIONS)
    return NewBackbone(config, world.bert)


KINDS = {
    "roberta": lambda world: {"backbone": world.roberta},
    "trained pooler": lambda world: {"head": SequenceClassifier(pooling="trained_pooler")},
    "head only": lambda world: {"method": HeadOnly()},
    "full fine-tuning": lambda world: {"method": FullFineTuning(), "optimizer": Optimizer(1e-3)},
    "prefix-tuning": lambda world: {"method": PrefixTuning(length=3, mlp_width=16)},
    "no-op start": lambda world: {"method": PTuningV2(length=3, no_op_start=True, position_offset=False)},
    "masked language": lambda world: {
        "task": world.unlabelled(),
        "backbone": new_encoder(world),
        "method": FullFineTuning(),
        "head": None,
    },
    "bfloat16, scanned, rematerialised": lambda world: {"precision": "bfloat16", "unroll": False, "remat": "full"},
}


# virtual tokens of mass 0 have no gradient
STILL = {"no-op start": {"method/keys", "method/values"}}


# every method, task (tagging has a test of its own) and backbone once (RoBERTa below, full fine-tuning with masked
# language); combinations of them are slow
RARE = ("roberta", "trained pooler", "full fine-tuning", "no-op start", "bfloat16, scanned, rematerialised")


def trains_and_answers_the_same(seen, kind):
    run = seen.setup.run
    start, end = flatten(seen.setup.trainable), flatten(seen.state.trainable)
    unmoved = {path for path in end if np.array_equal(start[path], end[path])}
    assert unmoved <= STILL.get(kind, set())
    adapter = load_adapter(seen.result.adapter)
    tolerance = 2e-2 if run.precision == "bfloat16" else 1e-5
    assert adapter.evaluate(batch_size=run.batch_size) == pytest.approx(seen.result.metrics["test"], abs=tolerance)
    assert set(flatten(read_adapter(seen.result.adapter).trainable)) == set(end)
    for path, leaf in flatten(seen.setup.frozen).items():
        assert not leaf.is_deleted()
        assert np.asarray(leaf).tobytes() == seen.frozen_before[path].tobytes()


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in RARE else kind for kind in KINDS]
)
def test_every_kind_of_run_trains_and_its_adapter_answers_the_same(world, tmp_path, kind):
    trains_and_answers_the_same(watched(world.run(tmp_path, steps=3, **KINDS[kind](world))), kind)


def test_a_tagger_trains_and_answers_for_each_word(world, tmp_path):
    seen = watched(
        world.run(tmp_path, task=world.tagging(max_length=8), epochs=8.0, optimizer=Optimizer(5e-2), evaluate_every=24)
    )
    trains_and_answers_the_same(seen, "tagging")
    assert next(iter(seen.result.metrics["test"])) == "seqeval_f1"
    assert seen.result.metrics["test"]["seqeval_f1"] > 0.5
    words = ["the", "dog", "saw", "alice", "in", "paris", "and", "it", "was", "far", "away"]
    as_list, as_text = load_adapter(seen.result.adapter).predict([{"tokens": words}, " ".join(words)])
    assert as_list == as_text
    assert as_list["words"] == words
    assert as_list["labels"][:6] == ["O", "O", "O", "B-NAME", "O", "B-NAME"]
    assert as_list["labels"][6:] == [None] * 5  # cut off at 8 tokens


def test_random_leaves_that_the_folder_lacks_travel_with_the_adapter(world, tmp_path):
    run = world.run(tmp_path, steps=3, backbone=world.roberta, head=SequenceClassifier(pooling="pooler"))
    seen = watched(run)
    trains_and_answers_the_same(seen, "roberta with its random pooler")
    born = read_adapter(seen.result.adapter).initialized
    assert set(flatten(born)) == {"pooler/kernel", "pooler/bias"}
    assert np.array_equal(born["pooler"]["kernel"], seen.setup.frozen["initialized"]["pooler"]["kernel"])


# Interruptions


def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(world, whole, tmp_path, caplog):
    parts = tmp_path / "parts"
    run = world.run(parts, **RESUMED)
    watched(run, stop_before=4)  # between two checkpoints
    assert kept_steps(parts) == [2]
    watched(dataclasses.replace(run, log_every=3), stop_before=10)  # just after one, with the metrics ahead of it
    caplog.clear()
    with caplog.at_level("INFO", "jaxprefix"):
        end = watched(run)
    assert "going on from step 8 of 10" in caplog.text
    assert len(end.calls) == 2
    same_end(whole, parts)
    steps = [line["step"] for line in lines(parts) if "loss" in line]
    assert steps == sorted(set(steps))
    evaluations = [[line for line in lines(folder) if "validation/loss" in line] for folder in (whole, parts)]
    assert evaluations[0] == evaluations[1]


def test_metrics_of_steps_that_are_done_again_are_not_doubled(world, whole, tmp_path):
    parts = tmp_path / "parts"
    run = world.run(parts, **RESUMED)
    watched(run, stop_before=6)
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 9')  # as a kill leaves it
    watched(run)
    assert lines(parts) == lines(whole)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_word(world, whole, tmp_path, caplog):
    parts = tmp_path / "parts"
    run = world.run(parts, **RESUMED)
    watched(run, stop_before=6)
    newest = parts / "checkpoints" / "4"
    for path in (newest / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    caplog.clear()
    with caplog.at_level("INFO", "jaxprefix"):
        watched(run)
    assert f"{newest} is damaged" in caplog.text
    assert "going on from step 2 of 10" in caplog.text
    assert (parts / "checkpoints" / "4.damaged").is_dir()
    same_end(whole, parts)


# What is not finite


def test_a_loss_that_is_not_finite_stops_the_run(world, tmp_path):
    run = world.run(tmp_path, head=SequenceClassifier(class_weights=(3e38, 3e38)))
    with pytest.raises(
        RunFailed, match=r"the loss is nan .*at step 1, with learning rate 0.02; there is no checkpoint"
    ):
        loop.train(run)
    assert kept_steps(tmp_path) == []
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("rate", [3e38, 1e39])  # the second is infinite in float32
def test_the_checkpoint_before_is_the_good_one(world, tmp_path, rate, caplog):
    """A rate that goes up from 0: the steps are short at first."""
    usual = {"checkpoint_every": 1, "optimizer": Optimizer(2e-2, warmup=4, schedule="constant")}
    run = world.run(tmp_path, steps=8, **usual)
    watched(run, stop_before=3)
    diverging = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=rate))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "refuse_other_run", lambda run, stored: None)
        with pytest.raises(RunFailed, match="learning rate") as failure:
            loop.train(diverging)
    kept = kept_steps(tmp_path)
    assert f"the last good checkpoint is that of step {kept[-1]} in {tmp_path}/checkpoints" in str(failure.value)
    caplog.clear()
    with caplog.at_level("INFO", "jaxprefix"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "refuse_other_run", lambda run, stored: None)  # steps of the other rate may be kept
        seen = watched(run, stop_before=kept[-1] + 1)
    assert f"going on from step {kept[-1]} of 8" in caplog.text
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        _, state, _ = checkpoints.restore(jax.tree.map(lambda x: x, seen_state(seen, run)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.trainable))


def seen_state(seen, run):
    """An abstract state, for a run that was stopped before its first step."""
    return loop.init_state(seen.setup.model, seen.setup.trainable, run.optimizer, jax.random.key(0), seen.setup.mesh)
