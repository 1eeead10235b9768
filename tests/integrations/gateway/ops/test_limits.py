"""Clients that are slow, many or both: they cost what they may cost, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import resource
import sys
from contextlib import suppress

import pytest

from elastic_agent.backends.scripted import Reply
from elastic_agent.integrations.gateway.settings import Limits
from tests.integrations.gateway.answers.test_streams import head
from tests.integrations.gateway.conftest import HELLO, Served, Start, until

CROWD = """
import socket, sys
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
sys.stdin.read()
"""
"""A process that holds connections and says nothing."""


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(served.root.rpartition(":")[2]))


async def test_headers_that_drip_in(start: Start) -> None:
    """A request that never gets past its headers loses its connection."""
    async with start(limits=Limits(idle_seconds=0.4, grace_seconds=0.1)) as served:
        reader, writer = await connect(served)
        with suppress(ConnectionError):
            for byte in head(10):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
                if reader.at_eof():
                    break
            else:
                pytest.fail("the headers came in whole")
        writer.close()
        await until(lambda: served.gateway.connections.open == 0)


async def test_a_body_that_drips_in(start: Start) -> None:
    """408 after its time, and the connection ends; the gateway goes on."""
    async with start(limits=Limits(request_seconds=0.3, grace_seconds=0.1)) as served:
        reader, writer = await connect(served)
        writer.write(head(1000) + b'{"mess')
        await writer.drain()
        assert b" 408 " in await reader.readline()
        assert b"slow_body" in await reader.read()
        writer.close()
        assert "choices" in await served.ask(thinking_budget=3)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["tls", "version", "length", "smuggling", "header", "headers", "line"],
)
async def test_what_is_no_http(start: Start, sent: bytes) -> None:
    """400 or the end of the connection; the process lives."""
    async with start() as served:
        reader, writer = await connect(served)
        writer.write(sent)
        with suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.readline(), 10)
            assert answer == b"" or answer.split()[1] in (b"400", b"413", b"431"), answer
        writer.close()
        assert "choices" in await served.ask(thinking_budget=3)


async def test_idle_connections(start: Start) -> None:
    """As many as the machine allows, eight thousand at most: others are answered; then they go."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < 1500:
        pytest.skip(f"{files} open files are too few")
    async with start(limits=Limits(idle_seconds=300.0, grace_seconds=0.1)) as served:
        many = served.gateway.connections.most - 100
        port = served.root.rpartition(":")[2]
        crowd = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CROWD, port, str(many), stdin=asyncio.subprocess.PIPE
        )
        await until(lambda: served.gateway.connections.open >= many)
        for _ in range(5):
            assert "choices" in await served.ask(thinking_budget=3)
        idle = served.gateway.connections._idle
        idle.update({one: idle[one] - 600.0 for one in list(idle)[:-1]})  # not our own, the last
        served.gateway.connections.sweep()
        await until(lambda: served.gateway.connections.open < 50)
        assert "choices" in await served.ask(thinking_budget=3)
        await crowd.communicate(b"")
        assert crowd.returncode == 0


async def test_too_many_connections(start: Start) -> None:
    """Beyond the limit those that were idle for the longest make room at once; while all of them are being
    answered, one more request is told so."""
    slow = Reply(thinking="hm " * 400, solution="so it is 42")
    async with start(slow, tpot=0.002, limits=Limits(connections=5, grace_seconds=0.1)) as served:
        idle = [await connect(served) for _ in range(8)]
        for reader, _ in idle[:3]:
            assert await asyncio.wait_for(reader.read(), 10) == b""
        assert "choices" in await served.ask(thinking_budget=3)
        dripping = head(1000) + b'{"mess'
        for _, writer in idle[5:]:
            writer.write(dripping)  # its body is not whole: it counts as idle
        running = [asyncio.ensure_future(served.ask(thinking_budget=400)) for _ in range(4)]
        await until(lambda: served.backend.running == 4)
        status, headers, body = await served.post("/chat/completions", {"messages": HELLO})
        assert (status, body["error"]["code"]) == (503, "too_many_connections")
        assert int(headers["Retry-After"]) >= 1
        assert served.gateway.connections.open <= 5
        assert all("choices" in answer for answer in await asyncio.gather(*running))
        for _, writer in idle:
            writer.close()
