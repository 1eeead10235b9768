"""What each id of a tokenizer stands for, as bytes: markers are looked for in these, across tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast


def _byte_alphabet() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in plain)
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()


class TokenBytes:
    """The bytes of an id, as they stand behind other text; a control token's as people write it.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        encode: its ids of a text.
    """

    def __init__(self, tokenizer: Any, encode: Callable[[str], Sequence[int]]) -> None:
        self._tokenizer, self._encode = tokenizer, encode
        self._known: dict[int, bytes] = {
            i: str(token.content).encode() for i, token in tokenizer.added_tokens_decoder.items()
        }
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        self._byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    def __call__(self, token: int) -> bytes:
        if token not in self._known:
            self._known[token] = self._look_up(token)
        return self._known[token]

    def _look_up(self, token: int) -> bytes:
        text = self._tokenizer.convert_ids_to_tokens(token)
        if text is None:
            return b""
        if self._byte_level and all(letter in _BYTES for letter in text):
            return bytes(_BYTES[letter] for letter in text)
        if re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            return bytes.fromhex(text[3:5])
        before = list(self._encode("a"))  # alone, some tokenizers leave out a word's blank
        return self._decode([*before, token])[len(self._decode(before)) :].encode()

    def _decode(self, ids: list[int]) -> str:
        return cast(
            "str",
            self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
        )
