"""Streams: what comes when, and what becomes of a call whose client or upstream goes."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest

from elastic_agent.backends.replicas import Replicas
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Limits, Upstream
from tests.integrations.gateway.answers.test_answers import CALL, TOOL
from tests.integrations.gateway.conftest import HELLO, TALK, Served, Start, shared_codec, until
from tests.wire import Engine, Faults, Wire

LONG = Reply(thinking="hm " * 400, solution="so it is 42")


async def read(served: Served, **body: Any) -> tuple[int, list[Any]]:
    """Status and events of a streamed chat answer; "[DONE]" as it is."""
    sent = {"messages": HELLO, "stream": True, **body}
    async with served.session.post(f"{served.gateway.url}/chat/completions", json=sent) as response:
        lines = [line[6:] for line in (await response.text()).split("\n\n") if line.startswith("data: ")]
        if not lines:
            return response.status, [await response.json()]
        return response.status, [line if line == "[DONE]" else json.loads(line) for line in lines]


def head(length: int) -> bytes:
    """The head of a chat request."""
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


async def test_a_stream_is_the_answer_in_pieces(start: Start) -> None:
    """Role first, reasoning under both names, content, how it ended with its budget, usage last."""
    async with start() as served:
        status, events = await read(served, thinking_budget=5, stream_options={"include_usage": True})
        assert status == 200
        *chunks, usage, done = events
        assert done == "[DONE]"
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 11
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(d.get("reasoning", "") for d in deltas) == "hm hm hm hm hm"
        assert all(d.get("reasoning") == d.get("reasoning_content") for d in deltas)
        assert "".join(d.get("content", "") for d in deltas) == "so it is 42"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-1]["budget"]["calls"][0]["used"]["thinking"] == 5
        assert not any("usage" in chunk for chunk in chunks)
        await served.exact()


async def test_several_answers_stream_side_by_side(start: Start) -> None:
    """Chunks name their answer; each ends once; tool calls come whole."""
    async with start(Reply(thinking="hm", solution=f"ok {CALL}")) as served:
        _, events = await read(served, n=3, tools=[TOOL])
        ends = [e for e in events[:-1] if e["choices"] and e["choices"][0]["finish_reason"]]
        assert sorted(e["choices"][0]["index"] for e in ends) == [0, 1, 2]
        assert {e["choices"][0]["finish_reason"] for e in ends} == {"tool_calls"}
        calls = [c for e in events[:-1] for c in e["choices"][0]["delta"].get("tool_calls", ())]
        assert [call["function"]["name"] for call in calls] == ["add"] * 3
        await served.exact()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_stops_its_call(start: Start, streamed: bool) -> None:
    """The upstream is aborted, the call settled, and what the upstream served is covered."""
    async with start(LONG, tpot=0.005) as served:
        url = f"{served.gateway.url}/chat/completions"
        session = aiohttp.ClientSession()
        ask = asyncio.ensure_future(
            session.post(url, json={"messages": HELLO, "stream": streamed, "thinking_budget": 400})
        )
        await until(lambda: served.backend.meter.output >= 20)
        if streamed:
            response = await ask
            await response.content.read(10)
            response.close()
        else:
            ask.cancel()
        await session.close()
        await until(lambda: not served.backend.running)
        assert served.backend.meter.output < 300
        await served.covered()
        await until(lambda: bool(served.access))
        assert served.access[-1]["status"] == 499


async def test_a_client_that_reads_nothing_is_given_up(start: Start) -> None:
    """Its call doesn't hold tokens for ever."""
    words = Reply(thinking="word " * 30_000, solution="ok")
    limits = Limits(send_seconds=0.3, grace_seconds=1.0)
    async with start(words, limits=limits, context=100_000) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.root.rpartition(":")[2]))
        body = json.dumps({"messages": HELLO, "stream": True}).encode()
        writer.write(head(len(body)) + body)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: bool(served.access))
        await until(lambda: not served.backend.running)
        await served.covered()
        writer.close()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_pays_what_was_served(start: Start, streamed: bool) -> None:
    """Law 2 and no more: where the server has counters, a Stop button costs what the meter counts."""
    async with start(LONG, tpot=0.002, engine=Engine()) as served:
        body = {"messages": HELLO, "stream": streamed, "thinking_budget": 390}
        for seconds in (0.2, 0.3):
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(seconds),
                    served.session.post(f"{served.gateway.url}/chat/completions", json=body) as got,
                ):
                    await got.read()
            await until(lambda: not served.backend.running)
        spent = await served.settled()
        assert served.backend.meter.output <= spent.tokens <= served.backend.meter.output + 4
        assert spent.tokens < 390


