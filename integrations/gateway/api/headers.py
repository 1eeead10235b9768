"""The request headers that are ours, and the checks of a request to a gateway without keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from elastic_agent.budget import Caps
from elastic_agent.errors import InvalidCapsError, InvalidValueError
from elastic_agent.scheduler.allocation.call_terms import OnExhausted
from elastic_agent.validation import integer, shown

from ..errors import GatewayError, bad_request
from ..settings import is_loopback

PREFIX = "x-elastic-"
"""How the lower-case names of our headers begin."""
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "X-Elastic-Thinking": {"type": "integer", "minimum": 0},
    "X-Elastic-Solution": {"type": "integer", "minimum": 1},
    "X-Elastic-Task": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,64}$"},
    "X-Elastic-Caps": {"type": "string", "examples": ["tokens=4000, usd=0.05, seconds=30"]},
    "X-Elastic-Kind": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"},
    "X-Elastic-Final": {"type": "string", "enum": ["true", "false"]},
    "X-Elastic-On-Exhausted": {"type": "string", "enum": ["shrink", "wait", "raise"]},
    "X-Elastic-Tell": {"type": "string", "enum": ["true", "false"]},
}
"""Our headers, and what they hold, as a JSON schema."""
_KNOWN = {name.lower() for name in HEADERS}
IDEMPOTENCY_KEY = "Idempotency-Key"
MOST_LENGTH = 200
"""Characters of a header of ours."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How a call is made in its task, see `Task.call`; and what the headers say about the task.

    Attributes:
        task: the name of the task.
        caps: those of the task.
        tell: whether the model is told what is left of the task; None: as the task is.
    """

    kind: str = "call"
    final: bool = False
    on_exhausted: OnExhausted | None = None
    task: str | None = None
    caps: Caps | None = None
    tell: bool | None = None


def call_options(headers: Mapping[str, str]) -> CallOptions:
    """What the headers say about the call."""
    kind = headers.get("X-Elastic-Kind", "call")
    if not _is_name(kind, 40, "_-"):
        raise bad_request("X-Elastic-Kind", "X-Elastic-Kind is 1 to 40 letters, digits or _ -")
    final, tell = _header_bool(headers, "X-Elastic-Final"), _header_bool(headers, "X-Elastic-Tell")
    on_exhausted: Any = headers.get("X-Elastic-On-Exhausted")
    if on_exhausted not in (None, "shrink", "wait", "raise"):
        raise bad_request("X-Elastic-On-Exhausted", "X-Elastic-On-Exhausted is shrink, wait or raise")
    task, caps = headers.get("X-Elastic-Task"), headers.get("X-Elastic-Caps")
    if task is not None:
        check_task_id(task)
    found = None if caps is None else header_caps(caps)
    return CallOptions(kind, bool(final), on_exhausted, task, found, tell)


def _header_bool(headers: Mapping[str, str], name: str) -> bool | None:
    text = headers.get(name)
    if text is not None and text.lower() not in ("true", "false", "1", "0"):
        raise bad_request(name, f"{name} is true or false")
    return None if text is None else text.lower() in ("true", "1")


def header_tokens(headers: Mapping[str, str], name: str, least: int) -> int | None:
    """A number of tokens in a header; None without the header."""
    text = headers.get(name)
    if text is None:
        return None
    try:
        return integer(name, text, least=least)
    except InvalidValueError as error:
        raise bad_request(name, str(error)) from None


def header_caps(text: str) -> Caps:
    """`X-Elastic-Caps: tokens=4000, usd=0.05, seconds=30` as caps.

    Raises:
        GatewayError: 400, naming the header: an unknown unit, a unit twice, or a cap that is out of range.
    """
    form = "X-Elastic-Caps is like tokens=4000, usd=0.05, seconds=30"
    found: dict[str, str] = {}
    for part in text[:MOST_LENGTH].replace(";", ",").split(","):
        unit, _, value = (piece.strip() for piece in part.partition("="))
        if unit not in ("tokens", "usd", "seconds") or len(text) > MOST_LENGTH:
            raise bad_request("X-Elastic-Caps", f"{form}, not {shown(text)}")
        if unit in found:
            raise bad_request("X-Elastic-Caps", f"{form}; {unit} is there twice: {shown(text)}")
        found[unit] = value
    try:
        return Caps(**cast("dict[str, Any]", found))
    except InvalidCapsError as error:
        raise bad_request("X-Elastic-Caps", f"X-Elastic-Caps: {error}") from None


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers with our prefix that don't exist, are repeated, or are too long."""
    seen = set()
    for name, value in headers.items():
        ours = name.lower()
        if not ours.startswith(PREFIX):
            continue
        if ours not in _KNOWN:
            message = f"there is no header {name[:64]}; ours are {', '.join(HEADERS)}"
            raise bad_request(name[:64], message, "unknown_header")
        if len(value) > MOST_LENGTH:
            raise bad_request(name, f"{name} has {len(value):,} characters: at most {MOST_LENGTH}")
        if ours in seen:
            raise bad_request(name, f"{name} is there twice: send it once")
        seen.add(ours)


def check_task_id(id: str) -> None:
    """Refuse a text that can't be a task's id."""
    if not _is_name(id, 64, "_.:-"):
        raise bad_request("X-Elastic-Task", "a task's id is 1 to 64 letters, digits or _ . : -")


def check_local(headers: CIMultiDictProxy[str]) -> None:
    """Refuse a request that a web page of another host sent. Such a request names that host: in `Host`, where
    the host's DNS entry leads to this machine (DNS rebinding), or in `Origin`.

    Raises:
        GatewayError: 403.
    """
    hosts, origins = headers.getall("Host", []), headers.getall("Origin", [])
    if len(hosts) != 1 or not _is_local(f"//{hosts[0]}"):
        raise GatewayError(
            403,
            f"this gateway has no keys, so it answers to this machine's own names alone (localhost, "
            f"127.0.0.1), not to {', '.join(hosts)[:64]!r}: use one of these, or make keys (elastic-agent "
            f"keys create) and start it without --no-keys",
            "foreign_host",
        )
    if not all(map(_is_local, origins)):
        raise GatewayError(
            403, "this gateway has no keys, so it answers no page of another host", "foreign_origin"
        )


def _is_local(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return is_loopback(parts.hostname or "") and parts.username is None and (parts.port or 1) > 0
    except ValueError:
        return False


def _is_name(text: str, longest: int, others: str) -> bool:
    return 0 < len(text) <= longest and text.isascii() and all(c.isalnum() or c in others for c in text)
