"""The probe study from end to end: a gated run, its gates, and P-Tuning v2 on the pattern that they leave."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.adapters.adapter import load_adapter
from jaxprefix.cli import main as cli
from jaxprefix.data import Batches
from jaxprefix.errors import UserError
from jaxprefix.inspection.gates import Gates, p_tuning_v2_plus, read_gates
from jaxprefix.tasks import prepare
from jaxprefix.training.loop import train
from tests import tiny
from tests.training.conftest import world_of_two_layers as world  # noqa: F401

METHOD = jp.AdaptivePrefix(lengths=(4, 3), gate_std=1.0, dropout=0.0)


@pytest.fixture(scope="module")
def gated(world, tmp_path_factory):  # noqa: F811
    """A finished run of two layers of 4 and 3 virtual tokens."""
    return train(world.run(tmp_path_factory.mktemp("gated"), method=METHOD, steps=6))


@pytest.fixture(scope="module")
def gates(gated):
    return read_gates(gated.adapter, batch_size=16)


def made(gate, lengths=None, **changes):
    gate = np.array(gate, float)
    lengths = lengths or (gate.shape[1],) * len(gate)
    usual = {"rows": 1, "trained": jp.AdaptivePrefix(length=gate.shape[1]), "position_offset": gate.shape[1]}
    return Gates(gate, np.ones(len(gate)), gate, lengths, **{**usual, **changes})


def test_gates_are_the_mean_over_the_rows_of_the_split(gated, gates):
    """40 rows in batches of 16, the last of them filled up, and all of them in one."""
    adapter = load_adapter(gated.adapter)
    examples = prepare(adapter.run.task, adapter.backbone.tokenizer, "validation", adapter.facts)
    batch = Batches(examples, len(examples), seed=1).batch(0)

    @jax.jit
    def observed(trainable, frozen, batch):
        return adapter.model.apply(trainable, frozen, batch, capture=True).observed

    (seen,) = observed(adapter.trainable, adapter.frozen, batch)
    assert gates.rows == len(examples) == 40
    np.testing.assert_allclose(gates.alpha[0], np.mean(seen["alpha"][0], 0), atol=1e-6)
    np.testing.assert_allclose(gates.alpha[1, :3], np.mean(seen["alpha"][1, :, :3], 0), atol=1e-6)
    np.testing.assert_allclose(gates.gate[0], np.mean(np.abs(seen["gate"][0]), 0), atol=1e-6)
    assert gates.alpha[1, 3] == gates.gate[1, 3] == 0  # the second layer has no fourth token
    np.testing.assert_allclose(gates.layer_scale, adapter.trainable["method"]["gate"]["scale"])
    np.testing.assert_allclose(gates.gate, np.abs(gates.layer_scale[:, None]) * gates.alpha, atol=1e-6)


def test_the_pattern_keeps_the_share_that_was_asked_for():
    found = made([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    pattern = found.pattern(keep=0.5)
    np.testing.assert_array_equal(pattern.kept, [[True, False, True], [False, False, True]])
    assert pattern.lengths == (2, 1)
    assert pattern.tau == pytest.approx(0.4 / 0.9)
    np.testing.assert_array_equal(found.pattern(tau=pattern.tau).kept, pattern.kept)
    assert found.pattern(keep=1.0).lengths == (3, 3)
    assert found.pattern(keep=1e-9).lengths == (1, 0)
    assert found.pattern(tau=0.0).lengths == (3, 3)
    assert made([[0.9, 0.0], [0.2, 0.0]], lengths=(1, 1)).pattern(keep=1.0).lengths == (1, 1)
    assert made([[0.5, 0.5], [0.5, 0.5]]).pattern(keep=0.5).lengths == (2, 2)  # ties stay together
    for keep in (0.0, 1.5):
        with pytest.raises(UserError, match=r"keep is .*; it is the share"):
            found.pattern(keep)
    with pytest.raises(UserError, match="at most 1"):
        found.pattern(tau=1.1)


def test_the_method_of_a_pattern_keeps_positions_and_settings():
    trained = jp.AdaptivePrefix(length=3, dropout=0.2, init_std=0.5)
    found = made([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]], trained=trained)
    variable = found.method(keep=0.5)
    assert variable == jp.PTuningV2(length=2, lengths=(2, 1), position_offset=3, dropout=0.2, init_std=0.5)
    unshifted = dataclasses.replace(found, trained=trained, position_offset=0).method(keep=0.5)
    assert unshifted.position_offset is False
    beside = dataclasses.replace(found, trained=trained + jp.LoRA(rank=2)).method(keep=0.5)
    assert beside == variable + jp.LoRA(rank=2)


def test_the_longer_prefix_has_the_parameters_of_the_gated_one():
    assert p_tuning_v2_plus(jp.AdaptivePrefix(length=20, dropout=0.3)) == jp.PTuningV2(length=30, dropout=0.3)
    assert p_tuning_v2_plus(jp.PTuningV2(length=16)) == jp.PTuningV2(length=24)
    assert p_tuning_v2_plus(jp.AdaptivePrefix(lengths=(4, 0))).lengths == (6, 0)


def test_the_study_ends_in_a_run_of_p_tuning_v2_on_the_pattern(gates, world, tmp_path):  # noqa: F811
    variable = gates.method(keep=0.6)
    assert sum(variable.lengths) == round(0.6 * 7)
    assert variable.position_offset == 4
    result = train(world.run(tmp_path / "variable", method=variable, steps=2))
    adapter = load_adapter(result.adapter)
    assert adapter.run.method == variable
    assert adapter.trainable["method"]["keys"].shape[0] == sum(variable.lengths)
    assert adapter.model.edits(adapter.trainable).positions == 4
    assert set(result.metrics) == {"validation", "test"}


def test_adapters_without_gates_are_refused(gated, tmp_path):
    found, method = load_adapter(gated.adapter), jp.PTuningV2(length=2)
    model = dataclasses.replace(found.model, method=method)
    trainable, frozen = tiny.drawn(model, found.backbone.tree)
    run = dataclasses.replace(found.run, method=method)
    plain = dataclasses.replace(found, model=model, trainable=trainable, frozen=frozen, run=run)
    with pytest.raises(UserError, match="trained by PTuningV2, with 0 gated prefixes"):
        read_gates(plain.save(tmp_path / "plain"))


def test_the_command_prints_the_table_and_a_config_line_that_can_be_used(gated, gates, capsys):
    assert cli.main(["gates", str(gated.adapter), "--keep", "0.6"]) == 0
    out = capsys.readouterr().out
    assert "|lambda alpha|" in out and "over 40 rows of validation" in out
    line = re.search(r"^method=(.*),$", out, re.MULTILINE)[1]
    assert eval(line, {"jp": jp}) == gates.method(keep=0.6)
    assert cli.main(["gates", str(gated.adapter), "--tau", "0.5", "--split", "test"]) == 0
    assert "over 37 rows of test" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        cli.main(["gates", str(gated.adapter), "--keep", "7"])


def test_a_heat_map_is_written(gates, tmp_path):
    pytest.importorskip("matplotlib")
    figure = gates.plot(tmp_path / "gates.png")
    assert (tmp_path / "gates.png").stat().st_size > 1000
    shown = figure.axes[0].images[0].get_array()
    assert shown.max() == pytest.approx(1) and shown.mask[1, 3] and not shown.mask[0].any()


def test_a_heat_map_without_matplotlib_names_the_extra(gates, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"jaxprefix\[plots\]"):
        gates.plot()
