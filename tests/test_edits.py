"""Edits as pytrees with behaviour: any tree map may rebuild them, they compose in order, and what cannot work is
refused with its remedy."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.edits import Context, Edits, LayerEdit, check_stacked, edit, static
from jaxprefix.edits.hooks import LayerHooks
from jaxprefix.errors import UserError
from jaxprefix.methods import HeadOnly, PTuningV2
from jaxprefix.methods.base import Method
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier
from tests import tiny

DIMS = Encoder(tiny.config()).dims
CONTEXT = Context.of(jnp.ones((1, 2), bool), jnp.zeros((1, 2), int))


@edit
class Affine(LayerEdit):
    """`factor * f + 1` at the MLP, the same at a projection and at the block's end."""

    factor: jax.Array
    place: str = static(default="mlp")

    def project(self, name, x, y, ctx):
        return self.factor * y + 1 if self.place == name else y

    def after_mlp(self, z, f, ctx):
        return self.factor * f + 1 if self.place == "mlp" else f

    def after_block(self, h, ctx):
        return self.factor * h + 1 if self.place == "block" else h


def prefix_edits(length=2):
    module = PTuningV2(length=length).build(DIMS)
    return module.apply({"params": module.init(jax.random.key(length))["params"]})


def mixed():
    return prefix_edits() + Edits((Affine(jnp.arange(3.0)),))


def test_tree_maps_may_fill_edits_with_anything():
    edits = mixed()
    shapes = jax.tree.map(jnp.shape, edits)
    assert shapes.layers[0].keys == (3, 2, 4, 4) and shapes.layers[1].factor == (3,)
    assert shapes.position_offset == 2 and shapes.layers[0].unit == "element"
    assert jax.tree.map(lambda leaf: None, edits).layers[1].factor is None
    assert jax.tree.map(jnp.shape, CONTEXT).queries.mask == (1, 2)
    leaves, structure = jax.tree.flatten(edits)
    assert structure == jax.tree.structure(jax.tree.unflatten(structure, leaves))


def test_edits_pass_through_vmap_with_axes_of_every_kind():
    edits = mixed()
    three = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, 3 * leaf]), edits)

    def norm(edits):
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(edits))

    expected = norm(edits) * jnp.array([1, 4, 9])
    axes = jax.tree.map(lambda leaf: 0, edits)
    np.testing.assert_allclose(jax.vmap(norm)(three), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(norm, in_axes=(axes,))(three), expected, rtol=1e-6)
    last = jax.vmap(lambda edits: edits, out_axes=-1)(three)
    assert last.layers[0].keys.shape == (3, 2, 4, 4, 3) and last.layers[1].factor.shape == (3, 3)


def test_fields_are_free_of_type_checks_but_hooks_are_not():
    prefix = prefix_edits().layers[0]
    one = jax.tree.map(lambda leaf: leaf[0], prefix)
    with pytest.raises(Exception, match=r"[Tt]ype"):
        one.virtual_tokens(jnp.zeros((2, 16)), CONTEXT)


