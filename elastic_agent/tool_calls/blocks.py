"""Where a tool call ends: at the first end tag that is no data.

An argument may hold the end tag itself, so a body is read with its quotes: JSON's and Python's strings, and
the values of XML parameters. A body grows while it streams; what has been looked at isn't looked at again.
"""

from __future__ import annotations

import re
from typing import Literal

Style = Literal["json", "python", "xml", "gemma"]

_PYTHON = re.compile(r"\[?\s*[A-Za-z_][\w.]*\s*\(")
_XML = re.compile(
    r"<(?:\uff5c\w+\uff5c|\w+:)?(?:function=|invoke )|[\w.-]+\s*<arg_key>|[\w.-]+>\s*[^\s{]|[\w.-]+\s*$"
)
_UNDECIDED = re.compile(r"\[?\s*[\w.-]*>?\s*<?[a-z_:\uff5c]*$")
_QUOTES = ("'", '"', '<|"|>')
# What stands right before an end tag that ends a call: its last parameter, and nothing else
_LAST = r"(?:</(?:\uff5c\w+\uff5c|\w+:)?parameter>|<function=[^<>]*>|invoke name=[^<>]*>|\})\s*"
_WHOLE = re.compile(rf"{_LAST}</(?:\uff5c\w+\uff5c|\w+:)?(?:function|invoke)>\s*$|</arg_value>\s*$")
_WHOLE_FUNCTION = re.compile(r"</parameter>\s*$")
_ENDS = ("function>", "invoke>", "</arg_value>")
_NAME = re.compile(r"\s*[\w.-]+>?\s*")
_WINDOW = 400
"""Characters before an end tag that are looked at."""


def style_of(body: str) -> Style:
    """How a body is quoted, by its beginning."""
    start = body[:400].lstrip()
    if start.startswith("call:"):
        return "gemma"
    if _PYTHON.match(start):
        return "python"
    return "xml" if _XML.match(start) else "json"


class BlockScan:
    """Looks for the end of one block.

    Args:
        close: the end tag; "" where the end of the block's first value ends it.
    """

    def __init__(self, close: str) -> None:
        self._close = close
        self._style: Style | None = None
        self._pos = 0
        self._quote = ""
        self._depth = 0

    def find(self, body: str) -> int | None:
        """Where the next end tag begins that is no data (or where the value ends); None: not yet."""
        if self._style is None:
            if _UNDECIDED.fullmatch(body.strip()) and not (self._close and self._close in body):
                return None
            self._style = style_of(body)
            self._tokens = _tokens(self._style, self._close)
        if not self._close and self._pos == 0 and body.lstrip()[0] not in "[{":
            self._pos = max(0, body.find("[" if self._style == "python" else "{"))  # behind a name
            if self._pos == 0:
                return None
        return self._find_tag(body) if self._style == "xml" else self._find_unquoted(body)

    def _find_unquoted(self, body: str) -> int | None:
        while (match := self._tokens.search(body, self._pos)) is not None:
            self._pos, token = match.end(), match[0]
            if token[0] == "\\":
                continue
            if self._quote:
                self._quote = "" if token == self._quote else self._quote
            elif token in _QUOTES:
                self._quote = token
            elif token == self._close:
                return match.start()
            elif not self._close:
                self._depth += 1 if token in "{[(" else -1
                if self._depth <= 0:
                    return self._pos
        # Half an end tag, or a backslash, may stand at the end
        behind = len(body) - max(len(self._close) - 1, 1)
        self._pos = max(self._pos, behind)
        return None

    def _find_tag(self, body: str) -> int | None:
        """An end tag that does not stand behind the end of a parameter is data."""
        inner = self._close == "</function>"
        whole, ends = (_WHOLE_FUNCTION, ("</parameter>",)) if inner else (_WHOLE, _ENDS)
        while (match := self._tokens.search(body, self._pos)) is not None:
            self._pos = match.end()
            before = body[max(0, match.start() - _WINDOW) : match.start()].rstrip()
            if before.endswith(ends) and whole.search(before):
                return match.start()
            if len(before) < _WINDOW and _NAME.fullmatch(body, 0, match.start()):  # a call without arguments
                return match.start()
        self._pos = max(self._pos, len(body) - len(self._close) + 1)
        return None


def _tokens(style: Style, close: str) -> re.Pattern[str]:
    end = re.escape(close)
    if style == "xml":
        return re.compile(end)
    if style == "gemma":
        return re.compile("|".join(filter(None, (re.escape(_QUOTES[-1]), end or r"[\[\]{}]"))))
    quotes, brackets = ("\"'", r"[\[\](){}]") if style == "python" else ('"', r"[\[\]{}]")
    return re.compile("|".join((r"\\.", f"[{quotes}]", end or brackets)), re.DOTALL)
