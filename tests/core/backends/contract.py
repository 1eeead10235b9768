"""What every `Backend` promises. A backend's tests subclass `Contract` and give it `backend`:

    class TestMine(Contract):
        @pytest.fixture
        def make(self) -> Iterator[Make]: ...

`make` makes one that is open; it must be able to say at least 30 tokens to `PROMPT` when nothing stops it,
and have a context of at most 5,000.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import cast

import pytest

from elastic_agent.backends.base import GREEDY, Backend, Sampling, TokenChunk, TokenRequest
from elastic_agent.errors import BackendError, BackendUnavailableError

Make = Callable[[], Awaitable[Backend]]


def chunks_of(backend: Backend, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
    return cast("AsyncGenerator[TokenChunk]", backend.stream(request))


async def read(backend: Backend, request: TokenRequest) -> list[TokenChunk]:
    """A whole pass."""
    async with aclosing(chunks_of(backend, request)) as stream:
        return [chunk async for chunk in stream]


def ids_of(chunks: list[TokenChunk]) -> list[int]:
    return [i for chunk in chunks for i in chunk.ids]


class Contract:
    """The suite. `exact_meter` is False where the meter is not the engine's own (a remote server)."""

    exact_meter = True

    @pytest.fixture
    async def backend(self, make: Make) -> AsyncGenerator[Backend]:
        backend = await make()
        yield backend
        await backend.aclose()

    def request(self, backend: Backend, tokens: int, sampling: Sampling = GREEDY) -> TokenRequest:
        prompt = backend.codec.encode_chat([{"role": "user", "content": "How many apples are left?"}])
        return TokenRequest(tuple(prompt), tokens, frozenset(), sampling)

    async def test_length_is_exact(self, backend: Backend) -> None:
        """Law 3: as many tokens as asked, the last chunk says "length", receipt and meter say the same."""
        for tokens in (1, 2, 17):
            request, before = self.request(backend, tokens), backend.meter.output
            chunks = await read(backend, request)
            assert len(ids_of(chunks)) == tokens
            assert [c.finish for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
            assert request.receipt.output == tokens == backend.meter.output - before

    async def test_a_stop_id_is_part_of_the_stream(self, backend: Backend) -> None:
        """Sampling ends with the first stop id, which is in the stream, and the finish says "stop"."""
        request = self.request(backend, 20)
        ids = ids_of(await read(backend, request))
        stop = ids[7]
        stopped = replace(self.request(backend, 20), stop_ids=frozenset({stop}))
        chunks = await read(backend, stopped)
        assert ids_of(chunks) == ids[: ids.index(stop) + 1]
        assert chunks[-1].finish == "stop"
        assert stopped.receipt.output == len(ids_of(chunks))

    async def test_greedy_is_deterministic(self, backend: Backend) -> None:
        """Temperature 0: the same ids each time, alone or beside others."""
        one = ids_of(await read(backend, self.request(backend, 12)))
        together = await asyncio.gather(*(read(backend, self.request(backend, n)) for n in (12, 3, 20, 12)))
        assert [ids_of(t)[:3] for t in together] == [one[:3]] * 4
        assert ids_of(together[0]) == ids_of(together[3]) == ids_of(together[2])[:12] == one

    async def test_a_seed_means_the_same_in_any_batch(self, backend: Backend) -> None:
        """A seeded pass draws the same tokens alone and beside others."""
        seeded = [self.request(backend, 12, Sampling(1.0, 1.0, seed=seed)) for seed in range(4)]
        alone = [ids_of(await read(backend, replace(request))) for request in seeded]
        together = await asyncio.gather(*(read(backend, replace(request)) for request in seeded))
        assert [ids_of(t) for t in together] == alone

    async def test_concurrent_streams_have_their_own_limits(self, backend: Backend) -> None:
        """Streams of many lengths at once: each exact, and the meter is their sum."""
        before = backend.meter.output
        requests = [self.request(backend, n) for n in range(1, 13)]
        results = await asyncio.gather(*(read(backend, r) for r in requests))
        assert [len(ids_of(r)) for r in results] == list(range(1, 13))
        assert backend.meter.output - before == sum(range(1, 13))

    async def test_logprobs_when_asked(self, backend: Backend) -> None:
        """One log-prob a token when asked for, none otherwise."""
        chunks = await read(backend, self.request(backend, 5, replace(GREEDY, logprobs=True)))
        for chunk in chunks:
            assert chunk.logprobs is not None
            assert len(chunk.logprobs) == len(chunk.ids)
            assert all(p is not None and p <= 0 for p in chunk.logprobs)
        assert all(c.logprobs is None for c in await read(backend, self.request(backend, 5)))

    async def test_closed_between_two_tokens(self, backend: Backend) -> None:
        """Law 2: a closed stream stops; its receipt is what the meter counted, or says that it can't know."""
        request, before = self.request(backend, 30), backend.meter.output
        async with aclosing(chunks_of(backend, request)) as stream:
            count = 0
            async for chunk in stream:
                count += len(chunk.ids)
                if count >= 3:
                    break
        self.settled(backend, request, before, count)
        assert len(ids_of(await read(backend, self.request(backend, 4)))) == 4

    async def test_cancelled_while_waiting(self, backend: Backend) -> None:
        """The same when the task that reads is cancelled."""
        request, before, seen = self.request(backend, 30), backend.meter.output, 0
        some = asyncio.Event()

        async def consume() -> None:
            nonlocal seen
            async with aclosing(chunks_of(backend, request)) as stream:
                async for chunk in stream:
                    seen += len(chunk.ids)
                    some.set()

        task = asyncio.create_task(consume())
        await some.wait()
        task.cancel()
        await asyncio.wait([task])
        self.settled(backend, request, before, seen)

    def settled(self, backend: Backend, request: TokenRequest, before: int, seen: int) -> None:
        if self.exact_meter:
            assert request.receipt.output == backend.meter.output - before
            assert request.receipt.output >= seen
        elif request.receipt.output is not None:
            assert request.receipt.output == seen == request.max_tokens

    @pytest.mark.parametrize("bad", ["empty", "none", "long"])
    async def test_a_bad_request_costs_nothing(self, backend: Backend, bad: str) -> None:
        """Refused with a BackendError before a token: nothing on the meter, a receipt of nothing."""
        request = self.request(backend, 5)
        if bad == "empty":
            request = replace(request, prompt_ids=())
        elif bad == "none":
            request = replace(request, max_tokens=0)
        else:
            request = replace(request, max_tokens=backend.context_length)
        before = backend.meter.output
        with pytest.raises(BackendError):
            await read(backend, request)
        assert backend.meter.output == before
        assert request.receipt.refused

    async def test_closing_ends_running_streams(self, make: Make) -> None:
        """`aclose`: running streams end with BackendUnavailableError, later ones don't begin."""
        backend = await make()
        request = self.request(backend, 30)
        stream = chunks_of(backend, request)
        await anext(stream)
        closing = asyncio.create_task(backend.aclose())
        await asyncio.sleep(0)
        with pytest.raises(BackendUnavailableError):
            _ = [chunk async for chunk in stream]
        await closing
        with pytest.raises(BackendUnavailableError):
            await read(backend, self.request(backend, 1))

    def test_two_event_loops_in_turn(self, make: Make) -> None:
        """Synchronous users run one event loop after the other: the backend works on each."""

        async def made() -> tuple[Backend, list[int]]:
            backend = await make()
            return backend, ids_of(await read(backend, self.request(backend, 5)))

        backend, first = asyncio.run(made())

        async def again() -> list[int]:
            await backend.ready()
            ids = ids_of(await read(backend, self.request(backend, 5)))
            await backend.aclose()
            return ids

        assert asyncio.run(again()) == first

    async def test_left_streams_can_be_collected(self, backend: Backend) -> None:
        """A stream that nobody has read from holds nothing."""
        stream = chunks_of(backend, self.request(backend, 5))
        await stream.aclose()
        assert len(ids_of(await read(backend, self.request(backend, 5)))) == 5
