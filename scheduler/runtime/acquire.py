"""The way to the dispatcher and back, on an event loop: queue up, wait, and never leave a hold behind."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress

from elastic_agent.errors import Binding, CapExceededError, DeadlineError

from ..allocation.request import Request, Running
from ..dispatch.dispatcher import Dispatcher
from ..latency.slack import SAFETY
from ..ledger.accounts import Account
from ..ledger.amounts import Amount, Shortage
from ..ledger.durable.durable_ledger import DurableLedger
from ..ledger.durable.options import RETRY_AFTER

SOON = 0.05
"""Seconds after which a call is asked again whose time has come while it stands behind another one."""


async def acquire(dispatcher: Dispatcher, request: Request, queued: Callable[[], None]) -> Running:
    """Wait for the grant of a call; cancelled on the way, it leaves the queue or gives its hold back.

    Args:
        queued: called when it stands in the queue.

    Raises:
        CapExceededError, DeadlineError, TaskClosedError: refused.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    request.on_outcome = lambda: _tell(told)
    dispatcher.submit(request, loop.time())
    account = request.task.account
    queued()
    try:
        # Whoever arrives in this same moment is queued, too, before anything is decided.
        await asyncio.sleep(0)
        passed_at = loop.time()
        dispatcher.run_pass(account, passed_at)
        while request.outcome is None:
            when = request.retry_at
            if when is not None and when <= passed_at:  # its time has come, but another one goes first
                when = passed_at + SOON
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if when is None or math.isinf(when) else when):
                    await asyncio.shield(told)
            if request.outcome is None:
                passed_at = loop.time()
                dispatcher.run_pass(account, passed_at)
    except BaseException:
        dispatcher.withdraw(request, loop.time())
        raise
    if isinstance(request.outcome, Exception):
        raise request.outcome
    return request.outcome


async def acquire_durably(
    dispatcher: Dispatcher, durable: DurableLedger, request: Request, again: Callable[[], Request]
) -> Running:
    """The same where a durable ledger has the last word.

    What it has no room for is decided again with what is really left. Where calls elsewhere hold what this
    call lacks, it waits for them, at most for a lease: by then each of their holds was renewed or has ended.
    What is reserved for final answers of idle tasks comes back when these end, and nobody knows when: only a
    call that is told to wait waits for that.

    Args:
        again: the call as a new request.

    Raises:
        CapExceededError: naming the account that binds, with the store's own numbers.
        StoreUnavailableError: no durable hold can be had.
    """
    loop = asyncio.get_running_loop()
    until = min(
        loop.time() + durable.lease, dispatcher.ledger.deadline(request.task.account, final=True) - SAFETY
    )
    told: Shortage | None = None
    while True:
        try:
            running = await acquire(dispatcher, request, lambda: None)
            try:
                lack = await durable.take(running.hold, final=running.grant.last)
            except BaseException:
                dispatcher.settle(running, None, loop.time(), answered=False)
                raise
            if lack is None:
                return running
            dispatcher.settle(running, None, loop.time(), answered=False)
            if told is not None:  # decided with what is left, and still no room
                raise _lacking(lack, request)
            told = lack
        except DeadlineError:
            raise
        except CapExceededError as error:
            may_wait = request.on_exhausted != "raise" and _own_room(request)
            if not may_wait or not await _room_comes(durable, request, until):
                raise await durable.bind(error) from None
            told = None
        request = again()


async def _room_comes(durable: DurableLedger, request: Request, until: float) -> bool:
    """Wait until all caps hold the smallest answer; False where nothing gives back what is lacking."""
    loop, pause = asyncio.get_running_loop(), RETRY_AFTER
    while loop.time() < until:
        coming = await durable.others_hold(reserves=request.on_exhausted == "wait")
        if not coming and not _fits(request):
            return False
        await asyncio.sleep(pause)
        if _fits(request):
            return True
        pause = min(1.0, 1.5 * pause)
    return False


def _lacking(lack: Shortage, request: Request) -> CapExceededError:
    unit, scale = ("usd", 1e9) if lack.unit == "nano" else (lack.unit, 1)
    needed, available = lack.needed / scale, lack.available / scale
    bound = Binding(lack.account, lack.unit, lack.available, 0, 0, shared=True)
    return CapExceededError(
        f"task {request.task.name!r}, call {request.number} ({request.kind}): {needed:g} {unit} are needed; "
        f"left: {available:g} {unit}. {bound}. Raise {bound.argument}= of {lack.account!r} or wait for its "
        f"next window",
        needed={unit: needed},
        available={unit: available},
        binding=bound,
    )


def _smallest(request: Request) -> Amount:
    """The least that the call would take: only one that shrinks takes less than it asked for."""
    shrinks = request.on_exhausted == "shrink"
    return request.worst(0, request.least_solution() if shrinks else request.solution)


def _own_room(request: Request) -> bool:
    """Whether the caps of its own tasks would hold the smallest answer."""
    return _holds([level.account for level in request.task.lineage], request)


def _fits(request: Request) -> bool:
    """Whether all caps hold it by now."""
    return _holds(request.task.account.path, request)


def _holds(accounts: Sequence[Account], request: Request) -> bool:
    """Whether each account has room for the smallest answer, the reserve of the call's own task included.

    An account of a store may lack room for that reserve itself: others have taken what was left.
    """
    room = request.task.account.reserve - _smallest(request)
    return all(
        (a.tokens_left is None or a.tokens_left + room.tokens >= 0)
        and (a.nano_left is None or a.nano_left + room.nano >= 0)
        for a in accounts
    )


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
