"""A solution's tokens as the answer and as thinking that the model opened again.

After the close a model may write its start marker once more: `<think> secret doubts </think> it is 4`. The
text between these markers is reopened thinking. It is not shown as the answer, and counts against the
solution's limit. A close that nothing opened is left out.

A marker stays text where the answer quotes it: in code, in quotes, and in a tool call's arguments. A marker
that is spelled in plain tokens also stays text, if the model's vocabulary has a token of its own for the
marker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ...prompts.markers import Markers
from ...tool_calls.blocks import BlockScan
from ...tool_calls.formats import ToolFormat


class Span(NamedTuple):
    """Some tokens of a solution.

    Attributes:
        reopened: the tokens are reopened thinking, or its markers.
        ids: the tokens, as sampled.
        text_ids: ids whose text people are shown; None: `ids`.
    """

    reopened: bool
    ids: tuple[int, ...]
    text_ids: tuple[int, ...] | None = None


class AnswerReader:
    """Reads a solution token by token.

    Args:
        markers: the model's markers; with `tools`, markers in the arguments of tool calls are data.

    Attributes:
        inside: the model is thinking again.
    """

    def __init__(self, markers: Markers) -> None:
        self.inside = False
        self._markers = markers
        self._held: list[int] = []  # not given out: it may be the beginning of a marker
        self._context = _Context(markers.tools)
        self._unread: list[int] = []  # tokens of the answer that the context has not seen
        # Most tokens begin no marker; markers that are ids are seen at once
        self._plain = not (markers.open_in_text or markers.close_in_text)
        self._firsts = {marker[0] for marker in (markers.open_ids, markers.close_ids) if marker}

    def take(self, token: int) -> list[Span]:
        """Take a sampled token; returns the spans that have become certain, in order."""
        if self._plain and not self._held and token not in self._firsts:
            return [self._span((token,))]
        self._held.append(token)
        for opens in (True, False):
            if opens and self.inside:
                continue  # it is open
            found = self._found(opens)
            if found is not None:
                return self._marker(opens, *found)
        keep = max(0 if self.inside else self._kept(True), self._kept(False))
        return self._release(len(self._held) - keep)

    def end(self) -> list[Span]:
        """No more tokens: the spans that were held back."""
        return self._release(len(self._held))

    def _span(self, ids: tuple[int, ...], shown: tuple[int, ...] | None = None) -> Span:
        if not self.inside:
            self._unread += ids if shown is None else shown
        return Span(self.inside, ids, shown)

    def _release(self, count: int) -> list[Span]:
        ids, self._held = tuple(self._held[:count]), self._held[count:]
        return [self._span(ids)] if ids else []

    def _marker(self, opens: bool, at: int, before: bytes, after: bytes) -> list[Span]:
        """A marker begins in held token `at` and ends in the last one; `before` and `after` are the other
        bytes of these two tokens."""
        spans = self._release(at)
        marker, self._held = tuple(self._held), []
        literal = not self.inside and self._is_data(before)
        if literal or not (opens or self.inside):
            shown = self._spelled(opens, before, after) if literal else self._both(before, after)
            return [*spans, self._span(marker, None if shown == marker else shown)]
        if opens:
            if before:
                spans.append(self._span((), self._markers.encode_text(before)))
            self.inside = True
            return [*spans, self._span(marker, self._markers.encode_text(after))]
        spans.append(self._span(marker, self._markers.encode_text(before)))
        self.inside = False
        if after:
            spans.append(self._span((), self._markers.encode_text(after)))
        return spans

    def _is_data(self, before: bytes) -> bool:
        text = b"".join(map(self._markers.token_bytes, self._unread)) + before
        self._unread.clear()
        self._context.feed(text.decode(errors="replace"))
        return self._context.quotes

    def _both(self, before: bytes, after: bytes) -> tuple[int, ...]:
        return (*self._markers.encode_text(before), *self._markers.encode_text(after))

    def _spelled(self, opens: bool, before: bytes, after: bytes) -> tuple[int, ...]:
        """Plain tokens with the text of the held ones: a marker's own token has no text."""
        if self._in_text(opens):
            return self._both(before + self._text(opens).encode(), after)
        text = self._text(opens).encode()
        return (*self._markers.encode_text(text[:1]), *self._markers.encode_text(text[1:]))

    # One marker

    def _ids(self, opens: bool) -> tuple[int, ...]:
        return self._markers.open_ids if opens else self._markers.close_ids

    def _text(self, opens: bool) -> str:
        return self._markers.open_text if opens else self._markers.close_text

    def _in_text(self, opens: bool) -> bool:
        return self._markers.open_in_text if opens else self._markers.close_in_text

    def _found(self, opens: bool) -> tuple[int, bytes, bytes] | None:
        """A marker that ends with the held tokens: the number of the token in which it begins, and the bytes
        before and after the marker in its tokens."""
        ids, held = self._ids(opens), self._held
        if not self._in_text(opens):
            matches = bool(ids) and tuple(held[-len(ids) :]) == ids
            return (len(held) - len(ids), b"", b"") if matches else None
        text, pieces = self._text(opens).encode(), [self._markers.token_bytes(i) for i in held]
        at = b"".join(pieces).find(text)
        if at < 0:
            return None
        number = 0
        while at >= len(pieces[number]):
            at -= len(pieces[number])
            number += 1
        behind = b"".join(pieces[number:])[at + len(text) :]
        return number, pieces[number][:at], behind

    def _kept(self, opens: bool) -> int:
        """How many of the last held tokens may be the beginning of this marker."""
        ids, held = self._ids(opens), self._held
        if not self._in_text(opens):
            most = min(len(ids) - 1, len(held))
            return next((n for n in range(most, 0, -1) if tuple(held[-n:]) == ids[:n]), 0)
        text, pieces = self._text(opens).encode(), [self._markers.token_bytes(i) for i in held]
        data = b"".join(pieces)
        size = next((n for n in range(min(len(text) - 1, len(data)), 0, -1) if data.endswith(text[:n])), 0)
        count = 0
        while size > 0:
            count += 1
            size -= len(pieces[-count])
        return count


