"""The table of commands that were killed, for docs/benchmarks.md and docs/reliability.md."""

from typing import Any

from report_parts import origin, table


def kills(record: dict[str, Any]) -> str:
    rows = []
    for name, found in record["figures"]["commands"].items():
        kinds, outcomes = found["by_kind"], found["outcomes"]
        others = ", ".join(f"{count} {how}" for how, count in outcomes.items() if how != "same" and count) or "none"
        done = f"{found['kills']} of {found['wanted']}"
        rows.append((f"`{name}`", found["trials"], done, *_kinds(kinds), outcomes["same"], others))
    head = ("command", "trials", "kills or pauses", "at a random moment", "before a write", "same in the end", "others")
    writes = {}
    for found in record["figures"]["commands"].values():
        for event, count in found["before"].items():
            writes[event] = writes.get(event, 0) + count
    told = ", ".join(f"{event} {count}" for event, count in sorted(writes.items(), key=lambda pair: -pair[1]))
    return (
        f"## Commands that were killed\n\n{origin(record)}\n\n"
        "A trial is one to three kills (`kill -9`) in a row and then the command to its end. `same`: no output was "
        "seen half written after a kill, and in the end every file is there, none more, each with the same content "
        "but for measured times; checkpoints by the digests of their leaves.\n\n"
        + table(head, rows)
        + f"\n\nWrites that kills came before: {told or 'none'}."
    )


def _kinds(kinds: dict[str, int]) -> tuple[Any, Any]:
    if "pause" in kinds:
        return f"{kinds['pause']} (paused)", ""
    return kinds.get("random", 0), kinds.get("aimed", 0)
