"""Several replicas as one backend: the contract, and who gets which pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

import pytest

from elastic_agent.backends.base import Backend, TokenChunk, TokenRequest
from elastic_agent.backends.load import load_backend
from elastic_agent.backends.replicas import BLOCK, FIRST_REST, Replicas
from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.backends.vllm.server_process import free_port
from elastic_agent.budget import Budget
from elastic_agent.errors import BackendUnavailableError, UnknownModelError
from elastic_agent.generation.generate import generate
from tests.core.backends.contract import Contract, Make, read
from tests.core.backends.test_contract import LONG, scripted
from tests.wire import Wire, serve_in_thread

REPLY = Reply("a b c d e f g h", "i j")
PROMPT = "how many are left " * 2 * BLOCK


def nowhere(words: ScriptedCodec) -> VllmServerBackend:
    """A server that is not there."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    return VllmServerBackend("scripted", url, codec=words)


def two() -> tuple[Replicas, ScriptedBackend, ScriptedBackend]:
    words = ScriptedCodec()
    a, b = (ScriptedBackend(REPLY, codec=words, context_length=4000) for _ in range(2))
    return Replicas([a, b]), a, b


class TestReplicas(Contract):
    """The contract, over two servers."""

    exact_meter = False

    @pytest.fixture
    def wires(self) -> Iterator[list[Wire]]:
        a = scripted()
        b = ScriptedBackend(LONG, codec=a.codec, context_length=2000)
        with serve_in_thread(a) as one, serve_in_thread(b) as other:
            yield [one, other]

    @pytest.fixture
    def make(self, wires: list[Wire]) -> Make:
        async def make() -> Backend:
            clients = [VllmServerBackend("scripted", w.base_url, codec=w.backend.codec) for w in wires]
            replicas = Replicas(clients)
            await replicas.ready()
            return replicas

        return make


async def test_least_loaded_and_the_second_pass_where_the_first_was() -> None:
    """Calls spread over the replicas; both passes of each go to one."""
    both, a, b = two()
    calls = [generate(both, f"{i} {PROMPT}", Budget(4, 4)) for i in range(8)]
    await asyncio.gather(*calls)
    assert (a.meter.requests, b.meter.requests) == (8, 8)
    a.tpot = 0.0
    await generate(both, f"0 {PROMPT}", Budget(4, 4))
    assert {a.meter.requests, b.meter.requests} == {8, 10}


@contextmanager
def running(replicas: Replicas, number: int, passes: int) -> Iterator[None]:
    replicas.replicas[number].running += passes
    yield
    replicas.replicas[number].running -= passes


async def test_a_cache_is_not_worth_a_long_queue() -> None:
    """A replica that has far more to do than the others isn't asked for what it has read."""
    both, a, b = two()
    await generate(both, PROMPT, Budget(4, 4))
    with running(both, 0, 4):
        await generate(both, PROMPT, Budget(4, 4))
    assert (a.meter.requests, b.meter.requests) == (4, 0)
    with running(both, 0, 5):
        await generate(both, PROMPT, Budget(4, 4))
    assert (a.meter.requests, b.meter.requests) == (4, 2)


async def test_another_takes_over_what_never_began() -> None:
    """A replica that can't be reached costs nothing, is left alone for a while, and is then asked again."""
    alive = ScriptedBackend(REPLY)
    both = Replicas([nowhere(alive.codec), alive])
    result = await generate(both, "why", Budget(9, 9))
    assert result.solution == "i j"
    assert result.usage.unknown == 0
    assert both.replicas[0].rest == FIRST_REST
    both.replicas[0].rests_until = 0.0
    await generate(both, "why", Budget(9, 9))
    assert both.replicas[0].rest == 2 * FIRST_REST


async def test_nobody_there() -> None:
    """None can be reached: an error, nothing charged, and not forever."""
    both = Replicas([nowhere(ScriptedCodec()), nowhere(ScriptedCodec())])
    with pytest.raises(BackendUnavailableError):
        await both.ready()
    request = TokenRequest((1, 2), 5)
    with pytest.raises(BackendUnavailableError):
        await read(both, request)
    assert request.receipt.refused


class Asked(ScriptedBackend):
    """Counts who asks whether it is there, and keeps them waiting until `open` is set."""

    def __init__(self, *, there: bool = True, **options: Any) -> None:
        super().__init__(REPLY, **options)
        self.there, self.asked, self.open = there, 0, asyncio.Event()

    async def ready(self) -> None:
        self.asked += 1
        await self.open.wait()
        if not self.there:
            raise BackendUnavailableError("not there")

    probe = ready


