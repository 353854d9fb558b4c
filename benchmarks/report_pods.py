"""The sections of docs/benchmarks.md on large models, many devices and several processes."""

from typing import Any

from report_parts import origin, table

MB = 1e6


def streaming_load(record: dict[str, Any]) -> str:
    figures = record["figures"]
    rows = [
        (name, *(f"{found[key] / MB:.0f}" for key in ("extra_bytes", "tree_bytes", "largest_leaf_bytes")))
        for name, found in figures["loads"].items()
    ]
    first = next(iter(figures["loads"].values()))
    return (
        f"## Host memory of a load\n\n{origin(record)}\n\n"
        + table(("load", "memory beside the tree, MB", "tree, MB", "largest leaf, MB"), rows)
        + f"\n\nA fake Llama of {figures['model_bytes'] / 1e9:.2f} GB in bfloat16, {figures['layers']} layers, over "
        "eight CPU devices (fsdp 4, tp 2), each load in a fresh process. CPU devices live in host memory, so "
        "leaves that are there already, and what the process held before, are taken off the peak (VmHWM) at each leaf; "
        "the table has the worst one. The largest "
        f"shard has {first['largest_shard_bytes'] / MB:.0f} MB and the largest tensor of a layer "
        f"{figures['layer_tensor_bytes'] / MB:.0f} MB, together {figures['bound_bytes'] / MB:.0f} MB. `shards` is "
        "how backbones are loaded; `leaves` makes each leaf whole on the host before its shards are placed. `hashed "
        "before` finds the fingerprints of the tensors in the cache. A CPU device takes a shard's buffer as it is, so "
        "`shards` needs next to nothing here; an accelerator has memory of its own, and there the shard's copy on the "
        f"host is to be added, {(first['extra_bytes'] + first['largest_shard_bytes']) / MB:.0f} MB "
        "by this sum, which was not measured."
    )


def int8(record: dict[str, Any]) -> str:
    figures = record["figures"]
    run, hidden, decoder = figures["quickstart"], figures["hidden"], figures["perplexity"]
    states = [
        (
            name,
            f"{found['bytes'] / MB:.1f}",
            f"{100 * found['relative_error']:.2f} %" if "relative_error" in found else "",
            f"{found['least_cosine']:.5f}" if "least_cosine" in found else "",
        )
        for name, found in hidden.items()
    ]
    ways = ("tuned on float32", "tuned on float32, asked on int8", "tuned on int8")
    tuned = [(way, f"{100 * run[way][run['metric']]:.1f} %", f"{run[way]['loss']:.4f}") for way in ways]
    words = [
        (name, f"{decoder[name]['bytes'] / MB:.2f}", f"{decoder[name]['perplexity']:.4f}")
        for name in ("float32", "int8")
    ]
    steps = "in full" if run["steps"] is None else f"{run['steps']} steps"
    return (
        f"## Int8 kernels\n\n{origin(record)}\n\nThe quickstart, {steps}, on the encoder in the package; its frozen "
        f"tree has {run['bytes float32'] / MB:.2f} MB in float32 and {run['bytes int8'] / MB:.2f} MB with int8 "
        "kernels. One seed, so the last digit says nothing.\n\n"
        + table(("run", f"{run['split']} {run['metric']}", "loss"), tuned)
        + f"\n\nHidden states of the encoder in {figures['name'].replace('_', '-')} for eight texts: root mean square "
        "error over that of the float32 states, and the least cosine between means over tokens.\n\n"
        + table(("frozen tree", "MB", "error", "cosine"), states)
        + f"\n\nThe decoder in the package, untuned, on {decoder['rows']} validation stories:\n\n"
        + table(("frozen tree", "MB", "perplexity"), words)
        + "\n\nEmbeddings stay in float, and in encoders this small they weigh much; "
        "of a large model nearly all is kernels."
    )


def kills_processes(record: dict[str, Any]) -> str:
    figures = record["figures"]
    found = figures["kills"]
    yes = lambda value: "yes" if value else "**no**"  # noqa: E731
    rows = [
        (
            number,
            "0 (coordinator)" if kill["victim"] == 0 else kill["victim"],
            f"{kill['begun']} to {kill['killed_after']}",
            kill["newest"],
            f"{kill['seconds']:.1f}",
            yes(kill["ended"] and kill["named"]),
            yes(kill["as_left"]),
        )
        for number, kill in enumerate(found, start=1)
    ]
    head = (
        "kill",
        "process",
        "steps of this start",
        "checkpoint left",
        "seconds until the last had ended",
        "all others ended, each naming the process",
        "began where the start before left a checkpoint",
    )
    others = [kill["seconds"] for kill in found if kill["victim"]]
    first = [kill["seconds"] for kill in found if not kill["victim"]]
    return (
        f"## One of {figures['processes']} processes killed {len(found)} times\n\n{origin(record)}\n\n"
        f"A run of {figures['steps']} steps on the CPU, in {figures['processes']} processes, with a checkpoint every "
        f"{figures['checkpoint_every']} steps. Each time one process is killed (`kill -9`) some steps after the run "
        "has gone on, and the same command is given again.\n\n"
        + table(head, rows)
        + f"\n\nThe others had ended after {min(others):.0f} to {max(others):.0f} s, and where process 0 was the one "
        f"after at most {max(first):.1f} s. At the end every leaf of the state equals that of a run that nothing "
        f"happened to, bit for bit: {yes(figures['same_bits'])}; so does every line of its log: "
        f"{yes(figures['same_log'])}. Stack traces of the coordination service in the logs: "
        f"{sum(kill['traces'] for kill in found)}."
    )


