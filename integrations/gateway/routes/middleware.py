"""Around every request: its key, its errors as answers, its line in the access log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from aiohttp import web

from ...page.feed import PAGE
from ..accounts.hosted_tasks import PREFIX, HostedTasks
from ..accounts.key_owner import KeyAccounts
from ..accounts.keys import Keys
from ..accounts.owner import Owner
from ..api.headers import check_local
from ..api.request_context import CONTEXT, RequestContext
from ..errors import GatewayError, to_gateway_error_or_500
from ..ops.connections import mark_busy, mark_idle
from ..ops.metrics import Metrics
from ..ops.watchdog import REQUEST
from .cors import Cors

OPEN_ROUTES = ("/health", "/ready", "/metrics", "/openapi.json", *PAGE)
"""Routes that need no key, and show nothing about any client."""
CLIENT_LEFT = 499


class RequestMiddleware:
    """Authenticates requests, counts them and logs them.

    Args:
        keys: the gateway's keys; None: no keys are asked for.
        accounts: what requests with such a key, or without any, are charged to.
        hosted: the tasks that have keys of their own.
        access: is called with the facts of every request, as JSON-ready values without prompts or keys.
        cors: answers the preflights of browsers.
        watched: name the asyncio task of each request, for the watchdog.
    """

    def __init__(
        self,
        keys: Keys | None,
        accounts: KeyAccounts,
        hosted: HostedTasks,
        metrics: Metrics,
        access: Callable[[dict[str, Any]], None],
        cors: Cors,
        watched: bool,
    ) -> None:
        self.keys, self.accounts, self.hosted = keys, accounts, hosted
        self.metrics, self.access, self.cors, self.watched = metrics, access, cors, watched

    @web.middleware
    async def handle(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Handle a request."""
        began, id = time.perf_counter(), uuid4().hex
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        facts: dict[str, Any] = {"id": id, "method": request.method, "route": route}
        if self.watched and (task := asyncio.current_task()) is not None:
            task.set_name(f"{REQUEST}{request.method[:16]} {route} {id}")
        request[CONTEXT] = RequestContext(facts)
        # Requests whose bytes are all there would be answered without a pause, since nothing in them waits
        await asyncio.sleep(0)
        self.metrics.running.inc()
        status = CLIENT_LEFT
        try:
            response = await self._response(request, handler, route)
            status = response.status
            if not response.prepared:
                response.headers["X-Request-Id"] = id
            return response
        finally:
            mark_idle(request)
            seconds = time.perf_counter() - began
            self.metrics.running.dec()
            self.metrics.request(route, status, seconds)
            self.access(
                facts | {"status": status, "ms": round(seconds * 1000, 3), "at": round(time.time(), 3)}
            )

    async def _response(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        route: str,
    ) -> web.StreamResponse:
        """The response of a route's handler, or of an error."""
        context = request[CONTEXT]
        try:
            if not request.body_exists:
                mark_busy(request)
            if self.keys is None:
                check_local(request.headers)
            if (preflight := self.cors.preflight(request)) is not None:
                return preflight
            if route not in OPEN_ROUTES:
                context.owner = await self._owner(request)
                if context.owner.name is not None:
                    context.facts["key"] = context.owner.name
            return await handler(request)
        except web.HTTPException as raised:
            return _http_error(raised, request).response(route)
        except GatewayError as raised:
            error = raised
        except Exception as raised:
            error = to_gateway_error_or_500(raised, context.facts["id"])
        context.facts["code"] = error.code
        return error.response(route)

    async def _owner(self, request: web.Request) -> Owner:
        """Who is charged for a request, by its key.

        Raises:
            GatewayError: 401.
        """
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            secret = request.headers.get("x-api-key", "")  # Anthropic's clients
        secret = secret.strip()
        if secret.startswith(PREFIX):
            if (hosted := self.hosted.find(secret)) is None:
                raise GatewayError(401, "the task of this key isn't hosted here any more", "invalid_api_key")
            return hosted
        if self.keys is None:
            return self.accounts.owner()
        if not secret:
            raise GatewayError(401, "send a key: Authorization: Bearer KEY, or x-api-key: KEY", "no_key")
        key = await self.keys.find(secret)
        if key is None:
            raise GatewayError(401, "this key is unknown", "invalid_api_key")
        if key.revoked:
            request[CONTEXT].facts["key"] = key.name
            raise GatewayError(401, "this key was revoked", "revoked_api_key")
        return self.accounts.owner(key.spec(), key.name)


def _http_error(error: web.HTTPException, request: web.Request) -> GatewayError:
    """aiohttp's own refusals in OpenAI's shape."""
    path = request.path[:80] if error.status == 404 else ""
    messages = {
        404: f"there is no {path}; see /openapi.json",
        405: f"{request.method[:16]} is not for this path; see /openapi.json",
        413: "the body is too large",
        417: "only Expect: 100-continue is known",
    }
    code = {404: "no_route", 405: "method_not_allowed", 413: "request_too_large"}.get(
        error.status, "http_error"
    )
    return GatewayError(error.status, messages.get(error.status, error.reason or "refused"), code)
