"""What every section of docs/benchmarks.md is made of."""

from collections.abc import Iterable
from typing import Any

BUSY = 0.2  # cores that others keep busy, above which a page must say so
TITLES = {
    "ours": "P-Tuning v2, mean pooling (the default)",
    "ours_pooler": "P-Tuning v2, frozen pooler",
    "ours_zeros": "P-Tuning v2, mean pooling, from zeros",
    "ours_no_op": "P-Tuning v2, mean pooling, no-op start",
    "ours_prefix_tuning": "prefix-tuning, mean pooling",
    "ours_head_only": "head only, mean pooling",
    "ours_full": "full fine-tuning, mean pooling",
    "head_only": "head only",
    "p_tuning_v2": "P-Tuning v2",
    "full": "full fine-tuning",
    "peft_prefix": "PEFT prefix tuning",
    "peft_prefix_zeros": "PEFT prefix tuning, from zeros",
    "peft_head_only": "torch, head only (its pooler frozen)",
    "peft_full": "torch, full fine-tuning",
}


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def origin(record: dict[str, Any]) -> str:
    """The command, the kind of machine and the versions of a result."""
    machine, packages = record["machine"], record["packages"]
    used = ", ".join(f"{name} {version}" for name, version in packages.items())
    others = ""
    if "others_cores" in record:
        others = f" Others: {record['others_cores']} cores."
        if record["others_cores"] > BUSY:
            others += " **A busy machine: the seconds are not those of a free one; measure again for those.**"
    return (
        f"`{record['command']}`\n\n{record['date']}; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}; {used}.{others}"
    )
