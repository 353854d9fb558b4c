"""Checkpoints that are damaged, of other settings or of other formats are noticed, and nothing is lost."""

import random
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killed_saver import bits, state_of
from store_cases import LIKE, abstract, fill

from jaxprefix.checkpoints.records import FORMAT
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.errors import UserError


def damages() -> list[tuple[str, str]]:
    names = ["record.json", "arrays/_CHECKPOINT_METADATA", "arrays/state/_METADATA", "arrays/state/manifest.ocdbt"]
    return [(name, how) for name in [*names, "arrays/state/d/*"] for how in ("flip", "cut", "empty", "delete")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own event loop, on failure
@pytest.mark.parametrize(("name", "how"), damages())
def test_damage_is_noticed_and_the_one_before_is_taken(
    tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
):
    fill(tmp_path, range(2))
    (path,) = (tmp_path / "1").glob(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "flip": lambda: path.write_bytes(data),
        "cut": lambda: path.write_bytes(data[: len(data) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "delete": path.unlink,
    }[how]()
    with Checkpoints(tmp_path) as checkpoints:
        step, state, info = checkpoints.restore(LIKE)
        assert bits(state) == bits(state_of(step))  # files that only Orbax's own tools need may be damaged unnoticed
        assert info == {"history": [step]}
        must_notice = name in ("record.json", "arrays/state/d/*") or how in ("empty", "delete")
        if must_notice and name != "arrays/_CHECKPOINT_METADATA":
            assert step == 0
        if step == 0:
            assert f"{tmp_path}/1 is damaged: " in caplog.text
            assert (tmp_path / "1.damaged").exists()
        # the run goes on, and saves step 1 again
        checkpoints.save(1, state_of(1), info={"history": [1]}, wait=True)
        assert checkpoints.restore(LIKE)[0] == 1


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_a_flipped_bit_of_an_array_is_noticed_by_its_digest(tmp_path: Path, place: float):
    """Even where the array store itself finds nothing wrong: the values are changed through it."""
    from jaxprefix.checkpoints import leaves

    state = {"a": jnp.zeros((40, 25)), "b": jnp.ones((3,), jnp.bfloat16), "k": jax.random.key(0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, info={}, wait=True)
        words = np.array(state["a"]).view(np.uint32)
        words.reshape(-1)[int(place * words.size)] ^= 1 << random.Random(place).randrange(32)
        changed = leaves.copies({**state, "a": jnp.asarray(words.view(np.float32))})
        shutil.rmtree(tmp_path / "1" / "arrays")
        leaves.start_saving(tmp_path / "1" / "arrays", changed)()
        assert checkpoints.restore(abstract(state)) is None
    assert (tmp_path / "1.damaged").exists()


def test_with_none_whole_there_is_none_and_nothing_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    fill(tmp_path, range(2))
    for step in range(2):
        (tmp_path / str(step) / "record.json").unlink()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(LIKE) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(LIKE) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.damaged", "1.damaged"]
    assert caplog.text.count("record.json is missing") == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {**s, "step": jnp.zeros(2, jnp.int32)},
            ["step is int32 [] in the checkpoint and int32 [2] in this run"],
        ),
        (lambda s: {**s, "step": jnp.float32(0)}, ["step is int32 [] in the checkpoint and float32 []"]),
        (lambda s: {**s, "gate": jnp.zeros(2)}, ["gate is not there in the checkpoint"]),
        (
            lambda s: {k: s[k] for k in ("step", "rng")},
            ["opt_state/0 is float32", "not there in this run", "and 1 more"],
        ),
    ],
)
def test_other_settings_are_refused_with_the_reason(tmp_path: Path, change: Any, words: list[str]):
    fill(tmp_path, range(2))
    with Checkpoints(tmp_path) as checkpoints:
        for restore in (checkpoints.restore, checkpoints.restore_best):
            with pytest.raises(UserError) as error:
                restore(abstract(change(state_of(0))))
            assert all(word in str(error.value) for word in [*words, "step 1", str(tmp_path)]), str(error.value)
        assert checkpoints.steps() == [0, 1]


def test_a_newer_format_is_not_taken_for_damage(tmp_path: Path):
    fill(tmp_path, range(1))
    path = tmp_path / "0" / "record.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="upgrade jaxprefix"):
        checkpoints.restore(LIKE)


def test_an_older_format_names_the_version_that_finishes_the_run(tmp_path: Path):
    fill(tmp_path, range(1))
    path = tmp_path / "0" / "record.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    before = path.read_bytes()
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"of jaxprefix 0\.1\.0; finish the run"):
        checkpoints.restore(LIKE)
    assert path.read_bytes() == before
