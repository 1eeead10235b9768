"""A part of a task's caps for a graph that runs in another process, by an id that travels as JSON.

    # here, in a task                                    # there, inside the graph
    async with remote_budget(Caps(tokens=500),           async with joined_budget(config, store=STORE):
                             store=STORE) as scope:          await llm.ainvoke(...)
        await remote.ainvoke(inputs, {"metadata": scope})

The part is held in the task here (`Task.set_aside`), and caps an account in the durable store that both sides
can reach. Calls over there take their holds on that account. At the end the account is closed, which charges
the holds of calls that still run over there, and the task here is charged what the account was charged. The
id names the account and holds no secret; each side knows where the store is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import TaskClosedError
from elastic_agent.prompts.told_budget import check_tell
from elastic_agent.scheduler import BudgetScheduler, Task, current_task
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import Spec

from ..errors import langchain_errors

KEY = "elastic_agent_scope"
"""Name of the id in a run's metadata."""


@asynccontextmanager
async def remote_budget(caps: Caps, *, store: str | Path) -> AsyncIterator[dict[str, str]]:
    """Set a part of the current task's caps aside for another process; yields the metadata to send.

    Args:
        caps: the part, in `usd` and `tokens`; `seconds` count over there, from `joined_budget` on.
        store: a durable ledger that both processes can reach.

    Raises:
        BudgetExceededError: the task has no room for the part.
        ClosedTaskError: there is no task, or it has ended.
        StoreError: the store can't be reached.
        ValueError: caps in seconds alone.
    """
    if caps.tokens is None and caps.nanodollars is None:
        raise ValueError("remote_budget sets usd= or tokens= aside; seconds= alone can't be held")
    with langchain_errors():
        task = current_task()
        if task is None:
            raise TaskClosedError("remote_budget sets a part of a task aside: open task_budget around it")
        part = await task.set_aside(Amount(caps.tokens or 0, caps.nanodollars or 0))
        account = f"remote-{uuid4().hex}"
        spent, shared = NOTHING, open_store(store)
        try:
            await shared.open([Spec(account, caps.tokens, caps.nanodollars)])
            units = {"tokens": caps.tokens, "usd": _text(caps), "seconds": caps.seconds}
            scope = {"account": account, "caps": units, "tell": task.tell}
            spent = part.amount  # from here on, unless the store says less
            yield {KEY: json.dumps(scope)}
        finally:
            try:
                await shared.close(account)
                spent = (await shared.read_accounts(account))[0].spent
            finally:
                await shared.aclose()
                part.settle(spent)


@asynccontextmanager
async def joined_budget(config: Mapping[str, Any], *, store: str | Path) -> AsyncIterator[Task]:
    """A task with the part that a caller in another process set aside, around calls here.

    Args:
        config: the graph's or node's `RunnableConfig`; its metadata has the id.
        store: the same ledger as the caller's.

    Raises:
        ValueError: the metadata has no readable id.
        ClosedTaskError, StoreError: the caller's account has ended, or can't be reached.
    """
    given_id = (config.get("metadata") or {}).get(KEY)
    try:
        scope = json.loads(given_id or "")
        account, given, tell = str(scope["account"]), scope["caps"], scope["tell"]
        check_tell(tell)
        caps = Caps(usd=given.get("usd"), tokens=given.get("tokens"), seconds=given.get("seconds"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the metadata has no budget under {KEY!r} that can be read: {given_id!r}"
        ) from error
    scheduler = BudgetScheduler(store=store, accounts=account)
    with langchain_errors():
        async with scheduler, scheduler.task(caps, name=account, tell=tell) as task:
            yield task


def _text(caps: Caps) -> str | None:
    return None if caps.nanodollars is None else format(to_usd(caps.nanodollars), "f")
