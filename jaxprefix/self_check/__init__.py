"""Whether a model does what it is meant to, judged by its behaviour."""

from jaxprefix.self_check.check import check
from jaxprefix.self_check.report import Check

__all__ = ["Check", "check"]
