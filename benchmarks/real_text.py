"""Test accuracy, time per epoch and peak memory on labelled text, beside Hugging Face PEFT on the same rows.

    python benchmarks/real_text.py --data FOLDER --backbone FOLDER --python-torch OTHER/bin/python

FOLDER of the data holds train.jsonl, validation.jsonl and test.jsonl with the columns text and label. Each entry runs
in a process of its own, one after another: batch 32, AdamW, linear decay, one seed. jaxprefix evaluates after every
epoch and takes the best checkpoint on the validation rows, as a run does by itself; the test accuracy after the last
epoch stands beside it, which is PEFT's rule here. Results of earlier calls on other entries are kept.
"""

import argparse
import json
import sys

from common import RESULTS, Worker, busy_seconds, save

# name -> worker, settings
ENTRIES = {
    "ours": ("tune_jaxprefix.py", {"method": "p_tuning_v2", "rate": 1e-2, "epochs": 8}),
    "ours_pooler": ("tune_jaxprefix.py", {"method": "p_tuning_v2", "pooling": "pooler", "rate": 1e-2, "epochs": 8}),
    "ours_zeros": ("tune_jaxprefix.py", {"method": "p_tuning_v2", "zeros": True, "rate": 1e-2, "epochs": 8}),
    "ours_no_op": ("tune_jaxprefix.py", {"method": "no_op", "rate": 1e-2, "epochs": 8}),
    "ours_prefix_tuning": ("tune_jaxprefix.py", {"method": "prefix_tuning", "rate": 1e-3, "epochs": 8}),
    "ours_head_only": ("tune_jaxprefix.py", {"method": "head_only", "rate": 1e-2, "epochs": 4}),
    "ours_full": ("tune_jaxprefix.py", {"method": "full", "rate": 2e-4, "epochs": 5}),
    "peft_prefix": ("tune_peft.py", {"method": "prefix", "rate": 1e-2, "epochs": 8}),
    "peft_prefix_zeros": ("tune_peft.py", {"method": "prefix", "zeros": True, "rate": 1e-2, "epochs": 8}),
    "peft_head_only": ("tune_peft.py", {"method": "head_only", "rate": 1e-2, "epochs": 4}),
    "peft_full": ("tune_peft.py", {"method": "full", "rate": 2e-4, "epochs": 5}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.jsonl, validation.jsonl, test.jsonl")
    parser.add_argument("--backbone", required=True, help="folder of a Hugging Face BERT")
    parser.add_argument(
        "--which", nargs="*", choices=ENTRIES, default=["ours", "ours_pooler", "peft_prefix"], help="what to run"
    )
    parser.add_argument("--length", type=int, default=16, help="virtual tokens of each layer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, help="instead of each entry's own")
    parser.add_argument("--python-torch", default=sys.executable, help="the interpreter that has torch and peft")
    parser.add_argument("--name", default="real_text", help="of the result file")
    options = parser.parse_args()

    path = RESULTS / f"{options.name}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    entries, used = before.get("figures", {}).get("entries", {}), before.get("packages", {})
    for name in options.which:
        script, settings = ENTRIES[name]
        settings = {**settings, "data": options.data, "backbone": options.backbone, "length": options.length}
        settings.update(batch=options.batch, seed=options.seed)
        if options.epochs:
            settings["epochs"] = options.epochs
        used_before = busy_seconds()
        # PEFT's OpenMP threads sleep while they wait: spinning ones lose more to whatever else runs
        environment = {"OMP_WAIT_POLICY": "passive"} if script == "tune_peft.py" else {}
        worker = Worker(
            options.python_torch if script == "tune_peft.py" else sys.executable,
            script,
            json.dumps(settings),
            environment=environment,
        )
        found = worker.first
        worker.close()
        used.update(found.pop("packages"))
        if used_before is not None:
            found["others_cores"] = round((busy_seconds() - used_before - found["cpu_seconds"]) / found["seconds"], 2)
        shown = ("method", "pooling", "zeros", "rate", "epochs")
        entries[name] = {**{key: settings[key] for key in shown if key in settings}, **found}
        print(name, entries[name], flush=True)
        figures = {"length": options.length, "batch": options.batch, "seed": options.seed, "entries": entries}
        save(options.name, figures, used)


if __name__ == "__main__":
    main()
