"""One `Idempotency-Key`, one answer: a request that is sent again is answered, but not run and charged again.

The first request with a key runs in an asyncio task of its own, and all clients that ask with this key, the
first included, read the same response. A retry that arrives while the request runs waits for its response; a
later retry gets the response from the answer table, where it is kept beside the ledger until it expires. Keys
belong to an owner: an API key.

Answers are kept, and errors of calls that were charged. After an error that cost nothing the key is free
again, so that a retry can succeed.

A call without readers runs on for `leave_seconds`, since a client that retries closes its connection first.
Then the call is stopped and charged for what it has used, and its key answers with an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import Any

from aiohttp import ClientError, web

from elastic_agent.errors import StoreError

from ..answers.response_writer import ResponseStream, stream_headers
from ..api.headers import IDEMPOTENCY_KEY, PREFIX
from ..errors import GatewayError, bad_request
from ..settings import Limits
from ..storage.answer_table import AnswerTable, Entry, FullError, KeepLimits
from .shared_response import SharedResponse, answer_gone

log = logging.getLogger(__name__)

KEPT_HEADERS = ("content-type", PREFIX, "x-should-retry", "cache-control", "x-accel-buffering")
"""The headers of a response that are kept: their names begin like this."""
LARGE = 64 << 10
"""Bytes of a body beyond which its fingerprint is taken in a thread."""
SWEEP_SECONDS = 60.0
MARGIN = 60.0
"""Seconds beyond the longest call after which a request that is marked as running has died."""

Run = Callable[[Callable[[str], ResponseStream]], Awaitable[Any]]
"""Answers a request: with a whole response, or on a stream that it makes with its argument and returns."""


class Idempotency:
    """Runs each request with a key once.

    Args:
        answers: where answers are kept.
        limits: how long a call, its send and its answer may take; how long an answer is kept, and a call
            without readers runs on.
    """

    def __init__(self, answers: AnswerTable, limits: Limits) -> None:
        self._answers = answers
        self.limits = limits
        self._running: dict[str, SharedResponse] = {}
        self._swept = time.time()

    @property
    def limits(self) -> Limits:
        """The limits; a reload sets others."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._keep = KeepLimits(lost_seconds=limits.answer_seconds)

    async def once(
        self, request: web.Request, owner: str, raw: bytes, facts: dict[str, Any], run: Run
    ) -> web.StreamResponse:
        """Answer a request that has a key.

        Args:
            owner: whose key it is.
            raw: the body.
            facts: for the access log; its `passes` counts the requests to the model.
            run: answers the request.

        Raises:
            GatewayError: see the module, and whatever `run` raises at no cost.
        """
        digest = _digest(request.headers.getall(IDEMPOTENCY_KEY), owner)
        in_thread = len(raw) > LARGE  # else other requests would wait for it
        fingerprint = (
            await asyncio.to_thread(_fingerprint, request, raw) if in_thread else _fingerprint(request, raw)
        )
        shared = self._running.get(digest)
        again = shared is not None
        if shared is None:
            shared = self._running[digest] = SharedResponse(fingerprint)
            claim = Entry(digest, owner, fingerprint, time.time() + self.limits.call_seconds + MARGIN)
            # In an empty context: the task outlives the request that began it
            shared.task = asyncio.get_running_loop().create_task(
                self._run(shared, claim, facts, run), context=Context()
            )
        elif shared.fingerprint != fingerprint:
            raise _error("idempotency_key_reused")
        shared.readers += 1
        try:
            response = await shared.send_to(request, facts["id"], self.limits.send_seconds, again)
            if again or shared.replayed:
                facts["replayed"] = True
            return response
        except (ConnectionError, ClientError):  # the client left while we wrote
            raise asyncio.CancelledError from None
        finally:
            shared.readers -= 1
            if not shared.readers and not shared.done:
                loop = asyncio.get_running_loop()
                shared.left_at = loop.time()
                loop.call_later(self.limits.leave_seconds, self._stop_if_left, shared)

    async def sweep(self) -> None:
        """Delete expired answers, once a minute."""
        now = time.time()
        if now - self._swept > SWEEP_SECONDS:
            self._swept = now
            await asyncio.to_thread(self._answers.sweep, now, self._keep)

    async def aclose(self) -> None:
        """Stop all calls and close the answer table."""
        tasks = [shared.task for shared in self._running.values() if shared.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._answers.close)

    def _stop_if_left(self, shared: SharedResponse) -> None:
        """Stop a call that has had no reader for `leave_seconds`."""
        left = asyncio.get_running_loop().time() - shared.left_at >= self.limits.leave_seconds - 0.05
        if left and not shared.readers and not shared.done and shared.task is not None:
            shared.task.cancel()

    # One key

    async def _run(self, shared: SharedResponse, claim: Entry, facts: dict[str, Any], run: Run) -> None:
        """Answer one key, from the answer table or by running the request."""
        error: Exception | None = None
        try:
            if not await self._answer_from_table(shared, claim):
                await self._run_and_keep(shared, claim, facts, run)
        except FullError:
            message = f"this key has {self._keep.keys} Idempotency-Keys: the oldest are forgotten soon"
            error = GatewayError(429, message, "idempotency_keys_full", retry_after=60.0)
        except asyncio.CancelledError:
            error = GatewayError(503, "the call was stopped: try again", "stopped", retry_after=1.0)
        except Exception as raised:
            error = raised
        finally:
            self._running.pop(claim.digest, None)
            shared.end(error)

    async def _answer_from_table(self, shared: SharedResponse, claim: Entry) -> bool:
        """Read the key's answer from the table. False: the key was free, and is now claimed.

        Raises:
            GatewayError: the key has no answer that can be sent.
        """
        now = time.time()
        found = await asyncio.to_thread(self._answers.claim, claim, now, self._keep)
        if found is None:
            return False
        if found.fingerprint != claim.fingerprint:
            raise _error("idempotency_key_reused")
        if found.state == "gone":
            raise answer_gone()
        if found.state == "running":
            raise _error("idempotency_key_in_use" if found.until > now else "idempotency_key_unknown")
        body = await asyncio.to_thread(lambda: found.text)
        shared.replayed = True
        shared.set_whole(found.status, json.loads(found.headers), body, streamed=found.stream)
        return True

    async def _run_and_keep(
        self, shared: SharedResponse, claim: Entry, facts: dict[str, Any], run: Run
    ) -> None:
        """Run the request, and keep its answer; what cost nothing releases the key."""

        def stream(id: str) -> ResponseStream:
            shared.headers.extend(stream_headers(id))
            return shared

        try:
            response = await run(stream)
            if response is not shared:
                shared.copy(response)
        except GatewayError as error:
            if error.charged is None:
                await self._release(claim)
                raise
            shared.copy(error.response(facts["route"]))
        except asyncio.CancelledError:
            if not facts.get("passes"):
                await self._release(claim)
                raise
            shared.copy(_error("idempotency_key_left").response(facts["route"]))
        except BaseException:
            await self._release(claim)
            raise
        await self._keep_answer(shared, claim)

    async def _keep_answer(self, shared: SharedResponse, claim: Entry) -> None:
        headers = {n: v for n, v in shared.headers.items() if n.lower().startswith(KEPT_HEADERS)}
        answer = replace(
            claim,
            until=time.time() + self.limits.answer_seconds,
            state="answered" if shared.complete else "gone",
            status=shared.status,
            headers=json.dumps(headers),
            stream=shared.streamed,
            body=await asyncio.to_thread(zlib.compress, shared.body, 6) if shared.complete else b"",
        )
        try:
            await asyncio.to_thread(self._answers.finish, answer, self._keep)
        except StoreError as error:  # the entry stays "running", so no process runs the request again
            log.warning("an answer was not kept: %s", error)

    async def _release(self, claim: Entry) -> None:
        with suppress(StoreError):
            await asyncio.to_thread(self._answers.release, claim.digest)


