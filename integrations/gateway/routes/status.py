"""What the gateway says about itself: its models, whether it is ready, its metrics, its description."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from elastic_agent.scheduler.ledger.stores.protocol import Store

from ..accounts.key_owner import NO_KEY
from ..api.openapi import description
from ..api.request_context import CONTEXT
from ..ops.metrics import Metrics
from ..settings import Upstream

PROBE_SECONDS = 3.0


class StatusRoutes:
    """The handlers; `measure` sets the metrics that are read when they are asked for."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], store: Store, metrics: Metrics, measure: Callable[[], None]
    ) -> None:
        self.upstreams, self.store, self.metrics, self.measure = upstreams, store, metrics, measure
        self.draining = False
        self._probing: asyncio.Task[dict[str, Any]] | None = None

    async def models(self, request: web.Request) -> web.Response:
        """`/v1/models`: those that the owner of the key may use."""
        found = [_model(upstream) for upstream in request[CONTEXT].owner.upstreams().values()]
        return web.json_response({"object": "list", "data": found})

    async def model(self, request: web.Request) -> web.Response:
        """`/v1/models/{name}`."""
        return web.json_response(_model(request[CONTEXT].owner.upstream(request.match_info["name"])))

    async def health(self, request: web.Request) -> web.Response:
        """`/health`: the process is alive."""
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """`/ready`: whether a call could be answered, so whether the ledger and a model can be reached.

        Concurrent requests share one probe: the route needs no key, and a probe asks all upstreams.
        """
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())
        found = await asyncio.shield(self._probing)
        return web.json_response(found, status=200 if found["ready"] else 503)

    async def prometheus(self, request: web.Request) -> web.Response:
        """`/metrics`."""
        self.measure()
        text = self.metrics.text(asyncio.get_running_loop().time())
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def openapi(self, request: web.Request) -> web.Response:
        """`/openapi.json`."""
        return web.json_response(await asyncio.to_thread(description))  # slow the first time

    async def _probe(self) -> dict[str, Any]:
        names = list(self.upstreams)
        ledger, *models = await asyncio.gather(
            self._ledger_reachable(),
            *(upstream.reachable(PROBE_SECONDS) for upstream in self.upstreams.values()),
        )
        return {
            "ready": ledger and (any(models) or not models) and not self.draining,
            "draining": self.draining,
            "ledger": ledger,
            "upstreams": dict(zip(names, models, strict=True)),
        }

    async def _ledger_reachable(self) -> bool:
        with suppress(Exception):
            async with asyncio.timeout(PROBE_SECONDS):
                await self.store.open([NO_KEY])
                return True
        return False


def _model(upstream: Upstream) -> dict[str, Any]:
    return {
        "id": upstream.name,
        "object": "model",
        "created": 0,
        "owned_by": "elastic-agent",
        "max_model_len": upstream.backend.context_length,
    }
