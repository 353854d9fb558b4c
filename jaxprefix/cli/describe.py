"""`jaxprefix describe CONFIG`: what a run would train; `jaxprefix describe ADAPTER`: what one left."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprefix.errors import escaped

USAGE = "CONFIG | ADAPTER [--json]"
SUMMARY = "backbone, method, data, parameters, attention; of an adapter what it holds"
JSON = "--json"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    as_json, args = JSON in args, [arg for arg in args if arg != JSON]
    if len(args) == 1 and (Path(args[0]).expanduser().is_dir() or "://" in args[0]):
        from jaxprefix.inspection.describe_adapter import describe_adapter, describe_adapter_json

        if as_json:
            _print(describe_adapter_json(args[0]))
        else:
            describe_adapter(args[0])
        return 0
    from jaxprefix.cli.configs import parse_run

    run = parse_run(args, "jaxprefix describe", f" [{JSON}]")
    from jaxprefix.inspection.describe import describe, describe_json

    if as_json:
        _print(describe_json(run))
    else:
        describe(run)
    return 0


def _print(found: dict[str, Any]) -> None:
    print(escaped(json.dumps(found, indent=1, ensure_ascii=False), keep="\n", json=True))
