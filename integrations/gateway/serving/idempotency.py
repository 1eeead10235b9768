"""One `Idempotency-Key`, one answer: a request that is sent again is answered, not run and paid again.

The first request with a key runs in a task of its own, and whoever asks with this key, the first client
included, reads along: a retry that comes while it runs waits for it, one that comes later is told the same.
The answer is kept for its time to live, beside the ledger (`answers`). Keys are their owner's: an API key's.

What is kept is what was paid for: an answer, or an error of a call for which something was charged. An error
that cost nothing gives the key back, so that trying again can succeed.

Where nobody reads along any more, the call goes on for `leave_seconds`: a client that retries closes its
connection first. Then it is stopped, and what it has used is charged; its key says so from then on.

    409 idempotency_key_in_use     it runs in another process: try again soon
    409 idempotency_key_left       everybody left before the answer, which was stopped
    409 idempotency_key_unknown    the gateway that ran it has died
    409 idempotency_answer_gone    it was answered, and the answer is too large to be kept
    422 idempotency_key_reused     the key was sent with another request
    429 idempotency_keys_full      the owner has too many keys
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from aiohttp import ClientError, web

from elastic_agent.errors import StoreError

from ..api.errors import GatewayError, bad
from .kept_answers import Answers, Entry, FullError, Room
from .recorder import HEADER, Recorder, gone
from .response_writer import Stream, stream_headers

log = logging.getLogger(__name__)

MEANT = "x-elastic-"
"""Headers that are a part of what a request asks for begin so."""
KEPT = ("content-type", "x-elastic-", "x-should-retry", "cache-control", "x-accel-buffering")
"""Headers of an answer that are told again."""
LARGE = 64 << 10
"""Bytes of a body beyond which it is looked through in a thread."""
SWEEP_SECONDS = 60.0
MARGIN = 60.0
"""Seconds beyond the longest call after which one that says that it runs can't."""

Run = Callable[[Callable[[str], Stream]], Awaitable[Any]]
"""Answers a request: whole, or on the stream that it is given a maker of, which it returns."""