def _digest(keys: list[str], owner: str) -> str:
    key = keys[0] if len(keys) == 1 else ""
    if not 0 < len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise bad_request(IDEMPOTENCY_KEY, f"{IDEMPOTENCY_KEY}: one, of 1 to 255 printable ASCII characters")
    return hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()


def _fingerprint(request: web.Request, raw: bytes) -> str:
    """A digest of what a request asks for: its path, its body as JSON, and our headers."""
    with suppress(ValueError, RecursionError):  # such a body is refused later, at no cost
        raw = json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":")).encode()
    ours = sorted((n.lower(), v) for n, v in request.headers.items() if n.lower().startswith(PREFIX))
    return hashlib.sha256(json.dumps([request.path, ours]).encode() + b"\0" + raw).hexdigest()


_ERRORS: Mapping[str, tuple[int, str, bool | None, float | None]] = {
    "idempotency_key_reused": (422, "is another one: give each request a key of its own", None, None),
    "idempotency_key_in_use": (409, "runs in another process of this gateway: try again soon", None, 2.0),
    "idempotency_key_unknown": (
        409,
        "ran in a gateway that has ended, and its answer is unknown; what it may have used is charged. Send "
        "it with another key to have it run again",
        False,
        None,
    ),
    "idempotency_key_left": (
        409,
        "was stopped, because its client left; what it had used is charged. Send it with another key to have "
        "it run again",
        False,
        None,
    ),
}
"""By code: the status, what became of the request with the key, whether to retry, after how many seconds."""


def _error(code: str) -> GatewayError:
    status, message, retry, after = _ERRORS[code]
    sentence = f"the request with this {IDEMPOTENCY_KEY} {message}"
    return GatewayError(status, sentence, code, param=IDEMPOTENCY_KEY, retry_after=after, retry=retry)
