"""What a pass that is left costs: what the server's counters bound it by, and all of it where they can't."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from elastic_agent.backends.base import TokenRequest
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.backends.vllm.abandoned_passes import EngineCounters
from elastic_agent.backends.vllm.engine_metrics import Scrape, parse_metrics
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Budget
from elastic_agent.errors import BackendError
from elastic_agent.generation.call import Call
from elastic_agent.generation.control import Control
from tests.wire import Engine, Faults, Wire

LONG = Reply("t " * 5000, "x " * 50)
THINKING = 4000
LEFT = Budget(THINKING, 9)


@asynccontextmanager
async def served(
    engine: Engine | None = None, *, faults: Faults | None = None, reply: Reply = LONG
) -> AsyncIterator[tuple[VllmServerBackend, ScriptedBackend, Engine]]:
    """(client, the model behind the server, the server's counters)."""
    engine = engine or Engine()
    upstream = ScriptedBackend(reply, tpot=0.001)
    async with Wire(upstream, engine=engine, faults=faults) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=upstream.codec)
        yield client, upstream, engine
        await client.aclose()


async def left(client: VllmServerBackend, tokens: int = 9, budget: Budget = LEFT) -> Call:
    """A call that was cancelled when it had so many tokens."""
    call = Call(client, "why", budget)
    enough = asyncio.Event()

    async def read() -> None:
        async with aclosing(call.stream()) as events:
            async for _ in events:
                if call.usage.generated >= tokens:
                    enough.set()

    task = asyncio.create_task(read())
    if tokens:
        await enough.wait()
    else:
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return call


async def prove(client: VllmServerBackend) -> None:
    """Have the client see that what it leaves stops: that takes two quiet readings around a pass that is
    left, and on a loaded machine the reading before a pass may come too late to be the first of them."""
    for _ in range(5):
        await left(client)
        if client.counters.stops_proven:
            return
    raise AssertionError("five passes were left on a quiet server, and none was seen to stop")


@pytest.mark.parametrize("tokens", [1, 9, 70])
async def test_a_call_that_is_left_costs_what_it_was_served(tokens: int) -> None:
    """Law 2 and no more: cancelled, closed, in thinking and in the solution: what the engine counted."""
    async with served() as (client, upstream, _):
        calls = [await left(client, tokens), await left(client, min(tokens, 40), Budget(0, 50))]
        second = await left(client, 30, Budget(20, 50))
        assert second.usage.passes == 2
        calls.append(second)
        call = Call(client, "why", Budget(THINKING, 9))
        async with aclosing(call.stream()) as events:
            async for _event in events:
                if call.usage.thinking >= tokens:
                    break
        charged = sum(one.usage.metered_output for one in (*calls, call))
        assert upstream.meter.output <= charged <= upstream.meter.output + 4
        assert sum(one.usage.metered_input for one in (*calls, call)) == upstream.meter.input


async def test_passes_that_were_served_between_are_not_charged_again() -> None:
    """A reading stands for several passes: what those that ended were served since is no other one's. What a
    server or something between says beyond what came is not believed."""
    counters, reading = EngineCounters(""), parse_metrics(Engine().metrics(), time.monotonic() + 60.0)
    counters._last = reading
    tracked = await counters.begin(None, 100)  # type: ignore[arg-type]
    assert (tracked.before, tracked.steps_ahead) == (reading, 0)
    tracked.received, tracked.reported = 60, 30  # sent twice on the way
    counters.end(tracked, by_itself=True)
    tracked = await counters.begin(None, 100)  # type: ignore[arg-type]
    assert tracked.steps_ahead == 30
    tracked.received, tracked.reported = 5, 99
    counters.end(tracked, by_itself=True)
    tracked = await counters.begin(None, 100)  # type: ignore[arg-type]
    assert tracked.steps_ahead == 35
    tracked.received = 50  # was left: nobody said how much it was served
    counters.end(tracked, by_itself=False)
    assert (await counters.begin(None, 1)).steps_ahead == 35  # type: ignore[arg-type]


async def test_many_that_leave_at_once() -> None:
    """Each is bounded by itself: steps are shared, tokens are not added up."""
    async with served() as (client, upstream, _):
        await prove(client)
        before = upstream.meter.output
        calls = await asyncio.gather(*(left(client, 20 + i) for i in range(8)))
        charged = sum(call.usage.metered_output for call in calls)
        assert upstream.meter.output - before <= charged
        assert all(call.usage.unknown < THINKING / 2 for call in calls)


async def test_left_before_the_answer_begins() -> None:
    """The request may have been served by the time: the answer is waited for, and left."""
    async with served() as (client, upstream, _):
        await prove(client)
        upstream.ttft = 0.05
        before = upstream.meter.output
        call = Call(client, "why", Budget(THINKING, 9))

        async def read() -> None:
            async for _ in call:
                pass

        task = asyncio.create_task(read())
        while not upstream.running:  # noqa: ASYNC110 (the other side of a socket)
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert upstream.meter.output - before <= call.usage.unknown <= 2


