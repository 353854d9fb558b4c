"""`jaxprefix generate ADAPTER`: prompts in, texts out."""

import argparse
import dataclasses
from collections.abc import Sequence

from jaxprefix.cli.options import Parser, real, whole
from jaxprefix.cli.rows import add_rows, check_out, rows_of, write_answers
from jaxprefix.errors import UserError, escaped

USAGE = "ADAPTER [PROMPT ...]"
SUMMARY = "texts of a tuned decoder, one JSON object per line"


def run(args: Sequence[str]) -> int:
    """Prints one JSON object per prompt, or with `--stream` the texts as they are made."""
    parser = Parser(prog="jaxprefix generate", description="Prompts in, texts out, one JSON object per line.")
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    add_rows(parser, "prompts", "prompt")
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument("--batch-size", type=whole(1), default=32)
    parser.add_argument("--stream", action="store_true", help="print each text as it is made, without JSON")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="of what is drawn")
    group = parser.add_argument_group("decoding, where not as the run has it")
    group.add_argument("--max-new-tokens", type=whole(1), default=argparse.SUPPRESS)
    group.add_argument("--min-new-tokens", type=whole(0), default=argparse.SUPPRESS)
    group.add_argument("--temperature", type=real(0), default=argparse.SUPPRESS)
    group.add_argument("--top-k", type=whole(1), default=argparse.SUPPRESS)
    group.add_argument("--top-p", type=real(0, 1, above=True), default=argparse.SUPPRESS)
    group.add_argument("--beams", type=whole(1), default=argparse.SUPPRESS)
    group.add_argument("--length-penalty", type=float, default=argparse.SUPPRESS)
    group.add_argument("--stop", action="append", help="a token that ends a text, once for each")
    options = parser.parse_intermixed_args(args)
    if options.stream and options.out is not None:
        raise UserError("--stream prints texts as they are made and --out keeps them until all are; give one of them.")
    check_out(options.out)
    rows = rows_of("prompts", options)

    from jaxprefix.adapters.adapter import load_adapter
    from jaxprefix.generation.decoding import Decoding
    from jaxprefix.generation.texts import stop_tokens

    adapter = load_adapter(options.adapter, backbone=options.backbone)
    names = {field.name for field in dataclasses.fields(Decoding)} - {"stop"}
    changes = {name: value for name, value in vars(options).items() if name in names}
    if options.stop:
        changes["stop"] = stop_tokens(options.stop, adapter.backbone.tokenizer)
    decoding = dataclasses.replace(adapter.run.decoding, **changes)
    if options.stream:
        for row in rows:
            for piece in adapter.stream(row, decoding, seed=options.seed):
                print(escaped(piece, keep="\n\t"), end="", flush=True)
            print()
        return 0
    texts = adapter.generate(rows, decoding, batch_size=options.batch_size, seed=options.seed)
    write_answers([{"text": text} for text in texts], options.out)
    return 0
