"""Who makes the loop stand still is told: which request, and where in the code."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from aiohttp import web

from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.ops.watchdog import BEAT, Stall, Watchdog
from elastic_agent.integrations.gateway.routes.status import StatusRoutes
from elastic_agent.integrations.gateway.settings import GatewaySettings
from tests.integrations.gateway.conftest import Start


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def stalls_of(work: Any) -> list[Stall]:
    found: list[Stall] = []
    watchdog = Watchdog(found.append)
    watchdog.start()
    try:
        await asyncio.sleep(3 * BEAT)
        await work()
        await asyncio.sleep(3 * BEAT)
    finally:
        watchdog.stop()
    return found


async def test_computing_and_sleeping_are_stalls() -> None:
    """Both keep the loop from everybody else; the stack names functions, and shows no value."""

    async def computes() -> None:
        secret = "hunter2"
        compute(0.3)
        assert secret

    async def sleeps() -> None:
        time.sleep(0.4)  # noqa: ASYNC251

    (stall,) = await stalls_of(computes)
    assert stall.seconds > 0.2
    assert "compute" in stall.stack
    assert "hunter2" not in stall.stack
    (stall,) = await stalls_of(sleeps)
    assert "sleeps" in stall.stack


async def test_a_loop_that_has_time_is_none() -> None:
    """Waiting is no standstill, and neither is work in short pieces or in another thread."""

    async def waits() -> None:
        await asyncio.sleep(0.3)
        for _ in range(30):
            compute(0.01)
            await asyncio.sleep(0)
        await asyncio.to_thread(time.sleep, 0.3)

    assert await stalls_of(waits) == []


async def test_the_request_is_named(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, with method, route and id; and counted in /metrics."""

    async def models(routes: StatusRoutes, request: web.Request) -> web.Response:
        compute(0.3)
        return web.json_response({})

    monkeypatch.setattr(StatusRoutes, "models", models)
    caplog.set_level(logging.WARNING)
    async with start(watchdog=False) as served:
        settings = GatewaySettings(served.gateway.settings.upstreams, port=0, no_keys=True, watchdog=True)
        async with Gateway(settings) as gateway:
            root = gateway.url.removesuffix("/v1")
            async with served.session.get(f"{root}/v1/models") as response:
                id = response.headers["X-Request-Id"]
            async with served.session.get(f"{root}/metrics") as response:
                numbers = await response.text()
            assert [stall.request for stall in gateway.stalls] == [f"GET /v1/models {id}"]
    assert f"GET /v1/models {id}" in caplog.text
    assert " models\n" in caplog.text
    assert "elastic_gateway_loop_stalls_total 1.0" in numbers