async def test_cancelled_again_and_again() -> None:
    """A structured scope cancels at every await: what was served is found out all the same, and the cancel
    comes through."""
    async with served() as (client, upstream, _):
        call = Call(client, "why", Budget(THINKING, 9))

        async def read() -> None:
            async for _ in call:
                pass

        task = asyncio.create_task(read())
        while call.usage.thinking < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.001)
        assert task.cancelled()
        assert upstream.meter.output <= call.usage.metered_output <= upstream.meter.output + 2


async def test_what_we_cut_ourselves_costs_no_more_either() -> None:
    """Thinking that is cut at a moment, and a stop string: each leaves a pass."""
    async with served() as (client, upstream, _):
        await prove(client)
        before, now = upstream.meter.output, asyncio.get_running_loop().time()
        call = Call(client, "why", Budget(THINKING, 9), control=Control(think_until=now + 0.2))
        async for _ in call:
            pass
        assert call.usage.solution == 9
        metered = upstream.meter.output - before
        assert metered <= call.usage.metered_output <= metered + 9
        stopped = Call(client, "why", Budget(0, 40), stop=["x x"])
        before = upstream.meter.output
        async for _ in stopped:
            pass
        metered = upstream.meter.output - before
        assert metered <= stopped.usage.metered_output <= metered + 9


async def test_others_use_the_server_too() -> None:
    """Where others run, nothing shows that a request is over, so it costs all that was held, until this
    address was seen to stop what is left; then others' steps bound it, and not their tokens."""
    engine = Engine(running=3)
    async with served(engine) as (client, upstream, _):
        call = await left(client)
        assert call.usage.thinking + call.usage.unknown == THINKING
        engine.running = 0
        await prove(client)
        engine.running, before = 3, upstream.meter.output
        busy = asyncio.create_task(_others(engine))
        call = await left(client, 50)
        busy.cancel()
        metered = upstream.meter.output - before
        assert metered <= call.usage.metered_output < metered + THINKING / 2


async def _others(engine: Engine) -> None:
    while True:
        engine.tokens += 64
        engine.steps += 1
        await asyncio.sleep(0.005)


async def test_without_a_proof_a_requests_end_elsewhere_is_none() -> None:
    """Requests of others that ended between two quiet moments might have been ours: no proof."""
    engine = Engine()
    async with served(engine) as (client, _, _):
        await client.counters.begin(await client._sessions.here(), 1)
        client.counters._running = 0
        engine.ended += 1
        await left(client)
        assert not client.counters.stops_proven
        await left(client)
        assert client.counters.stops_proven


@pytest.mark.parametrize(
    "more",
    ["", 'vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 0.0\n'],
    ids=["plain", "drafts"],
)
async def test_steps_bound_only_who_gets_a_token_a_step(more: str) -> None:
    """With speculative decoding a step brings several tokens: then tokens are what bounds."""
    before = parse_metrics(Engine(more=more, tokens=10, steps=10).metrics())
    after = parse_metrics(Engine(more=more, tokens=110, steps=40).metrics())
    assert before is not None
    assert after is not None
    assert after.since(before) == (100 if more else 30)


async def test_a_router_that_reads_on() -> None:
    """Something between us that keeps its own connection open: the engine goes on, and all is charged."""
    engine, upstream = Engine(), ScriptedBackend(LONG, tpot=0.001)
    async with (
        Wire(upstream, engine=engine) as wire,
        _reading_on(int(wire.base_url[:-3].rpartition(":")[2])) as url,
    ):
        client = VllmServerBackend("scripted", url, codec=upstream.codec)
        call = await left(client, budget=Budget(3000, 9))
        assert call.usage.thinking + call.usage.unknown == 3000
        while upstream.running:  # noqa: ASYNC110 (the other side of a socket)
            await asyncio.sleep(0.01)
        assert upstream.meter.output == 3000
        call = await left(client, budget=Budget(200, 9))
        assert not client.counters.stops_proven
        assert call.usage.thinking + call.usage.unknown == 200
        await client.aclose()


async def test_an_answer_that_ends_after_we_left() -> None:
    """The server ends it as if we were there, and keeps the connection: no later request is sent on it."""
    upstream = ScriptedBackend(LONG, tpot=0.001)
    async with (
        Wire(upstream) as wire,  # without counters: reading them would take the connection first
        _reading_on(int(wire.base_url[:-3].rpartition(":")[2]), hold=0.05) as url,
    ):
        client = VllmServerBackend("scripted", url, codec=upstream.codec)
        for _ in range(3):
            await left(client, budget=Budget(60, 9))
        assert upstream.meter.output == 180  # each was served to its end
        await client.aclose()


