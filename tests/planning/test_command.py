"""`jaxprefix plan` on the present backend, and what it refuses."""

import json

import pytest

from jaxprefix.analysis import topologies
from jaxprefix.cli import main as cli
from tests.training.conftest import world_of_two_layers as world  # noqa: F401


@pytest.fixture
def config(world, tmp_path):  # noqa: F811
    return world.config_file(tmp_path / "config.py", tmp_path / "run")


@pytest.mark.slow
def test_a_plan_for_here(config, tmp_path, capsys):
    figures, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    args = ["plan", config, "--unroll", "False", "--tokens", "24", "--json", str(figures), "--picture", str(picture)]
    assert cli.main(args) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("devices of the present backend", "of the least", "activations and temporaries", "not known"):
        assert words in out
    plan = json.loads(figures.read_text())
    assert plan["topology"] == "here"
    assert plan["tokens"] == 24
    assert plan["flops"]["train"] > plan["flops"]["least"] > plan["flops"]["evaluate"] > 0
    assert plan["estimate"] is None
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--topology", "v5e-17"], "the nearest are v5e-16 and v5e-32"),
        (["--search"], "name one with --topology"),
        (["--mesh", "fsdp:4"], "write it as data=1,fsdp=16,tp=1"),
        (["--json", "/nowhere/at/all.json"], "whose folder does not exist"),
        (["--tokens", "100000"], "shorten the texts"),
    ],
)
def test_what_can_be_corrected_is_a_sentence(config, args, sentence, capsys):
    assert cli.main(["plan", config, *args]) == 2
    assert sentence in capsys.readouterr().err


def test_without_the_compiler_the_extra_is_named(config, monkeypatch, capsys):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["plan", config, "--topology", "v5e-16", "--mesh", "fsdp=16"]) == 2
    assert "pip install 'jaxprefix[tpu]'" in capsys.readouterr().err


def test_its_help_says_how_names_count(capsys):
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "v5p-128 is 64 chips" in out
