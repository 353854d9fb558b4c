"""Child process of the tests: one run on as many CPU devices as its first argument says; prints JSON."""

import json
import sys
from pathlib import Path

import jax

from jaxprefix.distributed.mesh import MeshShape
from jaxprefix.errors import UserError
from jaxprefix.population.members import grid
from jaxprefix.population.population import train_population
from jaxprefix.training.loop import train
from tests.training.watching import lines, watched
from tests.training.worlds import make_world


def main(devices: int, folder: Path) -> dict:
    jax.config.update("jax_num_cpu_devices", devices)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **about: compiled.append(about.get("fun_name")) if "backend_compile" in event else None
    )
    world = make_world(folder / "world")
    usual = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "unroll": False}
    try:
        train(world.run(folder / "refused", batch_size=12, **usual))
        sentence = ""
    except UserError as error:
        sentence = str(error)
    mesh = MeshShape(data=-1, fsdp=2, tp=2) if devices > 1 else MeshShape()
    seen = watched(world.run(folder / "run", steps=4, accumulate=2, mesh=mesh, **usual))
    leaves = jax.tree.leaves(seen.state)
    population = world.run(folder / "members", steps=4, mesh=mesh, **usual)
    members = train_population(population, grid({"seed": (1, 2)}), independent_order=True, vmap_size=2).members
    return {
        "sentence": sentence,
        "metrics": seen.result.metrics,
        "devices": [len(leaf.sharding.device_set) for leaf in leaves],
        "members": [member.metrics["test"]["loss"] for member in members],
        "norms": [line["gradient_norm"] for line in lines(folder / "run") if "loss" in line],
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), Path(sys.argv[2]))))
