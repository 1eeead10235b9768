"""An answer's text, as it streams, as plain text and whole tool calls."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .blocks import BlockScan
from .bodies import read_body
from .formats import HERMES, ToolFormat
from .json_bodies import json_value
from .written_call import Call, MalformedError, Schema, WrittenCall


class ToolCallSplitter:
    """Streamed text in; plain text and whole calls out.

    A body that is no call becomes a call without a name, which holds the text as written: an attempt is
    neither lost nor shown as an answer. So does an end tag without a start tag, the rest of a lost call.

    Args:
        format: how the model writes calls.
        tools: the schemas of those that it was shown.
        resumed: the model began a call while it thought, where calls aren't made. Its answer may be the rest
            of that call, so the answer is held back until a tag, or its end, says what it is.
    """

    def __init__(
        self, format: ToolFormat = HERMES, tools: Sequence[Schema] = (), *, resumed: bool = False
    ) -> None:
        self._format, self._tools, self._resumed = format, tools, resumed
        self._closes = {close for _, close in format.opens if close}
        self._tags = sorted({*format.starts, *self._closes}, key=len, reverse=True)
        self._search = re.compile("|".join(map(re.escape, self._tags)))
        self._held = ""
        self._block: _Block | None = None
        self._after_call = False  # nothing but whitespace since the last block
        self._bare = format.bare
        self._bare_scan = BlockScan("")

    def feed(self, text: str) -> tuple[str, list[WrittenCall]]:
        """Take a piece; returns the text that is certainly not part of a call, and the calls it completed."""
        self._held += text
        return self._split(last=False)

    def flush(self) -> tuple[str, list[WrittenCall]]:
        """No more text. A call without its end tag counts when its body is whole."""
        return self._split(last=True)

    def _split(self, *, last: bool) -> tuple[str, list[WrittenCall]]:
        plain, calls = "", list[WrittenCall]()
        while True:
            if self._block is not None:
                found = self._block.end(self._held, last=last)
                if found is None:
                    return plain, calls
                calls += found[0]
                self._held, self._block, self._after_call = self._held[found[1] :], None, True
            elif self._bare and (begins := self._begins_bare(last)) is not False:
                if begins is None:
                    return plain, calls
                self._block = _Block("", "", self._tools)
            elif (tag := self._search.search(self._held)) is not None:
                head, self._held = self._held[: tag.start()], self._held[tag.end() :]
                if tag[0] in self._format.starts:
                    plain += self._given(head)
                    close = dict(self._format.opens)[tag[0]]
                    self._block, self._resumed = _Block(tag[0], close, self._tools), False
                elif self._resumed:
                    calls.append(
                        WrittenCall(self._format.starts[0] + head + tag[0], wrong="begun while thinking")
                    )
                    self._resumed, self._after_call = False, True
                else:
                    plain += self._given(head)
                    if not self._after_call:  # else it ends a call that has been read
                        calls.append(WrittenCall(tag[0], wrong="the end of a call that has no start"))
                    self._after_call = True
            else:
                keep = 0 if last else max(overlap(self._held, tag) for tag in self._tags)
                if self._resumed and not last:
                    keep = len(self._held)
                plain += self._given(self._held[: len(self._held) - keep])
                self._held = self._held[len(self._held) - keep :]
                return plain, calls

    def _given(self, plain: str) -> str:
        if plain.strip():
            self._after_call = self._bare = False
        return plain

    def _begins_bare(self, last: bool) -> bool | None:
        """Whether what is held begins with a call without a tag; None: not to be said yet."""
        start = self._held.lstrip()
        if not start:
            return False if last else None
        if start[0] == ";" and self._after_call:
            self._held = start[1:]
            return self._begins_bare(last)
        if start[0] not in "{[":
            return None if not last and any(tag.startswith(start) for tag in self._tags) else False
        end = self._bare_scan.find(start)
        if end is None:
            return False if last else None
        self._bare_scan = BlockScan("")
        try:
            read_body(start[:end], self._tools)
        except MalformedError:
            self._bare = False
            return False
        return True


class _Block:
    """A block of calls while it streams."""

    def __init__(self, open: str, close: str, tools: Sequence[Schema]) -> None:
        self._open, self._close, self._tools = open, close, tools
        self._scan = BlockScan(close)

    def end(self, body: str, *, last: bool) -> tuple[list[WrittenCall], int] | None:
        """The block's calls, and how many characters of `body` are theirs; None: more has to come."""
        at = self._scan.find(body)
        if at is None and not last:
            return None
        if at is not None:
            calls = self._calls(body, at)
            if calls[0].name is not None:
                return calls, at + len(self._close)
        # Its quotes don't match, or it has no end: the first end tag, or the last character, is its end
        first = body.find(self._close) if self._close else -1
        end = first if first >= 0 else len(body) if at is None else at
        calls = self._calls(body, end)
        if calls[0].name is None and first < 0 and body.lstrip().startswith("["):
            try:  # Granite writes a list, and no end tag
                _, whole = json_value(body)
            except (ValueError, RecursionError):
                return calls, end
            return self._calls(body, whole), whole
        return calls, end + (len(self._close) if first >= 0 else 0)

    def _calls(self, body: str, end: int) -> list[WrittenCall]:
        """The calls of a body; one without a name where it is none."""
        whole, closed = self._open + body[:end], body.startswith(self._close, end)
        inside = whole + self._close if self._open == "<function=" else body[:end]
        if self._open.endswith("to="):
            inside = "to=" + inside
        elif self._open.endswith("to=functions."):
            inside = "to=functions." + inside
        try:
            found: list[Call] = read_body(inside, self._tools)
        except MalformedError as error:
            return [WrittenCall(whole, wrong=str(error), closed=closed)]
        return [WrittenCall(whole, *call, closed=closed) for call in found]


def split(
    text: str, format: ToolFormat = HERMES, tools: Sequence[Schema] = (), *, resumed: bool = False
) -> tuple[str, list[WrittenCall]]:
    """A whole answer as its plain text and its calls."""
    splitter = ToolCallSplitter(format, tools, resumed=resumed)
    plain, calls = splitter.feed(text)
    rest, more = splitter.flush()
    return plain + rest, calls + more


def overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:n])), 0)
