"""What leaves declare: all of ours do, as the rules of names had it before, and a person's own method is heard."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jaxprefix as jp
from jaxprefix.edits.leaves import Leaf, collect
from jaxprefix.errors import UserError
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.training.sharding import trainable_shardings
from jaxprefix.trees import flatten, unflatten
from tests import decoders, tiny
from tests.methods.test_matrix import METHODS

MESH = Mesh(np.array(jax.devices()[:1] * 4).reshape(1, 2, 2), ("data", "fsdp", "tp"))  # nothing is put on it
HEADS = {
    "mean": jp.SequenceClassifier(3),
    "trained pooler": jp.SequenceClassifier(3, pooling="trained_pooler"),
    "without a bias": jp.SequenceClassifier(3, bias=False),
    "tokens": jp.TokenClassifier(3),
    "masked": jp.MaskedLM(),
    None: None,
}
WORDS = {"new words": jp.NewTokens(2), "new words and lora": jp.NewTokens(2) + jp.LoRA(rank=2)}
CASES = [
    *(("bert", name, "mean") for name in METHODS),
    *(("bert", name, head) for name in ("p-tuning v2", "full") for head in HEADS if head != "mean"),
    *(("llama", name, None) for name in ("p-tuning v2", "apt", "inducer", "kernel-mix", "lora", *WORDS)),
    ("llama", "inducer, value gating", None),
    ("gpt2", "bitfit", None),
    ("gpt2", "full", None),
]


def model_of(kind, method, head=None):
    module = (
        Encoder(tiny.config(kind), unroll=False)
        if kind in ("bert", "roberta")
        else Decoder(decoders.config(kind), unroll=False)
    )
    return jp.TunedModel(module, method, HEADS.get(head, head))


@functools.cache
def frozen_shapes(module):
    init = lambda key: module.init(key, {"input_ids": jnp.zeros((1, 2), int)})["params"]  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0))


def shapes_of(model):
    """The trainable tree as shapes, by path."""
    return flatten(jax.eval_shape(model.init, jax.random.key(0), frozen_shapes(model.backbone))[0])


def group_by_name(path):
    if path.startswith("head/"):
        return "head"
    return "gate" if path.startswith("method/") and "gate" in path.split("/")[1:-1] else "base"


def decay_by_name(path):
    name = path.rsplit("/", 1)[-1]
    if path.startswith("method/heads/"):  # KernelMix's, as its authors have it
        return True
    return not (name.endswith(("bias", "scale", "_b")) or name in ("a", "b", "mass"))


def spec_by_name(path, shape, dims):
    """Of leaves of methods and heads."""
    of_prefix = re.fullmatch(r"method/(\w+/)*(keys|values)", path) and shape[1:2] == (dims.kv_heads,)
    of_inducer = re.fullmatch(r"method/(\w+/)*(key|value)/[AaBb]", path) and shape[:2] == (dims.layers, dims.heads)
    if (of_prefix and len(shape) == 3) or of_inducer:
        return PartitionSpec(None, "tp" if shape[1] % 2 == 0 else None, *[None] * (len(shape) - 2))
    return PartitionSpec()


@pytest.mark.parametrize(("kind", "name", "head"), CASES)
def test_every_leaf_of_ours_is_declared_as_its_name_had_it(kind, name, head):
    """All groups and decays; shardings of all but two: value gating's maps (`real`) and those of an inducer in some
    layers alone follow their heads too, where the rules of names left them whole."""
    method = {**METHODS, **WORDS}[name]
    model = model_of(kind, method, head)
    dims, shapes, table = model.backbone.dims, shapes_of(model), leaf_table(model)
    assert shapes.keys() <= table.keys()
    places = flatten(trainable_shardings(model, unflatten(shapes), MESH))
    for path, leaf in shapes.items():
        assert (table[path].group, table[path].decay) == (group_by_name(path), decay_by_name(path)), path
        if "/real/" in path or name == "inducer, some layers":
            continue
        if not path.startswith("backbone/"):
            assert places[path].spec == spec_by_name(path, leaf.shape, dims), path
    own = {path: leaf for path, leaf in shapes.items() if not path.startswith("backbone/")}
    with collect() as declared:
        makers = [lambda key: {"method": method.build(dims).init(key).get("params", {})}]
        if model.head is not None:
            makers.append(lambda key: {"head": model.head.init(key, dims)})
        for make in makers:
            jax.eval_shape(make, jax.random.key(0))
    assert {path.split("/", 1)[1] for path in own} == declared.keys()


def test_maps_of_heads_follow_tp_whatever_they_are_called():
    gating = jp.Inducer(key_mode="identity", value_rank=3, value_gating=True, value_extension=False)
    table = leaf_table(model_of("llama", gating))
    assert {path: leaf.tp for path, leaf in table.items()} == {
        f"method/{part}/{name}": 1 for part in ("value", "real") for name in "AaBb"
    }
    shared = leaf_table(model_of("bert", jp.Inducer(key_mode="identity", value_rank=4, head_share=True)))
    assert [shared[f"method/value/{name}"].tp for name in "AaBb"] == [1, 1, None, None]


def test_matrices_are_named_by_their_axes():
    for name in ("prefix-tuning", "inducer, value gating", "lora", "parallel adapter", "kernel-mix"):
        model = model_of("bert", METHODS[name], "mean")
        shapes = shapes_of(model)
        for path, leaf in leaf_table(model).items():
            if leaf.matrix is not None and path in shapes:
                assert leaf.decay, (name, path)
                assert max(leaf.matrix) < len(shapes[path].shape), (name, path)
    table = leaf_table(model_of("bert", METHODS["full"], "mean"))
    assert table["backbone/layers/q/kernel"].matrix == (1, 2)
    assert table["backbone/pooler/kernel"].matrix == table["head/classifier/kernel"].matrix == (0, 1)
    assert table["backbone/embeddings/word/embedding"].matrix is None


@jp.edit
class Shift(jp.LayerEdit):
    by: jax.Array

    def after_block(self, h, ctx):
        return h + self.by.reshape(-1)


class Told(nn.Module):
    """A person's own leaves, with names that say nothing."""

    dims: jp.Dims

    @nn.compact
    def __call__(self):
        dims, ones = self.dims, nn.initializers.ones
        shape = (dims.layers, dims.heads, dims.width // dims.heads)
        opening = jp.leaf(self, "opening", ones, shape, group="gate")
        weights = jp.leaf(self, "weights", ones, shape, decay=False, tp=1)
        return jp.Edits((Shift(opening * weights * self.param("bias", ones, shape)),))


@dataclasses.dataclass(frozen=True)
class Tell(jp.Method):
    def build(self, dims):
        return Told(dims)


def test_a_persons_own_method_is_heard():
    """A gate, no decay and an axis that follows tp, as in a notebook; beside them a leaf of which nothing is said."""
    model = model_of("bert", Tell() + jp.LoRA(rank=2), "mean")
    table = leaf_table(model)
    assert table["method/tell/opening"] == Leaf(group="gate")
    assert table["method/tell/weights"] == Leaf(decay=False, tp=1)
    assert table["method/tell/bias"] == Leaf(decay=False)  # by its name
    shapes = shapes_of(model)
    places = flatten(trainable_shardings(model, unflatten(shapes), MESH))
    assert places["method/tell/weights"].spec == PartitionSpec(None, "tp", None)
    assert places["method/tell/opening"].spec == PartitionSpec()

    optimizer = Optimizer(0.1, gate_learning_rate=0.02, weight_decay=0.5, clip=None, schedule="constant")
    tree = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), unflatten(shapes))
    update = jax.jit(lambda tree: optimizer.update(tree, optimizer.init(tree), tree, optimizer.rates(), one, table))
    one = jnp.float32(1)
    new, _ = update(tree)  # gradients of 1 as well
    new = {path: float(leaf.reshape(-1)[0]) for path, leaf in flatten(new).items()}
    assert new["method/tell/opening"] == pytest.approx(1 - 0.02 * 1.5)  # the gate's rate, with decay
    assert new["method/tell/weights"] == pytest.approx(1 - 0.1)
    assert new["method/lora/q/A"] == pytest.approx(1 - 0.1 * 1.5)


