"""An answer while it comes, for any number of clients that read along, and for those that come later."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web
from multidict import CIMultiDict

from ..api.errors import GatewayError
from .response_writer import send

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
BUFFER = 32 << 20
"""Bytes of a running answer that are kept for who comes later."""


class Recorder:
    """An answer while it comes, for any number of readers. Who writes it takes it for a stream.

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
        self.left = 0.0  # when the last of them left
        self.task: asyncio.Task[None] | None = None
        self._pieces: list[bytes] = []
        self._first = 0  # the number of the first piece that is still there
        self._size = 0
        self._reading: dict[object, int] = {}
        self._news = asyncio.Event()

    # The writer's side, as of `web.StreamResponse`

    async def prepare(self, request: web.Request) -> None:
        """Its head is final; what follows is sent as it comes."""
        self.prepared = self.streamed = True
        self._tell()

    async def write(self, data: bytes) -> None:
        """More of the body. What every reader has is dropped when it is too much to keep."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > BUFFER:
            behind = min(self._reading.values(), default=self._first + len(self._pieces))
            del self._pieces[: behind - self._first]
            self._first = max(self._first, behind)
        self._tell()

    async def write_eof(self) -> None:
        """Nothing follows; `end` tells the readers."""

    def whole(self, status: int, headers: Mapping[str, str], body: bytes, *, streamed: bool = False) -> None:
        """All of an answer, instead of what there is."""
        self.status, self.headers = status, CIMultiDict(headers)
        self.prepared, self.streamed = True, streamed
        self._pieces, self._size, self._first = [body], len(body), 0

    def take(self, response: web.Response) -> None:
        """The same from a response that was not sent."""
        assert isinstance(response.body, bytes)
        self.whole(response.status, response.headers, response.body)

    def end(self, error: Exception | None = None) -> None:
        """It is over, or failed at no cost."""
        self.error, self.done = error, True
        self._tell()

    @property
    def complete(self) -> bool:
        """All of it is still there."""
        return not self._first

    @property
    def body(self) -> bytes:
        """What there is of it."""
        return b"".join(self._pieces)

    # The readers' side

    async def read(self, request: web.Request, id: str, seconds: float, again: bool) -> web.StreamResponse:
        """Send it to one client, from its beginning.

        Raises:
            GatewayError: it failed, or its beginning isn't there any more.
        """
        while not self.prepared and not self.done:
            await self._news.wait()
        if self.error is not None:
            raise self.error
        if self._first:
            raise gone()
        headers = {**self.headers, "X-Request-Id": id}
        if again or self.replayed:
            headers[REPLAYED] = "true"
        if not self.streamed:
            return web.Response(status=self.status, headers=headers, body=self.body)
        response = web.StreamResponse(status=self.status, headers=headers)
        await response.prepare(request)
        at, mine = 0, object()
        try:
            while True:
                self._reading[mine] = at
                fresh = self._pieces[at - self._first :]
                for piece in fresh:
                    await send(response, piece, seconds)
                at += len(fresh)
                if fresh:
                    continue
                if self.done:
                    break
                await self._news.wait()
        finally:
            del self._reading[mine]
        await response.write_eof()
        return response

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def gone() -> GatewayError:
    """An answer that can't be told again."""
    return GatewayError(
        409,
        f"the request with this {HEADER} was answered, and its answer is too large to be kept: send it with "
        f"another key to have it run, and charged, again",
        "idempotency_answer_gone",
        retry=False,
    )
