"""Runs of two and four real processes: the run of one, stopped together, killed, and started again.

The mesh is always of four CPU devices, which 1, 2 or 4 processes share. Among several processes gloo adds gradients up,
in one XLA does: two processes and four are equal to the bit, and one to rounding.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.several import Several
from tests.training.watching import kept_steps, lines, record, same_end
from tests.training.worlds import DROPOUT, write_jsonl

pytestmark = pytest.mark.slow
WITH_DROPOUT = dict.fromkeys(DROPOUT, "None")  # as the encoder has it
FIELDS = {"steps": "20", "checkpoint_every": "2", **WITH_DROPOUT}  # with evaluations after 6, 12, 18 and 20
CAUSE = "gone (killed, cut off, or ended by an error that its own log tells); start the same command again"
GONE = f"is {CAUSE}"


@pytest.fixture(scope="module")
def several(world, tmp_path_factory):
    started = Several(tmp_path_factory.mktemp("cache"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def whole(world, several, tmp_path_factory):
    """The folder of a run of four processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    config = world.config_file(folder / "config.py", folder / "run", **FIELDS)
    codes, said, _ = several(config, 4, folder)
    assert codes == [0, 0, 0, 0], said
    assert "process 0 of 4, coordinator localhost:" in said[0]
    assert "4 x cpu" in said[0] and "adapter: " in said[0]
    for other in said[1:]:  # only the first one talks
        assert not [line for line in other.splitlines() if "[Gloo]" not in line], other
    return folder / "run"


@pytest.fixture(scope="module")
def stopped(world, several, tmp_path_factory):
    """The folder of a run of two processes, the second of which was told to stop, and what they said."""
    folder = tmp_path_factory.mktemp("stopped")
    config = world.config_file(folder / "config.py", folder / "run", **FIELDS)
    codes, said, _ = several(config, 2, folder, {1: ("SIGTERM before a step", 8)})
    return folder / "run", codes, said


