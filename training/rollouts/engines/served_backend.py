"""The servers of a run as one `Backend`, on which agents' tasks run with the weights in training.

Calls go to the server that has read the most of their prompt (`elastic_agent.backends.replicas`). A server is
lost when a pass there breaks off, or was drawn with other weights than those in training: that pass ends with
BackendUnavailableError, later ones go to the other servers, and a task beside them gives it the weights
again. Passes that no server can take wait, until one has the weights or the retries are used up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

from elastic_agent.backends.base import TokenChunk, TokenRequest, confirm_send
from elastic_agent.backends.replicas import Replicas
from elastic_agent.errors import BackendError, BackendUnavailableError

from ...config.schema import ServerConfig
from .server_seat import Seat
from .serving import ServedModel
from .vllm_server import VllmServer

Log = Callable[[str], None]


class ServedServers(Replicas):
    """All servers; see the module.

    Args:
        log: gets a line when a server is lost.

    Attributes:
        loading: seconds until the servers had the weights.
    """

    def __init__(
        self,
        servers: Sequence[VllmServer],
        weights: Path,
        served: ServedModel,
        settings: ServerConfig,
        log: Log,
    ) -> None:
        self._seats = [Seat(server, weights, served, settings, self._told) for server in servers]
        super().__init__(self._seats)
        for replica in self.replicas:
            replica.known = replica.draining = True
        self.loading = 0.0
        self._retries, self._log = settings.retries, log
        self._news = asyncio.Event()
        self._begun = False

    @property
    def lost(self) -> int:
        """Passes that were lost with their server."""
        return sum(seat.passes_lost for seat in self._seats)

    async def begin(self) -> None:
        """Return when every server has been given the weights, or can't be reached, and one has them.

        Raises:
            BackendError: as `check`.
        """
        began = time.perf_counter()
        for seat in self._seats:
            seat.begin()
        while any(seat.lost and not seat.tries for seat in self._seats) or not self._living():
            self.check()
            await self._news.wait()
        self.check()
        self.loading, self._begun = time.perf_counter() - began, True

    def check(self) -> None:
        """Raise if the run must stop.

        Raises:
            BackendUnavailableError: no server has the weights, after all retries.
            BackendError: a server answered what no retry will change.
        """
        for seat in self._seats:
            if seat.fault is not None:
                raise BackendError(str(seat.fault)) from seat.fault
        if all(seat.lost is not None and seat.gave_up for seat in self._seats):
            why = self._seats[0].lost
            raise BackendUnavailableError(
                f"{self._retries + 1} tries in a row gave no server the weights: {why}"
            ) from why

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`. While no server can take it, it waits."""
        for number in range(self._retries + 1):
            await self._wait(request, again=number > 0)
            try:
                async with aclosing(super().stream(request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except BackendUnavailableError:
                if not request.receipt.refused or self.closed or number == self._retries:
                    raise

    async def _wait(self, request: TokenRequest, *, again: bool) -> None:
        """Return when a server has the weights; until then the receipt says that nothing was sent."""
        if self._living() and not again:
            return
        request.receipt.refused = True
        while not self._living() and not self.closed:
            self.check()
            await self._news.wait()
        await confirm_send(request)
        request.receipt.refused = False

    def _living(self) -> bool:
        return any(seat.lost is None for seat in self._seats)

    def _told(self, seat: Seat) -> None:
        replica = next(one for one in self.replicas if one.backend is seat)
        if seat.lost is None:
            replica.draining = False
            replica.worked()
        elif not replica.draining and self._begun:
            self._log(f"{seat.lost}; calls go to the others until it has the weights again")
        replica.draining = seat.lost is not None
        self._news.set()
        self._news = asyncio.Event()

    async def aclose(self) -> None:
        await super().aclose()
        self._news.set()


@asynccontextmanager
async def serving_servers(
    servers: Sequence[VllmServer], weights: Path, served: ServedModel, settings: ServerConfig, log: Log
) -> AsyncGenerator[ServedServers]:
    """The servers as a Backend, once they have the weights.

    Raises:
        BackendError: as `ServedServers.check`, when entered or left.
    """
    backend = ServedServers(servers, weights, served, settings, log)
    try:
        await backend.begin()
        yield backend
    finally:
        with suppress(BackendError):
            await backend.aclose()
    backend.check()
