"""The vLLM client against a server that misbehaves: each fault is a clear error, the books stay right."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from elastic_agent.backends.base import GREEDY, Sampling, TokenRequest
from elastic_agent.backends.load import load_backend
from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.backends.vllm.server_process import free_port
from elastic_agent.budget import Budget
from elastic_agent.charging.known_outcomes import TELLING_NOTHING
from elastic_agent.errors import (
    BackendError,
    BackendProtocolError,
    BackendUnavailableError,
    UnknownModelError,
)
from elastic_agent.generation.call import Call
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.generation.result import Generation
from elastic_agent.model_location import model_path
from tests.core.backends.models import codec
from tests.wire import Faults, Wire, serve_in_thread

REPLY = Reply("a b c d e f", "g h i")


@asynccontextmanager
async def served(
    faults: Faults | None = None, *, reply: Reply = REPLY, key: str | None = None, **options: Any
) -> AsyncIterator[tuple[VllmServerBackend, ScriptedBackend, Wire]]:
    """(client, the model behind the server, the server)."""
    upstream = ScriptedBackend(reply, codec=options.pop("codec", None))
    async with Wire(upstream, faults=faults, key=key) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=upstream.codec, **options)
        yield client, upstream, wire
        await client.aclose()
    assert upstream.running == 0


async def ask(client: VllmServerBackend, t: int = 9, s: int = 9) -> Generation:
    return await generate(client, "why", Budget(t, s))


@pytest.mark.parametrize("coalesce", [1, 2, 5, 50])
@pytest.mark.parametrize("close", [1, 3])
async def test_over_the_wire_as_in_process(coalesce: int, close: int) -> None:
    """Law 3: the answer is the same over the wire, however the server lumps its tokens together, and the
    books are the upstream's meter (or above it where a pass had to be broken off)."""
    words = ScriptedCodec(close=tuple(range(3, 3 + close)))
    for t, s in ((9, 9), (4, 2), (0, 3), (6, 1)):
        async with served(Faults(coalesce=coalesce), codec=words) as (client, upstream, _):
            over = await ask(client, t, s)
            metered = upstream.meter
        here = await generate(ScriptedBackend(REPLY, codec=words), "why", Budget(t, s))
        assert over.output_ids == here.output_ids
        assert (over.thinking_end, over.solution_end) == (here.thinking_end, here.solution_end)
        assert over.usage.metered_input == metered.input
        assert over.usage.metered_output >= metered.output
        if not over.usage.unknown:
            assert over.usage.metered_output == metered.output


