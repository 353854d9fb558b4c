"""Text formats of published experiments: markers, token types, cuts, and the files that they were made for.

What tasks need of it is in `format.py`; this module gathers the formats themselves.
"""

from jaxprefix.tasks.formats.coqa_cnndm import CnnDailyMail, CoQA
from jaxprefix.tasks.formats.e2e import E2E
from jaxprefix.tasks.formats.format import Format, Piece
from jaxprefix.tasks.formats.webnlg import WebNLG, WebNLGTable

FORMATS = (CnnDailyMail, CoQA, E2E, WebNLG, WebNLGTable)
"""Every format that comes with the package."""

__all__ = ["E2E", "FORMATS", "CnnDailyMail", "CoQA", "Format", "Piece", "WebNLG", "WebNLGTable"]
