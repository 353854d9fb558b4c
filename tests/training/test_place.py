"""A run writes to the folder that it began in: one that is renamed or removed stops it, and is not made anew."""

import os
import shutil
import signal

import pytest

import jaxprefix as jp
from jaxprefix.checkpoints.place import Place
from jaxprefix.cli import main as cli
from jaxprefix.errors import FolderGone
from jaxprefix.training import loop
from tests.training.watching import kept_steps


@pytest.fixture
def before_step(monkeypatch):
    """Does something before a step of the runs that follow."""

    def arrange(number, what):
        real, calls = loop.put_batch, []

        def put_batch(*args):
            calls.append(1)
            if len(calls) == number:
                what()
            return real(*args)

        monkeypatch.setattr(loop, "put_batch", put_batch)

    return arrange


@pytest.mark.parametrize("what", ["renamed", "removed", "replaced"])
def test_a_folder_is_known_from_others_of_its_name(tmp_path, what):
    folder = tmp_path / "run"
    folder.mkdir()
    place = Place(folder)
    place.check()
    if what == "renamed":
        folder.rename(tmp_path / "elsewhere")
    else:
        folder.rmdir()
    if what == "replaced":  # by one that the file system may give the same number
        folder.mkdir()
    with pytest.raises(FolderGone, match=f"{folder} was renamed or removed"):
        place.check()
    with pytest.raises(FolderGone), place.held():
        pytest.fail("nothing may be written")
    place.close()
    place.check()


def test_what_fails_while_a_folder_goes_is_told_by_that(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    place = Place(folder)
    with pytest.raises(FolderGone), place.held():
        folder.rename(tmp_path / "elsewhere")
        (folder / "file").write_text("")
    place.close()
    place = Place(tmp_path / "elsewhere")
    with pytest.raises(ZeroDivisionError), place.held():
        raise ZeroDivisionError
    place.close()


MOVES = {"renamed": lambda folder: folder.rename(folder.with_name("elsewhere")), "removed": shutil.rmtree}


@pytest.mark.parametrize(
    ("move", "fields"),
    [
        ("renamed", {}),
        pytest.param("removed", {}, marks=pytest.mark.slow),
        pytest.param("renamed", {"log_every": "100", "checkpoint_every": "4"}, marks=pytest.mark.slow),
        pytest.param("removed", {"log_every": "100", "checkpoint_every": "4"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_folder_goes_stops(world, tmp_path, before_step, capsys, move, fields):
    folder = tmp_path / "run"
    config = world.config_file(tmp_path / "config.py", folder, **fields)
    before_step(3, lambda: MOVES[move](folder))
    assert cli.main(["train", config]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "renamed or removed" in line] == said[-1:]
    assert said[-1].startswith(f"jaxprefix: {folder} was renamed or removed")
    assert not folder.exists()


@pytest.mark.slow
def test_a_run_goes_on_under_the_folders_new_name(world, tmp_path, before_step):
    folder, moved = tmp_path / "run", tmp_path / "elsewhere"
    before_step(5, lambda: MOVES["renamed"](folder))
    with pytest.raises(FolderGone):
        jp.train(world.run(folder, checkpoint_every=2))
    assert 2 in kept_steps(moved)
    jp.train(world.run(moved, checkpoint_every=2))
    jp.train(world.run(tmp_path / "whole", checkpoint_every=2))
    found = [(path / "adapter/adapter.safetensors").read_bytes() for path in (moved, tmp_path / "whole")]
    assert found[0] == found[1]
    assert not folder.exists()


def test_train_saves_and_then_raises_keyboard_interrupt(world, tmp_path, before_step):
    before_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=r"^stopped at step 2; the same command resumes it$"):
        jp.train(world.run(tmp_path / "run"))
    assert kept_steps(tmp_path / "run") == [2]