def near(one: Path, other: Path) -> None:
    """Two runs ended within rounding of each other."""
    a, b = (load_file(folder / "adapter" / "adapter.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5)
    for x, y in zip(lines(one), lines(other), strict=True):
        assert x == pytest.approx(y, abs=1e-4, rel=1e-4)


def copied(world, folder: Path, target: Path, **changes: str) -> str:
    """A copy of a run's folder in `target`, and the config file to go on there."""
    shutil.copytree(folder, target / "run")
    return world.config_file(target / "config.py", target / "run", **{**FIELDS, **changes})


def test_two_processes_are_four_to_the_bit(world, several, whole, tmp_path):
    codes, said, _ = several(world.config_file(tmp_path / "config.py", tmp_path / "run", **FIELDS), 2, tmp_path)
    assert codes == [0, 0], said
    same_end(whole, tmp_path / "run")
    assert lines(tmp_path / "run") == lines(whole)


def test_one_process_is_four_to_rounding(world, several, whole, tmp_path):
    codes, said, _ = several(world.config_file(tmp_path / "config.py", tmp_path / "run", **FIELDS), 1, tmp_path)
    assert codes == [0], said
    near(whole, tmp_path / "run")
    metrics = [json.loads((folder / "adapter/metrics.json").read_text()) for folder in (whole, tmp_path / "run")]
    for split in ("validation", "test"):  # rows that do not fill their last batch are among them
        assert metrics[0][split] == pytest.approx(metrics[1][split], abs=1e-4)


def test_told_to_stop_all_save_the_same_step_and_exit_in_peace(stopped):
    folder, codes, said = stopped
    assert codes == [0, 0], said
    assert "stopped at step 9; the same command resumes it" in said[0]
    assert kept_steps(folder)[-1] == 9
    assert not (folder / "adapter").exists()


def test_told_to_stop_before_the_first_step_all_exit_in_peace(world, several, tmp_path):
    config = world.config_file(tmp_path / "config.py", tmp_path / "run", **FIELDS)
    codes, said, _ = several(config, 2, tmp_path, {1: ("SIGTERM before its set-up", 1)})
    assert codes == [0, 0], said
    assert "stopped at step 1; the same command resumes it" in said[0]
    assert kept_steps(tmp_path / "run") == [1]


def test_a_stopped_run_goes_on_in_more_processes_to_the_bit(world, several, whole, stopped, tmp_path):
    codes, said, _ = several(copied(world, stopped[0], tmp_path), 4, tmp_path)
    assert codes == [0, 0, 0, 0], said
    assert "going on from step 9 of 20" in said[0]
    same_end(whole, tmp_path / "run")
    assert lines(tmp_path / "run") == lines(whole)


@pytest.mark.parametrize("processes, mesh", [(1, "jp.MeshShape(4)"), (2, "jp.MeshShape(1, 2, 2)")])
def test_a_stopped_run_goes_on_in_fewer_processes_or_another_mesh_to_rounding(
    world, several, whole, stopped, tmp_path, processes, mesh
):
    codes, said, _ = several(copied(world, stopped[0], tmp_path, mesh=mesh), processes, tmp_path)
    assert codes == [0] * processes, said
    assert "going on from step 9 of 20" in said[0]
    near(whole, tmp_path / "run")


def test_a_damaged_shard_is_found_by_all_and_the_checkpoint_before_is_taken(world, several, whole, stopped, tmp_path):
    config = copied(world, stopped[0], tmp_path)
    newest = tmp_path / "run" / "checkpoints" / "9"
    before = kept_steps(tmp_path / "run")[-2]
    shard = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    codes, said, _ = several(config, 2, tmp_path)
    assert codes == [0, 0], said
    assert f"the checkpoint {newest} is damaged" in said[0]
    assert f"going on from step {before} of 20" in said[0]
    assert newest.with_name("9.damaged").exists()
    same_end(whole, tmp_path / "run")


def test_damage_that_one_process_alone_sees_is_heard_of_by_all(world, several, whole, stopped, tmp_path):
    before = kept_steps(stopped[0])[-2]
    config = copied(world, stopped[0], tmp_path)
    codes, said, _ = several(config, 2, tmp_path, {1: ("damage here", 1)})
    assert codes == [0, 0], said
    assert "is damaged: another process says so; it is skipped" in said[0]
    assert "its arrays cannot be read (ValueError: a test)" in said[1]
    assert f"going on from step {before} of 20" in said[0]
    same_end(whole, tmp_path / "run")


def test_killed_three_times_nothing_is_lost(world, several, whole, tmp_path):
    """One of four, the coordinator of four, and one of the two with which it goes on."""
    config = world.config_file(tmp_path / "config.py", tmp_path / "run", **FIELDS)
    draw, left = random.Random(3), 0
    for victim, count in ((draw.randrange(1, 4), 4), (0, 4), (1, 2)):
        codes, said, seconds = several(config, count, tmp_path, {victim: ("killed before a step", draw.randint(4, 6))})
        assert codes[victim] == -signal.SIGKILL
        assert seconds < 60
        last = {process: said[process].splitlines()[-1] for process in range(count) if process != victim}
        for process, sentence in last.items():
            assert codes[process] not in (0, None), said[process]
            assert sentence.startswith("jaxprefix: ") and "start the same command again" in sentence, said[process]
            assert "stack trace" not in said[process]
        # gloo may end a second process, which then does not know who was the first
        named = [re.match(r"jaxprefix: process(es)? ([\d, ]+)", sentence) for sentence in last.values()]
        assert sum(found is not None and str(victim) in found[2] for found in named) >= count - 2, last
        assert not left or f"going on from step {left} of 20" in said[0]
        left = kept_steps(tmp_path / "run")[-1]
        assert 0 < left < 20
    codes, said, _ = several(config, 2, tmp_path)
    assert codes == [0, 0], said
    assert f"going on from step {left} of 20" in said[0]
    same_end(whole, tmp_path / "run")
    assert lines(tmp_path / "run") == lines(whole)


def test_who_does_not_come_is_named(world, several, tmp_path):
    config = world.config_file(tmp_path / "config.py", tmp_path / "run")
    codes, said, seconds = several(config, 2, tmp_path, {1: ("late", 600)}, BARRIER_SECONDS=3)
    assert codes[0] == 1 and codes[1] not in (0, None)
    assert f"process 1 did not come to the set-up of {tmp_path / 'run'} within 3 s" in said[0]
    assert "process 0, the coordinator at localhost:" in said[1] and GONE in said[1]
    assert seconds < 60


def test_processes_with_other_configs_are_refused(world, several, tmp_path):
    configs = [
        world.config_file(tmp_path / f"{process}.py", tmp_path / "run", seed=str(process)) for process in range(2)
    ]
    codes, said, _ = several(configs, 2, tmp_path)
    assert codes[0] == 2 and codes[1] not in (0, None)
    assert "process 1 came to the set-up of" in said[0] and "with another config" in said[0]
    assert not kept_steps(tmp_path / "run")


def test_a_folder_that_one_process_cannot_write_ends_all(world, several, tmp_path):
    config = world.config_file(tmp_path / "config.py", tmp_path / "run")
    codes, said, seconds = several(config, 2, tmp_path, {1: ("read-only", 1)})
    assert codes[1] == 2 and codes[0] not in (0, None)
    assert "Read-only file system" in said[1].splitlines()[-1]
    assert "process 1 " + GONE in said[0]
    assert seconds < 60


@pytest.mark.parametrize("process", [0, 1])
def test_a_disk_that_is_full_for_one_process_ends_all(world, several, tmp_path, process):
    config = world.config_file(tmp_path / "config.py", tmp_path / "run", **FIELDS)
    codes, said, seconds = several(config, 2, tmp_path, {process: ("disk full here", 3)})
    assert codes[process] == 2 and codes[1 - process] not in (0, None)
    assert "the checkpoint of step 6 could not be written" in said[process].splitlines()[-1]
    assert "No space left on device" in said[process].splitlines()[-1]
    assert f"process {process}" in said[1 - process].splitlines()[-1]
    assert seconds < 60
    assert kept_steps(tmp_path / "run") == [2, 4]


def test_scores_of_texts_are_those_of_one_process(several, tmp_path):
    rows = [{"prompt": f"Karik | teaches | {name}", "target": f"Karik teaches {name}."} for name in ("Fugar", "Rigar")]
    place = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"prompt": "Peto", "target": "Peto owns the book."}])
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        (folder / "config.py").write_text(
            "import jaxprefix as jp\n\n\ndef config():\n    return jp.Run(jp.ConditionalGeneration(jp.Files("
            f"{place!r}, {place!r}), max_prompt_length=32, max_target_length=32), backbone='tiny-decoder', "
            "decoding=jp.Decoding(max_new_tokens=6), batch_size=4, steps=2, mesh=jp.MeshShape(2, 1, 2), "
            f"folder={str(folder / 'run')!r})\n"
        )
        codes, said, _ = several(str(folder / "config.py"), processes, folder)
        assert codes == [0] * processes, said
        found.append(json.loads((folder / "run/adapter/metrics.json").read_text())["validation"])
    assert {"bleu", "chrf", "rougeL"} <= found[0].keys()
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_a_disk_that_is_full_for_all_leaves_the_checkpoints_before(world, several, whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(run)], capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        config = world.config_file(tmp_path / "config.py", run, **FIELDS)
        codes, said, seconds = several(config, 2, tmp_path, {1: (f"disk full of {run}", 6)})
        assert 0 not in codes and None not in codes, said
        assert any("No space left on device" in text for text in said), said
        assert seconds < 60
        left = kept_steps(run)[-1]
        assert record(run)["step"] == left >= 2
        os.remove(run / "filler")
        codes, said, _ = several(config, 2, tmp_path)
        assert codes == [0, 0], said
        assert f"going on from step {left} of 20" in said[0]
        same_end(whole, run)
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)
