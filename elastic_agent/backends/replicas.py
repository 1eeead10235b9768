"""Several servers of one model as one backend: which replica answers a pass, and what follows a failure.

    Replicas([VllmServerBackend("m", "http://a:8000/v1"), VllmServerBackend("m", "http://b:8000/v1")])

A pass goes to the replica that has read most of the pass's prompt before, so a call's second pass finds the
first pass's blocks in the prefix cache. If that replica is far busier than the others, the pass goes to the
least busy replica. What each replica has read is remembered as a chain of hashes over blocks of the prompt.

A replica that can't be reached gets no passes for a while, twice as long each time. A replica that has not
answered yet is asked in the background, and no call waits for its answer. A pass that provably never reached
its engine (`Receipt.refused`) is sent to another replica. A pass that had begun ends with its error and is
charged: running the pass again could cost more than was held.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, cast

from ..errors import BackendError, BackendUnavailableError
from .base import Backend, Codec, Meter, TokenChunk, TokenRequest, confirm_send

log = logging.getLogger(__name__)

BLOCK = 32
REMEMBERED = 100_000
"""Blocks of all replicas that are remembered; the oldest are forgotten first."""
FIRST_REST, LONGEST_REST = 1.0, 30.0
"""Seconds for which a replica gets no passes after its first failure, and at most."""
MUCH = 4
"""A replica that has read a prompt is passed over while it runs more than twice as many passes as the least
busy replica, and this many more."""


@dataclass(slots=True, eq=False)
class Replica:
    """One replica and its state.

    Attributes:
        running: passes that run now.
        known: the replica has said that it serves the model.
        draining: the replica gets no new passes.
        rest, rests_until: seconds without passes after the latest failure, and the moment when they end.
        asked: the task that asks whether the replica serves the model.
    """

    backend: Backend
    running: int = 0
    known: bool = False
    draining: bool = False
    rest: float = 0.0
    rests_until: float = 0.0
    asked: asyncio.Task[None] | None = None

    @property
    def fit(self) -> bool:
        """Whether the replica can get a pass now."""
        return not self.draining and self.rests_until <= time.monotonic()

    def failed(self) -> None:
        self.rest = min(LONGEST_REST, self.rest * 2 or FIRST_REST)
        self.rests_until = time.monotonic() + self.rest

    def worked(self) -> None:
        self.rest = self.rests_until = 0.0

    async def ask(self) -> None:
        """Ask whether the replica serves the model.

        Raises:
            BackendError: it doesn't; `BackendUnavailableError`: it can't be reached.
        """
        try:
            await self.backend.ready()
        except BackendError:
            self.failed()
            raise
        self.known = True

    async def ask_aside(self) -> None:
        """Ask in the background: errors are logged, not raised."""
        try:
            await self.ask()
        except BackendUnavailableError:
            pass  # it rests
        except BackendError as error:
            log.warning("a replica of %s: %s", self.backend.model, error)


class Replicas:
    """A `Backend` over several of the same model.

    Args:
        backends: at least one; the first one's name and tokenizer are taken for all.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        if not backends:
            raise ValueError("at least one replica")
        self.replicas = [Replica(backend) for backend in backends]
        self.closed = False
        self._read: OrderedDict[int, Replica] = OrderedDict()

    @property
    def model(self) -> str:
        return self.replicas[0].backend.model

    @property
    def codec(self) -> Codec:
        return self.replicas[0].backend.codec

    @property
    def context_length(self) -> int:
        """The shortest context of all replicas."""
        return min(replica.backend.context_length for replica in self.replicas)

    @property
    def guided(self) -> bool:
        """Whether all replicas take the fields of guided decoding."""
        return all(replica.backend.guided for replica in self.replicas)

    @property
    def two_passes(self) -> str:
        """The first replica's reason for two passes, if any has one: a call may go to any replica."""
        return next((why for r in self.replicas if (why := r.backend.two_passes)), "")

    @property
    def meter(self) -> Meter:
        """The sum of all replicas' meters."""
        meters = [replica.backend.meter for replica in self.replicas]
        return Meter(
            sum(m.requests for m in meters), sum(m.input for m in meters), sum(m.output for m in meters)
        )

    async def ready(self) -> None:
        """Ask all replicas concurrently; one answer is enough. Once a replica has answered, this returns at
        once.

        Raises:
            BackendUnavailableError: no replica answers.
            BackendError: a replica serves something else.
        """
        asked = [replica for replica in self.replicas if replica.fit and not replica.known]
        if any(replica.known for replica in self.replicas):
            loop = asyncio.get_running_loop()
            for replica in asked:
                if replica.asked is None or replica.asked.done() or replica.asked.get_loop() is not loop:
                    replica.asked = loop.create_task(replica.ask_aside())
            return
        errors = await asyncio.gather(*(replica.ask() for replica in asked), return_exceptions=True)
        for error in errors:
            if error is not None and not isinstance(error, BackendUnavailableError):
                raise error
        if not any(replica.known for replica in self.replicas):
            raise next((error for error in errors if error is not None), None) or self._nobody()

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """The first refusal among the available replicas: a call may go to any of them."""
        asked = [r.backend.refusal(fields) for r in self.replicas if r.known and r.fit]
        return next((why for why in await asyncio.gather(*asked) if why), "")

    async def probe(self) -> None:
        """Ask all replicas anew, concurrently; the first answer is enough.

        Raises:
            BackendError: the first replica's error, when none can answer.
        """
        asked = [asyncio.ensure_future(r.backend.probe()) for r in self.replicas if not r.draining]
        try:
            for answer in asyncio.as_completed(asked):
                with suppress(BackendError):
                    await answer
                    return
        finally:
            for one in asked:
                one.cancel()
            said = await asyncio.gather(*asked, return_exceptions=True)
        raise next((error for error in said if error is not None), None) or self._nobody()

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        blocks, tried = _blocks(request.prompt_ids), set[Replica]()
        while True:
            replica = self._choose(blocks, tried)
            if replica is None:
                request.receipt.refused = True
                raise self._nobody()
            if tried:
                await confirm_send(request)
            tried.add(replica)
            replica.running += 1
            try:
                source = cast("AsyncGenerator[TokenChunk]", replica.backend.stream(request))
                async with aclosing(source) as chunks:
                    self._remember(blocks, replica)
                    async for chunk in chunks:
                        if self.closed:
                            raise BackendUnavailableError(f"{self.model} has been closed")
                        replica.worked()
                        yield chunk
                return
            except BackendUnavailableError:
                replica.failed()
                if not request.receipt.refused or self.closed or self._choose(blocks, tried) is None:
                    raise
                request.receipt.refused = False
            finally:
                replica.running -= 1

    async def drain(self, number: int) -> None:
        """Give a replica no new passes, and return when its running passes are over; `resume` undoes this."""
        replica = self.replicas[number]
        replica.draining = True
        while replica.running:  # noqa: ASYNC110 (streams may run in other event loops)
            await asyncio.sleep(0.05)

    def resume(self, number: int) -> None:
        """Give a drained replica passes again."""
        self.replicas[number].draining = False

    async def aclose(self) -> None:
        """Close all replicas."""
        self.closed = True
        for replica in self.replicas:
            if replica.asked is not None and replica.asked.get_loop() is asyncio.get_running_loop():
                replica.asked.cancel()
        await asyncio.gather(*(replica.backend.aclose() for replica in self.replicas))

    def _choose(self, blocks: Sequence[int], tried: set[Replica]) -> Replica | None:
        left = [replica for replica in self.replicas if not replica.draining and replica not in tried]
        left = [replica for replica in left if replica.known] or left
        # If all of them rest, the one that has rested longest is better than none
        fit = [replica for replica in left if replica.fit] or sorted(left, key=lambda r: r.rests_until)[:1]
        if not fit:
            return None
        idlest = min(fit, key=lambda replica: replica.running)
        for block in reversed(blocks):
            holder = self._read.get(block)
            if holder in fit:
                return holder if holder.running <= 2 * idlest.running + MUCH else idlest
        return idlest

    def _nobody(self) -> BackendUnavailableError:
        return BackendUnavailableError(f"{self.model}: none of {len(self.replicas)} replicas is to be had")

    def _remember(self, blocks: Sequence[int], replica: Replica) -> None:
        for block in blocks:
            self._read[block] = replica
            self._read.move_to_end(block)
        while len(self._read) > REMEMBERED:
            self._read.popitem(last=False)


def _blocks(ids: Sequence[int]) -> list[int]:
    """A hash for each full block, of everything up to its end."""
    chain, found = 0, []
    for start in range(0, len(ids) - BLOCK + 1, BLOCK):
        chain = hash((chain, tuple(ids[start : start + BLOCK])))
        found.append(chain)
    return found
