"""A run with a published format: its new rows are asked for, trained, saved, and read and written by the adapter."""

from dataclasses import replace

import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.data import Files
from jaxprefix.errors import UserError
from jaxprefix.training.setup import set_up
from tests import decoders
from tests.data.conftest import letters, write_rows


@pytest.fixture
def run(tmp_path, monkeypatch, shared_steps):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    rows = [{"triples": f"{s} | {p} | c", "text": f"{s} {p}"} for s in "abcd" for p in "abcd"]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    letters().save_pretrained(tmp_path / "tokenizer")
    return jp.Run(
        jp.ConditionalGeneration(Files(file, file), format=jp.WebNLG(), max_prompt_length=16, max_target_length=8),
        jp.NewBackbone(decoders.config("gpt2", layers=1), str(tmp_path / "tokenizer")),
        method=jp.PTuningV2(length=2) + jp.NewTokens(16),
        decoding=jp.Decoding(max_new_tokens=4),
        steps=2,
        batch_size=8,
        unroll=False,  # a scan compiles sooner
        folder=str(tmp_path / "run"),
    )


@pytest.mark.parametrize(
    ("method", "there"), [(jp.PTuningV2(length=2), 0), (jp.PTuningV2(length=2) + jp.NewTokens(4), 4)]
)
def test_a_method_without_the_new_rows_is_refused(run, method, there):
    message = rf"ConditionalGeneration adds 16 tokens and the method has new rows for {there}; put NewTokens\(16\)"
    with pytest.raises(UserError, match=message):
        set_up(replace(run, method=method))


def test_a_run_trains_new_rows_and_writes_text_with_types(run):
    setup = set_up(run)
    assert setup.backbone.tokenizer.convert_tokens_to_ids("<pad>") == decoders.VOCAB
    assert setup.examples["train"].token_type_ids.min() >= decoders.VOCAB
    start = np.asarray(setup.trainable["method"]["new_tokens"]["words"])
    jp.train(run)
    adapter = jp.load_adapter(f"{run.folder}/adapter", backbone=setup.backbone)
    words = np.asarray(adapter.trainable["method"]["new_tokens"]["words"])
    assert words.shape == (16, 16) and np.abs(words - start).max() > 0
    texts = adapter.generate(["a | b | c", {"triples": [["d", "a", "c"]]}])
    assert len(texts) == 2 and "<" not in "".join(texts)
    assert "".join(adapter.stream("a | b | c")) == texts[0]
    assert adapter.evaluate(split="validation", batch_size=8)["perplexity"] > 1
