"""The worker between a decoder and its streams, on a decoder that counts, and misbehaves."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from elastic_agent.backends.base import TokenChunk, TokenRequest
from elastic_agent.backends.decoder import Sampled
from elastic_agent.backends.decoder_backend import DecoderBackend
from elastic_agent.backends.scripted import ScriptedCodec
from elastic_agent.errors import BackendError, BackendUnavailableError
from tests.core.backends.contract import ids_of, read

BAD = 13
"""A prompt that is refused."""


class Counter:
    """Says 1, 2, 3 ... to every request, two tokens a step; keys begin at 0 in each decoder."""

    def __init__(self, trouble: Callable[[], None] = lambda: None) -> None:
        self.running: dict[int, tuple[TokenRequest, int]] = {}
        self.cancelled: list[int] = []
        self._trouble, self._key = trouble, 0

    def add(self, request: TokenRequest) -> int:
        if request.prompt_ids == (BAD,):
            raise ValueError("not this one")
        self.running[self._key] = (request, 0)
        self._key += 1
        return self._key - 1

    def cancel(self, key: int) -> None:
        self._trouble()
        self.cancelled.append(key)
        self.running.pop(key, None)

    def step(self) -> list[Sampled]:
        self._trouble()
        found = [Sampled(10**6, 1, None, None)]  # of nobody: it was cancelled meanwhile
        for key, (request, said) in list(self.running.items()):
            for token in range(said + 1, min(said + 2, request.max_tokens) + 1):
                last = token == request.max_tokens
                found.append(Sampled(key, token, None, "length" if last else None))
            self.running[key] = (request, said + 2)
            if said + 2 >= request.max_tokens:
                del self.running[key]
        return found


def backend_of(make: Callable[[], Counter], **options: Any) -> DecoderBackend:
    return DecoderBackend(make, ScriptedCodec(), name="count", context_length=500, vocabulary=100, **options)


def asking(tokens: int, prompt: int = 1) -> TokenRequest:
    return TokenRequest((prompt,), tokens)


async def test_a_request_that_is_refused_ends_alone() -> None:
    backend = backend_of(Counter)
    asked = [read(backend, asking(20)), read(backend, asking(5, BAD)), read(backend, asking(7))]
    long, refused, short = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(refused, BackendError)
    assert "does not take this pass" in str(refused)
    assert [ids_of(chunks) for chunks in (long, short)] == [list(range(1, 21)), list(range(1, 8))]  # type: ignore[arg-type]
    await backend.aclose()


async def test_a_failure_ends_what_runs_and_a_new_decoder_goes_on() -> None:
    """Also where the old one can't cancel any more, and though keys begin anew: a stream that ended with the
    old decoder cancels nobody in the new one."""
    failing = threading.Event()

    def trouble() -> None:
        time.sleep(0.01)  # 400 tokens take four seconds: none ends before the failure
        if failing.is_set():
            raise RuntimeError("the device is lost")

    made: list[Counter] = []

    def make() -> Counter:
        failing.clear()
        made.append(Counter(trouble))
        return made[-1]

    backend = backend_of(make)
    running = [backend.stream(asking(400)) for _ in range(3)]
    for stream in running:
        await anext(stream)
    failing.set()
    for stream in running:
        with pytest.raises(BackendError, match=r"failed while decoding: .*the device is lost"):
            _ = [chunk async for chunk in stream]
    results = await asyncio.gather(*(read(backend, asking(30)) for _ in range(3)))
    assert [ids_of(chunks) for chunks in results] == [list(range(1, 31))] * 3
    assert len(made) == 2
    assert made[1].cancelled == []
    await backend.aclose()


async def test_a_failure_at_a_cancel_leaves_those_who_wait() -> None:
    """One stream leaves as another comes, and the decoder fails at the first: a new one serves the second."""
    step, failing = threading.Semaphore(0), threading.Event()

    def trouble() -> None:
        if failing.is_set():
            raise RuntimeError("the device is lost")
        step.acquire()

    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter(trouble if not made else lambda: None))
        return made[-1]

    backend = backend_of(make)
    left = backend.stream(asking(400))
    step.release()
    await anext(left)  # the worker is in its second step
    coming = asyncio.create_task(read(backend, asking(30)))
    await asyncio.sleep(0)
    await left.aclose()
    failing.set()
    step.release()
    assert ids_of(await asyncio.wait_for(coming, 30)) == list(range(1, 31))
    assert len(made) == 2
    await backend.aclose()


async def test_without_another_decoder_those_who_wait_are_told() -> None:
    def trouble() -> None:
        raise RuntimeError("the device is lost")

    made: list[Counter] = []

    def make() -> Counter:
        if made:
            raise RuntimeError("no memory")
        made.append(Counter(trouble))
        return made[-1]

    backend = backend_of(make)
    with pytest.raises(BackendError, match="the device is lost"):
        await read(backend, asking(30))
    while not backend.closed:  # noqa: ASYNC110 (the worker's thread)
        await asyncio.sleep(0.01)
    with pytest.raises(BackendUnavailableError, match="closed"):
        await read(backend, asking(30))
    await backend.aclose()


async def test_stopped_it_holds_nothing() -> None:
    """Streams end, later ones don't begin, thread and decoder are gone; again is no error."""
    prepared: list[str] = []
    backend = backend_of(Counter, prepare=lambda: prepared.append(threading.current_thread().name))
    request = asking(400)
    stream = backend.stream(request)
    await anext(stream)
    backend.stop()
    with pytest.raises(BackendUnavailableError, match="closed"):
        _ = [chunk async for chunk in stream]
    with pytest.raises(BackendUnavailableError, match="closed"):
        await read(backend, asking(1))
    assert request.receipt.output == backend.meter.output
    assert prepared == ["count"]
    assert backend._worker is not None
    assert not backend._worker.is_alive()
    assert backend._decoder is None
    await backend.aclose()


async def test_failures_and_cancellations_at_random() -> None:
    """200 streams; whatever happens, each ends, alone or with an error; nothing is left in the decoder."""
    draw = random.Random(5)

    def trouble() -> None:
        if draw.random() < 0.02:
            raise RuntimeError("again")

    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter(trouble))
        return made[-1]

    backend = backend_of(make)

    async def one(tokens: int) -> list[TokenChunk]:
        return await read(backend, asking(tokens, draw.choice((1, 2, BAD))))

    wanted = [draw.randint(1, 300) for _ in range(200)]
    tasks = [asyncio.create_task(one(tokens)) for tokens in wanted]
    for task in draw.sample(tasks, 60):
        await asyncio.sleep(0)
        task.cancel()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    right = 0
    for tokens, chunks in zip(wanted, done, strict=True):
        if not isinstance(chunks, BaseException):
            right += 1
            assert ids_of(chunks) == list(range(1, tokens + 1))
        else:
            assert isinstance(chunks, BackendError | asyncio.CancelledError)
    assert right > 0
    assert len(made) > 1
    backend.stop()
