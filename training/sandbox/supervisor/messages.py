"""Values and messages between processes that don't trust each other: plain data as JSON, in frames.

`encode` turns what a sample returns into plain data (a subclass becomes the built-in type that it extends, an
array becomes a list). So no object with behaviour of its own crosses, such as one whose ``__eq__`` is always
true. An object that is not data stays in its process, and the other side gets a `Handle`. Pickle is never
used: unpickling runs code.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import struct
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

Keep = Callable[[Any], int]


class Handle:
    """An object that stayed in the other process, by its number there."""

    def __init__(self, number: int) -> None:
        self.number = number


class Closed(EOFError):
    """The other end is gone."""


def encode(value: Any, keep: Keep | None = None) -> Any:
    """`value` as JSON data. Raises TypeError for what is not data, unless `keep` gives it a number."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        plain = int.__index__(value)
        return plain if -(2**63) < plain < 2**63 else {"int": hex(plain)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(item, keep) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item, keep) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in value.items()]}
    if isinstance(value, AbstractSet):
        kind = "frozenset" if isinstance(value, frozenset) else "set"
        return {kind: [encode(item, keep) for item in value]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Handle):
        return {"mine": value.number}
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return encode(value.tolist(), keep)
    if type(value).__name__ in ("deque", "range", "dict_keys", "dict_values", "dict_items", "array"):
        return [encode(item, keep) for item in value]
    if keep is None:
        raise TypeError(f"a {type(value).__name__} is not plain data")
    return {"yours": keep(value)}


def decode(data: Any, kept: Callable[[int], Any] | None = None) -> Any:
    """The value of `encode`'s data. `kept` returns the object behind one of this side's own numbers."""
    if isinstance(data, list):
        return [decode(item, kept) for item in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(*content)
    if kind == "dict":
        return {decode(key, kept): decode(item, kept) for key, item in content}
    if kind in ("tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item, kept) for item in content)
    if kind == "yours":
        return Handle(int(content))
    if kind == "mine" and kept is not None:
        return kept(int(content))
    raise ValueError(f"unknown kind of value: {kind!r}")


def write_frame(fd: int, message: Any) -> None:
    """One message. Raises OSError (EPIPE) when nobody reads any more."""
    body = json.dumps(message).encode()
    view = memoryview(struct.pack("<Q", len(body)) + body)
    while view:
        view = view[os.write(fd, view) :]


def read_frame(fd: int, *, deadline: float | None = None, limit: int = 1 << 30) -> Any:
    """The next message. Raises Closed at the end, TimeoutError at `deadline`, ValueError on rubbish."""
    (length,) = struct.unpack("<Q", _read(fd, 8, deadline))
    if length > limit:
        raise ValueError(f"a message of {length} bytes")
    return json.loads(_read(fd, length, deadline))


def _read(fd: int, length: int, deadline: float | None) -> bytes:
    parts = bytearray()
    poller = None
    if deadline is not None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
    while len(parts) < length:
        if poller is not None and deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                raise TimeoutError
        part = os.read(fd, min(length - len(parts), 1 << 20))
        if not part:
            raise Closed
        parts += part
    return bytes(parts)
