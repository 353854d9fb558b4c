"""`jaxprefix export ADAPTER FOLDER`: an adapter as a folder of Hugging Face PEFT."""

from collections.abc import Sequence

from jaxprefix.cli.options import Parser
from jaxprefix.errors import escaped

USAGE = "ADAPTER FOLDER"
SUMMARY = "an adapter as a folder of Hugging Face PEFT"


def run(args: Sequence[str]) -> int:
    """`jaxprefix export ADAPTER FOLDER`: prints the folder."""
    parser = Parser(prog="jaxprefix export", description="A prefix or (IA)3 as an adapter folder of Hugging Face PEFT.")
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    parser.add_argument("folder", help="where to write adapter_config.json and adapter_model.safetensors")
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    options = parser.parse_args(args)
    from jaxprefix.exchange.peft import export_peft

    print(escaped(str(export_peft(options.adapter, options.folder, backbone=options.backbone))))
    return 0
