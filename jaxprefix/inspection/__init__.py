"""What a run will train, and what it costs."""

from jaxprefix.inspection.describe import describe

__all__ = ["describe"]
