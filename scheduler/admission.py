"""The way to the desk and back, on an event loop: queue up, wait, and never leave a hold behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from elastic_agent.errors import CapExceededError, DeadlineError
from elastic_agent.scheduler.desk import Desk
from elastic_agent.scheduler.durable import AGAIN, Durable
from elastic_agent.scheduler.request import Request, Running
from elastic_agent.scheduler.stores.base import Lack


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


async def admit_durably(
    desk: Desk, durable: Durable, request: Request, again: Callable[[], Request]
) -> Running:
    """The same where a durable ledger has the last word.

    What it has no room for is decided again with what is really left. Where other processes hold what this
    call lacks, it waits for them, at most for a lease: by then each of their holds was renewed or has ended.

    Args:
        again: the call as a new request.

    Raises:
        StoreUnavailableError: no durable hold can be had.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + durable.lease
    told: Lack | None = None
    while True:
        try:
            running = await admit(desk, request, lambda: None)
            try:
                lack = await durable.take(running)
            except BaseException:
                desk.settle(running, None, loop.time(), answered=False)
                raise
            if lack is None:
                return running
            desk.settle(running, None, loop.time(), answered=False)
            if told is not None:  # decided with what is left, and still no room
                raise _lacking(lack, request)
            told = lack
        except DeadlineError:
            raise
        except CapExceededError:
            late = request.on_exhausted == "raise" or loop.time() >= until
            if late or not _own_room(request):
                raise
            if not await durable.others_hold() and not _fits(request):
                raise
            told = None
            await asyncio.sleep(AGAIN)
        request = again()


def _lacking(lack: Lack, request: Request) -> CapExceededError:
    unit, scale = ("usd", 1e9) if lack.unit == "nano" else (lack.unit, 1)
    needed, available = lack.needed / scale, lack.available / scale
    return CapExceededError(
        f"task {request.book.name!r}, call {request.number} ({request.kind}): account {lack.account!r} has "
        f"{available:g} {unit} left and {needed:g} are needed; raise its cap or wait for its next window",
        needed={unit: needed},
        available={unit: available},
    )


def _own_room(request: Request) -> bool:
    """Whether the caps of its own tasks would hold the smallest answer."""
    need = request.worst(0, request.least_solution())
    return all(level.account.lacks(need - level.account.reserve) is None for level in request.book.levels)


def _fits(request: Request) -> bool:
    """Whether all caps hold it by now."""
    account, need = request.book.account, request.worst(0, request.least_solution())
    return all(a.lacks(need - account.reserve) is None for a in account.path)


def _tell(told: asyncio.Future[None]) -> None:
    """Wake a waiting call, from any thread, on its own loop; it may have gone, and its loop too."""

    def done() -> None:
        if not told.done():
            told.set_result(None)

    loop = told.get_loop()
    if asyncio._get_running_loop() is loop:  # a wake-up from the outside takes a system call
        done()
        return
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(done)
