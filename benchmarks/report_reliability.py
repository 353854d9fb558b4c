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


SECTIONS = {"fuzz": fuzz}


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
