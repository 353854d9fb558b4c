"""Tokens that formats add to a tokenizer."""

import copy
from typing import Any

from jaxprefix.errors import UserError
from jaxprefix.tasks.formats.format import Format


def with_tokens(made: Format, tokenizer: Any, vocab: int) -> Any:
    """The tokenizer with the tokens of a format, whose ids are `vocab` and those that follow.

    It is a copy where anything is added. Where the word table has more rows than the tokenizer entries, names that no
    text holds stand for the rows between. Its end and padding are the format's.

    Raises:
      UserError: the tokenizer has these tokens already, under other ids.
    """
    tokens = made.added_tokens
    if not tokens:
        return tokenizer
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(tokenizer)
    names = (*(f"<row {row}>" for row in range(len(tokenizer), vocab)), *tokens)
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in names], special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    if ids != list(range(vocab, vocab + len(tokens))):
        raise UserError(
            f"the tokens of {type(made).__name__} have ids from {min(ids)} on in this tokenizer instead of from "
            f"{vocab} on; give it a tokenizer to which nothing was added."
        )
    if made.end is not None:
        tokenizer.eos_token = made.end
    if made.padding is not None:
        tokenizer.pad_token = made.padding
    return tokenizer
