"""A warm-up that the run would end in."""

import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError


@pytest.mark.parametrize(
    ("fields", "steps", "taken"),
    [({"warmup": 500}, 6, 500), ({"warmup": 6}, 6, 6), ({"warmup_share": 0.9}, 5, 5), ({"warmup_share": 0.1}, 1, 1)],
)
def test_a_warmup_that_never_ends_is_refused_with_both_numbers(fields, steps, taken):
    optimizer = jp.Optimizer(**fields)
    with pytest.raises(
        UserError, match=rf"warm-up takes {taken} steps and the run {steps}, .* set {next(iter(fields))}"
    ):
        optimizer.check_steps(steps)
    run = jp.Run(jp.Classification(jp.Files("none.jsonl")), "run", optimizer=optimizer, steps=steps)
    with pytest.raises(UserError, match=rf"warm-up takes {taken} steps and the run {steps}"):
        run.check()


@pytest.mark.parametrize(("fields", "steps"), [({}, 1), ({"warmup": 5}, 6), ({"warmup_share": 0.9}, 10)])
def test_a_warmup_that_ends_is_taken(fields, steps):
    jp.Optimizer(**fields).check_steps(steps)
