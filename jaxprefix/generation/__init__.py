"""Text out: decoding with a cache, greedy, drawn, or by a beam."""

from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.loop import Generated, generate, stream

__all__ = ["Decoding", "Generated", "generate", "stream"]