def test_a_step_goes_by_the_table():
    """The whole step of a person's own method: its gate at a rate of 0 stays, the others move."""
    from jaxprefix.distributed.mesh import make_mesh
    from jaxprefix.training.step import init_state, make_train_step

    model, batch = model_of("bert", Tell(), "mean"), tiny.batch()
    trainable, frozen = model.init(jax.random.key(0), tiny.frozen_tree())
    before = jax.tree.map(np.asarray, trainable)
    optimizer = Optimizer(0.1, gate_learning_rate=0.0, schedule="constant")
    mesh = make_mesh(jp.MeshShape(data=1), jax.devices()[:1])
    state = init_state(model, trainable, optimizer, jax.random.key(1), mesh)
    state, _ = make_train_step(model, optimizer, mesh, steps=2, epoch_steps=2)(state, optimizer.rates(), frozen, batch)
    moved = {path: bool(np.any(leaf != flatten(before)[path])) for path, leaf in flatten(state.trainable).items()}
    assert not moved.pop("method/opening")
    assert all(moved.values())


class Compiled(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self):
        jp.leaf(self, "w", nn.initializers.ones, (3, 4), group="gate")
        return jp.Edits()


@dataclasses.dataclass(frozen=True)
class Tracing(jp.Method):
    def build(self, dims):
        return Compiled()


def test_a_declaration_in_a_compiled_module_is_heard_every_time():
    """JAX traces such a module once, and its Python is not run again."""
    for _ in range(2):
        assert leaf_table(model_of("bert", Tracing()))["method/w"].group == "gate"


def test_nothing_is_collected_outside():
    with collect() as found:
        pass
    leaf_table(model_of("bert", jp.LoRA(rank=2)))
    assert found == {}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"group": "gates"}, "method/w has group = 'gates'; choose one of base, head, gate"),
        ({"tp": 2}, "method/w has tp = 2; give an axis of its shape [3, 4], counted from 0, or None"),
        ({"tp": -1}, "has tp = -1"),
        ({"matrix": (0, 2)}, "has matrix = (0, 2); give two different axes of its shape [3, 4]"),
        ({"matrix": (1, 1)}, "has matrix = (1, 1)"),
    ],
)
def test_a_wrong_declaration_is_refused_where_the_leaf_is_made(said, message):
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self):
            return jp.leaf(self, "w", nn.initializers.ones, (3, 4), **said)

    with pytest.raises(UserError) as refused:
        Wrong(name="method").init(jax.random.key(0))
    assert message.replace("method/", "") in str(refused.value)
    with pytest.raises(UserError) as refused:
        jp.declare("method/w", jnp.ones((3, 4)), **said)
    assert message in str(refused.value)
