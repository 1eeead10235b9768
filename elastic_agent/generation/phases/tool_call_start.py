"""Finds the start of a tool call in thinking, where no call can be made, as the tokens come."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...prompts.markers import Markers

LEAST = 3
"""Bytes of a start tag from which on thinking that ends there counts as a begun call; a lone `<` may begin
anything."""


class ToolStart:
    """Looks for a start tag at the end of what was sampled, in the bytes of its tokens.

    Args:
        markers: with `tools`, their format; and the tokenizer's spelling, without which nothing is found.

    Attributes:
        tokens: how many of the latest tokens carry the tag, or what may become a tag.
        begun: thinking that ended here would end in a tag, or in at least `LEAST` bytes of one.
    """

    def __init__(self, markers: Markers) -> None:
        assert markers.tools is not None
        starts = markers.tools.starts if markers.tools.in_thinking else ()
        self._tags = tuple(start.encode() for start in starts)
        self._prefixes = {tag[:n] for tag in self._tags for n in range(1, len(tag) + 1)}
        self._most = max(map(len, self._tags), default=0)
        self._markers = markers
        self._tail = b""
        self._lengths: list[int] = []
        self.tokens = 0
        self.begun = False

    def take(self, token: int) -> bool:
        """Take a token of the thinking; returns whether a call begins with this token."""
        piece = self._markers.token_bytes(token)
        if not self._tags or not piece:
            return False
        self._tail = (self._tail + piece)[-(self._most + len(piece) - 1) :]
        self._lengths = [*self._lengths[-self._most :], len(piece)]
        found = next((at for tag in self._tags if (at := self._tail.find(tag)) >= 0), -1)
        if found >= 0:
            self.tokens, self.begun = self._carrying(len(self._tail) - found), True
            return True
        sizes = range(min(self._most, len(self._tail)), 0, -1)
        size = next((n for n in sizes if self._tail[-n:] in self._prefixes), 0)
        self.tokens, self.begun = self._carrying(size), size >= LEAST
        return False

    def _carrying(self, size: int) -> int:
        """How many of the latest tokens carry the last so many bytes."""
        count = 0
        while size > 0:
            count += 1
            size -= self._lengths[-count]
        return count
