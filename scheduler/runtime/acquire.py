"""Waits for the grant of a call, on an event loop; a call that is cancelled meanwhile leaves no hold."""

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
from ..ledger.inherited_caps import inherited_deadline

SOON = 0.05
"""Seconds until the next pass for a call whose time to be looked at has come while another goes first."""


async def acquire(dispatcher: Dispatcher, request: Request, queued: Callable[[], None]) -> Running:
    """The granted call. When the waiting is cancelled, the call leaves the queue or gives its hold back.

    Args:
        queued: called when the call stands in the queue.

    Raises:
        CapExceededError, DeadlineError, TaskClosedError: the call was refused.
    """
    loop = asyncio.get_running_loop()
    decided: asyncio.Future[None] = loop.create_future()
    request.on_outcome = lambda: _wake(decided)
    dispatcher.submit(request, loop.time())
    account = request.task.account
    queued()
    try:
        await asyncio.sleep(0)  # calls that arrive in this moment are all queued before the first decision
        last_pass = loop.time()
        dispatcher.run_pass(account, last_pass)
        while request.outcome is None:
            when = request.queue.retry_at
            if when is not None and when <= last_pass:  # another call goes first
                when = last_pass + SOON
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if when is None or math.isinf(when) else when):
                    await asyncio.shield(decided)
            if request.outcome is None:
                last_pass = loop.time()
                dispatcher.run_pass(account, last_pass)
    except BaseException:
        dispatcher.withdraw(request, loop.time())
        raise
    if isinstance(request.outcome, Exception):
        raise request.outcome
    return request.outcome


async def acquire_durably(
    dispatcher: Dispatcher, durable: DurableLedger, request: Request, again: Callable[[], Request]
) -> Running:
    """The granted call, held in the store of a durable ledger, too.

    Where the store has no room for the hold, the call is decided again with what the store says is left.
    Where calls of other processes hold what this call lacks, the call waits for them, at most for the length
    of a lease: by then each of their holds was renewed or has ended. What is reserved for the final answers
    of idle tasks comes back when these tasks end, which may be at any time, so only a call with
    on_exhausted="wait" waits for such reserves.

    Args:
        again: makes a new request of the same call.

    Raises:
        CapExceededError: names the account that binds, with the store's numbers.
        StoreUnavailableError: the store can't be reached.
    """
    loop = asyncio.get_running_loop()
    until = min(loop.time() + durable.lease, inherited_deadline(request.task.account, final=True) - SAFETY)
    refused_before = False
    while True:
        try:
            running = await acquire(dispatcher, request, lambda: None)
            try:
                short = await durable.take(running.hold, final=running.grant.last)
            except BaseException:
                dispatcher.settle(running, None, loop.time(), answered=False)
                raise
            if short is None:
                return running
            dispatcher.settle(running, None, loop.time(), answered=False)
            if refused_before:  # this decision already knew what the store has left
                raise _no_room(short, request)
            refused_before = True
        except DeadlineError:
            raise
        except CapExceededError as error:
            may_wait = request.terms.on_exhausted != "raise" and _own_tasks_have_room(request)
            if not may_wait or not await _wait_for_room(durable, request, until):
                raise await durable.bind(error) from None
            refused_before = False
        request = again()


async def _wait_for_room(durable: DurableLedger, request: Request, until: float) -> bool:
    """Wait until all caps can hold the smallest answer. False: nothing may come back from other processes."""
    loop, pause = asyncio.get_running_loop(), RETRY_AFTER
    while loop.time() < until:
        coming = await durable.others_hold(reserves=request.terms.on_exhausted == "wait")
        if not coming and not _fits(request):
            return False
        await asyncio.sleep(pause)
        if _fits(request):
            return True
        pause = min(1.0, 1.5 * pause)
    return False


def _no_room(short: Shortage, request: Request) -> CapExceededError:
    unit, scale = ("usd", 1e9) if short.unit == "nano" else (short.unit, 1)
    needed, available = short.needed / scale, short.available / scale
    bound = Binding(short.account, short.unit, short.available, 0, 0, shared=True)
    return CapExceededError(
        f"task {request.task.name!r}, call {request.number} ({request.terms.kind}): {needed:g} {unit} are "
        f"needed; left: {available:g} {unit}. {bound}. Raise {bound.argument}= of {short.account!r} or wait "
        f"for its next window",
        needed={unit: needed},
        available={unit: available},
        binding=bound,
    )


def _smallest(request: Request) -> Amount:
    """The least that the call would take: only a call that shrinks takes less than it asked for."""
    shrinks, final = request.terms.on_exhausted == "shrink", request.task.final_answer
    return request.worst(0, request.least_solution(final.size) if shrinks else request.size.solution)


def _own_tasks_have_room(request: Request) -> bool:
    return _have_room([level.account for level in request.task.lineage], request)


def _fits(request: Request) -> bool:
    """Whether all caps, those of the store included, can hold the smallest answer."""
    return _have_room(request.task.account.path, request)


def _have_room(accounts: Sequence[Account], request: Request) -> bool:
    """Whether each account has room for the smallest answer, the reserve of the call's own task included.

    An account of a store may lack room for the reserve itself, because other processes took what was left.
    """
    room = request.task.account.reserve - _smallest(request)
    return all(
        (a.tokens_left is None or a.tokens_left + room.tokens >= 0)
        and (a.nano_left is None or a.nano_left + room.nano >= 0)
        for a in accounts
    )


def _wake(decided: asyncio.Future[None]) -> None:
    """Wake a waiting call on its own loop, from any thread; the call and its loop may have ended."""

    def wake() -> None:
        if not decided.done():
            decided.set_result(None)

    loop = decided.get_loop()
    if asyncio._get_running_loop() is loop:  # call_soon_threadsafe would take a system call
        wake()
        return
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(wake)
