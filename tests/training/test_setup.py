"""A run set up as shapes is the run set up as arrays: every leaf's shape, dtype and place."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxprefix as jp
from jaxprefix.distributed.mesh import make_mesh
from jaxprefix.models.backbones import drawn_backbone
from jaxprefix.models.rope import Rope
from jaxprefix.planning.shapes import run_shapes
from jaxprefix.training.setup import set_up
from jaxprefix.training.step import init_state
from jaxprefix.trees import flatten
from tests import decoders, tiny
from tests.family import folder as family
from tests.training import worlds

ROOT = Path(__file__).parents[2]
KINDS = ("bert", "roberta", *decoders.KINDS, "prenorm")
PRECISIONS = (("float32", None), ("bfloat16", None), ("bfloat16", "int8"))
VOCAB = 64  # rows that divide among devices, enough for the tokenizer


def write(home: Path, kind: str) -> Path:
    """A random folder of the kind; BERT has a pooler and a masked-LM head, RoBERTa neither."""
    folder = home / kind
    if folder.exists():
        return folder
    if kind == "prenorm":
        return family.write(folder)
    if kind in ("bert", "roberta"):
        config = tiny.config(kind, vocab=VOCAB)
    else:  # as a config.json of the family can say it
        changes = {"gemma2": {"sliding_rope": Rope(), "query_scale": 0.5}, "gemma3_text": {"query_scale": 0.5}}
        config = decoders.config(kind, vocab=VOCAB, **changes.get(kind, {}))
    tree = jax.jit(drawn_backbone, static_argnums=0)(config, jax.random.key(0))
    if kind == "bert":
        tree["pooler"] = {"kernel": jnp.zeros((16, 16)), "bias": jnp.zeros(16)}
        tree |= jp.MaskedLM().init_missing(jax.random.key(0), config.dims, {})
    jp.save_pretrained(folder, config, tree)
    worlds.write_tokenizer(folder)
    return folder


def run_of(folder: Path, home: Path, precision: str, quantize: str | None, **more) -> jp.Run:
    """Prefix, gate, update and head are trained; of encoders a pooler is frozen, drawn where the folder has none."""
    rows = worlds.write_jsonl(home / "rows.jsonl", worlds.sentences(16, 0))
    pooled = folder.name in ("bert", "roberta")
    return jp.Run(
        jp.Classification(jp.Files(train=rows), max_length=30),
        str(folder),
        jp.AdaptivePrefix(length=3) + jp.LoRA(rank=2),
        head=jp.SequenceClassifier(pooling="pooler" if pooled else "mean"),
        batch_size=16,
        precision=precision,
        quantize=quantize,
        **more,
    )


def differing(arrays, shapes) -> list[str]:
    """Paths of leaves that are not the same in both trees."""
    first, second = flatten(arrays), flatten(shapes)
    found = [*(first.keys() ^ second.keys())]
    for path in first.keys() & second.keys():
        one, other = first[path], second[path]
        same = (one.shape, one.dtype) == (other.shape, other.dtype)
        if not same or not one.sharding.is_equivalent_to(other.sharding, one.ndim):
            found.append(f"{path}: {one.shape} {one.dtype} {one.sharding}, {other}")
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("shapes")


@pytest.mark.parametrize(("precision", "quantize"), PRECISIONS)
@pytest.mark.parametrize("kind", ["roberta", "gemma2", "prenorm"])  # all of them on eight devices
def test_on_one_device(home, kind, precision, quantize):
    run = run_of(write(home, kind), home, precision, quantize, mesh=jp.MeshShape(1))
    setup = set_up(run)
    state = init_state(setup.model, setup.trainable, run.optimizer, jax.random.key(0), setup.mesh)
    shapes = run_shapes(run, make_mesh(jp.MeshShape(1)), labels=len(setup.labels), tokens=setup.longest)
    assert differing(setup.frozen, shapes.frozen) == []
    assert differing(state.trainable, shapes.state.trainable) == []
    assert setup.positions == shapes.positions == 3
    kernel = setup.frozen["backbone"]["layers"]["up"]["kernel"]
    assert kernel.dtype.name == ("int8" if quantize else precision)


def test_on_eight_devices(home):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.training.shapes_on_devices", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
