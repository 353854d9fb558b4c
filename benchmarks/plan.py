"""What the TPU compiler says of runs on pods, from shapes alone; no TPU, no weights.

    python benchmarks/plan.py [NAME ...]

Needs the extra `tpu`. Every case takes the compiler some minutes; cases that the result file has are left as they are,
so that an interrupted run goes on. With names, these cases are made anew.
"""

import json
import os
import sys
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

from common import RESULTS, save, versions

NAME = "plan"
SCALES = (64, 256, 32, 128)  # beside 16, which are cases of their own
ROBERTA, LLAMA_8B, LLAMA_70B = "roberta-large", "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-70B"


def classify(rows: int, mesh: dict[str, int], remat: str = "dots") -> Any:
    """RoBERTa-large with adaptive prefixes, rows of 128 tokens."""
    import jaxprefix as jp

    task = jp.Classification(jp.Files("none.jsonl"), max_length=128)
    method = jp.AdaptivePrefix(length=20)
    return jp.Run(task, ROBERTA, method, precision="bfloat16", batch_size=rows, mesh=jp.MeshShape(**mesh), remat=remat)


def write(name: str, rows: int, mesh: dict[str, int], remat: str = "dots") -> Any:
    """A decoder with inducers and LoRA, rows of 1,024 tokens."""
    import jaxprefix as jp

    task = jp.CausalLanguage(jp.Files("none.jsonl"), max_length=1024)
    method = jp.Inducer() + jp.LoRA(("q", "v"), rank=8)
    return jp.Run(task, name, method, precision="bfloat16", batch_size=rows, mesh=jp.MeshShape(**mesh), remat=remat)


def cases() -> dict[str, tuple[str, Any]]:
    """Topology and run of every case."""
    found = {
        "RoBERTa-large, APT": ("v5e-16", classify(512, {"data": 1, "fsdp": 16})),
        "Llama-3-8B, inducer + LoRA": ("v5e-16", write(LLAMA_8B, 16, {"data": 1, "fsdp": 16})),
        "Llama-3-8B, inducer + LoRA, 64 chips": ("v5p-128", write(LLAMA_8B, 256, {"data": 4, "fsdp": 16})),
        "Llama-3-70B, inducer + LoRA": ("v5p-256", write(LLAMA_70B, 128, {"data": 4, "fsdp": 8, "tp": 4})),
        "Llama-3-70B, too big": ("v5e-16", write(LLAMA_70B, 16, {"data": 1, "fsdp": 16}, remat="none")),
    }
    for remat in ("none", "full"):  # beside dots: what a default is to be
        mesh = {"data": 1, "fsdp": 16}
        found[f"RoBERTa-large, APT, remat {remat}"] = ("v5e-16", classify(512, mesh, remat))
        found[f"Llama-3-8B, inducer + LoRA, remat {remat}"] = ("v5e-16", write(LLAMA_8B, 16, mesh, remat))
    for chips in SCALES:
        mesh = {"data": chips // 16, "fsdp": 16}
        found[f"RoBERTa-large, {chips} chips"] = (f"v5e-{chips}", classify(32 * chips, mesh))
        found[f"Llama-3-8B, {chips} chips"] = (f"v5e-{chips}", write(LLAMA_8B, chips, mesh))
    return found


def main() -> None:
    from jaxprefix.analysis.topologies import find_topology
    from jaxprefix.planning.plan import as_json, plan_run
    from jaxprefix.planning.search import suggestions

    wanted = sys.argv[1:] or [name for name in cases() if name not in made()]
    del sys.argv[1:]  # a few cases made anew are no other command
    for name in wanted:
        topology, run = cases()[name]
        plan = plan_run(run, find_topology(topology), evaluate=not name.endswith((" chips", " none", " full")))
        found = as_json(plan)
        if not plan.fits:
            found["suggestions"] = suggestions(plan, budget=1800)
        print(name, found["fits"], found["largest"], found["estimate"], found["problems"], found.get("suggestions"))
        save(NAME, {"cases": {**made(), name: found}}, versions(("jax", "jaxlib", "libtpu")))


def made() -> dict[str, Any]:
    """The cases in the result file."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["figures"]["cases"] if path.exists() else {}


if __name__ == "__main__":
    main()
