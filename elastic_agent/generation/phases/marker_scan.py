"""Finds the start marker and the close in sampled tokens, and tells what else their tokens say.

Markers of control tokens are found by id. Markers that are text are found in the bytes of the tokens, since a
tokenizer merges across a marker's borders (`.</` `think` `>\n`). Ids stay as they were sampled: every token
that carries a part of the close belongs to the close.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

from ...prompts.markers import Markers


class Start(Enum):
    """What a model's first tokens are, where the prompt opened no thinking block."""

    UNDECIDED = auto()
    """They may become a marker."""
    THINKING = auto()
    """The start marker: the model thinks."""
    ANSWER_HEADER = auto()
    """What a model that doesn't think writes in place of the start marker."""
    ANSWER = auto()
    """Anything else: the model answers without thinking."""


class FoundClose(NamedTuple):
    """The close that the model sampled.

    Attributes:
        thinking: tokens before the close.
        close: tokens of the close; those after them are the solution's.
    """

    thinking: int
    close: int


class MarkerScan:
    """Reads the tokens of a call's thinking.

    Attributes:
        start: sampled tokens that carry the start marker.
        start_text_ids: ids whose text is what these tokens say besides: thinking.
        thinking_text_ids: ids whose text is what the close's tokens say of the thinking.
        solution_text_ids: ids whose text is what the close's tokens say of the solution.
        pending: how many of the last tokens may be the beginning of the close.
    """

    def __init__(self, markers: Markers) -> None:
        self.start = self.pending = 0
        self.start_text_ids: tuple[int, ...] = ()
        self.thinking_text_ids: tuple[int, ...] = ()
        self.solution_text_ids: tuple[int, ...] = ()
        self._markers = markers
        self._closes = [(markers.close_ids, len(markers.close_ids))]
        self._closes += [((*close, *then), len(close)) for close, then in markers.closes_before]
        self._bytes: list[bytes] = []  # of each token of the thinking, where the close is text

    # The start marker

    def read_start(self, ids: Sequence[int]) -> Start:
        """What the first tokens of the output are."""
        if self._markers.open_in_text:
            return self._read_start_text(ids)
        begun, opens, answer = tuple(ids), self._markers.open_ids, self._markers.answer_ids
        if begun == opens:
            self._found_start(len(ids), b"")
            return Start.THINKING
        if begun == answer:
            return Start.ANSWER_HEADER
        return Start.UNDECIDED if begun in (opens[: len(begun)], answer[: len(begun)]) else Start.ANSWER

    def _read_start_text(self, ids: Sequence[int]) -> Start:
        """The same for a start marker that is text; blanks may stand before it."""
        start = self._markers.open_text.encode()
        begun = b"".join(map(self._markers.token_bytes, ids)).lstrip()
        if begun.startswith(start):
            self._found_start(len(ids), begun[len(start) :])
            return Start.THINKING
        return Start.UNDECIDED if start.startswith(begun) else Start.ANSWER

    def _found_start(self, tokens: int, rest: bytes) -> None:
        """The first `tokens` are the start marker; `rest` stands behind the marker in the last of them."""
        self.start, self.start_text_ids = tokens, self._markers.encode_text(rest)
        self._bytes = [*[b""] * (tokens - 1), rest]

    # The close

    def add(self, token: int) -> None:
        """Take a token of the thinking."""
        if self._markers.close_in_text:
            self._bytes.append(self._markers.token_bytes(token))

    def find_close(self, ids: Sequence[int]) -> FoundClose | None:
        """The close at the end of the thinking `ids`; None (and `pending`) where there is none yet."""
        self.pending = 0
        if self._markers.close_in_text:
            return self._find_close_text()
        for whole, close in self._closes:
            if _ends_with(ids, whole):
                return FoundClose(len(ids) - len(whole), close)
            begun = min(len(whole) - 1, len(ids))
            while not _ends_with(ids, whole[:begun]):
                begun -= 1
            self.pending = max(self.pending, begun)
        return None

    def _find_close_text(self) -> FoundClose | None:
        """The same in the bytes of the latest tokens."""
        close, of_tokens = self._markers.close_text.encode(), self._bytes
        at, data, most = len(of_tokens), b"", len(close) - 1 + len(of_tokens[-1])
        while at > 0 and len(data) < most:
            at -= 1
            data = of_tokens[at] + data
        before = data.find(close)
        if before < 0:
            begun = next(n for n in range(len(close) - 1, -1, -1) if data.endswith(close[:n]))
            while begun > 0:
                self.pending += 1
                begun -= len(of_tokens[-self.pending])
            return None
        self.solution_text_ids = self._markers.encode_text(data[before + len(close) :])
        while before >= len(of_tokens[at]):
            before -= len(of_tokens[at])
            at += 1
        said = self._markers.encode_text(of_tokens[at][:before])
        if at < self.start:  # one token ends the start marker and begins the close: it is the start marker's
            at, self.start_text_ids = self.start, said
        else:
            self.thinking_text_ids = said
        return FoundClose(at, len(of_tokens) - at)


def _ends_with(ids: Sequence[int], end: tuple[int, ...]) -> bool:
    return not end or tuple(ids[-len(end) :]) == end
