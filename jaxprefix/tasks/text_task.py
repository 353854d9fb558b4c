"""What tasks on a text, or on a pair of texts, have in common: columns or templates, cuts, one sequence a row."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from jaxprefix.contract import required
from jaxprefix.data.rows import Rows
from jaxprefix.tasks.base import Facts, Task
from jaxprefix.tasks.texts import Side, columns_of, sides, texts_of
from jaxprefix.tasks.tokenizing import Chunk, Encoded, Tokenizing, chunks


class TextTask(Task):
    """A task whose rows are each one text, or one pair of texts.

    Attributes:
      text, text_pair: columns of the texts; None for no second text.
      template, template_pair: make the texts out of columns, in place of these.
      truncation: whether longer inputs are cut; if not, they are an error.
    """

    text: str
    text_pair: str | None
    template: str | None
    template_pair: str | None
    truncation: bool

    text_fields: ClassVar[tuple[str, ...]] = ("text", "text_pair")

    @property
    def _sides(self) -> list[Side]:
        return sides(self.text, self.text_pair, self.template, self.template_pair)

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return columns_of(self._sides)

    @override
    def encode(self, tokenizer: Any, rows: Rows, facts: Facts | None) -> Iterator[Encoded]:
        texts = self._sides
        tokenizing = Tokenizing(tokenizer, self.max_length, self.truncation, pairs=len(texts) > 1)
        targets = None if facts is None else self.target_reader(rows, facts)
        for chunk in chunks(rows):
            inputs = [texts_of(texts, rows, row, index) for index, row in chunk]
            found = tokenizing(inputs, [rows.locate(index) for index, _ in chunk])
            yield tokenizing.encoded(found, {} if targets is None else targets(chunk))

    @required
    def target_reader(self, rows: Rows, facts: Facts) -> Callable[[Chunk], dict[str, np.ndarray]]:
        """From a chunk of these rows to its targets, by name."""
        raise NotImplementedError
