"""The compiled update holds no gradient of a frozen matrix, whatever way its layers are stacked."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxprefix.analysis.flops import dot_flops
from jaxprefix.analysis.least_flops import least_flops
from jaxprefix.distributed.mesh import MeshShape, make_mesh
from jaxprefix.methods import FullFineTuning, HeadOnly, PTuningV2
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.training.step import first_state, make_train_step

ROWS, TOKENS = 8, 32


@functools.cache
def lowered(method, unroll, layers, head=None, remat="none", accumulate=1, stored=jnp.float32):
    """The update of a model, lowered, with the least FLOPs that it needs."""
    config = EncoderConfig("bert", 60, 64, layers, 4, 128, 80, hidden_dropout=0.0, attention_dropout=0.0)
    model = TunedModel(Encoder(config, unroll=unroll, remat=remat), method, head or SequenceClassifier(3))
    shapes = jax.eval_shape(
        lambda key: Encoder(config).init(key, {"input_ids": jnp.zeros((1, 2), int)}), jax.random.key(0)
    )
    tree = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, stored), shapes["params"])
    trainable, frozen = jax.eval_shape(model.init, jax.random.key(1), tree)
    labels = (ROWS, TOKENS) if isinstance(head, TokenClassifier) else (ROWS,)
    batch = {
        "input_ids": jnp.ones((ROWS, TOKENS), jnp.int32),
        "attention_mask": jnp.ones((ROWS, TOKENS), bool),
        "token_type_ids": jnp.zeros((ROWS, TOKENS), jnp.int32),
        "labels": jnp.zeros(labels, jnp.int32),
        "weight": jnp.ones(ROWS),
    }
    mesh, optimizer = make_mesh(MeshShape(data=1), jax.devices()[:1]), Optimizer()
    step = make_train_step(model, optimizer, mesh, steps=5, epoch_steps=5, accumulate=accumulate)
    state = jax.eval_shape(functools.partial(first_state, optimizer), trainable, jax.random.key(0))
    return step.lower(state, optimizer.rates(), frozen, batch), least_flops(model, trainable, ROWS, TOKENS).total


@functools.cache
def ratio(method, unroll=False, layers=8, **options):
    """FLOPs of the compiled update over the least."""
    program, least = lowered(method, unroll, layers, **options)
    return dot_flops(program.compile()) / least


def test_an_unrolled_stack_computes_the_least_to_the_last_product():
    assert ratio(PTuningV2(length=8), True, 2) == pytest.approx(1, abs=1e-6)


def test_a_scanned_stack_comes_within_5_percent():
    """Its lowest layer is treated like the others, which is all that it does too much."""
    assert 1 <= ratio(PTuningV2(length=8)) < 1.05


@pytest.mark.parametrize(
    "options", [pytest.param({"head": TokenClassifier(3)}, marks=pytest.mark.slow), {"accumulate": 4}]
)
def test_so_do_taggers_and_batches_in_parts(options):
    assert 1 <= ratio(PTuningV2(length=8), **options) < 1.05


def test_the_head_alone_needs_no_backward_pass():
    assert ratio(HeadOnly(), True, 2) == pytest.approx(1, abs=1e-3)
    assert ratio(HeadOnly()) == pytest.approx(1, abs=1e-3)


def test_gradients_of_all_matrices_would_be_seen():
    """Forward, by the inputs, by the matrices: three products for each two of the tuned prefix."""
    program, _ = lowered(FullFineTuning(), False, 8)
    _, least = lowered(PTuningV2(length=8), False, 8)
    assert dot_flops(program.compile()) / least > 1.35


@pytest.mark.parametrize("stored", [{}, {"stored": jnp.bfloat16}], ids=["float32", "bfloat16"])
def test_results_of_linear_maps_are_kept_whatever_their_kernels_are_stored_as(stored):
    """Then the scores of the attention alone are computed twice: 2 N (T + P) D of the 2 N (4 D D + 2 D F) and more."""
    assert ratio(PTuningV2(length=8), remat="dots", **stored) < 1.13


@pytest.mark.parametrize("stored", [{}, pytest.param({"stored": jnp.bfloat16}, marks=pytest.mark.slow)])
def test_computing_layers_twice_would_be_seen(stored):
    assert ratio(PTuningV2(length=8), remat="full", **stored) > 1.3


def test_products_are_counted_in_loops_fusions_and_branches():
    a, b = jnp.ones((4, 8, 16)), jnp.ones((16, 32))
    one = 2 * 8 * 16 * 32

    def looped(a, b):
        return jax.lax.scan(lambda total, row: (total + jnp.tanh(row @ b).sum(), row @ b), 0.0, a)

    def nested(a, b):
        return jax.lax.fori_loop(0, 3, lambda i, total: total + looped(a + total, b)[1].sum(), 0.0)

    def branching(a, b):
        return jax.lax.cond(a[0, 0, 0] > 0, lambda: a[0] @ b, lambda: (a[1] * 2) @ b)

    for function, count in (
        (looped, 4),
        (nested, 12),
        (branching, 2),
        (lambda a, b: jnp.einsum("nij,jk->nik", a, b), 4),
    ):
        assert dot_flops(jax.jit(function).lower(a, b).compile()) == count * one


def test_a_loop_of_unknown_length_is_refused():
    def search(a):
        return jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x @ x, a)

    with pytest.raises(ValueError, match="no known number of turns"):
        dot_flops(jax.jit(search).lower(jnp.ones((8, 8))).compile())
