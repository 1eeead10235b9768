"""A walk grants what a live task of the same scheduler grants, keeps its cap, and says why."""

import pytest

from elastic_agent import Budget, Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.offline_task import OfflineTask
from elastic_agent.usage import Usage
from tests.clock import run


@pytest.mark.parametrize("policy", ["marginal", "uniform"])
@pytest.mark.parametrize("cap", [60, 150, 400])
def test_a_walk_is_a_live_task(cap: int, policy: str) -> None:
    """Call by call the same grants, under the same usage: it is the same desk."""
    from elastic_agent.scheduler.runtime.offline_task import POLICIES

    live: list[tuple[int, Budget, Usage]] = []

    async def work() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 20, solution="so the answer is 42"))
        async with (
            BudgetScheduler(backend, policy=POLICIES[policy](), curves=OfflineTask(cap).curves) as scheduler,
            scheduler.task(Caps(tokens=cap)) as task,
        ):
            for number in range(6):
                prompt = "how many " * (number + 1)
                call = task.call(prompt, thinking=90, solution=24, final=number == 5)
                try:
                    done = await call.run()
                except CapExceededError:
                    return
                assert call.grant is not None
                live.append((done.usage.prompt, call.grant.budget, done.usage))

    run(work())
    walk = OfflineTask(cap, policy=policy)
    for number, (prompt, granted, usage) in enumerate(live):
        assert walk.grant(prompt, Budget(90, 24), last=number == 5) == granted
        assert walk.granted is not None
        assert walk.granted.reason
        walk.settle(usage)
        walk.dispatcher.ledger.check()
    assert len(live) > 1


def test_a_walk_never_exceeds_its_cap() -> None:
    """Whatever its calls use of their grants, up to all of it."""
    for cap in range(17, 120, 7):
        walk, spent = OfflineTask(cap), 0
        for _ in range(12):
            try:
                budget = walk.grant(30, Budget(50, 24))
            except CapExceededError:
                break
            usage = Usage(thinking=budget.thinking or 0, close=1, forced=1, solution=budget.solution)
            walk.settle(usage)
            spent += usage.generated
            assert walk.left == cap - spent >= 0
        assert spent > 0


def test_a_walk_says_what_is_wrong() -> None:
    with pytest.raises(CapExceededError, match="can't hold one answer"):
        OfflineTask(10)
    with pytest.raises(ValueError, match="there are marginal, uniform"):
        OfflineTask(100, policy="greedy")
    walk = OfflineTask(100)
    with pytest.raises(ValueError, match="must be a number"):
        walk.grant(10, Budget(None, 16))
    with pytest.raises(RuntimeError, match="no call is running"):
        walk.settle(Usage())
    walk.grant(10, Budget(10, 16))
    with pytest.raises(RuntimeError, match="settle it first"):
        walk.grant(10, Budget(10, 16))