GIB = 2**30


def plans(record: dict[str, Any]) -> str:
    cases = {name: case for name, case in record["figures"]["cases"].items() if not name.endswith(" chips")}
    cases |= {name: case for name, case in record["figures"]["cases"].items() if "LoRA, 64 chips" in name}
    rows = [_plan_row(name, case) for name, case in cases.items()]
    head = ("run", "slice", "mesh", "rows x tokens", "remat", "fits", "GiB a device", "of", "FLOPs over least")
    parts = [
        f"## Plans for pods\n\n{origin(record)}\n\nWhat the TPU's compiler says of training steps from shapes alone; "
        "no TPU was used. Frozen weights in bfloat16.\n\n" + table((*head, "ms", "tokens/s", "of peak"), rows),
        "\n\nTimes are the compiler's estimate of its operations plus bytes over link bandwidth, and no measurement "
        "(docs/plan.md). MiB of one device:\n\n" + _memory_table(cases),
        "\n\nMiB that a device sends in a step, by what it is. Scalars of gradients that are summed, beside the "
        "trainable ones on a device:\n\n" + _traffic_table(cases),
    ]
    for name, case in cases.items():
        if case.get("suggestions"):
            tried = "; ".join(
                f"{one['change']}: {'fits' if one['fits'] else 'does not fit'}"
                + (f" ({one['largest'] / GIB:.1f} GiB)" if one["largest"] else "")
                for one in case["suggestions"]
            )
            parts.append(f"\n\n{name} ({case['topology']}): it does not fit. What was tried instead: {tried}.")
    return "".join(parts)


def _plan_row(name: str, case: dict[str, Any]) -> list[Any]:
    time, flops = case["estimate"], case["flops"]["train"]
    return [
        name,
        case["topology"],
        " x ".join(str(size) for size in case["mesh"].values()),
        f"{case['rows']} x {case['tokens']}",
        case["remat"],
        "yes" if case["fits"] else "no",
        f"{case['largest'] / GIB:.2f}",
        f"{case['capacity'] / GIB:.2f}",
        f"{flops / case['flops']['least']:.3f}" if flops else "",
        *(
            (f"{1e3 * time['seconds']:.0f}", f"{time['tokens_per_second']:,.0f}", f"{100 * time['utilisation']:.1f} %")
            if time
            else ("", "", "")
        ),
    ]


def _memory_table(cases: dict[str, Any]) -> str:
    kinds = ("frozen", "trainable", "optimizer", "batch", "activations", "padding", "program")
    found = {name: case["memory"]["train"] for name, case in cases.items() if case["memory"]["train"]}
    return table(
        ("run", *kinds), ((name, *(f"{sizes[kind] / 2**20:,.1f}" for kind in kinds)) for name, sizes in found.items())
    )


def _traffic_table(cases: dict[str, Any]) -> str:
    kinds = ("gradients", "frozen gradients", "weights", "state", "activations")
    rows = []
    for name, case in cases.items():
        if case["traffic"]:
            sent = {kind: sum(row["sent"] for row in case["traffic"] if row["what"] == kind) for kind in kinds}
            scalars = case["gradients"]
            rows.append(
                (
                    name,
                    *(f"{sent[kind] / 2**20:,.1f}" for kind in kinds),
                    f"{scalars['summed']:,}",
                    f"{scalars['trainable']:,}",
                )
            )
    return table(("run", *kinds, "summed", "trainable"), rows)


def weak_scaling(record: dict[str, Any]) -> str:
    cases, parts = record["figures"]["cases"], []
    for model, first in (("RoBERTa-large", "RoBERTa-large, APT"), ("Llama-3-8B", "Llama-3-8B, inducer + LoRA")):
        found = [cases[first]] + [
            case
            for name, case in cases.items()
            if name.startswith(f"{model}, ") and name.endswith(" chips") and "LoRA" not in name
        ]
        found.sort(key=lambda case: case["chips"])
        base = found[0]["estimate"]["seconds"]
        rows = [
            (
                case["chips"],
                " x ".join(str(size) for size in case["mesh"].values()),
                case["rows"],
                f"{case['largest'] / GIB:.2f}",
                f"{1e3 * case['estimate']['seconds']:.1f}",
                f"{100 * (case['estimate']['seconds'] / base - 1):+.1f} %",
                f"{case['estimate']['tokens_per_second']:,.0f}",
                f"{sum(row['sent'] for row in case['traffic'] if row['what'] == 'gradients') / 2**20:.1f}",
            )
            for case in found
        ]
        head = ("v5e chips", "mesh", "rows", "GiB a chip", "ms a step", "growth", "tokens/s", "MiB of gradients sent")
        parts.append(
            f"{model}, {found[0]['rows'] // found[0]['chips']} x {found[0]['tokens']} tokens a chip:\n\n"
            + table(head, rows)
        )
    return (
        f"## Weak scaling by estimate\n\n{origin(record)}\n\nThe batch grows with the chips; weights are divided over "
        "16 chips and those groups are copies of each other (mesh data x fsdp x tp). Times are the compiler's estimate "
        "plus bytes over link bandwidth, and no measurement.\n\n" + "\n\n".join(parts)
    )