_HEAD = 200
"""Characters at the beginning of a line that decide whether the line begins or ends a block of code."""
_BEFORE = frozenset("'\u2018\u201c\u00ab")
"""What opens a quotation right before a marker."""


class _Context:
    """Whether an answer's text quotes what comes next: in code, in quotes, or in a tool call's arguments.

    Args:
        tools: the format of tool calls; None where there are no tools.
    """

    def __init__(self, tools: ToolFormat | None) -> None:
        self._opens = dict(tools.opens) if tools is not None else {}
        self._starts = re.compile(
            "|".join(map(re.escape, sorted(self._opens, key=len, reverse=True))) or "(?!)"
        )
        self._longest = max(map(len, self._opens), default=0)
        self._fence = ""
        self._head = self._latest = ""  # of the line: its beginning, and its last character
        self._ticks = self._marks = 0  # of the line: backticks and double quotes
        self._text = ""  # since the last tag; of it as much as a tag may begin in, or a call's whole body
        self._block: BlockScan | None = None
        self._close = ""

    def feed(self, text: str) -> None:
        """Take more of the answer."""
        for number, part in enumerate(text.split("\n")):
            if number:
                self._end_line()
            self._head = (self._head + part)[:_HEAD]
            unescaped = re.sub(r"\\.", "", part)
            self._ticks += unescaped.count("`")
            self._marks += unescaped.count('"')
            self._latest = part[-1:] or self._latest
        if self._opens:
            self._text += text
            self._find_calls()

    @property
    def quotes(self) -> bool:
        """Whether what comes next is quoted."""
        if self._block is not None:
            return True
        if self._fence:
            return self._head.strip() != self._fence
        return self._ticks % 2 == 1 or self._marks % 2 == 1 or self._latest in _BEFORE

    def _end_line(self) -> None:
        head = self._head.strip()
        if self._fence and head == self._fence:
            self._fence = ""
        elif not self._fence and head[:3] in ("```", "~~~"):
            self._fence = head[:3]
        self._head = self._latest = ""
        self._ticks = self._marks = 0

    def _find_calls(self) -> None:
        while True:
            if self._block is not None:
                end = self._block.find(self._text)
                if end is None:
                    return
                self._text, self._block = self._text[end + len(self._close) :], None
            start = self._starts.search(self._text)
            if start is None:
                self._text = self._text[-self._longest :]
                return
            self._close, self._text = self._opens[start[0]], self._text[start.end() :]
            self._block = BlockScan(self._close)


class Answer(NamedTuple):
    """What a whole solution says.

    Attributes:
        text_ids: ids whose text is the answer, without reopened thinking.
        inside: the solution ends in reopened thinking.
    """

    text_ids: tuple[int, ...]
    inside: bool


def read_answer(markers: Markers, solution_ids: Sequence[int]) -> Answer:
    """Read a whole solution."""
    reader = AnswerReader(markers)
    spans = [span for token in solution_ids for span in reader.take(token)] + reader.end()
    shown = (s.ids if s.text_ids is None else s.text_ids for s in spans if not s.reopened)
    return Answer(tuple(i for ids in shown for i in ids), reader.inside)
