"""Ids as text while they stream: whole characters, and stop strings wherever the chunks are cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.generation.text import IncrementalText


def as_bytes(ids: Sequence[int]) -> str:
    """A byte-level tokenizer."""
    return bytes(ids).decode(errors="replace")


def as_words(ids: Sequence[int]) -> str:
    """A word-level one: the space belongs to neither word."""
    return " ".join(f"w{i}" for i in ids)


def cut(ids: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """`ids` in pieces of these sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(ids):
        pieces.append(ids[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return pieces


sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(st.text(), sizes)
def test_characters_come_out_whole(text: str, chunks: list[int]) -> None:
    """Streamed text is the decoded text, and never shows half a character."""
    out = IncrementalText(as_bytes)
    parts = [out.feed(piece) for piece in cut(text.encode(errors="ignore"), chunks)]
    parts.append(out.flush())
    assert "".join(parts) == out.text == text
    assert not any("\ufffd" in part for part in parts if "\ufffd" not in text)


@given(st.lists(st.integers(0, 99)), sizes)
def test_spaces_between_words_survive(ids: list[int], chunks: list[int]) -> None:
    """Decoding piece by piece keeps what a tokenizer puts between two tokens."""
    out = IncrementalText(as_words)
    parts = [out.feed(piece) for piece in cut(ids, chunks)]
    assert "".join(parts) + out.flush() == as_words(ids)


@given(st.text(), sizes)
def test_whole_text_comes_at_the_end(text: str, chunks: list[int]) -> None:
    """Nobody reads along: nothing comes before the end, and what there is can be asked for."""
    out, said = IncrementalText(as_bytes, buffered=True), b""
    for piece in cut(text.encode(errors="ignore"), chunks):
        said += bytes(piece)
        assert out.feed(piece) == ""
        assert out.text == as_bytes(said)
    assert out.flush() == out.text == text
    assert out.flush() == ""


def test_stop_strings_are_looked_for_all_the_same() -> None:
    """Whether anybody reads along or not."""
    out = IncrementalText(as_bytes, ["b"], buffered=True)
    assert out.feed(b"ab") == out.text == "a"
    assert out.stopped == "b"


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    sizes,
)
def test_a_stop_string_is_found_however_the_stream_is_cut(
    text: str, stops: list[str], chunks: list[int]
) -> None:
    """Chunking never changes the result: the first stop to be complete ends the text, and nothing of it, nor
    of a possible beginning of one, has been given out."""
    out = IncrementalText(as_bytes, stops)
    parts = [out.feed(piece) for piece in cut(text.encode(), chunks)]
    parts.append(out.flush())
    ends = [
        (at + len(stop), at, stop) for stop in stops for at in range(len(text)) if text.startswith(stop, at)
    ]
    expected = min(ends, default=None)
    assert out.stopped == (expected[2] if expected else None)
    assert "".join(parts) == out.text == (text[: expected[1]] if expected else text)


def test_after_a_stop_nothing_comes() -> None:
    """A stop is final; an empty one is refused."""
    out = IncrementalText(as_bytes, ["b"])
    assert out.feed(b"ab") == "a"
    assert out.feed(b"cd") == ""
    assert out.flush() == ""
    with pytest.raises(ValueError, match="empty"):
        IncrementalText(as_bytes, [""])
