"""Annotations of arguments and of what is returned are checked, in functions within functions too."""

import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, TypeCheckError, jaxtyped

from tests.checking import checked

typed = jaxtyped(typechecker=checked)
ROWS, ROW = jnp.ones((2, 3)), jnp.ones(3)


@typed
def product(x: Float[Array, "B N"], y: Float[Array, " N"], flag: int = 1) -> Float[Array, " B"]:
    return x @ y if flag else x[0]


@typed
def nothing(x: Float[Array, "B N"]) -> None:
    return 1


def within(x, cut):
    @typed
    def inner(y: Float[Array, " N"]) -> Float[Array, " N"]:
        return y[:cut]

    return inner(x)


def test_what_fits_is_let_through():
    assert product(ROWS, ROW).shape == (2,) and within(ROW, 3).shape == (3,) and within(ROW[:2], 2).shape == (2,)


@pytest.mark.parametrize("call", [
    lambda: product(ROWS, ROW[:2]), lambda: product(ROWS, 1), lambda: product(ROWS, ROW, "a"),
    lambda: within(ROWS, 2), lambda: [within(ROW, 3), within(ROWS, 3)],
])  # fmt: skip
def test_an_argument_that_does_not_fit_is_refused(call):
    with pytest.raises(TypeCheckError, match="checking the parameters"):
        call()


@pytest.mark.parametrize("call", [
    lambda: product(ROWS, ROW, 0), lambda: nothing(ROWS), lambda: within(ROW, 2),
    lambda: [within(ROW, 3), within(ROW, 2)],
])  # fmt: skip
def test_a_result_that_does_not_fit_is_refused(call):
    with pytest.raises(TypeCheckError, match="checking the return value"):
        call()
