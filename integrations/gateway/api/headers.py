"""What is read of a request beside its JSON: the body's bytes, and the headers that are ours."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, web
from multidict import CIMultiDictProxy

from elastic_agent.scheduler.allocation.request import OnExhausted

from ..ops.connections import Connection
from ..settings import is_loopback
from .errors import GatewayError, bad


@dataclass(frozen=True, slots=True)
class Terms:
    """How a call is made in its task; see `Task.call`."""

    kind: str = "call"
    final: bool = False
    on_exhausted: OnExhausted | None = None


def terms(headers: Mapping[str, str]) -> Terms:
    """What the headers say of it.

    Raises:
        GatewayError: 400, naming the header.
    """
    kind = headers.get("X-Elastic-Kind", "call")
    if not _name(kind, 40, "_-"):
        raise bad("X-Elastic-Kind", "X-Elastic-Kind is 1 to 40 letters, digits or _ -")
    final = headers.get("X-Elastic-Final", "false").lower()
    if final not in ("true", "false", "1", "0"):
        raise bad("X-Elastic-Final", "X-Elastic-Final is true or false")
    on_exhausted: Any = headers.get("X-Elastic-On-Exhausted")
    if on_exhausted not in (None, "shrink", "wait", "raise"):
        raise bad("X-Elastic-On-Exhausted", "X-Elastic-On-Exhausted is shrink, wait or raise")
    return Terms(kind, final in ("true", "1"), on_exhausted)


def check_local(headers: CIMultiDictProxy[str]) -> None:
    """Refuse what a web page of another host sent: it calls us by that host's name (DNS rebinding), or says
    where it comes from.

    Raises:
        GatewayError: 403.
    """
    hosts, origins = headers.getall("Host", []), headers.getall("Origin", [])
    if len(hosts) != 1 or not _local(f"//{hosts[0]}"):
        raise GatewayError(
            403,
            f"this gateway has no keys, so it answers to this machine's own names alone (localhost, "
            f"127.0.0.1), not to {', '.join(hosts)[:64]!r}: use one of these, or make keys (elastic-agent "
            f"keys create) and start it without --no-keys",
            "foreign_host",
        )
    if not all(map(_local, origins)):
        raise GatewayError(
            403, "this gateway has no keys, so it answers no page of another host", "foreign_origin"
        )


def _local(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return is_loopback(parts.hostname or "") and parts.username is None and (parts.port or 1) > 0
    except ValueError:
        return False


def check_task_id(id: str) -> None:
    """400 for what can be no task's name."""
    if not _name(id, 64, "_.:-"):
        raise bad("X-Elastic-Task", "a task's id is 1 to 64 letters, digits or _ . : -")


def _name(text: str, longest: int, others: str) -> bool:
    return 0 < len(text) <= longest and text.isascii() and all(c.isalnum() or c in others for c in text)


async def read_body(request: web.Request, seconds: float) -> bytes:
    """A JSON body.

    Raises:
        GatewayError: 415 for another type or a compressed one, 408 for one that takes too long, 400 for a
            broken one, 503 where too many are being answered.
    """
    if request.content_type != "application/json":
        raise GatewayError(415, "send JSON: Content-Type: application/json", "not_json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise GatewayError(415, "send the body as it is, without a Content-Encoding", "compressed")
    try:
        async with asyncio.timeout(seconds):
            body = await request.read()
    except TimeoutError:
        raise GatewayError(408, f"the body took longer than {seconds:g} s", "slow_body") from None
    except web.HTTPException:
        raise
    except (ClientError, web.RequestPayloadError, ValueError) as error:
        raise bad(None, "the body is broken", "broken_body") from error
    whole(request)
    return body


def whole(request: web.Request) -> None:
    """All of a request has come: its connection is busy, and is not closed for others.

    Raises:
        GatewayError: 503, too many are.
    """
    if isinstance(request.protocol, Connection):
        request.protocol.guard.begin(request.protocol)


def answered(request: web.Request) -> None:
    """Its connection is idle again."""
    if isinstance(request.protocol, Connection):
        request.protocol.guard.end(request.protocol)
