"""A text of which the tokenizer makes no token, as GPT-2's makes none of an empty one, is refused by its number."""

import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from tests.past import asking


def test_a_row_without_tokens_is_refused_by_its_number(monkeypatch):
    monkeypatch.chdir(asking.PAST)
    adapter = asking.open_adapter("last", {})
    with pytest.raises(UserError, match="row 1 has no token"):
        adapter.predict(["a cat", "", "the dog"])
    bank = jp.Bank({"one": adapter, "other": adapter})
    with pytest.raises(UserError, match="row 2 has no token"):
        bank(["a cat", "the dog", ""], ["one", "other", "other"])
