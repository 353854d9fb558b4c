"""Sections on versions of the package beside each other, and on tasks on real text."""

from collections.abc import Mapping
from typing import Any

from report_parts import TITLES, origin, table

NAMES = {  # what `before_after.py` measures: title, unit
    "quickstart wall": "quickstart, seconds",
    "quickstart cpu": "quickstart, CPU seconds",
    "quickstart peak_mib": "quickstart, peak MiB",
    "describe wall": "`jaxprefix describe`, seconds",
    "describe cpu": "`jaxprefix describe`, CPU seconds",
    "update import": "import, seconds",
    "update compile": "compiling an update, seconds",
    "update step": "an update, seconds",
    "update peak_mib": "updates, peak MiB",
    "update cpu": "import, compile and 12 updates, CPU seconds",
    "preprocess wall": "preprocessing, seconds",
    "preprocess cpu": "preprocessing, CPU seconds",
    "preprocess peak_mib": "preprocessing, peak MiB",
}


def before_after(record: dict[str, Any]) -> str:
    figures = record["figures"]
    parts = [
        f"## Versions beside each other\n\n{origin(record)}\n\n{figures['rounds']} interleaved rounds with "
        f"{figures['now']} on {figures['cpus']} of the cores; {figures['steps']} updates of the quickstart, "
        f"{figures['rows']:,} rows to preprocess. Medians, and the median of the rounds' ratios, now over before, with "
        "its 95 % bootstrap interval."
    ]
    for other, found in figures["against"].items():
        head = ("what", other, figures["now"], "ratio", "95 % interval")
        rows = [
            (
                title,
                *(f"{found[name][key]:.4g}" for key in ("before", "now")),
                _ratio(found[name]),
                _interval(found[name]),
            )
            for name, title in NAMES.items()
        ]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def _ratio(row: Mapping[str, Any]) -> str:
    return f"{row['ratio']:.3f}"


def _interval(row: Mapping[str, Any]) -> str:
    return "{:.3f} to {:.3f}".format(*row["interval"])


def same_programs(record: dict[str, Any]) -> str:
    figures = record["figures"]
    rows = [(f"`{name}`", ", ".join(found)) for name, found in sorted(figures["different"].items())]
    return (
        f"## The same bits as before\n\n{origin(record)}\n\n{figures['compared']} combinations of a method and a "
        f"backbone: leaves after 20 updates, logits, and the compiled update (program, FLOPs and temporaries as the "
        f"compiler counts them). {len(rows)} differ in something.\n\n"
        + (table(("combination", "differs in"), rows) if rows else "")
    ).rstrip()


def same_predictions(record: dict[str, Any]) -> str:
    figures = record["figures"]
    rows = [
        (f"`{name}`", "another answer" if by is None else f"scores differ by at most {by:.2g}")
        for name, by in sorted(figures["different"].items())
    ]
    return (
        f"## The same answers as before\n\n{origin(record)}\n\n{figures['asked']} adapters written at 0f4559f, "
        f"asked by {figures['before']} and now: labels with scores, tags, texts. {figures['asked'] - len(rows)} answer "
        "the same to the bit.\n\n" + (table(("adapter", "difference"), rows) if rows else "")
    ).rstrip()


def commands(record: dict[str, Any]) -> str:
    figures = record["figures"]
    names = list(next(iter(figures["seconds"].values())))
    rows = [(title, *(f"{found[name]:.2f}" for name in names)) for title, found in figures["seconds"].items()]
    return (
        f"## Commands\n\n{origin(record)}\n\nCPU seconds of fresh processes, the smallest of {figures['rounds']}; a "
        "classifier of two updates on the embedded encoder.\n\n" + table(("command", *names), rows)
    )


def debian_tags(record: dict[str, Any]) -> str:
    figures = record["figures"]
    rows = [
        (
            row["metric"],
            TITLES[row["method"]],
            row["rate"],
            f"{row['mean']:.3f}",
            f"{row['deviation']:.3f}",
            _values(row),
        )
        for row in figures["rows"]
    ]
    constant = figures["constant"]
    rows.insert(0, ("f1_micro", "the best constant set of labels", "", f"{constant['f1_micro']:.3f}", "", ""))
    return (
        f"## Labels and a number for real text\n\n{origin(record)}\n\nDescriptions of Debian packages: all their tags "
        f"(test f1_micro), and the logarithm of their installed size (test spearman); {figures['epochs']} epochs. The "
        f"constant set is {', '.join(f'`{label}`' for label in constant['labels'])}, the best there is for the test "
        "rows.\n\n" + table(("metric", "method", "rate", "mean", "deviation", "seeds"), rows)
    )


def _values(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:.3f}" for value in row["values"])
