"""`jaxprefix generate ADAPTER`: prompts in, texts out."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

USAGE = "ADAPTER [PROMPT ...]"
SUMMARY = "texts of a tuned decoder, one JSON object per line"


def run(args: Sequence[str]) -> int:
    """Prints one JSON object per prompt, or with `--stream` the texts as they are made."""
    parser = argparse.ArgumentParser(
        prog="jaxprefix generate", description="Prompts in, texts out, one JSON object per line."
    )
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    parser.add_argument(
        "prompts",
        nargs="*",
        help="prompts; without any they are read from standard input, one per line: plain text, or a JSON object with "
        "the columns of the run's prompts",
    )
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--stream", action="store_true", help="print each text as it is made, without JSON")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    group = parser.add_argument_group("decoding, where not as the run has it")
    group.add_argument("--max-new-tokens", type=int, default=argparse.SUPPRESS)
    group.add_argument("--min-new-tokens", type=int, default=argparse.SUPPRESS)
    group.add_argument("--temperature", type=float, default=argparse.SUPPRESS)
    group.add_argument("--top-k", type=int, default=argparse.SUPPRESS)
    group.add_argument("--top-p", type=float, default=argparse.SUPPRESS)
    group.add_argument("--beams", type=int, default=argparse.SUPPRESS)
    group.add_argument("--length-penalty", type=float, default=argparse.SUPPRESS)
    group.add_argument("--stop", action="append", help="a token that ends a text, once for each")
    options = parser.parse_intermixed_args(args)

    from jaxprefix.adapters.adapter import load_adapter
    from jaxprefix.cli.configs import row_of
    from jaxprefix.generation.decoding import Decoding
    from jaxprefix.generation.texts import stop_tokens

    adapter = load_adapter(options.adapter, backbone=options.backbone)
    names = {field.name for field in dataclasses.fields(Decoding)} - {"stop"}
    changes = {name: value for name, value in vars(options).items() if name in names}
    if options.stop:
        changes["stop"] = stop_tokens(options.stop, adapter.backbone.tokenizer)
    decoding = dataclasses.replace(adapter.run.decoding, **changes)
    rows = [row_of(line) for line in options.prompts or (line.rstrip("\n") for line in sys.stdin if line.strip())]
    if options.stream:
        for row in rows:
            for piece in adapter.stream(row, decoding, seed=options.seed):
                print(piece, end="", flush=True)
            print()
        return 0
    for text in adapter.generate(rows, decoding, batch_size=options.batch_size, seed=options.seed):
        print(json.dumps({"text": text}, ensure_ascii=False))
    return 0
