"""The page's server: who may read what, who may ask at all, and that nobody slows a call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.page import LivePage, feed
from elastic_agent.scheduler import BudgetScheduler
from tests.integrations.gateway.conftest import serving

Message = dict[str, Any]


@asynccontextmanager
async def reading(
    session: aiohttp.ClientSession, url: str, **headers: str
) -> AsyncIterator[AsyncIterator[Message]]:
    """The messages of a page."""
    async with session.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"

        async def messages() -> AsyncIterator[Message]:
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

        yield messages()


async def first(session: aiohttp.ClientSession, url: str, **headers: str) -> Message:
    """All that a page gets when it opens."""
    async with reading(session, url, **headers) as messages:
        return await anext(messages)


async def test_a_key_sees_its_own_tasks_alone() -> None:
    """Tried by key, by URL and by guessing ids; without a key there is nothing to see."""
    async with serving(no_keys=False, embedded=True) as served:
        keys = {name: served.gateway.keys.create(name)[0] for name in ("alice", "bob")}
        for name, key in keys.items():
            headers = {"X-Elastic-Task": f"{name}-secret", "X-Elastic-Caps": "tokens=500"}
            answer = await served.ask(key, headers)
            assert "choices" in answer, answer
            assert "choices" in await served.ask(key, max_tokens=80)  # a task of the request's own
        url = f"{served.root}/ui/events"
        for name, other in (("alice", "bob"), ("bob", "alice")):
            mine = {"Authorization": f"Bearer {keys[name]}"}
            tried = (
                *(url, f"{url}?owner=key/{other}&key={keys[other]}&since=0"),
                f"{url}?id=1&task={other}-secret",
            )
            for address in tried:
                found = await first(served.session, address, **mine, **{"X-Elastic-Task": f"{other}-secret"})
                assert len(found["trees"]) == 2
                assert f"{name}-secret" in str(found)
                assert other not in str(found)
                assert "hello" not in str(found)
                assert "42" not in str([tree["name"] for tree in found["trees"]])
        for guess in ("/ui/events/1", "/ui/tasks/1", f"/ui/events/key/{other}", "/ui/../ui/events"):
            async with served.session.get(served.root + guess) as response:
                assert response.status in (401, 404)
        for headers in ({}, {"Authorization": "Bearer ea-guessed"}, {"Cookie": f"key={keys['bob']}"}):
            async with served.session.get(f"{url}?key={keys['bob']}", headers=headers) as response:
                assert response.status == 401
        async with served.session.get(f"{served.root}/ui") as response:  # the page itself shows nothing
            assert response.status == 200
            assert "script-src 'self'" in response.headers["Content-Security-Policy"]
            assert "secret" not in await response.text()


async def test_without_keys_the_page_is_for_this_machine_alone() -> None:
    """A page of somebody else's that leads here by its name, or asks from its own origin, gets a 403."""
    async with serving(embedded=True) as served:
        url = f"{served.root}/ui/events"
        await served.ask()
        assert len((await first(served.session, url))["trees"]) == 1
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            for path in ("/ui", "/ui/events"):
                async with served.session.get(served.root + path, headers=headers) as response:
                    assert response.status == 403


async def test_a_gateway_stops_at_once_with_a_page_open() -> None:
    """An open page is ended; the shutdown does not wait for the reader."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        async with serving(embedded=True) as served:
            response = await session.get(f"{served.root}/ui/events")
            await response.content.readline()
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 4
        response.close()


async def test_a_page_of_a_scheduler() -> None:
    """`log=[LivePage(0)]`: tasks appear while they run; only by this machine's names."""
    backend = ScriptedBackend(Reply(thinking="hm hm", solution="so it is 42"))
    with LivePage(0) as page:
        with pytest.raises(ValueError, match=f"port {page.port} .*take another, or 0"):
            LivePage(page.port)
        async with aiohttp.ClientSession() as session, BudgetScheduler(backend, log=[page]) as scheduler:
            async with reading(session, f"{page.url}/events") as messages:
                assert (await anext(messages))["trees"] == []
                async with scheduler.task(Caps(tokens=300), name="mine") as task:
                    await task.generate("hello there")
                    found: list[Any] = []
                    while not found:
                        found = (await anext(messages))["trees"]
                assert found[0]["name"] == "mine"
            for headers in ({"Host": "evil.example"}, {"Host": f"evil.example:{page.port}"}):
                async with session.get(page.url, headers=headers) as response:
                    assert response.status == 403
            async with session.get(page.url, headers={"Origin": "http://evil.example"}) as response:
                assert response.status == 403
            async with session.get(f"http://127.0.0.1:{page.port}/") as response:
                assert response.status == 200
                assert response.url.path == "/ui"
    page.close()  # a second time does nothing


async def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is ended after the time that a message may stay unread; calls never waited for it."""
    monkeypatch.setattr(feed, "SEND_SECONDS", 0.3)
    with LivePage(0) as page:
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port, limit=1024)
        writer.write(f"GET /ui/events HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n".encode())
        await reader.readline()
        for id in range(200_000):
            event = {"event": "task_opened", "task": "x" * 5000, "id": id + 1, "key": "a", "caps": {}}
            page({**event, "parent_id": None})
            if id % 100 == 0:
                await asyncio.sleep(0.02)
                if page._feed.readers == 0:
                    break
        assert page._feed.readers == 0
        writer.close()
