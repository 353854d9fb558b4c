"""Child process of the tests: exports adapters until it is killed. Arguments: folder, "exchange" or "rename"."""

import sys

import numpy as np

from jaxprefix.checkpoints import files
from jaxprefix.checkpoints.adapter import write_adapter


def export(folder, turn: int) -> None:
    tree = {"prefix": {"keys": np.full((200, 500), turn, np.float32)}, "head": {"bias": np.full(3, turn, np.int32)}}
    write_adapter(
        folder,
        leaves={"trainable": tree, "initialized": {"pooler": np.full(7, turn, np.float64)}},
        config_json=f'{{"type": "Run", "seed": {turn}}}',
        backbone={"name": "b", "turn": turn},
        metrics={"turn": turn},
        facts={},
    )


if __name__ == "__main__":
    if sys.argv[2] != "exchange":
        files._exchange = lambda a, b: False
    for turn in range(100_000):
        export(sys.argv[1], turn)
        print(turn, flush=True)
