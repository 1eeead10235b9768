"""The priority at the engine: by deadline, weight and the user's word, and it is what is sent."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
from hypothesis import given

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.ledger.amounts import INFINITY
from elastic_agent.scheduler.queueing.endpoint import PATIENCE
from elastic_agent.scheduler.runtime.engine_priority import LONGEST, STEP, engine_priority
from tests.clock import run
from tests.scheduler.runtime.test_calls import Watched
from tests.wire import serve_in_thread

NOW = 1_795_000_000.0


def test_the_rule() -> None:
    """Milliseconds of Unix time; twice the weight is half of the time; a day at most; not before it came."""
    wall = NOW - 50.0
    assert engine_priority(0, 1.0, 50.0, 60.0, wall) == round(1000 * NOW) + 10_000
    assert engine_priority(0, 2.0, 50.0, 60.0, wall) == round(1000 * NOW) + 5_000
    assert engine_priority(0, 1.0, 50.0, INFINITY, wall) == round(1000 * (NOW + PATIENCE))
    assert engine_priority(0, 1e-9, 50.0, 60.0, wall) == round(1000 * (NOW + LONGEST))
    assert engine_priority(0, 1.0, 50.0, 40.0, wall) == round(1000 * NOW)


@given(
    st.integers(-9, 9),
    st.integers(-9, 9),
    st.floats(1e-6, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1e6) | st.just(INFINITY),
)
def test_what_the_user_says_comes_first(a: int, b: int, weight: float, arrived: float, moment: float) -> None:
    """Whatever the moments are; and the numbers stay within what JSON and 64 bits hold exactly."""
    one = engine_priority(a, weight, arrived, moment, NOW)
    other = engine_priority(b, 1.0, 0.0, 1.0, NOW)
    assert a == b or (a < b) == (one < other)
    assert abs(one) < 2**53
    assert STEP > 1000 * (NOW + 2e6)


def test_sent_with_every_pass() -> None:
    """Nearer deadlines first, then weight, then those without one; both passes of a call say the same."""

    async def main() -> list[str]:
        backend = Watched(Reply(thinking="hm " * 9, solution="so"))
        async with BudgetScheduler(backend) as scheduler:

            async def one(prompt: str, seconds: float | None, weight: float = 1.0) -> None:
                async with scheduler.task(Caps(tokens=500, seconds=seconds)) as task:
                    await task.generate(prompt, thinking=4, solution=16, weight=weight)

            await asyncio.gather(
                one("none", None),
                one("far", 40.0),
                one("heavy", 40.0, 4.0),
                one("near", 4.0),
                one("nearer", 2.0),
            )
        sent: dict[str, set[int]] = {}
        for request in backend.asked:
            text = backend.codec.decode(request.prompt_ids)
            name = next(name for name in ("none", "far", "heavy", "nearer", "near") if name in text)
            sent.setdefault(name, set()).add(request.priority)
        assert all(len(priorities) == 1 for priorities in sent.values())
        return sorted(sent, key=lambda name: min(sent[name]))

    assert run(main()) == ["nearer", "near", "heavy", "far", "none"]


async def test_it_reaches_the_servers_field() -> None:
    """As a number in the body of `/v1/completions`."""
    backend = ScriptedBackend(Reply(thinking="hm hm", solution="so"))
    with serve_in_thread(backend) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=backend.codec)
        async with BudgetScheduler(client) as scheduler, scheduler.task(Caps(tokens=200, seconds=30)) as task:
            await task.generate("why", priority=-1)
        assert {body["priority"] // STEP for body in wire.requests} == {-1}
        await client.aclose()
