"""Batches: a pure function of (seed, step), whole epochs, identical for any number of processes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from jaxprefix.data import Batches, Files, evaluation_batches, restore_order
from jaxprefix.data.batches import batches_per_epoch
from jaxprefix.data.examples import Examples, Target, TargetSpec, Vocabulary
from jaxprefix.data.masking import Masking, row_bits
from jaxprefix.errors import UserError
from jaxprefix.tasks import Classification, MaskedLanguage, Tagging

VOCABULARY = Vocabulary(size=1000, padding_id=7, special_ids=(0, 1, 2, 7), mask_id=2)


def examples(rows=100, per_token=False, mask_rate=None, longest=50, seed=0):
    """Row i begins with special token 0, then holds only the id 10 + i; label i % 3."""
    lengths = np.random.default_rng(seed).integers(2, longest + 1, rows)
    lengths[0] = longest
    ids = np.repeat(np.arange(rows, dtype=np.int32) + 10, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids[offsets[:-1]] = 0
    labels = (np.repeat(np.arange(rows), lengths) if per_token else np.arange(rows)).astype(np.int32) % 3
    return Examples(
        ids=ids,
        token_type_ids=(ids % 2).astype(np.int32),
        offsets=offsets,
        targets={} if mask_rate else {"labels": Target(labels, TargetSpec("token" if per_token else "row"))},
        facts={"labels": ["a", "b", "c"]},
        vocabulary=VOCABULARY,
        max_length=64,
        finish=Masking(VOCABULARY, mask_rate) if mask_rate else None,
    )


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("kind", [{}, {"per_token": True}, {"mask_rate": 0.3}])
def test_a_batch_depends_on_seed_and_step_only(kind):
    batches, again = (Batches(examples(**kind), 8, seed=5) for _ in range(2))
    late = again.batch(1000)
    for step in (3, 0, 17):
        same(batches.batch(step), again.batch(step))
    same(batches.batch(1000), late)
    assert (batches.rows(0) != batches.rows(1)).any()
    assert (batches.rows(0) != Batches(examples(**kind), 8, seed=6).rows(0)).any()


@pytest.mark.parametrize("kind", [{}, {"per_token": True}, {"mask_rate": 0.3}])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_processes(kind, processes):
    batches = Batches(examples(**kind), 8, seed=1)
    for step in (0, 11):
        parts = [batches.batch(step, own) for own in np.split(np.arange(8), processes)]
        same(batches.batch(step), {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        assert batches.tokens(step) == batches.batch(step)["attention_mask"].sum()


def test_rows_that_do_not_lie_together_are_those_of_the_global_batch():
    batches, own = Batches(examples(mask_rate=0.3), 8, seed=1), np.array([1, 2, 6])
    same(batches.batch(3, own), {name: value[own] for name, value in batches.batch(3).items()})
    for (part, index), (whole, same_index) in zip(
        evaluation_batches(examples(rows=13), 8, own=own), evaluation_batches(examples(rows=13), 8), strict=True
    ):
        same(part, {name: value[own] for name, value in whole.items()})
        np.testing.assert_array_equal(index, same_index)


def test_every_row_comes_once_per_epoch_and_in_another_order_each_time():
    batches = Batches(examples(rows=96), 8, seed=2)
    assert batches.epoch_steps == 12
    epochs = [np.concatenate([batches.rows(12 * epoch + step) for step in range(12)]) for epoch in range(2)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(96))
    assert (epochs[0] != epochs[1]).any()


def test_rows_come_equally_often_where_the_batch_does_not_divide_them():
    batches = Batches(examples(rows=10), 4, seed=0)
    assert batches.epoch_steps == batches_per_epoch(10, 4) == 3
    seen = Counter(np.concatenate([batches.rows(step) for step in range(5)]).tolist())
    assert set(seen.values()) == {2} and len(seen) == 10
    assert len(Batches(examples(rows=3), 8, seed=0).rows(0)) == 8


def test_a_batch_holds_what_the_rows_hold():
    source = examples(per_token=True)
    batches = Batches(source, 8, seed=3)
    batch, rows = batches.batch(4), batches.rows(4)
    for place, row in enumerate(rows):
        length = int(source.lengths[row])
        expected = source.row(int(row))
        np.testing.assert_array_equal(batch["input_ids"][place, :length], expected["ids"])
        np.testing.assert_array_equal(batch["token_type_ids"][place, :length], expected["token_type_ids"])
        np.testing.assert_array_equal(batch["labels"][place, :length], expected["labels"])
        assert (batch["input_ids"][place, length:] == VOCABULARY.padding_id).all()
        assert (batch["token_type_ids"][place, length:] == 0).all() and (batch["labels"][place, length:] == -100).all()
        assert batch["attention_mask"][place].sum() == length and batch["attention_mask"][place, :length].all()
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "input_ids": "int32", "attention_mask": "bool", "token_type_ids": "int32", "labels": "int32",
        "weight": "float32",
    }  # fmt: skip
    labels = Batches(examples(), 8, seed=3).batch(4)["labels"]
    np.testing.assert_array_equal(labels, rows % 3)


def test_buckets_are_few_fit_every_batch_and_are_all_used():
    source = examples(rows=2000, longest=60)
    source = replace(source, max_length=60)
    batches = Batches(source, 4, seed=0)
    assert 2 <= len(batches.buckets) <= 4 and batches.buckets[-1] == 60
    assert all(bucket % 8 == 0 for bucket in batches.buckets[:-1])
    used = Counter()
    for step in range(100):
        longest = source.lengths[batches.rows(step)].max()
        width = batches.batch(step)["input_ids"].shape[1]
        assert width == min(bucket for bucket in batches.buckets if bucket >= longest)
        used[width] += 1
    assert set(used) == set(batches.buckets)


def test_own_buckets_must_hold_the_longest_row():
    assert Batches(examples(), 8, 0, buckets=(64, 16)).buckets == (16, 64)
    with pytest.raises(UserError, match=r"longest bucket is 48 but a row is 50 tokens"):
        Batches(examples(), 8, 0, buckets=(48,))
    with pytest.raises(UserError, match="at least 1"):
        Batches(examples(), 8, 0, buckets=())


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match="batch size is 0"):
        Batches(examples(), 0, 0)
    with pytest.raises(UserError, match="seed is -1"):
        Batches(examples(), 8, -1)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 101])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_counts_every_row_once(rows, processes):
    source = examples(rows=rows)
    weights, ids, indices = 0.0, [], []
    streams = [evaluation_batches(source, 8, own=own) for own in np.split(np.arange(8), processes)]
    for parts in zip(*streams, strict=True):
        batch = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
        index = parts[0][1]
        assert batch["input_ids"].shape[0] == 8
        assert batch["weight"].sum() == len(index) and batch["attention_mask"].any(1).all()
        weights += batch["weight"].sum()
        ids.append(batch["input_ids"][:, 1])
        indices.append(index)
    assert weights == rows
    np.testing.assert_array_equal(restore_order(ids, indices, -100), np.arange(rows) + 10)


def test_evaluation_of_tags_ignores_filling_rows_and_restores_order_over_buckets():
    source = examples(rows=21, per_token=True)
    batches = list(evaluation_batches(source, 8))
    assert len({batch["labels"].shape for batch, _ in batches}) > 1
    assert (batches[-1][0]["labels"][batches[-1][0]["weight"] == 0] == -100).all()
    assert sum((batch["labels"] != -100).sum() for batch, _ in batches) == len(source.ids)
    labels = restore_order([batch["labels"] for batch, _ in batches], [index for _, index in batches], -100)
    for row in range(21):
        np.testing.assert_array_equal(labels[row][labels[row] != -100], source.row(row)["labels"])


def test_evaluation_pads_less_than_random_batches():
    source = examples(rows=500)
    sizes = sum(batch["input_ids"].size for batch, _ in evaluation_batches(source, 10))
    assert sizes < 0.8 * sum(Batches(source, 10, 0).batch(step)["input_ids"].size for step in range(50))


def test_masking_follows_the_published_rates():
    source = examples(rows=900, longest=64, mask_rate=0.15)
    batch = Batches(source, 900, seed=0).batch(0)
    rows = Batches(source, 900, seed=0).rows(0)
    original = np.where(batch["attention_mask"], rows[:, None] + 10, 7)
    original[:, 0] = 0
    chosen = batch["labels"] != -100
    assert not chosen[:, 0].any() and not chosen[~batch["attention_mask"]].any()
    np.testing.assert_array_equal(batch["labels"][chosen], original[chosen])
    np.testing.assert_array_equal(batch["input_ids"][~chosen], original[~chosen])
    ordinary = batch["attention_mask"].sum() - 900
    assert chosen.sum() / ordinary == pytest.approx(0.15, abs=0.01)
    now = batch["input_ids"][chosen]
    assert (now == 2).mean() == pytest.approx(0.8, abs=0.02)
    assert (now == original[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    replaced = now[(now != 2) & (now != original[chosen])]
    assert not np.isin(replaced, VOCABULARY.special_ids).any() and len(np.unique(replaced)) > 200


def test_words_in_focus_are_masked_at_their_own_rate():
    plain = examples(rows=300, longest=64, mask_rate=0.15)
    focused = replace(plain, finish=Masking(VOCABULARY, 0.15, (20, 30, 40), 0.7))
    chosen = []
    for source in (plain, focused):
        found = [Batches(source, 300, seed=0).batch(step) for step in range(6)]
        rows = [Batches(source, 300, seed=0).rows(step) + 10 for step in range(6)]
        inside = [np.isin(number, (20, 30, 40)) for number in rows]
        ordinary = [b["attention_mask"][:, 1:] for b in found]
        predicted = [b["labels"][:, 1:] != -100 for b in found]
        chosen.append([p[i] for p, i in zip(predicted, inside, strict=True)])
        rates = [
            np.concatenate([p[i == k][o[i == k]] for p, o, i in zip(predicted, ordinary, inside, strict=True)]).mean()
            for k in (True, False)
        ]
        assert rates == pytest.approx([0.7 if source.finish.focus_ids else 0.15, 0.15], abs=0.07)
    assert all((focus | ~other).all() for other, focus in zip(*chosen, strict=True))  # the same draws


def test_masking_changes_with_the_step_but_not_with_the_company():
    source = examples(mask_rate=0.5)
    whole, halved = (list(evaluation_batches(source, size)) for size in (100, 10))
    labels = [restore_order([b["labels"] for b, _ in part], [i for _, i in part], -100) for part in (whole, halved)]
    np.testing.assert_array_equal(*labels)
    a, b = (row_bits(1, step, np.array([4]), 16) for step in (0, 1))
    assert (a != b).all() and (row_bits(2, 0, np.array([4]), 16) != a).all()
    np.testing.assert_array_equal(row_bits(1, 0, np.array([9, 4]), 32)[1:, :16], a)


def test_tasks_are_plain_values():
    task = Classification(Files("train.jsonl"))
    assert hash(task) == hash(Classification(Files("train.jsonl"))) and task.metric == "accuracy"
    assert Tagging(task.source).metric == "seqeval_f1" and MaskedLanguage(task.source).mask_rate == 0.15
