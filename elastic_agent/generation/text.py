"""Token ids as text while they stream, and stop strings in it.

Decoding token by token breaks characters that span tokens and loses the spaces that tokenizers put between
words, so the decoder looks at a short window and gives out only what later tokens can't change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..tool_calls.splitter import overlap


class IncrementalText:
    """Ids in, the text that has become certain out.

    Args:
        decode: ids to text (`Codec.decode`).
        stops: strings that end the text; the first of them and everything after are not given out. Text that
            may be the beginning of a stop string is kept back.
        buffered: nobody reads along: without stop strings the whole text comes at the end, decoded once.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), *, buffered: bool = False
    ) -> None:
        if any(not stop for stop in stops):
            raise ValueError("a stop string must not be empty")
        self._decode = decode
        self._stops = tuple(stops)
        self._buffered = buffered and not stops
        self._ids: list[int] = []
        self._window = 0  # ids before it are decoded for good
        self._read = 0  # ids up to here have been given to `_held`
        self._held = ""  # decoded, kept back as a possible beginning of a stop string
        self._given: list[str] = []
        self.stopped: str | None = None

    @property
    def text(self) -> str:
        """The text so far, kept-back text excluded."""
        return "".join(self._given) + (self._decoded(len(self._ids)) if self._buffered else "")

    def feed(self, ids: Sequence[int]) -> str:
        """Take ids; returns the text that has become certain, or ""."""
        if self.stopped is not None:
            return ""
        self._ids += ids
        if self._buffered:
            return ""
        before = self._decoded(self._read)
        after = self._decoded(len(self._ids))
        if after.endswith("\ufffd") or not after.startswith(before):
            return ""  # a character is still incomplete
        self._window, self._read = self._read, len(self._ids)
        return self._give(after[len(before) :], last=False)

    def flush(self) -> str:
        """No more ids: returns the text that was kept back."""
        if self.stopped is not None:
            return ""
        new = ""
        if self._read < len(self._ids):
            new = self._decoded(len(self._ids))[len(self._decoded(self._read)) :]
        self._window = self._read = len(self._ids)
        return self._give(new, last=True)

    def _decoded(self, end: int) -> str:
        """The window's text, up to the id number `end`."""
        return self._decode(self._ids[self._window : end]) if self._window < end else ""

    def _give(self, new: str, *, last: bool) -> str:
        if not self._stops:
            self._given.append(new)
            return new
        held = self._held + new
        hits = [(at, stop) for stop in self._stops if (at := held.find(stop)) >= 0]
        if hits:  # the one that is complete first, as if the text had come letter by letter
            at, self.stopped = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            out, self._held = held[:at], ""
        else:
            keep = 0 if last else max((overlap(held, stop) for stop in self._stops), default=0)
            out, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self._given.append(out)
        return out
