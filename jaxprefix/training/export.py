"""The adapter folder that a finished run leaves."""

from typing import Any

import jax

from jaxprefix.checkpoints.adapter import write_adapter
from jaxprefix.data.report import Report
from jaxprefix.distributed.rows import fetch_global
from jaxprefix.tasks.base import Facts
from jaxprefix.training.provenance import stored_run
from jaxprefix.training.setup import Backbone, Setup
from jaxprefix.trees import Tree, count


def write_run_adapter(
    folder: Any, setup: Setup, trainable: Tree, metrics: dict[str, Any], facts: Facts, report: Report | None = None
) -> Any:
    """Writes the adapter folder of a run, in a folder that is there; returns it. All processes call it, the first one
    writes; `report` is what there is to say of its rows."""
    leaves = fetch_global({"trainable": trainable, "initialized": setup.frozen["initialized"]})
    if jax.process_index() == 0:
        write_adapter(
            folder,
            leaves=leaves,
            config_json=stored_run(setup.run),
            backbone=described_backbone(setup.backbone),
            metrics=metrics,
            facts=facts,
            data=setup.data,
            report=report,
            parents=False,
        )
    return folder


def described_backbone(backbone: Backbone) -> dict[str, Any]:
    """What an adapter folder says of its backbone."""
    return {
        "name": backbone.identity["source"],
        "architecture": backbone.module.config.model_type,
        "parameters": count(backbone.tree),
        "digest": backbone.identity["identity"],
        "fingerprint": backbone.identity["fingerprint"],
        "tokenizer": backbone.identity.get("tokenizer"),
    }
