"""`/v1/tasks`: open a task, look at it, close it."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError, InvalidCapsError
from elastic_agent.scheduler.ledger.stores.protocol import MOST, Spec

from ..accounts.tasks import Tasks
from .errors import bad, told
from .headers import check_task_id, read_body
from .request_schema import TaskRequest, read


class TaskRoutes:
    """The routes over the tasks of a process.

    Args:
        owner: the account of whoever sent a request.
        seconds: for a body to arrive.
    """

    def __init__(self, tasks: Tasks, owner: Callable[[web.Request], Spec], seconds: float) -> None:
        self.tasks, self.owner, self.seconds = tasks, owner, seconds

    async def open(self, request: web.Request) -> web.Response:
        """POST: a task with caps; 201 with its report."""
        body = read(TaskRequest, await read_body(request, self.seconds))
        try:
            caps = Caps(usd=body.usd, tokens=body.tokens, seconds=body.seconds)
        except InvalidCapsError as error:
            raise bad(None, str(error), "invalid_caps") from error
        if (caps.nanodollars or 0) > MOST:
            raise bad("usd", f"usd: at most {MOST / 1e9:,.0f}")
        try:
            task = await self.tasks.open(
                self.owner(request),
                caps,
                id=body.id,
                fresh=body.id is not None,
                expect=body.expect,
                final_solution=body.final_solution,
                on_exhausted=body.on_exhausted,
            )
        except CapExceededError as error:
            raise told(error) from error
        return web.json_response(await self.tasks.report(self.owner(request), task.id), status=201)

    async def get(self, request: web.Request) -> web.Response:
        """GET: its report."""
        id = request.match_info["id"]
        check_task_id(id)
        return web.json_response(await self.tasks.report(self.owner(request), id))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE: close it."""
        id = request.match_info["id"]
        check_task_id(id)
        return web.json_response(await self.tasks.close(self.owner(request), id))
