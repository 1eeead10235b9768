"""Samples drawn over any `Backend`, so many under way at a time; begun afresh when the upstream fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, cast

from elastic_agent.backends.base import Backend, Codec, TokenChunk, TokenRequest
from elastic_agent.errors import BackendProtocolError, BackendUnavailableError
from elastic_agent.generation.phases.deltas import Segment

from ..strategies.passes import Chunk, Pass, Transcript
from .engines import Done, RunningSample, SampleJob, check_same_tokens


class Served:
    """Any `Backend`, with so many samples under way at a time.

    Args:
        backend: the model.
        concurrency: most samples under way.
        attempts: how often a sample is begun before the upstream counts as lost.
        pause: seconds before the second attempt; doubled for each further one.
        solver: writes the solutions instead, for a swap.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        concurrency: int = 64,
        attempts: int = 4,
        pause: float = 1.0,
        solver: Backend | None = None,
    ) -> None:
        self.backend = backend
        self.solver = solver or backend
        self._options: dict[str, Any] = {
            "concurrency": max(1, concurrency),
            "attempts": attempts,
            "pause": pause,
        }

    @property
    def name(self) -> str:
        pair = self.solver is not self.backend
        return f"{self.backend.model}>{self.solver.model}" if pair else self.backend.model

    @property
    def codec(self) -> Codec:
        return self.backend.codec

    @property
    def context_length(self) -> int:
        return min(self.backend.context_length, self.solver.context_length)

    @property
    def native(self) -> bool:
        return hasattr(self.backend, "base_url")

    def ready(self) -> None:
        async def both() -> None:
            await self.backend.ready()
            await self.solver.ready()

        asyncio.run(both())

    def swapped(self, solver: Served) -> Served:
        check_same_tokens(self, solver)
        return Served(self.backend, solver=solver.backend, **self._options)

    def run(self, samples: Iterable[SampleJob], done: Done) -> None:
        asyncio.run(self._run(iter(samples), done))

    async def _run(self, samples: Iterator[SampleJob], done: Done) -> None:
        async def worker() -> None:
            for sample in samples:
                await self._draw(sample, done)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._options["concurrency"]):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the others were cancelled, or lost the same server

    async def _draw(self, sample: SampleJob, done: Done) -> None:
        for attempt in range(self._options["attempts"]):
            one = RunningSample(sample, sample.start())
            try:
                one.finish(await self._passes(one), done)
                return
            except BackendUnavailableError:
                if attempt + 1 == self._options["attempts"]:
                    raise
                await asyncio.sleep(self._options["pause"] * 2**attempt)

    async def _passes(self, one: RunningSample) -> Transcript:
        ask = cast("Pass", next(one.passes))
        while True:
            one.started(ask)
            upstream = self.solver if ask.segment is Segment.SOLUTION else self.backend
            source = cast("AsyncGenerator[TokenChunk]", upstream.stream(ask.request))
            read, following = 0, None
            try:
                async for chunk in source:
                    read += len(chunk.ids)
                    one.counts["cached"] += chunk.cached
                    try:
                        following = one.passes.send(Chunk(chunk.ids, chunk.finish))
                    except StopIteration as end:
                        return cast("Transcript", end.value)
                    if following is not None:
                        break
                else:
                    raise BackendProtocolError(f"{upstream.model}: the stream ended without a finish")
            finally:
                await source.aclose()
                _count_unread(one, ask.request, read)
            assert following is not None
            ask = following


def _count_unread(one: RunningSample, request: TokenRequest, read: int) -> None:
    """What the upstream served and nobody read; where it can't say, all that it may have served."""
    if request.receipt.delivery.free and not read:
        one.counts["input"] -= len(request.prompt_ids)
        one.counts["passes"] -= 1
        return
    one.counts["unknown"] += request.receipt.unknown(request.max_tokens, read)
    one.unread += max(0, (request.receipt.output or 0) - read)
