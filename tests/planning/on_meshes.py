"""Child process of the tests: plans of tiny runs on eight CPU devices; prints JSON."""

import dataclasses
import json

import jax

from jaxprefix.analysis.collectives import Owners, collectives
from jaxprefix.analysis.hlo import Module
from jaxprefix.data import Files
from jaxprefix.distributed.mesh import MeshShape, make_mesh
from jaxprefix.methods import AdaptivePrefix, FullFineTuning, Inducer, LoRA, PrefixTuning, PTuningV2
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.planning.plan import as_json, plan_run
from jaxprefix.planning.shapes import run_shapes
from jaxprefix.tasks import CausalLanguage, Classification
from jaxprefix.training.config import NewBackbone, Run
from jaxprefix.training.step import make_train_step

ENCODER = NewBackbone(EncoderConfig("bert", 96, 64, 3, 8, 160, 80), "none")
DECODER = NewBackbone(DecoderConfig("llama", 96, 64, 3, 8, 8, 8, 160, 80), "none")
MESHES = ((8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8))


def classify(method, mesh, **more) -> Run:
    task = Classification(Files("none.jsonl"), max_length=24)
    return Run(task, ENCODER, method, batch_size=16, mesh=MeshShape(*mesh), unroll=False, **more)


def write(mesh) -> Run:
    task, method = (
        CausalLanguage(Files("none.jsonl"), max_length=24),
        Inducer(value_rank=2, key_rank=3) + LoRA(("q", "v"), rank=2),
    )
    return Run(task, DECODER, method, batch_size=16, mesh=MeshShape(*mesh), unroll=False, remat="full")


def planted() -> dict:
    """A step that trains the whole backbone, read as if it were frozen."""
    run = classify(FullFineTuning(), (4, 2, 1))
    mesh = make_mesh(run.mesh)
    shapes = run_shapes(run, mesh)
    step = make_train_step(shapes.model, run.optimizer, mesh, steps=5, epoch_steps=5)
    text = step.lower(shapes.state, shapes.rates, shapes.frozen, shapes.batch).compile().as_text()
    trainable, sizes = shapes.state.trainable, dict(mesh.shape)
    head, backbone = {"head": trainable["head"]}, trainable["backbone"]
    owners = Owners(head, backbone, sizes, 3, 2, 24)
    moved = collectives(Module(text), sizes, owners)
    found = [one for one in moved if one.what == "frozen gradients"]
    kernels = {tuple(sorted(leaf.shape[1:])) for leaf in jax.tree.leaves(backbone) if leaf.ndim == 3}
    seen = {tuple(sorted(size for size in one.array.dims if size != 1)) for one in found}
    return {"kernels": len(kernels), "found": len(kernels & seen), "axes": sorted({one.axes for one in found})}


def main() -> dict:
    jax.config.update("jax_num_cpu_devices", 8)
    plans = {f"encoder {mesh}": as_json(plan_run(classify(PTuningV2(length=5), mesh), None)) for mesh in MESHES}
    plans["gates"] = as_json(plan_run(classify(AdaptivePrefix(length=5), (2, 2, 2)), None, evaluate=False))
    mapped = classify(PrefixTuning(length=5, mlp_width=32), (4, 2, 1))
    plans["mlp"] = as_json(plan_run(mapped, None, evaluate=False))
    plans["decoder"] = as_json(plan_run(write((2, 2, 2)), None, evaluate=False))
    parts = dataclasses.replace(classify(PTuningV2(length=5), (4, 1, 2)), accumulate=2)
    plans["parts"] = as_json(plan_run(parts, None, evaluate=False))
    plans["full"] = as_json(plan_run(classify(FullFineTuning(), (4, 2, 1)), None, evaluate=False))
    return {"plans": plans, "planted": planted()}


if __name__ == "__main__":
    print(json.dumps(main()))
