"""A response that several clients read while it is written: one writer, any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web
from multidict import CIMultiDict

from ..answers.response_writer import send
from ..api.headers import IDEMPOTENCY_KEY
from ..errors import GatewayError

REPLAYED = "Idempotent-Replayed"
"""Header of a response that was not made for this request."""
BUFFER = 32 << 20
"""Bytes of a running response that are kept for readers who come later."""


class SharedResponse:
    """A response for any number of readers. Its writer uses it as a `ResponseStream`.

    Args:
        fingerprint: of the request.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.status = 200
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.prepared = False
        self.streamed = False
        self.done = False
        self.error: Exception | None = None
        self.replayed = False
        self.readers = 0
        self.left_at = 0.0  # when the last reader left
        self.task: asyncio.Task[None] | None = None
        self._parts: list[bytes] = []
        self._first = 0  # the number of the first part that is still kept
        self._size = 0
        self._read: dict[object, int] = {}  # by reader: how many parts it has
        self._changed = asyncio.Event()

    # The writer's side, as of `web.StreamResponse`

    async def prepare(self, request: web.Request) -> None:
        """Status and headers are final."""
        self.prepared = self.streamed = True
        self._notify()

    async def write(self, data: bytes) -> None:
        """Add to the body. Beyond BUFFER bytes, drop the parts that every reader has."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > BUFFER:
            read_by_all = min(self._read.values(), default=self._first + len(self._parts))
            del self._parts[: read_by_all - self._first]
            self._first = max(self._first, read_by_all)
        self._notify()

    async def write_eof(self) -> None:
        """Nothing: `end` tells the readers."""

    def set_whole(
        self, status: int, headers: Mapping[str, str], body: bytes, *, streamed: bool = False
    ) -> None:
        """Replace all of the response."""
        self.status, self.headers = status, CIMultiDict(headers)
        self.prepared, self.streamed = True, streamed
        self._parts, self._size, self._first = [body], len(body), 0

    def copy(self, response: web.Response) -> None:
        """Take all of a response that was not sent."""
        assert isinstance(response.body, bytes)
        self.set_whole(response.status, response.headers, response.body)

    def end(self, error: Exception | None = None) -> None:
        """Nothing more is written; an `error` is raised to the readers instead of a response."""
        self.error, self.done = error, True
        self._notify()

    @property
    def complete(self) -> bool:
        """Whether all parts are kept."""
        return not self._first

    @property
    def body(self) -> bytes:
        """The parts that are kept."""
        return b"".join(self._parts)

    # The readers' side

    async def send_to(self, request: web.Request, id: str, seconds: float, again: bool) -> web.StreamResponse:
        """Send the response to one client, from its beginning.

        Args:
            id: of the client's request.
            seconds: that the client may take to read a part.
            again: the response was made for another request.

        Raises:
            GatewayError: the request failed, or the response's beginning isn't kept any more.
        """
        while not self.prepared and not self.done:
            await self._changed.wait()
        if self.error is not None:
            raise self.error
        if self._first:
            raise answer_gone()
        headers = {**self.headers, "X-Request-Id": id}
        if again or self.replayed:
            headers[REPLAYED] = "true"
        if not self.streamed:
            return web.Response(status=self.status, headers=headers, body=self.body)
        response = web.StreamResponse(status=self.status, headers=headers)
        await response.prepare(request)
        await self._send_parts(response, seconds)
        await response.write_eof()
        return response

    async def _send_parts(self, response: web.StreamResponse, seconds: float) -> None:
        """Send all parts, also those that are yet to come."""
        sent, reader = 0, object()
        try:
            while True:
                self._read[reader] = sent
                unsent = self._parts[sent - self._first :]
                for part in unsent:
                    await send(response, part, seconds)
                sent += len(unsent)
                if not unsent:
                    if self.done:
                        return
                    await self._changed.wait()
        finally:
            del self._read[reader]

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def answer_gone() -> GatewayError:
    """409: an answer that can't be sent again."""
    return GatewayError(
        409,
        f"the request with this {IDEMPOTENCY_KEY} was answered, and its answer is too large to be kept: send "
        f"it with another key to have it run, and charged, again",
        "idempotency_answer_gone",
        retry=False,
    )
