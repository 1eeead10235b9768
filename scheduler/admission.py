"""The way to the desk and back, on an event loop: queue up, wait, and never leave a hold behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from elastic_agent.scheduler.desk import Desk
from elastic_agent.scheduler.request import Request, Running


async def admit(desk: Desk, request: Request, queued: Callable[[], None]) -> Running:
    """Wait for the grant of a call; cancelled on the way, it leaves the queue or gives its hold back.

    Args:
        queued: called when it stands in the queue.

    Raises:
        CapExceededError, DeadlineError, TaskClosedError: refused.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    request.wake = lambda: _tell(told)
    desk.submit(request, loop.time())
    account = request.book.account
    queued()
    try:
        # Whoever arrives in this same moment is queued, too, before anything is decided.
        await asyncio.sleep(0)
        desk.pump(account, loop.time())
        while request.outcome is None:
            when = request.ask_again
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if when is None or math.isinf(when) else when):
                    await asyncio.shield(told)
            if request.outcome is None:
                desk.pump(account, loop.time())
    except BaseException:
        desk.withdraw(request, loop.time())
        raise
    if isinstance(request.outcome, Exception):
        raise request.outcome
    return request.outcome


def _tell(told: asyncio.Future[None]) -> None:
    """Wake a waiting call, from any thread, on its own loop; it may have gone, and its loop too."""

    def done() -> None:
        if not told.done():
            told.set_result(None)

    with suppress(RuntimeError):
        told.get_loop().call_soon_threadsafe(done)
