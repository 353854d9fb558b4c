"""Seconds of one mixed batch of many adapters beside one call for each adapter, interleaved in one process.

    python benchmarks/many_adapters.py

The shape is that of the encoder in the package; adapters are random and of the same method (P-Tuning v2 of one length)
or of eight different ones. Every round answers the same texts in three ways: a bank with all rows in one batch, a call
for each adapter with its own rows, and, as the least that could be hoped for, all rows with one adapter.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from common import busy_seconds, save, versions


def methods(mixture: str, count: int, length: int) -> list[Any]:
    import jaxprefix as jp

    if mixture == "same method":
        return [jp.PTuningV2(length=length)] * count
    different = [
        jp.PTuningV2(length=length),
        jp.PTuningV2(length=length // 2, no_op_start=True, position_offset=False),
        jp.AdaptivePrefix(length=length),
        jp.LoRA(rank=8, alpha=16.0),
        jp.Inducer(),
        jp.ParallelAdapter(width=16),
        jp.PTuningV2(length=length) + jp.LoRA(("q", "v"), rank=4),
        jp.HeadOnly(),
    ]
    return [different[index % len(different)] for index in range(count)]


def make_adapters(mixture: str, count: int, length: int) -> dict[str, Any]:
    """Random adapters with two to four labels on the encoder of the package."""
    import jax

    import jaxprefix as jp
    from jaxprefix.distributed.mesh import make_mesh
    from jaxprefix.training.setup import read_run_backbone

    run = jp.Run(jp.Classification(jp.Files(train="none")), backbone="tiny-encoder")
    backbone = read_run_backbone(run, make_mesh(jp.MeshShape(data=1), jax.devices()[:1]))
    found = {}
    for index, method in enumerate(methods(mixture, count, length)):
        labels = 2 + index % 3
        model = jp.TunedModel(backbone.module, method, jp.SequenceClassifier(labels))
        trainable, frozen = model.init(jax.random.key(index), backbone.tree)
        trainable = jax.tree.map(lambda leaf: leaf + 0.02, trainable)  # no update of zeros, which all start with
        names = tuple(map(str, range(labels)))
        found[f"adapter {index}"] = jp.Adapter(model, trainable, frozen, backbone, run, {"labels": list(names)}, {})
    return found


def ways(adapters: dict[str, Any], rows: int, tokens: int) -> dict[str, Callable[[], list[Any]]]:
    """The three ways to answer; each returns a list of logits."""
    import jax
    import numpy as np

    import jaxprefix as jp

    random, dims = np.random.default_rng(0), next(iter(adapters.values())).backbone.module.dims
    shape = (rows * len(adapters), tokens)
    batch = {
        "input_ids": random.integers(5, dims.vocab, shape).astype(np.int32),
        "attention_mask": np.arange(tokens) < random.integers(tokens // 2, tokens + 1, shape[0])[:, None],
        "token_type_ids": np.zeros(shape, np.int32),
    }
    names = [name for name in adapters for _ in range(rows)]
    parts = [{key: leaf[rows * i : rows * (i + 1)] for key, leaf in batch.items()} for i in range(len(adapters))]
    bank, first = jp.Bank(adapters), next(iter(adapters.values()))

    def apply(one: Any, own: dict[str, Any]) -> Any:
        return one.model.apply(one.trainable, one.frozen, own).logits

    def single() -> list[Any]:
        return jax.block_until_ready([apply(*pair) for pair in zip(adapters.values(), parts, strict=True)])

    def check() -> None:
        together, alone = np.asarray(bank.logits(batch, names)), single()
        for index, logits in enumerate(alone):
            own = together[rows * index : rows * (index + 1), : logits.shape[1]]
            np.testing.assert_allclose(own, logits, atol=1e-4, rtol=1e-4)

    check()
    return {
        "bank, one batch": lambda: jax.block_until_ready([bank.logits(batch, names)]),
        "a call for each adapter": single,
        "one adapter, one batch": lambda: jax.block_until_ready([apply(first, batch)]),
    }


def measure(answers: dict[str, Callable[[], list[Any]]], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each way, and those of a call for each adapter over them."""
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    processor: dict[str, list[float]] = {name: [] for name in answers}
    for number in range(rounds + 1):
        for name, answer in answers.items():
            started, used = time.perf_counter(), time.process_time()
            answer()
            if number:  # the first round compiles
                seconds[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - used)
    base = "a call for each adapter"
    found = {}
    for name, times in seconds.items():
        paired = [b / a for a, b in zip(times, seconds[base], strict=True)]
        found[name] = {
            "milliseconds_min": round(1000 * min(times), 2),
            "milliseconds_median": round(1000 * statistics.median(times), 2),
            "cpu_milliseconds_median": round(1000 * statistics.median(processor[name]), 2),
            "ratio_of_minima": round(min(seconds[base]) / min(times), 3),
            "ratio_paired_median": round(statistics.median(paired), 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4, help="of each adapter")
    parser.add_argument("--tokens", type=int, nargs="*", default=[16, 64], help="of each row")
    parser.add_argument("--length", type=int, default=16, help="virtual tokens of the longest prefix")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    busy, started, own = busy_seconds(), time.perf_counter(), time.process_time()
    found: dict[str, dict] = {}
    for mixture in ("same method", "different methods"):
        adapters = make_adapters(mixture, options.adapters, options.length)
        for tokens in options.tokens:
            name = f"{mixture}, {tokens} tokens"
            found[name] = measure(ways(adapters, options.rows, tokens), options.rounds)
            print(name, found[name], flush=True)
    sizes = {name: getattr(options, name) for name in ("adapters", "rows", "length", "rounds")}
    others = None
    if busy is not None:
        used = time.process_time() - own
        others = max(0.0, busy_seconds() - busy - used) / (time.perf_counter() - started)
    save("many_adapters", {"sizes": sizes, "answers": found}, versions(("jax", "jaxlib", "flax")), others)


if __name__ == "__main__":
    main()