@pytest.mark.parametrize(
    ("faults", "status", "code"),
    [
        (Faults(status=400), 502, "upstream_error"),
        (Faults(status=401), 502, "upstream_error"),
        (Faults(status=404), 502, "upstream_error"),
        (Faults(status=429), 503, "upstream_unavailable"),
        (Faults(status=500), 503, "upstream_unavailable"),
        (Faults(cut_after=0), 503, "upstream_unavailable"),
        (Faults(malformed_after=0), 502, "upstream_error"),
        (Faults(error_after=0), 502, "upstream_error"),
        (Faults(no_token_ids=True), 502, "upstream_error"),
        (Faults(finish="abort"), 503, "upstream_unavailable"),
        (Faults(usage=10**6), 502, "upstream_error"),
    ],
    ids=str,
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_that_fails(
    start: Start, faults: Faults, status: int, code: str, streamed: bool
) -> None:
    """A clear error, as a status or in the stream; nothing stays held; the meter is covered; it goes on."""
    async with start(faults=faults) as served:
        got, events = await read(served, thinking_budget=30, stream=streamed)
        error = events[-1]["error"]
        assert error["code"] == code
        assert got == (200 if len(events) > 1 else status)
        await served.covered()
        served.wire.faults = Faults()
        assert (await read(served, thinking_budget=3))[1][-1] == "[DONE]"


async def test_an_upstream_cut_in_mid_stream(start: Start) -> None:
    """The client has what came, and an error in place of [DONE]; all that may have been served is charged."""
    async with start(faults=Faults(cut_after=10)) as served:
        status, events = await read(served, thinking_budget=30)
        assert status == 200
        assert len(events) > 5
        assert events[-1]["error"]["code"] == "upstream_unavailable"
        spent = await served.settled()
        assert spent.tokens >= 30


async def test_wrong_usage_is_not_believed(start: Start) -> None:
    """We count ids ourselves: an upstream that says nothing, or serves too much, changes no answer. One that
    says less than came has sent something twice, or lies: 502, charged in full."""
    async with start(faults=Faults(usage=0)) as served:
        body = await served.ask(thinking_budget=5)
        assert body["usage"]["completion_tokens"] == 11
        await served.exact()
        served.wire.faults = Faults(usage=1)
        body = await served.ask(thinking_budget=5)
        assert body["error"]["code"] == "upstream_error"
        await served.covered()
        served.wire.faults = Faults(extra=10)
        body = await served.ask(thinking_budget=5)
        assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


async def test_an_upstream_gone_and_back(start: Start) -> None:
    """503 with Retry-After while it is away, /ready says so; answers when it is back on its port."""
    async with start(limits=Limits(grace_seconds=0.1)) as served:
        await served.ask(thinking_budget=3)
        port = int(served.wire.base_url.split(":")[2].split("/")[0])
        await served.wire.__aexit__(None, None, None)
        status, headers, body = await served.post("/chat/completions", {"messages": HELLO})
        assert (status, body["error"]["code"]) == (503, "upstream_unavailable")
        assert str(port) not in body["error"]["message"]  # where it is, is nobody's business
        assert int(headers["Retry-After"]) >= 1
        async with served.session.get(f"{served.root}/ready") as response:
            assert response.status == 503
            assert (await response.json())["upstreams"] == {"scripted": False}
        async with served.session.get(f"{served.root}/health") as response:
            assert response.status == 200
        served.wire.port = port
        await served.wire.__aenter__()
        assert "choices" in await served.ask(thinking_budget=3)
        async with served.session.get(f"{served.root}/ready") as response:
            assert response.status == 200
        await served.exact()


async def test_replicas_that_are_all_gone() -> None:
    """/ready is 503 when the last of them is gone, not before, though all of them were there once."""
    codec = shared_codec()
    async with AsyncExitStack() as stack:
        wires = [Wire(ScriptedBackend(TALK, codec=codec)) for _ in range(2)]
        for wire in wires:
            await wire.__aenter__()
        both = Replicas([VllmServerBackend("scripted", wire.base_url, codec=codec) for wire in wires])
        stack.push_async_callback(both.aclose)
        gateway = await stack.enter_async_context(
            Gateway(GatewaySettings([Upstream("scripted", both)], port=0, no_keys=True))
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def ready() -> int:
            async with session.get(f"{gateway.url.removesuffix('/v1')}/ready") as response:
                return response.status

        said = [await ready()]
        for wire in wires:
            await wire.__aexit__(None, None, None)
            said.append(await ready())
        assert said == [200, 200, 503]


async def test_the_upstream_wants_a_key(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """It gets the gateway's, which nobody else ever sees; not the client's."""
    caplog.set_level("DEBUG")
    async with start(upstream_key="upstream-secret", no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice")
        body = await served.ask(key, thinking_budget=3)
        assert "choices" in body
        served.wire.key = "another"
        status, _, refused = await served.post("/chat/completions", {"messages": HELLO}, key)
        assert status == 502
        seen = repr((body, refused, served.access, served.events, served.gateway.upstreams)) + caplog.text
        assert "upstream-secret" not in seen
        assert key not in seen
        assert key not in repr(served.wire.requests)


async def test_a_call_that_takes_too_long(start: Start) -> None:
    """504, and what it used is charged."""
    async with start(LONG, tpot=0.01, limits=Limits(call_seconds=0.3, grace_seconds=0.1)) as served:
        status, _, body = await served.post("/chat/completions", {"messages": HELLO})
        assert (status, body["error"]["code"]) == (504, "timeout")
        await served.covered()
        _, events = await read(served)
        assert events[-1]["error"]["code"] == "timeout"
        await served.covered()
