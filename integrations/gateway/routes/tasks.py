"""`/v1/tasks`: open a task, read its report, close it."""

from __future__ import annotations

from aiohttp import web

from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError, InvalidCapsError
from elastic_agent.scheduler.ledger.stores.protocol import MOST

from ..accounts.owner import Owner
from ..api.headers import IDEMPOTENCY_KEY, check_task_id
from ..api.json_body import read_body
from ..api.request_context import CONTEXT
from ..api.request_schema import TaskRequest, read
from ..errors import bad_request, to_gateway_error
from ..serving.idempotency import Idempotency
from ..settings import Limits


class TaskRoutes:
    """The handlers; `limits` say within how many seconds a body has to arrive."""

    def __init__(self, idempotency: Idempotency, limits: Limits) -> None:
        self.idempotency, self.limits = idempotency, limits

    async def open(self, request: web.Request) -> web.StreamResponse:
        """POST: open a task with caps; 201 with its report."""
        context, raw = request[CONTEXT], await read_body(request, self.limits.request_seconds)
        if IDEMPOTENCY_KEY not in request.headers:
            return await self._open(context.owner, raw)
        return await self.idempotency.once(
            request, context.owner.id, raw, context.facts, lambda _: self._open(context.owner, raw)
        )

    async def get(self, request: web.Request) -> web.Response:
        """GET: a task's report."""
        id = request.match_info["id"]
        check_task_id(id)
        return web.json_response(await request[CONTEXT].owner.task_report(id))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE: close a task; its report."""
        id = request.match_info["id"]
        check_task_id(id)
        return web.json_response(await request[CONTEXT].owner.close_task(id))

    async def _open(self, owner: Owner, raw: bytes) -> web.Response:
        body = read(TaskRequest, raw)
        try:
            caps = Caps(usd=body.usd, tokens=body.tokens, seconds=body.seconds)
        except InvalidCapsError as error:
            raise bad_request(None, str(error), "invalid_caps") from error
        if (caps.nanodollars or 0) > MOST:
            raise bad_request("usd", f"usd: at most {MOST / 1e9:,.0f}")
        options = {
            "expect": body.expect,
            "final_solution": body.final_solution,
            "on_exhausted": body.on_exhausted,
        }
        try:
            report = await owner.open_task(caps, body.id, options)
        except CapExceededError as error:
            raise to_gateway_error(error) from error
        return web.json_response(report, status=201)
