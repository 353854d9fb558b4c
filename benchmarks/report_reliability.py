"""The sections of docs/reliability.md that are made of results: `python benchmarks/report_reliability.py`."""

import json
import re
from typing import Any

from common import RESULTS, ROOT
from report_parts import origin, table

PAGE = ROOT / "docs" / "reliability.md"
SAID = {
    "sentence": "one sentence",
    "right": "right",
    "traceback": "traceback",
    "wrong": "wrong",
    "no sentence": "no single sentence",
    "no answer": "no answer in 60 s",
    "memory": "memory",
    "forbidden": "write, network, code",
}


def fuzz(record: dict[str, Any]) -> str:
    """Gates and outcomes."""
    gates = record["figures"]["gates"]
    rows = [
        (
            name,
            f"{gate['trials']:,}",
            *(f"{gate['outcomes'].get(outcome, 0):,}" for outcome in SAID),
            f"{100 * gate['past'] / gate['trials']:.0f} %",
        )
        for name, gate in gates.items()
    ]
    checks = "\n".join(f"- {name}: {gate['first_check']}." for name, gate in gates.items())
    return (
        f"{origin(record)}\n\n"
        + table(("gate", "trials", *SAID.values(), "past the first check"), rows)
        + f"\n\nThe first check of each gate, which at least half of the trials get past:\n\n{checks}"
    )


def kills(record: dict[str, Any]) -> str:
    """Commands, kills and outcomes."""
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
        f"{origin(record)}\n\n"
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


SECTIONS = {"fuzz": fuzz, "kills": kills}


def main() -> None:
    """Puts each section between its two marks."""
    page = PAGE.read_text()
    for name, section in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        made = f"<!-- {name} -->\n{section(json.loads(path.read_text()))}\n<!-- end of {name} -->"
        page = re.sub(f"<!-- {name} -->.*?<!-- end of {name} -->", lambda _: made, page, flags=re.DOTALL)  # noqa: B023
    PAGE.write_text(page)
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