async def test_what_is_sent() -> None:
    """Ids in both directions; nothing that a caller passes on to the engine can lift a limit."""
    async with served() as (client, _, wire):
        sampling = Sampling(0.5, 0.9, top_k=7, seed=3, logprobs=True)
        extra = {"guided_regex": "x", "max_tokens": 10**6, "stream": False}
        result = await generate(
            client, "why", Budget(2, 3), sampling=sampling, solution_extra=extra, priority=4
        )
        assert all(
            p is not None for p, sampled in zip(result.logprobs, result.sampled, strict=True) if sampled
        )
        second = wire.requests[1]
    assert second["prompt"] == [*result.prompt_ids, *result.thinking_ids, *result.close_ids]
    expected = {"max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "priority": 4}
    expected |= {"guided_regex": "x", "stream": True, "return_token_ids": True}
    assert {key: second[key] for key in expected} == expected


async def test_the_context_is_the_servers() -> None:
    """`ready` asks once, and takes the server's word for the context's length."""
    async with served() as (client, upstream, wire):
        upstream.context_length = 77
        await client.ready()
        assert client.context_length == 77
        wire.faults.models = "nonsense"
        await client.ready()


@pytest.mark.parametrize(
    ("models", "kind", "says"),
    [
        ({"data": [{"id": "other"}, {"id": "more"}]}, UnknownModelError, "more, other"),
        ({"models": []}, BackendProtocolError, "OpenAI"),
        ({"data": ["scripted"]}, BackendProtocolError, "OpenAI"),
        ({"data": [{"id": "scripted", "max_model_len": "long"}]}, BackendProtocolError, "OpenAI"),
        ("<html>", BackendProtocolError, "OpenAI"),
        ({"data": [{"id": "scripted", "max_model_len": float("inf")}]}, BackendProtocolError, "OpenAI"),
        ("[" * 100_000, BackendProtocolError, "OpenAI"),
    ],
)
async def test_a_server_that_is_another(models: Any, kind: type[Exception], says: str) -> None:
    """Bad input: a wrong address or model name is an error that says what is there."""
    async with served(Faults(models=models)) as (client, _, _):
        with pytest.raises(kind, match=says):
            await client.ready()


async def test_nobody_there() -> None:
    """No server: BackendUnavailableError, nothing charged."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    client = VllmServerBackend("scripted", url, codec=ScriptedCodec())
    with pytest.raises(BackendUnavailableError, match="is the vLLM server running"):
        await client.ready()
    request = TokenRequest((1, 2), 5)
    with pytest.raises(BackendUnavailableError, match="is the vLLM server running"):
        _ = [chunk async for chunk in client.stream(request)]
    assert request.receipt.refused
    await client.aclose()
    with pytest.raises(UnknownModelError, match="http"):
        VllmServerBackend("m", "localhost:8000/v1", codec=ScriptedCodec())


async def test_the_key() -> None:
    """The right key opens, a wrong one is a BackendError with the server's status."""
    async with served(key="secret", api_key="secret") as (client, _, _):
        assert (await ask(client)).solution == "g h i"
    async with served(key="secret", api_key="wrong") as (client, _, _):
        with pytest.raises(BackendError, match="401"):
            await client.ready()


@pytest.mark.parametrize(
    ("status", "kind", "unknown"),
    [
        (400, BackendError, 0),
        (401, BackendError, 0),
        (404, BackendError, 0),
        (413, BackendError, 0),
        (422, BackendError, 0),
        (429, BackendUnavailableError, 0),
        (503, BackendUnavailableError, 0),  # in vLLM's own form
        (408, BackendError, 9),
        (409, BackendError, 9),
        (425, BackendError, 9),
        (499, BackendError, 9),
        (500, BackendUnavailableError, 9),
        (502, BackendUnavailableError, 9),
        (504, BackendUnavailableError, 9),
        (524, BackendUnavailableError, 9),
    ],
)
async def test_refusals(status: int, kind: type[BackendError], unknown: int) -> None:
    """A refusal costs nothing; after a failure nobody knows what the engine had done (law 8)."""
    async with served() as (client, _, wire):
        await client.ready()
        wire.faults.status = status
        call = Call(client, "why", Budget(9, 9))
        with pytest.raises(BackendError, match=str(status)) as raised:
            _ = [event async for event in call]
        assert type(raised.value) is kind
        assert call.usage.unknown == unknown
        assert call.usage.passes == (1 if unknown else 0)


HTML = "<html><body><h1>upstream connect error or disconnect/reset before headers</h1></body></html>"


@pytest.mark.parametrize("status", sorted(TELLING_NOTHING))
async def test_a_router_that_had_passed_the_request_on(status: int) -> None:
    """Law 2: the engine served, and a router in front of it says something else: charged is never less."""
    async with served() as (direct, upstream, wire):

        async def route(request: web.Request) -> web.Response:
            body, url = await request.read(), f"{wire.base_url}/completions"
            async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
                await answer.read()
            return web.Response(status=status, text=HTML, content_type="text/html")

        app = web.Application()
        app.router.add_post("/v1/completions", route)
        router = TestServer(app)
        await router.start_server()
        client = VllmServerBackend("scripted", str(router.make_url("/v1")), codec=direct.codec)
        client._checked = True
        call = Call(client, "why", Budget(9, 9))
        with pytest.raises(BackendError):
            _ = [event async for event in call]
        await client.aclose()
        await router.close()
        assert call.usage.metered_output == 9 >= upstream.meter.output > 0
        assert call.usage.metered_input == upstream.meter.input > 0


@pytest.mark.parametrize(
    ("faults", "unknown"),
    [
        (Faults(status=503, body=HTML), 9),
        (Faults(status=503, body=""), 9),
        (Faults(status=503, body='{"error": {"message": "litellm", "type": "x", "code": "503"}}'), 9),
        (Faults(status=503, body='{"error": "The model is currently scaling. Please try again later."}'), 0),
        (Faults(status=413, body=HTML), 0),
        (Faults(status=429, body=HTML), 0),
        (Faults(status=429, headers=(("x-litellm-attempted-retries", "2"),)), 9),
        (Faults(status=404, headers=(("X-Envoy-Attempt-Count", "2"),)), 9),
        (Faults(status=404, headers=(("X-Envoy-Attempt-Count", "1"),)), 0),
        (Faults(status=200, body=HTML), 9),
        (Faults(status=204, body=""), 9),
        (Faults(status=303, headers=(("Location", "/v1/nowhere"),)), 9),
    ],
    ids=str,
)
async def test_who_refused(faults: Faults, unknown: int) -> None:
    """A 503 is a refusal in vLLM's own form alone; an answer after several tries tells of the last one."""
    async with served() as (client, _, wire):
        await client.ready()
        wire.faults = faults
        call = Call(client, "why", Budget(9, 9))
        with pytest.raises(BackendError):
            _ = [event async for event in call]
        assert call.usage.unknown == unknown


async def test_what_never_left() -> None:
    """Nothing is charged for a name that nobody has, an address where nobody answers (also when the caller
    leaves meanwhile), and a request that is not JSON; the last is a BackendError, as everything is."""
    words = ScriptedCodec()
    for url in ("http://no-such-host.invalid/v1", "http://127.0.0.1:9/v1"):  # no address: test_served.py
        client = VllmServerBackend("scripted", url, codec=words)
        client._checked = True
        request = TokenRequest((1, 2), 5)
        with pytest.raises(BackendError):
            _ = [chunk async for chunk in client.stream(request)]
        assert request.receipt.delivery.free, url
        await client.aclose()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        full = [socket.socket() for _ in range(4)]
        for one in full:  # its backlog is full: a further connection waits for ever
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        client = VllmServerBackend("scripted", address, codec=words, connect_timeout=0.2)
        client._checked = True
        request = TokenRequest((1, 2), 5)
        with pytest.raises(BackendUnavailableError, match="is the vLLM server running"):
            _ = [chunk async for chunk in client.stream(request)]
        assert request.receipt.delivery.free
        call = Call(client, "why", Budget(9, 9))
        leaving = asyncio.create_task(anext(call.stream()))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert (call.usage.unknown, call.usage.passes) == (0, 0)
        await client.aclose()
        for one in full:
            one.close()
    async with served() as (client, upstream, _):
        request = TokenRequest((1, 2), 5, extra={"structured_outputs": {"choice": {object()}}})
        with pytest.raises(BackendError, match="JSON"):
            _ = [chunk async for chunk in client.stream(request)]
        assert request.receipt.delivery.free
        assert upstream.meter.requests == 0


@pytest.mark.parametrize(
    ("fault", "kind", "read", "unknown"),
    [
        (Faults(cut_after=0), BackendUnavailableError, 0, 9),
        (Faults(cut_after=3), BackendUnavailableError, 3, 6),
        (Faults(stall_after=0), BackendUnavailableError, 0, 9),
        (Faults(stall_after=2), BackendUnavailableError, 2, 7),
        (Faults(malformed_after=2), BackendProtocolError, 2, 7),
        (Faults(error_after=2), BackendError, 2, 7),
        (Faults(finish="abort"), BackendUnavailableError, 6, 3),
        (Faults(no_token_ids=True), BackendProtocolError, 0, 9),
        (Faults(usage=10**6), BackendProtocolError, 6, 3),
        (Faults(usage="many"), BackendProtocolError, 6, 3),
        (Faults(usage=float("inf")), BackendProtocolError, 6, 3),
        (Faults(usage=float("nan")), BackendProtocolError, 6, 3),
        (Faults(usage=[7]), BackendProtocolError, 6, 3),
        (Faults(usage=5), BackendProtocolError, 6, 3),  # a part of the stream came twice
    ],
    ids=str,
)
async def test_faults_in_the_stream(fault: Faults, kind: type[BackendError], read: int, unknown: int) -> None:
    """Each is a clear error and never a hang; what may have been served is charged (law 8)."""
    async with served(fault, idle_timeout=0.3) as (client, upstream, _):
        call = Call(client, "why", Budget(9, 9))
        with pytest.raises(BackendError) as raised:
            _ = [event async for event in call]
        assert type(raised.value) is kind
        assert (call.usage.thinking, call.usage.unknown) == (read, unknown)
        assert call.usage.metered_output >= upstream.meter.output


async def test_more_tokens_than_asked() -> None:
    """Law 3: a server that doesn't stop is not trusted, and nothing above the limit gets through."""
    async with served(Faults(extra=2)) as (client, _, _):
        request = TokenRequest((1, 20, 2), 3, sampling=GREEDY)
        got: list[int] = []

        async def consume() -> None:
            async for chunk in client.stream(request):
                got.extend(chunk.ids)

        with pytest.raises(BackendProtocolError, match="4 tokens came, 3 were asked for"):
            await consume()
        assert len(got) <= 3
        assert request.receipt.output is None


async def test_a_stop_token_that_is_left_out_is_put_back() -> None:
    """Some versions leave the stop token out of `token_ids`: the close is still natural, and counted."""
    async with served(Faults(drop_stop=True)) as (client, upstream, _):
        result = await ask(client)
        assert result.thinking_end is ThinkingEnd.NATURAL
        assert result.usage.forced == 0
        assert result.usage.metered_output == upstream.meter.output


@pytest.mark.parametrize(
    "faults", [Faults(no_usage=True), Faults(usage=0), Faults(usage=-5), Faults(usage=-0.5)], ids=str
)
async def test_a_usage_that_tells_nothing_changes_nothing(faults: Faults) -> None:
    """What arrived was served, whatever the server says."""
    async with served(faults) as (client, upstream, _):
        result = await ask(client)
        assert result.usage.metered_output == upstream.meter.output


async def test_a_usage_that_tells_more_is_charged() -> None:
    """Law 2: tokens that the server counted and did not send are on the bill."""
    async with served(Faults(usage=9)) as (client, _, _):
        result = await ask(client)
        assert (result.usage.thinking + result.usage.close, result.usage.solution) == (7, 4)
        assert result.usage.discarded == 2 + 5
        assert client.meter.output == result.usage.metered_output


async def test_leaving_aborts_the_upstream() -> None:
    """Closing or cancelling a call closes its connection: the engine stops, and the rest is charged."""
    async with served(reply=Reply("t " * 5000, "x")) as (client, upstream, _):
        upstream.tpot = 0.001
        call = Call(client, "why", Budget(5000, 9))
        async with aclosing(call.stream()) as events:
            async for _event in events:
                break
        assert call.usage.thinking == 1
        assert call.usage.unknown == 4999
        task = asyncio.create_task(ask(client, 5000))
        while not upstream.running:  # noqa: ASYNC110 (the other side of a socket)
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        while upstream.running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert upstream.meter.output < 10_000


async def test_not_streamed() -> None:
    """The test server's other half: the same answer in one piece (others' clients ask so)."""
    async with served() as (_, upstream, wire), aiohttp.ClientSession() as session:
        prompt = upstream.codec.encode_chat([{"role": "user", "content": "why"}])
        body = {"model": "scripted", "prompt": prompt, "max_tokens": 4, "return_token_ids": True}
        async with session.post(f"{wire.base_url}/completions", json=body) as response:
            whole = cast("dict[str, Any]", await response.json())
    assert whole["choices"][0]["finish_reason"] == "length"
    assert len(whole["choices"][0]["token_ids"]) == 4
    assert whole["usage"]["completion_tokens"] == 4


async def test_one_backend_per_server() -> None:
    """`load_backend` with a base_url: a vLLM client, shared, made anew after it was closed."""
    upstream = ScriptedBackend(REPLY, codec=cast("ScriptedCodec", codec()))
    async with Wire(upstream) as wire:
        one = load_backend("scripted", base_url=wire.base_url, codec=upstream.codec)
        assert load_backend("scripted", base_url=wire.base_url, codec=upstream.codec) is one
        await one.aclose()
        assert load_backend("scripted", base_url=wire.base_url, codec=upstream.codec) is not one


def test_the_tokenizer_is_what_the_server_has_loaded() -> None:
    """A served name that is no model: the server says what it loaded. One that doesn't tell is an error."""
    served = {"data": [{"id": "mine", "root": model_path("e1-tiny"), "max_model_len": 99}]}
    with serve_in_thread(ScriptedBackend(REPLY), key="k", faults=Faults(models=served)) as wire:
        found = VllmServerBackend("mine", wire.base_url, api_key="k")
        assert found.codec.markers == codec().markers
        for silent in ({"data": [{"id": "mine"}]}, {"data": [{"id": "mine", "root": "mine"}]}):
            wire.faults.models = silent
            with pytest.raises(UnknownModelError, match="tokenizer=") as caught:
                VllmServerBackend("mine", wire.base_url, api_key="k")
            assert wire.base_url in str(caught.value)


async def test_a_kept_connection_that_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the request was sent: it goes out once more, and the call is as any. Once is enough."""
    post, fail = aiohttp.ClientSession.post, 1

    async def closed(session: aiohttp.ClientSession, url: str, **options: Any) -> aiohttp.ClientResponse:
        nonlocal fail
        if not fail:
            return await post(session, url, **options)
        fail -= 1
        reset = aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        raise aiohttp.ClientOSError(None, "Can not write request body") from reset

    monkeypatch.setattr(aiohttp.ClientSession, "post", closed)
    async with served() as (client, upstream, _):
        result = await ask(client)
        assert result.usage.metered_output == upstream.meter.output
        fail = 2
        with pytest.raises(BackendUnavailableError, match="Can not write"):
            await ask(client)


async def test_closing_ends_a_stream_that_waits_for_its_next_token() -> None:
    """aiohttp by itself leaves it waiting for ever."""
    slow = ScriptedBackend(REPLY, tpot=60.0)
    with serve_in_thread(slow) as wire:
        client = VllmServerBackend(slow.model, wire.base_url, codec=slow.codec)
        await client.ready()
        asking = asyncio.ensure_future(ask(client))
        while not client.meter.requests:  # noqa: ASYNC110 (it counts when the answer has begun)
            await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(BackendUnavailableError):
            await asyncio.wait_for(asking, 10)
