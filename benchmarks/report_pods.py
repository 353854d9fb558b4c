"""Sections of docs/benchmarks.md about many devices and processes."""

from typing import Any

from report_parts import origin, table


def kills(record: dict[str, Any]) -> str:
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
