"""Child process of the tests: runs set up as arrays and as shapes on eight CPU devices, compared leaf by leaf."""

import itertools
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)

from jaxprefix.distributed.mesh import MeshShape, make_mesh  # noqa: E402
from jaxprefix.planning.shapes import run_shapes  # noqa: E402
from jaxprefix.training.setup import set_up  # noqa: E402
from jaxprefix.training.step import init_state  # noqa: E402
from tests.training.test_setup import KINDS, PRECISIONS, differing, run_of, write  # noqa: E402

MESH = MeshShape(2, 2, 2)


def main(home: Path) -> None:
    divided = 0
    for kind, (precision, quantize) in itertools.product(KINDS, PRECISIONS):
        run = run_of(write(home, kind), home, precision, quantize, mesh=MESH)
        setup = set_up(run)
        state = init_state(setup.model, setup.trainable, run.optimizer, jax.random.key(0), setup.mesh)
        shapes = run_shapes(run, make_mesh(MESH), labels=len(setup.labels), tokens=setup.longest)
        found = differing(setup.frozen, shapes.frozen) + differing(state.trainable, shapes.state.trainable)
        assert not found, (kind, precision, quantize, found)
        divided += sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(setup.frozen))
    assert divided > 100


if __name__ == "__main__":
    main(Path(sys.argv[1]))
