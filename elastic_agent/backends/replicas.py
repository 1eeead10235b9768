"""Several servers of one model as one backend: who answers a pass, and what happens when one of them fails.

    Replicas([VllmServerBackend("m", "http://a:8000/v1"), VllmServerBackend("m", "http://b:8000/v1")])

A pass goes to the replica that has read most of its prompt before, unless that has far more to do than the
others, and else to the one that has least to do: so a call's second pass finds the first one's blocks in the
prefix cache. What each has read is remembered as a chain of hashes over blocks of the prompt.

A replica that can't be reached is left alone for a while, twice as long each time. A pass that provably never
reached its engine (`Receipt.refused`) is sent to another. One that had begun ends with its error, and is
charged: to run it again could cost more than was held for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from elastic_agent.backends.base import Backend, Codec, Meter, TokenChunk, TokenRequest
from elastic_agent.errors import BackendUnavailableError

BLOCK = 32
REMEMBERED = 100_000
"""Blocks, of all replicas; the oldest are forgotten."""
FIRST_REST, LONGEST_REST = 1.0, 30.0
"""Seconds for which a replica that failed is left alone."""
MUCH = 4
"""A replica is not asked for what it has read while it runs twice as much as the idlest, and so many more."""


@dataclass(slots=True, eq=False)
class Replica:
    """One of them, and how it stands."""

    backend: Backend
    running: int = 0
    draining: bool = False
    rest: float = 0.0
    rests_until: float = 0.0

    def failed(self) -> None:
        self.rest = min(LONGEST_REST, self.rest * 2 or FIRST_REST)
        self.rests_until = time.monotonic() + self.rest

    def worked(self) -> None:
        self.rest = self.rests_until = 0.0


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
        """The shortest of them."""
        return min(replica.backend.context_length for replica in self.replicas)

    @property
    def guided(self) -> bool:
        """All of them take the fields of guided decoding."""
        return all(replica.backend.guided for replica in self.replicas)

    @property
    def two_passes(self) -> str:
        """The first one's reason that there is: a call may be sent to any of them."""
        return next((why for r in self.replicas if (why := r.backend.two_passes)), "")

    @property
    def meter(self) -> Meter:
        """The sum."""
        meters = [replica.backend.meter for replica in self.replicas]
        return Meter(
            sum(m.requests for m in meters), sum(m.input for m in meters), sum(m.output for m in meters)
        )

    async def ready(self) -> None:
        """Ask all of them; one that answers is enough.

        Raises:
            BackendUnavailableError: none does.
            BackendError: one of them serves something else.
        """
        errors = []
        for replica in self.replicas:
            if replica.rests_until > time.monotonic() or replica.draining:
                continue
            try:
                await replica.backend.ready()
            except BackendUnavailableError as error:
                replica.failed()
                errors.append(error)
        if errors and len(errors) == len(self.replicas):
            raise errors[0]

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        blocks, tried = _blocks(request.prompt_ids), set[Replica]()
        while True:
            replica = self._choose(blocks, tried)
            if replica is None:
                request.receipt.refused = True
                raise BackendUnavailableError(
                    f"{self.model}: none of {len(self.replicas)} replicas is to be had"
                )
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
        """Give a replica nothing new, and return when what it runs is over. `resume` takes it back."""
        replica = self.replicas[number]
        replica.draining = True
        while replica.running:  # noqa: ASYNC110 (streams may run in other event loops)
            await asyncio.sleep(0.05)

    def resume(self, number: int) -> None:
        """After `drain`."""
        self.replicas[number].draining = False

    async def aclose(self) -> None:
        """Close all of them."""
        self.closed = True
        await asyncio.gather(*(replica.backend.aclose() for replica in self.replicas))

    def _choose(self, blocks: Sequence[int], tried: set[Replica]) -> Replica | None:
        fit = [replica for replica in self.replicas if not replica.draining and replica not in tried]
        now = time.monotonic()
        # All of them rest: better the one that has rested longest than none
        fit = [replica for replica in fit if replica.rests_until <= now] or sorted(
            fit, key=lambda replica: replica.rests_until
        )[:1]
        if not fit:
            return None
        idlest = min(fit, key=lambda replica: replica.running)
        for block in reversed(blocks):
            holder = self._read.get(block)
            if holder in fit:
                return holder if holder.running <= 2 * idlest.running + MUCH else idlest
        return idlest

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
