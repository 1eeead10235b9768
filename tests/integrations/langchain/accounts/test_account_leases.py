"""Leases of a thread's account: what its runs may spend, and for how long."""

from __future__ import annotations

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import LeaseLostError
from elastic_agent.integrations.langchain.accounts.account_leases import LeasedAccounts
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.ledger import clocks
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.ledger.stores import open_store


async def test_a_run_that_slept_through_its_lease_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past it neither the calls of its run nor those of tasks in it leave."""
    now = 1000.0
    monkeypatch.setattr(clocks, "elapsed", lambda: now)
    store = open_store("memory://", clock=lambda: now)
    lease = await LeasedAccounts(store, Caps(tokens=1000)).lease("thread", None)
    backend = ScriptedBackend(Reply(thinking="hm " * 20, solution="42"))
    async with BudgetScheduler(backend) as scheduler, scheduler.task(lease.caps) as task:
        task.lease = lease
        async with task.task(Caps(tokens=100)) as child:
            assert (await child.generate("a", solution=16)).solution == "42"
            asked = backend.meter.requests
            now += 61
            with pytest.raises(LeaseLostError, match="lease thread"):
                await child.generate("b", solution=16)
            assert backend.meter.requests == asked
    await lease.settle(Amount(0))
