"""What `describe` says of the attention: which implementation computes each call, and why not the one asked for."""

import dataclasses
import importlib
import io
import json
import types

import jax
import pytest
from rich.console import Console

import jaxprefix as jp
from jaxprefix.attention import reference
from jaxprefix.attention.implementations import IMPLEMENTATIONS
from jaxprefix.cli.main import main
from jaxprefix.hf.sources import read_tokenizer
from jaxprefix.inspection.attention_calls import attention_calls, attention_lines
from jaxprefix.models.decoder import Decoder
from jaxprefix.tasks import prepare
from jaxprefix.tasks.reporting import report_rows
from tests import decoders
from tests.training.conftest import world_of_two_layers as world  # noqa: F401

NAME = "particular"
describing = importlib.import_module("jaxprefix.inspection.describe")  # the room has a function of that name


@pytest.fixture
def particular(monkeypatch):
    """Gives the implementation `particular` a function that says what it cannot do."""

    def refusing(supports):
        made = types.SimpleNamespace(attend=reference.attend, supports=supports)
        monkeypatch.setitem(IMPLEMENTATIONS, NAME, made)

    return refusing


def calls_of(kind, method, layers=6, **options):
    """The calls of a decoder of so many layers, from shapes alone."""
    config = decoders.config(kind, layers=layers, attention_dropout=0.1)
    model = jp.TunedModel(Decoder(config, attention=NAME, **options), method, jp.CausalLM())
    batch = decoders.batch()
    shapes = jax.eval_shape(model.backbone.init, jax.random.key(0), batch)["params"]
    trainable, frozen = jax.eval_shape(model.init, jax.random.key(0), shapes)
    return attention_calls(model, trainable, frozen, batch)


def no_window(masks, shapes):
    return None if masks.before is None else f"a window of {masks.before + 1} columns is not computed"


@pytest.mark.parametrize("options", [{}, {"unroll": False}, {"unroll": False, "remat": "full"}])
def test_every_layer_is_counted_with_its_own_reason(particular, options):
    """Layers with a window give way, the others do not; a scan over pairs of layers counts each of them."""
    particular(no_window)
    config = decoders.config("gemma2", layers=6)
    slides = sum(kind == "sliding" for kind in (config.pattern * 6)[:6])
    assert 0 < slides < 6
    for counted in calls_of("gemma2", jp.LoRA(), **options).values():
        assert counted.total() == 6
        taken = {choice: count for choice, count in counted.items() if choice.reason is None}
        given = {choice: count for choice, count in counted.items() if choice.reason is not None}
        assert [(choice.name, count) for choice, count in taken.items()] == [(NAME, 6 - slides)]
        assert [(choice.name, choice.asked, count) for choice, count in given.items()] == [("xla", NAME, slides)]
        assert str(config.window) in next(iter(given)).reason


def test_equal_calls_are_a_line_and_passes_that_differ_are_told_apart(particular):
    particular(lambda masks, shapes: "dropped weights are not computed" if shapes.dropout else None)
    calls = calls_of("gpt2", jp.PTuningV2(length=3), layers=2)
    assert attention_lines(calls) == [
        f"training: xla, 2 calls, in the place of {NAME}: dropped weights are not computed",
        f"evaluation: {NAME}, 2 calls",
    ]
    particular(lambda masks, shapes: shapes.virtual and f"{shapes.virtual.length} virtual tokens are not computed")
    assert attention_lines(calls_of("gpt2", jp.PTuningV2(length=3), layers=2)) == [
        f"xla, 2 calls, in the place of {NAME}: 3 virtual tokens are not computed"
    ]
    assert attention_lines(calls_of("gpt2", jp.LoRA(), layers=1)) == [f"{NAME}, 1 call"]


def said(run):
    text = io.StringIO()
    describing.describe(run, Console(file=text, width=200))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_describe_shows_the_fallback_of_a_run(world, particular, monkeypatch, tmp_path):  # noqa: F811
    run = world.run(tmp_path, method=jp.PTuningV2(length=3))
    layers, backend = 2, jax.default_backend()
    assert f"attention  on {backend}: xla, {layers} calls" in said(run)

    def with_particular(*args, **options):
        setup = real(*args, **options)
        backbone = setup.model.backbone.clone(attention=NAME)
        return dataclasses.replace(setup, model=dataclasses.replace(setup.model, backbone=backbone))

    real = describing.set_up
    monkeypatch.setattr(describing, "set_up", with_particular)
    particular(lambda masks, shapes: None if shapes.virtual is None else "virtual tokens are not computed")
    expected = f"attention  on {backend}: xla, {layers} calls, in the place of {NAME}: virtual tokens are not computed"
    assert expected in said(run)


def test_describe_reports_the_rows_of_all_splits(world, tmp_path, monkeypatch, capsys):  # noqa: F811
    """On the terminal, and as JSON what `report_rows` says."""
    run = world.run(tmp_path)
    rows = [len(world.source.open(split)) for split in world.source.splits]
    lines = said(run)
    start = lines.index(next(line for line in lines if line.startswith("data ")))
    end = lines.index("", start)
    assert end - start <= 25 and lines[start].split() == ["data", *world.source.splits]
    assert lines[start + 1].split() == ["rows", *map(str, rows)]
    monkeypatch.setattr("jaxprefix.cli.configs.load_config", lambda path: run)
    assert main(["describe", "config.py", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    task, tokenizer = run.task, read_tokenizer(world.bert)
    examples = {split: prepare(task, tokenizer, split) for split in world.source.splits}
    assert found["data"] == report_rows(task, tokenizer, examples)
    assert found["parts"]["head"] == sum(leaf["parameters"] for leaf in found["leaves"] if leaf["path"][:4] == "head")
