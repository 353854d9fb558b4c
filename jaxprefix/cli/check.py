"""`jaxprefix check CONFIG`: does a run's model do what it is meant to, before it is trained."""

from collections.abc import Sequence

ROWS = 4

USAGE = "CONFIG"
SUMMARY = "whether the model does what it is meant to, before it is trained"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status, 1 where a check failed."""
    from jaxprefix.cli.configs import parse_run

    config = parse_run(args, "jaxprefix check")
    import jax
    from rich.console import Console

    from jaxprefix.data import Batches
    from jaxprefix.self_check.check import check
    from jaxprefix.training.setup import set_up

    config.check()
    setup = set_up(config, splits=("train",))
    batch = Batches(setup.examples["train"], ROWS, config.seed).batch(0)
    found = check(setup.model, setup.trainable, setup.frozen, jax.tree.map(jax.numpy.asarray, batch))
    Console().print(found)
    return 0 if found.ok else 1
