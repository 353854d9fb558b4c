"""A run as shapes is the run as it is set up."""

import dataclasses

import jax
import pytest

from jaxprefix.analysis.collectives import Owners, collectives
from jaxprefix.analysis.hlo import Array, Module
from jaxprefix.analysis.memory import needed_bytes
from jaxprefix.analysis.topologies import find_topology
from jaxprefix.cli.plan import check_mesh_words
from jaxprefix.data import Files
from jaxprefix.distributed.mesh import MeshShape, make_mesh
from jaxprefix.errors import UserError
from jaxprefix.methods import AdaptivePrefix, LoRA, PromptTuning, PTuningV2
from jaxprefix.planning.search import candidates, difference, larger, meshes
from jaxprefix.planning.shapes import run_shapes
from jaxprefix.tasks import CausalLanguage, Classification, MaskedLanguage, SequenceClassifier, Tagging
from jaxprefix.training.config import Run
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.training.setup import backbone_config, labels_of, set_up
from jaxprefix.trees import count, flatten
from tests.training.conftest import world_of_two_layers as world  # noqa: F401

FILES = Files("none.jsonl")


def one_device():
    return make_mesh(MeshShape(1), jax.devices()[:1])


def test_trees_have_the_shapes_of_a_run_that_is_set_up(world, tmp_path):  # noqa: F811
    run = world.run(tmp_path / "run")
    setup = set_up(run, splits=("train",))
    shapes = run_shapes(run, one_device(), labels=len(setup.labels))

    def sizes(tree):
        return {path: (leaf.shape, leaf.dtype) for path, leaf in flatten(tree).items()}

    assert sizes(shapes.state.trainable) == sizes(setup.trainable)
    assert sizes(setup.frozen) == sizes(shapes.frozen)


def test_a_known_backbone_needs_no_folder():
    run = Run(Classification(FILES), "roberta-large", AdaptivePrefix(length=20), precision="bfloat16")
    shapes = run_shapes(run, one_device())
    # as published, with the masked-LM head: dense, norm, bias
    assert count(shapes.frozen) == 355_359_744 + 1024 * 1024 + 3 * 1024 + 50265
    assert {leaf.dtype.name for leaf in flatten(shapes.frozen).values()} == {"bfloat16"}
    assert shapes.batch["input_ids"].shape == (32, 128)
    assert backbone_config(run)[1] == "the sizes known for that name"


def test_int8_kernels_have_scales_beside_them():
    run = Run(Classification(FILES), "roberta-large", PTuningV2())
    plain, small = (
        flatten(run_shapes(dataclasses.replace(run, quantize=how), one_device()).frozen["backbone"])
        for how in (None, "int8")
    )
    assert small["layers/up/kernel"].dtype.name == "int8"
    assert small["layers/up/kernel"].shape == plain["layers/up/kernel"].shape
    assert small["layers/up/kernel_scale"].shape == (24, 4096)


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (Run(CausalLanguage(FILES), "roberta-large"), "needs a decoder and roberta-large is an encoder"),
        (Run(Classification(FILES, max_length=600), "roberta-large"), "need"),
        (Run(MaskedLanguage(FILES), "gpt2"), "needs an encoder and gpt2 is a decoder"),
        (Run(Classification(FILES), "roberta-large", optimizer=Optimizer(gate_learning_rate=1e-3)), "has no gate"),
        (Run(CausalLanguage(FILES, packed=True), "gpt2", PromptTuning(3)), "set packed=False"),
        (Run(Classification(FILES), "./nowhere/at-all/here"), "neither known here nor available"),
    ],
)
def test_what_does_not_go_together_is_refused(run, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=sentence):
        run_shapes(run, one_device())


def test_labels_are_those_that_are_said():
    run = Run(Tagging(FILES, labels=("a", "b", "c")))
    assert labels_of(run, None) == 3
    assert labels_of(run, 7) == 7
    assert labels_of(Run(Classification(FILES), head=SequenceClassifier(5)), None) == 5
    assert labels_of(Run(Classification(FILES)), None) == 2


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("the total memory required for HLO temporaries (1.50G) exceeds available HBM (15.75G).", int(1.5 * 2**30)),
        ("Ran out of memory in memory space hbm. Used 20.25G of 15.75G hbm.", int(20.25 * 2**30)),
        ("something else", None),
    ],
)
def test_what_a_compiler_says_that_it_needed(message, size):
    assert needed_bytes(message) == size


