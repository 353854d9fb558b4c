"""Rows that hold several examples: where each goes, what batches say of them, and that no loss changes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.data import Batches, Files, evaluation_batches
from jaxprefix.data.packing import first_fit, packed
from jaxprefix.errors import UserError
from jaxprefix.tasks import encode_texts, prepare
from jaxprefix.training.setup import set_up
from tests import decoders
from tests.data.conftest import letters, write_rows

END, BOS, LINE, SPACE, BAR, A, B, C, D = range(9)
NO = -100


def texts(folder, rows, **fields):
    return jp.CausalLanguage(Files(write_rows(folder / "train.jsonl", [{"text": row} for row in rows])), **fields)


def pairs(folder, rows, **fields):
    rows = [{"prompt": prompt, "target": target} for prompt, target in rows]
    return jp.ConditionalGeneration(Files(write_rows(folder / "train.jsonl", rows)), **fields)


def test_each_example_goes_into_the_first_row_with_room():
    #        rows: 5+4 | 7+2 | 6+3+1 | 8+2 (the 2 finds row 1 first, the last 2 finds none but the last)
    lengths = np.array([5, 7, 6, 4, 3, 8, 2, 1, 2])
    assert first_fit(lengths, 10).tolist() == [0, 1, 2, 0, 1, 3, 2, 0, 2]
    assert first_fit(np.array([10, 10, 1]), 10).tolist() == [0, 1, 2]
    assert first_fit(np.array([], int), 4).tolist() == []


def test_first_fit_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 33, 500)
    left, expected = [], []
    for length in lengths:
        row = next((row for row, room in enumerate(left) if room >= length), len(left))
        if row == len(left):
            left.append(32)
        left[row] -= length
        expected.append(row)
    assert first_fit(lengths, 32).tolist() == expected


def test_tokens_stay_together_and_are_numbered():
    arrays = {"ids": np.array([1, 2, 3, 4, 5, 6, 7]), "offsets": np.array([0, 2, 2, 5, 6, 7])}
    found = packed(arrays, 4)  # lengths 2, 0, 3, 1, 1
    assert found["ids"].tolist() == [1, 2, 6, 7, 3, 4, 5]
    assert found["offsets"].tolist() == [0, 4, 7]
    assert found["segment_ids"].tolist() == [1, 1, 2, 3, 1, 1, 1]


def test_texts_are_packed_at_preparation(tmp_path):
    task = texts(tmp_path, ["ab", "abcd", "c", "d"], max_length=6, packed=True)  # 3, 5, 2, 2 tokens with their ends
    examples = prepare(task, letters())
    assert len(examples) == 3
    row = examples.row(0)
    assert row["ids"].tolist() == [A, B, END, C, END]
    assert row["labels"].tolist() == [B, END, NO, END, NO]
    assert row["segment_ids"].tolist() == [1, 1, 1, 2, 2]
    assert examples.row(1)["ids"].tolist() == [A, B, C, D, END]
    assert examples.row(2)["segment_ids"].tolist() == [1, 1]
    again = prepare(task, letters())  # from the cache
    assert all(
        np.array_equal(getattr(again, name), getattr(examples, name)) for name in ("ids", "segment_ids", "labels")
    )
    assert prepare(replace(task, packed=False), letters()).segment_ids is None


def test_batches_say_which_example_a_token_belongs_to(tmp_path):
    examples = prepare(texts(tmp_path, ["ab", "abcd", "c", "d"], max_length=6, packed=True), letters())
    batches = Batches(examples, 3, 0, buckets=(8,))
    batch, rows = batches.batch(0), batches.rows(0)
    assert batch["segment_ids"].dtype == np.int32 and batch["segment_ids"].shape == (3, 8)
    assert ((batch["segment_ids"] == 0) == ~batch["attention_mask"]).all()
    assert batch["segment_ids"][list(rows).index(0)].tolist() == [1, 1, 1, 2, 2, 0, 0, 0]
    borders = np.diff(batch["segment_ids"], axis=1) != 0
    assert (batch["labels"][:, :-1][borders] == NO).all()


def test_prompts_are_filled_up_to_both_lengths_and_for_prediction_not_packed(tmp_path):
    rows = [("a", "b"), ("b", "c"), ("c", "d")]  # four tokens each
    task = pairs(tmp_path, rows, max_prompt_length=5, max_target_length=4, packed=True)
    examples = prepare(task, letters())
    assert examples.lengths.tolist() == [8, 4] and examples.max_length == 9
    assert examples.row(0)["labels"].tolist() == [NO, B, END, NO, NO, C, END, NO]
    prompts = encode_texts(task, letters(), ["a", "b"])
    assert prompts.segment_ids is None and prompts.lengths.tolist() == [2, 2]


METHODS = {
    "p-tuning v2": jp.PTuningV2(length=3),
    "apt": jp.AdaptivePrefix(length=3),
    "inducer": jp.Inducer(key_rank=2, value_rank=3) + jp.LoRA(("q",), rank=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_sum_of_losses_is_that_of_unpacked_rows(name, tmp_path):
    rows = [("ab" * (i % 3 + 1), "cdb"[: i % 3 + 1]) for i in range(17)]
    task = pairs(tmp_path, rows, max_prompt_length=12, max_target_length=12, packed=True)
    model = jp.TunedModel(jp.Decoder(decoders.config("gpt2"), unroll=False), METHODS[name], jp.CausalLM())
    trainable, frozen = model.init(jax.random.key(0), decoders.frozen_tree("gpt2"))
    rng = np.random.default_rng(1)
    trainable = jax.tree.map(lambda leaf: leaf + np.float32(0.3) * rng.normal(size=leaf.shape), trainable)

    @jax.jit
    def loss(trainable, frozen, batch):
        return model.head.loss(model.apply(trainable, frozen, batch).logits, batch)

    def total(task):
        examples = prepare(task, letters())
        found = np.zeros(2)
        for batch, _ in evaluation_batches(examples, 8, buckets=(24,)):
            found += loss(trainable, frozen, jax.tree.map(jnp.asarray, batch))
        return len(examples), found

    (many, apart), (few, together) = total(replace(task, packed=False)), total(task)
    assert many == 17 and few <= 8
    np.testing.assert_allclose(together, apart, rtol=2e-5)


def test_prompts_at_the_embeddings_refuse_packed_rows(tmp_path):
    task = pairs(tmp_path, [("a", "b"), ("b", "c")], max_prompt_length=6, max_target_length=6, packed=True)
    letters().save_pretrained(tmp_path / "tokenizer")
    backbone = jp.NewBackbone(decoders.config("gpt2", layers=1), str(tmp_path / "tokenizer"))
    run = jp.Run(task, backbone, method=jp.PromptTuning(length=2), folder=str(tmp_path / "run"))
    with pytest.raises(UserError, match="PromptTuning puts a prompt before each row, and a packed row holds several"):
        set_up(run)
    assert set_up(replace(run, method=jp.PTuningV2(length=2))).examples["train"].segment_ids is not None