def test_static_fields_belong_to_the_structure():
    one, other = Affine(jnp.ones(3)), Affine(jnp.ones(3), place="block")
    assert len(jax.tree.leaves(one)) == 1
    assert jax.tree.structure(one) != jax.tree.structure(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.factor = jnp.zeros(3)


def test_hooks_apply_in_the_order_of_composition():
    f = jnp.full((1, 2, 16), 5.0)
    double, negate = Edits((Affine(jnp.float32(2)),)), Edits((Affine(jnp.float32(-1)),))
    for composed, expected in ((double + negate, -(2 * 5 + 1) + 1), (negate + double, 2 * (-5 + 1) + 1)):
        assert (LayerHooks(composed.layers, CONTEXT).after_mlp(f, f) == expected).all()


def test_virtual_tokens_of_composed_prefixes_stand_side_by_side_and_offsets_add():
    both = prefix_edits(2) + prefix_edits(3)
    assert both.position_offset == 5
    first, second = (jax.tree.map(lambda leaf: leaf[1], prefix) for prefix in both.layers)
    tokens = LayerHooks((first, second), CONTEXT).virtual_tokens(jnp.zeros((1, 2, 16)))
    np.testing.assert_array_equal(tokens.keys, jnp.concatenate([first.keys, second.keys]))
    np.testing.assert_array_equal(tokens.values, jnp.concatenate([first.values, second.values]))


@edit
class Wide(LayerEdit):
    """Float32 whatever comes in."""

    leaf: jax.Array

    def project(self, name, x, y, ctx):
        return y.astype(jnp.float32) + self.leaf

    def replace_values(self, k, v, ctx):
        return v.astype(jnp.float32) + self.leaf

    def after_attention(self, q, k, v, o, lse, ctx):
        return o.astype(jnp.float32) + self.leaf, jnp.ones((1, 2, 16), jnp.float32)

    def after_mlp(self, z, f, ctx):
        return f.astype(jnp.float32) + self.leaf

    def after_block(self, h, ctx):
        return h.astype(jnp.float32) + self.leaf


def test_results_of_hooks_have_the_dtype_of_what_they_replace():
    hooks = LayerHooks((Wide(jnp.float32(0.5)),), CONTEXT)
    x, heads, lse = jnp.ones((1, 2, 16), jnp.bfloat16), jnp.ones((1, 2, 4, 4), jnp.bfloat16), jnp.ones((1, 4, 2))
    o, extras = hooks.after_attention(heads, heads, heads, heads, lse)
    found = [
        *(hooks.project("q", x, x), hooks.replace_values(heads, heads)[0], o, *extras),
        *(hooks.after_mlp(x, x), hooks.after_block(x)),
    ]
    assert [leaf.dtype for leaf in found] == [jnp.bfloat16] * 6
    assert all((leaf == 1.5).all() for leaf in found if leaf is not extras[0])


@edit
class Noise(LayerEdit):
    """Where it is on, puts in place of each row of the output a number that only the edit's key decides."""

    on: jax.Array

    def after_block(self, h, ctx):
        return jnp.where(self.on > 0, jax.random.uniform(ctx.key, (h.shape[0], 1, 1), h.dtype), h)


def test_every_edit_has_a_key_of_its_own_in_every_layer():
    encoder, params = Encoder(tiny.config(), unroll=False), {"params": tiny.frozen_tree()}

    @jax.jit
    def captured(edits, key):
        return encoder.apply(params, tiny.batch(), edits, key=key, training=True, capture=True).captured

    def drawn(*on, seed=0):
        edits = sum((Edits((Noise(jnp.full(3, float(flag))),)) for flag in on), Edits())
        return np.asarray(captured(edits, jax.random.key(seed))[1:, :, 0, 0])  # [L, B]

    # the last edit of a layer that is on decides alone
    first, second, other = drawn(1, 0), drawn(0, 1), drawn(1, 0, seed=1)
    numbers = np.stack([first, second, other])
    assert len(np.unique(numbers)) == numbers.size
    np.testing.assert_array_equal(first, drawn(1, 0))


def test_without_training_hooks_see_no_key():
    seen = []

    @edit
    class Look(LayerEdit):
        leaf: jax.Array

        def after_block(self, h, ctx):
            seen.append((ctx.key, ctx.training))
            return h

    encoder = Encoder(tiny.config(), unroll=False)
    edits = Edits((Look(jnp.zeros(3)),))
    jax.eval_shape(lambda: encoder.apply({"params": tiny.frozen_tree()}, tiny.batch(), edits))
    assert seen and set(seen) == {(None, False)}


def test_a_field_may_not_hide_a_hook():
    with pytest.raises(TypeError, match="the field after_mlp of Hiding would hide the hook"):

        @edit
        class Hiding(LayerEdit):
            after_mlp: jax.Array


def test_a_class_without_the_decorator_is_refused():
    class Bare(LayerEdit):
        pass

    class Sub(Affine):
        pass

    for forgotten in (Bare(), Sub(jnp.ones(3))):
        with pytest.raises(UserError, match=f"{type(forgotten).__name__} is no pytree; put `@jp.edit` above"):
            check_stacked(Edits((forgotten,)), DIMS)
    check_stacked(Edits((edit(Sub)(jnp.ones(3)),)), DIMS)


class Returns(nn.Module):
    whole: bool

    @nn.compact
    def __call__(self):
        affine = Affine(self.param("factor", nn.initializers.ones, (3,)))
        return Edits((affine,)) if self.whole else affine


@dataclasses.dataclass(frozen=True)
class Own(Method):
    whole: bool = True

    def build(self, dims):
        return Returns(self.whole)


def test_a_module_that_returns_no_edits_is_told_what_to_return():
    for method in (Own(), Own(whole=False)):
        model = TunedModel(Encoder(tiny.config()), method, SequenceClassifier(3))
        trainable, _ = model.init(jax.random.key(0), tiny.frozen_tree())
        if method.whole:
            assert model.edits(trainable).layers[0].factor.shape == (3,)
        else:
            with pytest.raises(UserError, match=r"module of Own returns a Affine; .*`jp.Edits\(\(edit,\)\)`"):
                model.edits(trainable)


def test_a_method_that_cannot_be_hashed_is_refused_at_once():
    @dataclasses.dataclass
    class Thawed(Method):
        length: int = 1

        def build(self, dims):
            return Returns(True)

    with pytest.raises(UserError, match=r"Thawed cannot be hashed .*`@dataclasses.dataclass\(frozen=True\)`"):
        TunedModel(Encoder(tiny.config()), Thawed())


def test_the_tree_of_an_earlier_init_is_refused():
    model = TunedModel(Encoder(tiny.config()), HeadOnly(), SequenceClassifier(3))
    _, frozen = model.init(jax.random.key(0), tiny.frozen_tree())
    with pytest.raises(UserError, match=r"holds backbone, initialized, .* the tree that load_pretrained returned"):
        model.init(jax.random.key(0), frozen)


def test_what_a_person_needs_for_an_edit_is_public():
    assert {"edit", "static", "LayerEdit", "Edits", "Method", "Context", "Dims", "VirtualTokens", "register"} <= set(
        jp.__all__
    )
    assert jp.edit is edit and jp.LayerEdit is LayerEdit


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_rows_may_have_offsets_of_their_own(kind):
    batch, module = tiny.batch(kind=kind), Encoder(tiny.config(kind), unroll=False)
    variables = {"params": tiny.frozen_tree(kind)}
    run = jax.jit(lambda edits: module.apply(variables, batch, edits).hidden)
    mixed = run(
        Edits(position_offset=1) + Edits(row_offsets=jnp.array([0, 2, 0, 2])) + Edits(row_offsets=jnp.ones(4, int))
    )
    for row, offset in enumerate([2, 4, 2, 4]):
        seen = np.asarray(batch["attention_mask"][row])
        np.testing.assert_allclose(mixed[row][seen], run(Edits(position_offset=offset))[row][seen], atol=1e-5)