def test_meshes_in_words():
    assert check_mesh_words("data=1, fsdp=16,tp=-1") == {"data": 1, "fsdp": 16, "tp": -1}
    for wrong in ("fsdp:16", "rows=2", "16", "fsdp="):
        with pytest.raises(UserError, match="write it as"):
            check_mesh_words(wrong)


def test_candidates_fill_the_topology_and_divide_heads_and_rows():
    place = find_topology("2xv5e-16")
    for mesh in meshes(place, 32, 8):
        assert mesh.data * mesh.fsdp * mesh.tp == 32
        assert mesh.data % 2 == 0, "slices divide data"
    assert {mesh.tp for mesh in meshes(place, 12, 12)} == {1, 2, 4}
    run = Run(CausalLanguage(FILES), "gpt2", LoRA(("q",)), batch_size=32)
    found = list(candidates(run, place, backbone_dims(run)))
    assert len(set(found)) == len(found) > 10
    assert all(one.batch_size % (one.mesh.data * one.mesh.fsdp) == 0 for one in found)
    assert len({difference(run, one) for one in found}) == len(found)


def backbone_dims(run):
    return backbone_config(run)[0].dims


def test_the_next_bigger_slice():
    assert str(larger(find_topology("v5e-16"))) == "v5e-32"
    assert str(larger(find_topology("v5p-128"))) == "v5p-256"
    assert larger(find_topology("v6e-256")) is None


GROUPS = {
    "replica_groups={{0,1},{2,3},{4,5},{6,7}}": (("tp",), 2),
    "replica_groups=[4,2]<=[8]": (("tp",), 2),
    "replica_groups=[2,4]<=[4,2]T(1,0)": (("data", "fsdp"), 4),
    "replica_groups=[4,2]<=[2,2,2]T(0,2,1)": (("fsdp",), 2),
    "replica_groups=mesh['a'=2,'b'=4] {'a'}": (("data",), 2),
    "replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a'}": (("tp",), 2),
    "replica_groups=mesh['a'=8] {'a'}": (("data", "fsdp", "tp"), 8),
    "replica_groups={{0,1,2},{3,4,5,6,7}}": ((), 3),
    "source_target_pairs={{0,4},{4,0},{1,5},{5,1}}": (("data",), 2),
}


@pytest.mark.parametrize("text", GROUPS)
def test_groups_are_axes_of_the_mesh(text):
    kind = "collective-permute" if "pairs" in text else "all-gather"
    module = Module(
        "ENTRY %main (p: f32[4,6]) -> f32[4,6] {\n"
        "  %p = f32[4,6]{1,0} parameter(0)\n"
        f"  ROOT %it = f32[4,6]{{1,0}} {kind}(%p), channel_id=1, {text}, dimensions={{0}}\n"
        "}\n"
    )
    (one,) = collectives(module, {"data": 2, "fsdp": 2, "tp": 2}, Owners({}, {}, {}, 3, 2, 5))
    assert (one.axes, one.group) == GROUPS[text]
    assert one.array == Array("f32", (4, 6))
    assert one.payload == 96


def test_what_slices_exchange_is_a_sum_over_the_network():
    module = Module(
        "ENTRY %main (p: f32[4,6]) -> f32[4,6] {\n"
        "  %p = f32[4,6]{1,0} parameter(0)\n"
        "  %go = token[] after-all()\n"
        "  %send.1 = (f32[4,6]{1,0}, u32[], token[]) send(%p, %go), channel_id=2, is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_megascale_transfer_type="ALL_REDUCE"}\n'
        "  ROOT %copy = f32[4,6]{1,0} copy(%p)\n"
        "}\n"
    )
    (one,) = collectives(module, {"data": 2, "fsdp": 2, "tp": 1}, Owners({}, {}, {}, 3, 2, 5), slices=2)
    assert (one.kind, one.what, one.axes, one.group) == ("network all-reduce", "gradients", ("data",), 2)
    assert one.payload == one.sent == 96
