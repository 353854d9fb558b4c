"""The order of the house: imports run downwards, without circles among modules or rooms."""

import ast

from docs import draw_floors
from tests import house


def test_every_room_has_a_floor():
    rooms = {house.room(module) for module in house.modules()} - {""}
    assert rooms == set(house.LEVEL)


def test_imports_run_downwards():
    assert house.against_the_floors() == []


def test_no_circles_of_modules():
    assert house.circles(house.imports()) == []


def test_no_circles_of_rooms():
    assert house.circles(house.room_imports()) == []


def test_the_picture_of_the_floors_is_current():
    assert (house.ROOT / "docs" / "floors.svg").read_text() == draw_floors.draw()


def test_nobody_outside_models_and_hf_asks_for_a_backbones_family():
    assert house.family_branches() == []


def test_a_question_for_a_family_would_be_seen():
    names, types = house.family_words()
    for text in (
        "isinstance(backbone, Decoder)",
        "isinstance(config, EncoderConfig | DecoderConfig)",
        "kind in DECODER_KINDS",
        "model.backbone.config.model_type == 'other'",
        "kind == 'gpt2'",
        "type(model.backbone.config) is Mine",
        "HEADS[type(backbone.config)]",
        "getattr(model.backbone.config, 'pattern', ())",
        "config.model_type != theirs",
    ):
        (statement,) = ast.parse(text).body
        assert house._asks_family(statement.value, names, types), text
    for text in ("isinstance(task, Tagging)", "model.backbone.config.causal", "kind == 'tagging'"):
        (statement,) = ast.parse(text).body
        assert not house._asks_family(statement.value, names, types), text


def test_nobody_outside_tasks_and_heads_asks_which_kind_a_task_or_a_head_is():
    assert house.kind_branches() == []


def test_a_question_for_a_kind_would_be_seen():
    names = house.kind_words()
    for text in (
        "isinstance(run.task, Tagging)",
        "isinstance(head, SequenceClassifier | CausalLM)",
        "HEADS[type(run.task)]",
        "type(task) is Classification",
        "head.task == 'tagging'",
        "TABLE[head.task]",
        "getattr(run.task, 'labels', None)",
        "hasattr(head, 'num_labels')",
    ):
        (statement,) = ast.parse(text).body
        assert any(house._asks_kind(node, names) for node in ast.walk(statement)), text
    for text in ("run.task.packed", "head.unit == 'row'", "type(task).__name__", "isinstance(run.backbone, str)"):
        (statement,) = ast.parse(text).body
        assert not any(house._asks_kind(node, names) for node in ast.walk(statement)), text
