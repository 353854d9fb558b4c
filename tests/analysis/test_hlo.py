"""Products and trip counts of loops are read off programs as they are written for CPUs and for TPUs."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxprefix.analysis.hlo import Array, Module
from jaxprefix.analysis.products import product_flops

# a scan of six turns as the TPU's compiler writes it: no known_trip_count, products as convolutions
TPU = (Path(__file__).parent / "loop.hlo").read_text()
PRODUCT = 2 * 8 * 128 * 64 * 256
BATCHED = 2 * 8 * 128 * 128 * 64


def test_products_of_a_tpu_program():
    assert product_flops(Module(TPU)) == 6 * (PRODUCT + BATCHED)


def test_a_loop_whose_step_depends_on_data_is_refused():
    text = TPU.replace("%two = s32[] constant(2)", "%two = s32[] custom-call(%x)")
    with pytest.raises(ValueError, match=r"while\.1 has no known number of turns"):
        product_flops(Module(text))


def test_a_loop_of_unknown_length_without_anything_to_count_is_passed_over():
    text = TPU.replace("%two = s32[] constant(2)", "%two = s32[] custom-call(%x)").replace("convolution(", "add(")
    assert product_flops(Module(text)) == 0


def test_types_names_and_places():
    module = Module(TPU)
    start = module.computations["main.1"]["start"]
    assert start.operands == ("zero", "x", "w", "two")
    assert start.arrays[1] == Array("bf16", (8, 128, 64))
    assert start.arrays[1].nbytes == 2 * 8 * 128 * 64
    assert module.computations["body.1"]["fusion.1"].op_name == "a(b)/c"
    assert module.computations["main.1"]["while.1"].root
    assert [name for name, it in module.computations["test.1"].items() if it.root] == ["less.2"]


def test_the_kernel_that_replaces_attention_is_counted():
    call = 'custom-call(%x, %x, %x), custom_call_target="tpu_custom_call"'
    text = TPU.replace("fusion(%x.1, %x.1), kind=kOutput, calls=%fused.2", call.replace("%x", "%x.1"))
    assert product_flops(Module(text)) == 6 * (PRODUCT + 2 * BATCHED)


@pytest.mark.parametrize("turns", [1, 2, 7])
def test_turns_are_found_where_the_compiler_does_not_say_them(turns):
    """The count of a program is the same after what the compiler knows of its loops is struck out."""

    def f(x, w):
        def layer(h, w):
            inner = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ w), h)
            return inner, inner.sum()

        return jax.lax.scan(layer, x, w)

    text = jax.jit(f).lower(jnp.ones((4, 8)), jnp.ones((turns, 8, 8))).compile().as_text()
    struck = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', "", text)
    assert struck != text or turns == 1
    assert product_flops(Module(text)) == product_flops(Module(struck)) == turns * 3 * 2 * 4 * 8 * 8


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Module("HloModule nothing")
