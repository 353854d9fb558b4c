"""Child process of the tests: a few updates of a model with several methods on several meshes of eight CPU devices.

Arguments: the kind of the backbone, and as JSON which meshes each method is tried on beside one device. Prints JSON.
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


def backbone(kind: str) -> tuple:
    """A model of 8 heads, of which a llama has 4 for keys: those divide by 2, and by 8 they do not."""
    if kind == "bert":
        config = tiny.config(heads=8, hidden_dropout=0.0, attention_dropout=0.0)
        return Encoder(config, unroll=False), tiny.frozen_tree()
    sizes = {"heads": 8, "kv_heads": 4 if kind == "llama" else 8, "head_width": 2}
    config = decoders.config(kind, **sizes, hidden_dropout=0.0, attention_dropout=0.0)
    return Decoder(config, unroll=False), decoders.frozen_tree(kind, **sizes)


def run_on(model: TunedModel, trees: tuple, batch: dict, shape: tuple) -> dict:
    """Losses, gradients' norms and leaves after three updates, and how the leaves lie."""
    mesh = make_mesh(MeshShape(*shape), jax.devices()[: int(np.prod(shape))])
    trainable, frozen = jax.tree.map(np.asarray, trees)
    frozen = jax.device_put(frozen, tree_shardings(model.backbone, frozen, mesh))
    optimizer = Optimizer(learning_rate=1e-3, epsilon=1e-3)
    step = make_train_step(model, optimizer, mesh, steps=10, epoch_steps=5, accumulate=1)
    state = init_state(model, trainable, optimizer, jax.random.key(3), mesh)
    before = [leaf.sharding for leaf in jax.tree.leaves(state)]
    placed, metrics = put_batch(batch, mesh), []
    compiled.clear()
    for _ in range(3):
        state, found = step(state, optimizer.rates(), frozen, placed)
        metrics.append([float(found["loss"]), float(found["gradient_norm"])])
    assert before == [leaf.sharding for leaf in jax.tree.leaves(state)]
    assert compiled.count("jit(train_step)") == 1, compiled
    looked = make_eval_step(model, mesh)(state.trainable, frozen, placed)
    return {
        "metrics": metrics,
        "losses": np.asarray(looked["losses"]).tolist(),
        "leaves": {path: np.asarray(leaf).tolist() for path, leaf in flatten(state.trainable).items()},
        "specs": {path: list(leaf.sharding.spec) for path, leaf in flatten(state.trainable).items()},
        "shares": {
            path: leaf.addressable_shards[0].data.size / leaf.size for path, leaf in flatten(frozen["backbone"]).items()
        },
    }


def main(kind: str, meshes: dict[str, list[str]]) -> dict:
    module, tree = backbone(kind)
    batch = tiny.batch(LENGTHS) if kind == "bert" else decoders.batch(LENGTHS)
    batch = {name: np.asarray(value) for name, value in batch.items()}
    found = {}
    for name, method in METHODS.items():
        model = TunedModel(module, method, SequenceClassifier(num_labels=3, dropout=0.0))
        trees = model.init(jax.random.key(1), tree)
        found[name] = {mesh: run_on(model, trees, batch, MESHES[mesh]) for mesh in ("one", *meshes[name])}
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
