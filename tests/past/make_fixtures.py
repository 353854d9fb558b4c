"""Writes what `test_past` opens: adapter folders, their backbones and what they answer, a checkpoint of a run that was
stopped midway, and its entries of the token cache.

They were written at commit 0f4559f, before names, fields and leaves were renamed, and stay as they are: this script
and `backbones` and `runs` speak of the package as it was there. To write them again, in a work tree of that commit
that has this folder:

    python -m tests.past.make_fixtures

from the repository's root. All randomness has a seed; Orbax notes times beside a checkpoint's arrays. Adapters in
`TRAINED` are of whole runs; the others were set up and written by the same functions, with random numbers added to
their leaves in place of updates, which takes minutes less. Each trained leaf is shown to matter: the logits change with
it.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import jax

import jaxprefix as jp
from jaxprefix.training.export import write_run_adapter
from jaxprefix.training.setup import set_up
from jaxprefix.trees import flatten, unflatten
from tests.past import asking
from tests.past.backbones import write_backbones, write_rows
from tests.past.runs import all_runs, midway
from tests.past.stopping import stop_after

TRAINED = ("p_tuning_v2", "pooler_born", "sum_new_words")
FOLDERS = ("adapters", "backbones", "data", "midway", "runs", "tokens")
# Without virtual tokens and rotations, a key's bias shifts all scores of a query alike.
KEY_BIAS = "backbone/layers/k/bias"
UNREAD = ("mlm/bias", "mlm/dense/bias", "mlm/dense/kernel", "mlm/norm/bias", "mlm/norm/scale")  # by a classifier
UNREAD += ("pooler/bias", "pooler/kernel")
WITHOUT_EFFECT = {
    **dict.fromkeys(("bit_fit", "bit_fit_gpt2", "full_fine_tuning_gpt2", "masked_born", "new_encoder"), (KEY_BIAS,)),
    "full_fine_tuning": (KEY_BIAS, *(f"backbone/{path}" for path in UNREAD)),
    "lora_bias": ("method/k/b",),
}


def leaves_without_effect(adapter: jp.Adapter, logits: np.ndarray) -> list[str]:
    """Paths of trained leaves whose change does not change the logits."""
    flat, found = flatten(adapter.trainable), []
    for path, leaf in flat.items():
        by = 0.5 * np.random.default_rng(0).standard_normal(leaf.shape).astype(np.float32)
        other = dataclasses.replace(adapter, trainable=unflatten({**flat, path: leaf + abs(by)}))
        if abs(asking.logits_of(other) - logits).max() < 1e-4:
            found.append(path)
    return found


def set_up_only(run: jp.Run) -> Path:
    """The adapter folder of a run whose leaves have moved by random numbers instead of updates."""
    setup, random = set_up(run), np.random.default_rng(1)
    moved = {}
    for path, leaf in flatten(setup.trainable).items():
        by = (0.3 * random.standard_normal(leaf.shape)).astype(np.float32)
        moved[path] = leaf + (np.abs(by) if path.endswith("mass") else by)  # below 0 a mass is 0
    return Path(write_run_adapter(Path(run.folder, "adapter"), setup, unflatten(moved), {}))


def write_adapters() -> None:
    """Every adapter."""
    for name, run in all_runs().items():
        folder = jp.train(run).adapter if name in TRAINED else set_up_only(run)
        folder.rename(Path("adapters", name))


def write_answers() -> None:
    """What each adapter answers."""
    logits, answers, backbones, problems = {}, {}, {}, []
    for name in asking.names():
        with jax.disable_jit():  # quicker than to compile a program for each
            adapter = asking.open_adapter(name, backbones)
            logits[name] = asking.logits_of(adapter)
            answers[name] = asking.answers_of(adapter)
            idle = leaves_without_effect(adapter, logits[name])
        print(name, flush=True)
        if set(idle) != set(WITHOUT_EFFECT.get(name, ())):
            problems.append(f"{name}: no effect of {idle}, expected {WITHOUT_EFFECT.get(name, ())}")
    np.savez_compressed("logits.npz", **logits)
    Path("answers.json").write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n")
    if problems:
        raise SystemExit("\n".join(problems))


def write_midway(cache: Path) -> None:
    """A run that was stopped, and what it left in the token cache."""
    shutil.rmtree(cache / "tokens", ignore_errors=True)  # those of the other runs
    stop_after(3, midway())
    shutil.copytree(cache / "tokens", "tokens")
    Path("midway", "metrics.jsonl").unlink()  # times of this machine
    for note in Path("midway").rglob("commit_success.txt"):  # Orbax writes the whole path of the folder
        note.write_text(note.read_text().replace(f"{asking.PAST}/", ""))


def main() -> None:
    os.chdir(asking.PAST)  # configs name data and backbones by paths from here
    for folder in FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as stack:
        os.environ["JAXPREFIX_CACHE"] = cache
        stack.callback(shutil.rmtree, "runs", ignore_errors=True)
        Path("adapters").mkdir()
        write_backbones(Path("backbones"))
        write_rows(Path("data"))
        write_adapters()
        write_midway(Path(cache))
        write_answers()


if __name__ == "__main__":
    main()