@asynccontextmanager
async def _reading_on(port: int, hold: float = 0) -> AsyncIterator[str]:
    """A proxy whose connection to the server stays open until the server closes it.

    Args:
        hold: seconds for which it gathers data, so that an answer's end comes in one piece.
    """
    tasks: set[asyncio.Task[None]] = set()
    kept: list[asyncio.StreamWriter] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                with suppress(OSError):
                    writer.write(data)
                await asyncio.sleep(hold)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        kept.extend((writer, up_writer))
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(pipe(source, sink))
            tasks.add(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in kept:
            writer.transport.abort()


async def test_several_servers_behind_one_address() -> None:
    """Their counters name different processes: of none of them can a pass's be read."""
    engine = Engine()
    async with served(engine) as (client, _, _):
        await prove(client)
        for started in (2.0, engine.started):
            engine.started = started
            call = await left(client)
            assert call.usage.thinking + call.usage.unknown == THINKING
            await asyncio.sleep(0.25)
        assert "several servers" in client.counters.unusable
        call = await left(client)
        assert call.usage.thinking + call.usage.unknown == THINKING


async def test_the_server_was_started_anew() -> None:
    """An engine that died: nobody knows what it had served."""
    async with served() as (client, _, engine):
        await prove(client)
        call = Call(client, "why", Budget(THINKING, 9))
        async with aclosing(call.stream()) as events:
            async for _ in events:
                engine.started, engine.tokens, engine.steps = 5.0, 0, 0
                break
        assert call.usage.thinking + call.usage.unknown == THINKING


async def test_a_stream_that_breaks_off_is_charged_by_the_counters() -> None:
    """The connection went, the engine is there: what it served is known."""
    async with served(faults=Faults(cut_after=12)) as (client, upstream, _):
        call = Call(client, "why", Budget(THINKING, 9))
        with pytest.raises(BackendError, match="broke off"):
            _ = [event async for event in call]
        assert upstream.meter.output <= call.usage.metered_output <= upstream.meter.output + 1


async def test_a_reading_that_is_cut_off() -> None:
    """A part of a number is another number: it counts as no reading, and later ones as ever."""
    async with served() as (client, _, engine):
        await prove(client)
        await asyncio.sleep(0.25)
        engine.cut = -3
        call = await left(client)
        assert call.usage.thinking + call.usage.unknown == THINKING
        assert not client.counters.unusable
        engine.cut, client.counters._failed_at = None, float("-inf")
        assert (await left(client)).usage.unknown <= 2


async def test_counters_that_count_nothing_of_ours() -> None:
    """Numbers of another server, which stand still while tokens come: not believed."""
    async with served() as (client, upstream, engine):
        call = Call(client, "why", Budget(THINKING, 9))
        async with aclosing(call.stream()) as events:
            async for _ in events:
                if call.usage.thinking >= 30:
                    engine.tokens = engine.steps = 0
                    break
        assert call.usage.thinking + call.usage.unknown == THINKING
        assert upstream.meter.output <= call.usage.metered_output


@pytest.mark.parametrize(
    "text",
    ["", "<html>", "vllm:generation_tokens_total 1.0\n", Engine().metrics().replace("process_start", "x")],
)
def test_what_is_no_reading(text: str) -> None:
    """No vLLM, an old one, or one whose counters name no process."""
    assert parse_metrics(text) is None
    assert (
        parse_metrics(
            Engine().metrics().replace("_total_count{", "_total_count{", 1).replace("} 0.0", "} NaN")
        )
        is None
    )


def test_a_reading() -> None:
    """Sums over what is not per engine; engines apart."""
    text = Engine(tokens=7, steps=5, running=2, waiting=1, ended=4).metrics()
    other = "\n".join(
        line.replace('engine="0"', 'engine="1"') for line in text.splitlines() if line.startswith("vllm:")
    )
    one, both = parse_metrics(text), parse_metrics(text + other + "\n")
    assert isinstance(one, Scrape)
    assert isinstance(both, Scrape)
    assert (one.busy, one.ended, one.engines, one.one_a_step) == (3, 4, {"0": (7, 5)}, True)
    assert (both.busy, both.ended, both.engines) == (6, 8, {"0": (7, 5), "1": (7, 5)})
    assert both.since(one) is None


async def test_a_server_without_counters_is_asked_once() -> None:
    """404: then never again, and what is left costs all that was held."""
    upstream = ScriptedBackend(LONG, tpot=0.001)
    async with Wire(upstream) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=upstream.codec)
        call = await left(client)
        assert "404" in client.counters.unusable
        assert call.usage.thinking + call.usage.unknown == THINKING
        await client.aclose()
    assert isinstance(client.counters, EngineCounters)
    assert TokenRequest((1,), 5).receipt.unknown(5, 2) == 3
