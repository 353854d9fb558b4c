"""The quickstart's config with the head alone trained: what its prefix is measured against."""

import dataclasses
import runpy
from pathlib import Path

import jaxprefix as jp

QUICKSTART = Path(__file__).resolve().parent.parent / "configs" / "quickstart.py"


def config() -> jp.Run:
    run = runpy.run_path(str(QUICKSTART))["config"]()
    return dataclasses.replace(run, method=jp.HeadOnly(), folder="runs/quickstart_head_only")
