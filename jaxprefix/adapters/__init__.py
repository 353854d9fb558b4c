"""A finished adapter opened again, and asked."""

from jaxprefix.adapters.adapter import Adapter, load_adapter, predict

__all__ = ["Adapter", "load_adapter", "predict"]
