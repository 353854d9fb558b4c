"""Tokens per second of greedy decoding beside transformers with Hugging Face PEFT, interleaved in one run.

    python benchmarks/decoding.py --rounds 5 --python-torch OTHER/bin/python

Prefixes in every layer of a random GPT-2 of 12 x 768, float32; prompts of 32 tokens, 32 new ones, all of them made.
Every round decodes once with each worker; the first call of each (compilation) is left out of the rates. The time to
the first token is that of a call that makes one, in fresh processes, with an empty and with a filled cache of compiled
programs. The result goes to benchmarks/results/decoding_12x768.json.
"""

import argparse
import statistics
import sys
import tempfile

from common import Worker, busy_seconds, save


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=32, help="of each prompt")
    parser.add_argument("--new", type=int, default=32, help="new tokens of each row")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--lengths", type=int, nargs="*", default=[20, 128], help="virtual tokens of each layer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of torch; XLA takes one for each core")
    parser.add_argument("--python-torch", default=sys.executable, help="the interpreter that has torch and peft")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    rows, used, others = [], {}, []
    for batch in options.batches:
        for length in options.lengths:
            shape = [*("--layers", options.layers, "--width", options.width, "--heads", options.heads)]
            shape += ["--batch", batch, "--tokens", options.tokens, "--length", length]
            torch = [*shape, "--new", options.new, "--threads", options.threads]
            workers = {
                "PEFT": Worker(options.python_torch, "decode_peft.py", *torch),
                "jaxprefix": Worker(sys.executable, "decode_jaxprefix.py", *shape, "--new", options.new),
            }
            times: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(options.rounds):
                for name, worker in workers.items():
                    before = busy_seconds()
                    step = worker.ask()
                    times[name].append(step["wall"])
                    if before is not None:
                        own = step["user"] + step["system"]
                        others.append(max(0.0, (busy_seconds() - before - own) / step["wall"]))
            first = {name: worker.first["first_step"] for name, worker in workers.items()}
            for worker in workers.values():
                used.update(worker.first["packages"])
                worker.close()
            paired = [a / b for a, b in zip(times["PEFT"], times["jaxprefix"], strict=True)]
            rows.append(
                {
                    "batch": batch,
                    "length": length,
                    "tokens_per_second": {n: round(batch * options.new / min(t), 1) for n, t in times.items()},
                    "ratio_of_minima": round(min(times["PEFT"]) / min(times["jaxprefix"]), 2),
                    "ratio_paired_median": round(statistics.median(paired), 2),
                    "first_call_seconds": {name: round(seconds, 2) for name, seconds in first.items()},
                }
            )
            print(rows[-1], flush=True)
    figures = {"rows": rows, "first_token": first_token(options), "rounds": options.rounds}
    figures["shape"] = {name: getattr(options, name) for name in ("layers", "width", "heads", "tokens", "new")}
    save(f"decoding_{options.layers}x{options.width}", figures, used, statistics.median(others) if others else None)


def first_token(options: argparse.Namespace) -> dict[str, float]:
    """Seconds to the first token of one prompt: PEFT, ours with an empty cache, with a filled one, compiled already."""
    shape = [*("--layers", options.layers, "--width", options.width, "--heads", options.heads), "--batch", 1]
    shape += ["--tokens", options.tokens, "--length", options.lengths[0], "--new", 1]
    found = {}
    worker = Worker(options.python_torch, "decode_peft.py", *shape, "--threads", options.threads)
    found["PEFT, first call"] = worker.first["first_step"]
    found["PEFT, later"] = min(worker.ask()["wall"] for _ in range(3))
    worker.close()
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty cache", "filled cache"):
            worker = Worker(sys.executable, "decode_jaxprefix.py", *shape, "--cache", cache)
            found[f"jaxprefix, {name}"] = worker.first["first_step"]
            found["jaxprefix, later"] = min(worker.ask()["wall"] for _ in range(3))
            worker.close()
    return {name: round(seconds, 3) for name, seconds in found.items()}


if __name__ == "__main__":
    main()
