"""One of a run's servers as a `Backend`, for as long as it has the weights in training (`served_backend`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import NO_LIMITS, Meter, TokenChunk, TokenRequest
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.errors import BackendError, BackendUnavailableError

from ...config.schema import ServerConfig
from .serving import ServedModel
from .vllm_server import LONGEST_PAUSE, PLAIN, VllmServer, forgot, pause


class Seat:
    """One server as a `Backend`.

    Args:
        told: called when the server has the weights, or has them no more.

    Attributes:
        lost: why it gets no passes; None: it has the weights.
        fault: what no retry will change.
        tries: in a row, that did not give it the weights.
        passes_lost: passes that broke off, or were drawn with other weights.
    """

    guided = True
    two_passes = NO_LIMITS

    def __init__(
        self,
        server: VllmServer,
        weights: Path,
        served: ServedModel,
        settings: ServerConfig,
        told: Callable[[Seat], None],
    ) -> None:
        self.model, self.codec, self.context_length = served.name, served.codec, served.context
        self.lost: Exception | None = BackendUnavailableError(f"{server.root} has no weights yet")
        self.fault: Exception | None = None
        self.tries = self.passes_lost = 0
        self._server, self._weights, self._settings, self._told = server, weights, settings, told
        self._backend: VllmServerBackend | None = None
        self._giving: asyncio.Task[None] | None = None
        self._given = 0
        """How often it was given the weights: a pass that saw two of them had others in between."""
        self._closed = False

    @property
    def meter(self) -> Meter:
        return Meter() if self._backend is None else self._backend.meter

    @property
    def gave_up(self) -> bool:
        """Whether the retries are used up; it is still asked now and then."""
        return self.tries > self._settings.retries

    def begin(self) -> None:
        """Give it the weights, in a task beside the calls."""
        if self._giving is None or self._giving.done():
            self._giving = asyncio.create_task(self._give())

    async def ready(self) -> None:
        """Raise if it has not the weights."""
        if self.lost is not None:
            raise BackendUnavailableError(str(self.lost))

    async def probe(self) -> None:
        """The same."""
        await self.ready()

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        return "" if self._backend is None or self.lost else await self._backend.refusal(fields)

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`. Its last chunk comes once the weights are confirmed."""
        if self.lost is not None or self._backend is None:
            request.receipt.refused = True
            raise BackendUnavailableError(str(self.lost))
        given = self._given
        asked = replace(request, extra={**PLAIN, **request.extra})
        try:
            async with aclosing(self._backend.stream(asked)) as chunks:
                async for chunk in chunks:
                    if chunk.finish is not None and not self._server.names_weights:
                        await self._server.confirm(self._weights)
                        if given != self._given:
                            raise BackendUnavailableError(f"{self._server.root} had other weights meanwhile")
                    yield chunk
        except BackendError as error:
            gone = isinstance(error, BackendUnavailableError)
            if self._closed or not (gone or await forgot(self._server, self._weights)):
                raise
            self.passes_lost += not request.receipt.refused
            self._lose(error)
            raise error if gone else BackendUnavailableError(str(error)) from error

    async def aclose(self) -> None:
        self._closed = True
        if self._giving is not None:
            self._giving.cancel()
            await asyncio.wait([self._giving])
        if self._backend is not None:
            await self._backend.aclose()

    def _lose(self, why: BackendError) -> None:
        if self.lost is None:
            self.lost = why
            self._told(self)
        self.begin()

    async def _give(self) -> None:
        """Load the weights, again and again with pauses that grow, until it has them or can't take them."""
        while True:
            try:
                if not await self._server.holds(self._weights):
                    self._given += 1
                await self._server.load(self._weights)
                self._backend = self._backend or self._server.backend(self._weights)
                self.lost, self.tries = None, 0
                self._told(self)
                return
            except BackendUnavailableError as error:
                self.lost = error
                self.tries += 1
                self._told(self)
            except Exception as error:
                self.lost = self.fault = error
                self._told(self)
                return
            await asyncio.sleep(LONGEST_PAUSE if self.gave_up else pause(self._settings, self.tries))
