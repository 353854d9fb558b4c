"""Child process of the tests: a few updates of a model with several methods on several meshes of eight CPU devices.

Argument: as JSON the meshes that each method of each kind of backbone is trained on beside one device. Prints JSON.
"""

import json
import sys

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)
compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **about: compiled.append(about.get("fun_name")) if "backend_compile" in event else None
)

from jaxprefix.distributed.mesh import MeshShape, make_mesh, put_batch  # noqa: E402
from jaxprefix.methods import AdaptivePrefix, FullFineTuning, Inducer, LoRA, PTuningV2  # noqa: E402
from jaxprefix.models.decoder import Decoder  # noqa: E402
from jaxprefix.models.encoder import Encoder  # noqa: E402
from jaxprefix.models.tuned import TunedModel  # noqa: E402
from jaxprefix.tasks import SequenceClassifier  # noqa: E402
from jaxprefix.training.optimizer import Optimizer  # noqa: E402
from jaxprefix.training.sharding import tree_shardings  # noqa: E402
from jaxprefix.training.step import init_state, make_eval_step, make_train_step  # noqa: E402
from jaxprefix.trees import flatten  # noqa: E402
from tests import decoders, tiny  # noqa: E402

METHODS = {
    "p_tuning_v2": PTuningV2(length=3),
    "adaptive_prefix": AdaptivePrefix(length=3),
    "inducer_lora": Inducer(key_rank=2) + LoRA(rank=2),
    "full": FullFineTuning(),
}
MESHES = {"one": (1, 1, 1), "data": (8, 1, 1), "both": (2, 4, 1), "all": (2, 2, 2), "tp": (1, 1, 8)}
LENGTHS = (9, 6, 4, 1, 9, 8, 2, 5)
OPTIMIZER = Optimizer(learning_rate=1e-3, epsilon=1e-3)


def backbone(kind: str) -> tuple:
    """A model of 8 heads, of which a llama has 4 for keys: those divide by 2, and by 8 they do not."""
    if kind == "bert":
        config = tiny.config(heads=8, hidden_dropout=0.0, attention_dropout=0.0)
        return Encoder(config, unroll=False), tiny.frozen_tree()
    sizes = {"heads": 8, "kv_heads": 4 if kind == "llama" else 8, "head_width": 2}
    config = decoders.config(kind, **sizes, hidden_dropout=0.0, attention_dropout=0.0)
    return Decoder(config, unroll=False), decoders.frozen_tree(kind, **sizes)


class Placed:
    """A model's leaves on a mesh, before and after three updates."""

    def __init__(self, model: TunedModel, trees: tuple, shape: tuple):
        self.model, self.mesh = model, make_mesh(MeshShape(*shape), jax.devices()[: int(np.prod(shape))])
        trainable, frozen = jax.tree.map(np.asarray, trees)
        self.frozen = jax.device_put(frozen, tree_shardings(model.backbone, frozen, self.mesh))
        self.state = init_state(model, trainable, OPTIMIZER, jax.random.key(3), self.mesh)

    def lie(self) -> dict:
        """How the leaves lie."""
        trainable, backbone = flatten(self.state.trainable), flatten(self.frozen["backbone"])
        return {
            "specs": {path: list(leaf.sharding.spec) for path, leaf in trainable.items()},
            "shares": {path: leaf.addressable_shards[0].data.size / leaf.size for path, leaf in backbone.items()},
        }

    def train(self, batch: dict) -> dict:
        """Losses, gradients' norms and leaves after three updates, which leave the leaves where they lie."""
        step = make_train_step(self.model, OPTIMIZER, self.mesh, steps=10, epoch_steps=5, accumulate=1)
        before = [leaf.sharding for leaf in jax.tree.leaves(self.state)]
        placed, metrics = put_batch(batch, self.mesh), []
        compiled.clear()
        for _ in range(3):
            self.state, found = step(self.state, OPTIMIZER.rates(), self.frozen, placed)
            metrics.append([float(found["loss"]), float(found["gradient_norm"])])
        assert before == [leaf.sharding for leaf in jax.tree.leaves(self.state)]
        assert compiled.count("jit(train_step)") == 1, compiled
        looked = make_eval_step(self.model, self.mesh)(self.state.trainable, self.frozen, placed)
        return {
            "metrics": metrics,
            "losses": np.asarray(looked["losses"]).tolist(),
            "leaves": {path: np.asarray(leaf).tolist() for path, leaf in flatten(self.state.trainable).items()},
        }


def main(cases: dict[str, dict[str, list[str]]]) -> dict:
    trained, placed = {}, {}
    for kind, meshes in cases.items():
        module, tree = backbone(kind)
        batch = tiny.batch(LENGTHS) if kind == "bert" else decoders.batch(LENGTHS)
        batch = {name: np.asarray(value) for name, value in batch.items()}
        trained[kind], placed[kind] = {}, {}
        for name, method in METHODS.items():
            model = TunedModel(module, method, SequenceClassifier(num_labels=3, dropout=0.0))
            trees = model.init(jax.random.key(1), tree)
            there = {mesh: Placed(model, trees, shape) for mesh, shape in MESHES.items()}
            placed[kind][name] = {mesh: one.lie() for mesh, one in there.items()}
            trained[kind][name] = {mesh: there[mesh].train(batch) for mesh in ("one", *meshes[name])}
    return {"trained": trained, "placed": placed}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
