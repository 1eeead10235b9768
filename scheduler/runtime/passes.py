"""Runs the dispatcher's passes on the event loop."""

from __future__ import annotations

import asyncio

from ..dispatch.dispatcher import Dispatcher
from ..ledger.accounts import Account


def run_passes_soon(dispatcher: Dispatcher) -> None:
    """Have the dispatcher decide for waiting calls soon after a call has ended, not in that call's `finally`.

    Without a running event loop there is no later: the pass runs at once.
    """

    def request_pass(account: Account, now: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            dispatcher.run_pass(account, now)
        else:
            loop.call_soon(lambda: dispatcher.run_pass(account, loop.time()))

    dispatcher.request_pass = request_pass