class Idempotency:
    """Runs each request with a key once.

    Args:
        answers: where answers are kept.
        seconds: for which they are.
        leave_seconds: for which a call goes on when nobody reads along.
        call_seconds: the longest that a call takes.
        send_seconds: that a client may take to read a piece.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        seconds: float,
        leave_seconds: float,
        call_seconds: float,
        send_seconds: float,
    ) -> None:
        self.seconds, self.leave_seconds = seconds, leave_seconds
        self._answers, self._longest, self._send = answers, call_seconds + MARGIN, send_seconds
        self._room = Room(forget=seconds)
        self._live: dict[str, Recorder] = {}
        self._swept = time.time()

    async def once(
        self, request: web.Request, owner: str, raw: bytes, facts: dict[str, Any], run: Run
    ) -> web.StreamResponse:
        """Answer a request that has a key.

        Args:
            owner: whose key it is.
            raw: the body.
            facts: what the access log says; `passes` in it are requests that were made for the answer.
            run: answers it.

        Raises:
            GatewayError: see the module, and whatever `run` raises at no cost.
        """
        digest = _digest(request.headers.getall(HEADER), owner)
        # A large body takes longer than others should wait for
        aside = len(raw) > LARGE
        fingerprint = (
            await asyncio.to_thread(_fingerprint, request, raw) if aside else _fingerprint(request, raw)
        )
        live = self._live.get(digest)
        again = live is not None
        if live is None:
            live = self._live[digest] = Recorder(fingerprint)
            entry = Entry(digest, owner, fingerprint, 0.0)
            # In no request's context: it outlives the one that began it
            live.task = asyncio.get_running_loop().create_task(
                self._run(live, entry, facts, run), context=Context()
            )
        elif live.fingerprint != fingerprint:
            raise _reused()
        live.readers += 1
        try:
            response = await live.read(request, facts["id"], self._send, again)
            if again or live.replayed:
                facts["replayed"] = True
            return response
        except (ConnectionError, ClientError):  # while we wrote: the client has left
            raise asyncio.CancelledError from None
        finally:
            live.readers -= 1
            if not live.readers and not live.done:
                loop = asyncio.get_running_loop()
                live.left = loop.time()
                loop.call_later(self.leave_seconds, self._stop, live)

    async def sweep(self) -> None:
        """Forget what has expired."""
        now = time.time()
        if now - self._swept > SWEEP_SECONDS:
            self._swept = now
            await asyncio.to_thread(self._answers.sweep, now, self._room)

    async def aclose(self) -> None:
        """Stop what runs."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._answers.close)

    def _stop(self, live: Recorder) -> None:
        """Nobody has read along for long enough."""
        alone = asyncio.get_running_loop().time() - live.left >= self.leave_seconds - 0.05
        if alone and not live.readers and not live.done and live.task is not None:
            live.task.cancel()

    # One key

    async def _run(self, live: Recorder, entry: Entry, facts: dict[str, Any], run: Run) -> None:
        error: Exception | None = None
        try:
            if not await self._known(live, entry):
                await self._new(live, entry, facts, run)
        except FullError:
            error = GatewayError(
                429, f"this key has {self._room.keys} Idempotency-Keys: the oldest are forgotten soon",
                "idempotency_keys_full", retry_after=60.0,
            )  # fmt: skip
        except asyncio.CancelledError:
            error = GatewayError(503, "the call was stopped: try again", "stopped", retry_after=1.0)
        except Exception as raised:
            error = raised
        finally:
            self._live.pop(entry.digest, None)
            live.end(error)

    async def _known(self, live: Recorder, entry: Entry) -> bool:
        """Take the key; or have its answer read again.

        Raises:
            GatewayError: there is none to read.
        """
        now = time.time()
        taken = Entry(entry.digest, entry.owner, entry.fingerprint, now + self._longest)
        found = await asyncio.to_thread(self._answers.begin, taken, now, self._room)
        if found is None:
            return False
        if found.fingerprint != entry.fingerprint:
            raise _reused()
        if found.state == "gone":
            raise gone()
        if found.state == "running":
            raise _in_use() if found.until > now else _unknown()
        text = await asyncio.to_thread(lambda: found.text)
        live.replayed = True
        live.whole(found.status, json.loads(found.headers), text, streamed=found.stream)
        return True

    async def _new(self, live: Recorder, entry: Entry, facts: dict[str, Any], run: Run) -> None:
        def stream(id: str) -> Stream:
            live.headers.extend(stream_headers(id))
            return live

        try:
            response = await run(stream)
            if response is not live:
                live.take(response)
        except GatewayError as error:
            if error.charged is None:
                await self._drop(entry)
                raise
            live.take(error.response())
        except asyncio.CancelledError:
            if not facts.get("passes"):
                await self._drop(entry)
                raise
            live.take(_left().response())
        except BaseException:
            await self._drop(entry)
            raise
        await self._keep(live, entry)

    async def _keep(self, live: Recorder, entry: Entry) -> None:
        headers = {n: v for n, v in live.headers.items() if n.lower().startswith(KEPT)}
        body = await asyncio.to_thread(zlib.compress, live.body, 6) if live.complete else b""
        kept = Entry(
            entry.digest, entry.owner, entry.fingerprint, time.time() + self.seconds,
            "answered" if live.complete else "gone", live.status, json.dumps(headers), live.streamed, body,
        )  # fmt: skip
        try:
            await asyncio.to_thread(self._answers.finish, kept, self._room)
        except StoreError as error:  # it stands as running, so nobody runs it again
            log.warning("an answer was not kept: %s", error)

    async def _drop(self, entry: Entry) -> None:
        with suppress(StoreError):
            await asyncio.to_thread(self._answers.drop, entry.digest)


def _digest(keys: list[str], owner: str) -> str:
    key = keys[0] if len(keys) == 1 else ""
    if not 0 < len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise bad(HEADER, f"{HEADER}: one, of 1 to 255 printable ASCII characters")
    return hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()


def _fingerprint(request: web.Request, raw: bytes) -> str:
    """What a request asks for: its path, its body as JSON, and those of its headers that are ours."""
    with suppress(ValueError, RecursionError):  # refused when it is read, at no cost
        raw = json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":")).encode()
    ours = sorted((n.lower(), v) for n, v in request.headers.items() if n.lower().startswith(MEANT))
    told = json.dumps([request.path, ours]).encode()
    return hashlib.sha256(told + b"\0" + raw).hexdigest()


def _reused() -> GatewayError:
    return GatewayError(
        422,
        f"this {HEADER} was sent with another request: give each request its own",
        "idempotency_key_reused",
        param=HEADER,
    )


def _in_use() -> GatewayError:
    return GatewayError(
        409,
        f"the request with this {HEADER} runs in another process of this gateway: try again soon",
        "idempotency_key_in_use",
        param=HEADER,
        retry_after=2.0,
    )


def _unknown() -> GatewayError:
    return GatewayError(
        409,
        f"the gateway that ran the request with this {HEADER} has ended, and nobody knows its answer; what "
        f"it may have used is charged. Send it with another key to have it run again",
        "idempotency_key_unknown",
        param=HEADER,
        retry=False,
    )


def _left() -> GatewayError:
    return GatewayError(
        409,
        f"the client of the request with this {HEADER} left, and it was stopped; what it had used is "
        f"charged. Send it with another key to have it run again",
        "idempotency_key_left",
        param=HEADER,
        retry=False,
    )