async def test_no_call_waits_for_a_replica_that_does_not_answer() -> None:
    """Once one is known to be there, the others are asked in the background, one question at a time; one that
    turns out to be there gets its part."""
    first = ScriptedBackend(REPLY)
    late = Asked(codec=first.codec, there=False)
    both = Replicas([late, first])
    late.open.set()
    await both.ready()
    late.open.clear()
    late.there, both.replicas[0].rests_until = True, 0.0
    for _ in range(3):
        await generate(both, "why", Budget(4, 4))  # would never end if it waited
        await asyncio.sleep(0)
    assert late.asked == 2
    assert late.meter.requests == 0
    late.open.set()
    await asyncio.sleep(0)
    await asyncio.gather(*(generate(both, f"why {i}", Budget(4, 4)) for i in range(4)))
    assert late.meter.requests == first.meter.requests - 6 == 4


async def test_all_are_asked_side_by_side() -> None:
    """The first time, too: how long it takes does not grow with the number of replicas."""
    found = [Asked(codec=ScriptedCodec()) for _ in range(3)]
    all_of_them = Replicas(found)
    waiting = asyncio.create_task(all_of_them.ready())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [one.asked for one in found] == [1, 1, 1]
    for one in found:
        one.open.set()
    await waiting


async def test_a_probe_asks_anew() -> None:
    """One that answers is enough, and none is an error: what was known of them does not count."""
    found = [Asked(codec=ScriptedCodec()) for _ in range(2)]
    both = Replicas(found)
    found[1].open.set()  # the other one doesn't answer at all
    await both.probe()
    found[0].open.set()
    await both.ready()
    found[0].there = found[1].there = False
    with pytest.raises(BackendUnavailableError, match="not there"):
        await both.probe()


async def test_one_that_serves_something_else() -> None:
    """Told at once at the start; later it is left alone."""

    class Other(ScriptedBackend):
        async def ready(self) -> None:
            raise UnknownModelError("something else")

    good = ScriptedBackend(REPLY)
    both = Replicas([Other(REPLY, codec=good.codec), good])
    with pytest.raises(UnknownModelError):
        await both.ready()
    for _ in range(2):
        both.replicas[0].rests_until = 0.0
        await generate(both, "why", Budget(4, 4))
        await asyncio.sleep(0)
    assert good.meter.requests == 4


async def test_what_had_begun_is_charged_and_not_run_again() -> None:
    """Law 2: a pass that broke off may have been served; a second one was not held for."""

    class Breaks(ScriptedBackend):
        async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
            source = cast("AsyncGenerator[TokenChunk]", super().stream(request))
            async with aclosing(source) as chunks:
                yield await anext(chunks)
            request.receipt.output = None
            raise BackendUnavailableError("broke off")

    broken = Breaks(LONG)
    other = ScriptedBackend(LONG, codec=broken.codec)
    both = Replicas([broken, other])
    with pytest.raises(BackendUnavailableError, match="broke off"):
        await generate(both, "why", Budget(9, 9))
    assert other.meter.requests == 0
    await generate(both, "why", Budget(9, 9))
    assert other.meter.requests == 2


async def test_drain() -> None:
    """A draining replica gets nothing new and ends what it has; then it comes back."""
    both, a, b = two()
    stream = cast("AsyncGenerator[TokenChunk]", both.stream(TokenRequest(tuple(range(20, 24)), 6)))
    await anext(stream)
    draining = asyncio.create_task(both.drain(0))
    await asyncio.sleep(0)
    await generate(both, "why", Budget(4, 4))
    assert (a.meter.requests, b.meter.requests, draining.done()) == (1, 2, False)
    await stream.aclose()
    await draining
    both.resume(0)
    await generate(both, "why", Budget(4, 4))
    assert a.meter.requests > 1


def test_several_addresses_are_replicas() -> None:
    """`load_backend` with commas in base_url."""
    found = load_backend("e1-tiny", base_url="http://a/v1, http://b/v1")
    assert isinstance(found, Replicas)
    backends = [cast("VllmServerBackend", replica.backend) for replica in found.replicas]
    assert [backend.base_url for backend in backends] == ["http://a/v1", "http://b/v1"]
    assert backends[0].codec is backends[1].codec, "the tokenizer was loaded twice"
