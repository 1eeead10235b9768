"""A pool that many tasks share: its price, who is served whatever it is, and what it must not change."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from benchmarks._replay import Memory, Place, Played, load, make_work, pool_of
from benchmarks._replay import play as play_task
from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.scheduler import BudgetScheduler, Pool, task_budget
from elastic_agent.scheduler.allocation.task_state import TaskState
from elastic_agent.scheduler.dispatch.dispatcher import Dispatcher
from elastic_agent.scheduler.estimates.curve_files import load as load_curves
from elastic_agent.scheduler.estimates.lengths import Lengths
from elastic_agent.scheduler.estimates.success_curve import Curve, Objective, prior
from elastic_agent.scheduler.estimates.workload import Forecast
from elastic_agent.scheduler.ledger.accounts import Account
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.policies.marginal import Marginal
from elastic_agent.scheduler.policies.pacing import LEAST, MOST, Pacing
from elastic_agent.scheduler.policies.protocol import Need, State
from tests.clock import run

HARD = Curve("hard", ((0, 0.05), (32, 0.2), (64, 0.74), (128, 0.9)), Lengths.of(40, 80, 120))
EASY = Curve("easy", ((0, 0.77), (16, 0.92), (64, 0.93)))


def state(value: float = 1.0, key: str = "") -> TaskState:
    """A task that asks."""
    account = Account("task", None, None, None, None, 0.0)
    return TaskState("task", account, Forecast(), Marginal(), value=value, key=key or account.id)


def wants(value: float, price: float) -> float:
    """Tokens of a task that gains value * (1 - exp(-tokens / 100)), at a price; its floor is 20."""
    return 20 + (100 * math.log(max(1.0, value / (100 * price))) if price else 500)


def play(pacing: Pacing, rng: random.Random, start: float, seconds: float, gap: float) -> list[float]:
    """Tasks that come, each after `gap` seconds on average: the price that each of them saw."""
    now, seen = start, []
    while (now := now + rng.expovariate(1 / gap)) < start + seconds:
        value = rng.choice((0.5, 1.0, 4.0))
        pacing.task_opened(state(value), now)
        seen.append(pacing.price)
        pacing.record_spent(min(520.0, wants(value, pacing.price)))
    return seen


def multiplier(tokens: float) -> float:
    """The LP's: at which tasks want so many tokens on average."""
    low, high = 1e-9, 1.0
    for _ in range(100):
        price = math.sqrt(low * high)
        mean = statistics.fmean(wants(value, price) for value in (0.5, 1.0, 4.0))
        low, high = (price, high) if mean > tokens else (low, price)
    return low


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("tokens", [60, 120])
def test_it_converges_to_the_multiplier(tokens: int, rolling: bool) -> None:
    """Of the linear programme over a stationary stream, within a fifth, from a tenth or ten times of it."""
    pool = Pool(tokens=tokens * 1000, per=1000.0, rolling=rolling, fair=0.0)
    for off in (0.1, 10.0):
        pacing, rng = Pacing(pool), random.Random(5)
        pacing.task_opened(state(), 0.0)
        pacing.record_spent(100.0)
        pacing._log = math.log(multiplier(tokens) * off * 100.0)
        play(pacing, rng, 0.0, 20_000.0, 1.0)
        found = statistics.fmean(play(pacing, rng, 20_000.0, 5_000.0, 1.0))
        assert found == pytest.approx(multiplier(tokens), rel=0.2)


def test_a_burst_raises_it_and_passes() -> None:
    """Five times the tasks for a while cost more for each; afterwards it is what it was."""
    pacing, rng = Pacing(Pool(tokens=120_000, per=1000.0, rolling=True, fair=0.0)), random.Random(6)
    play(pacing, rng, 0.0, 20_000.0, 1.0)
    usual = statistics.fmean(play(pacing, rng, 20_000.0, 5_000.0, 1.0))
    assert play(pacing, rng, 25_000.0, 3_000.0, 0.2)[-1] > 1.5 * usual
    play(pacing, rng, 28_000.0, 20_000.0, 1.0)
    assert statistics.fmean(play(pacing, rng, 48_000.0, 5_000.0, 1.0)) == pytest.approx(usual, rel=0.2)


def test_a_window_begins_with_a_whole_pool_and_the_price_of_the_last() -> None:
    """At UTC midnight; what still runs is charged to the new one, as the store does."""
    evening = 1_700_000_000.0 // 86_400 * 86_400 + 86_000
    pacing = Pacing(Pool(tokens=1000, per="day", fair=0.0), epoch=evening)
    pacing.task_opened(state(), 0.0)
    pacing.running = 50.0
    pacing.record_spent(900.0)
    before = pacing.price
    pacing.advance(399.0)
    assert pacing.left == 100
    pacing.advance(401.0)
    assert pacing.left == 950
    assert before / 2 < pacing.price <= before


def test_a_month_is_as_long_as_it_is() -> None:
    """February 2024 had 29 days."""
    start, end = Pool(usd=1, per="month").window(1_708_000_000.0)
    assert end - start == 29 * 86_400


def test_a_clock_that_jumps() -> None:
    """Back: no time has passed. Far on: the window that it is then, and a price within its range."""
    pacing = Pacing(Pool(tokens=1000, per=100.0, fair=0.0))
    pacing.task_opened(state(), 50.0)
    pacing.record_spent(300.0)
    before = pacing.price, pacing.left
    pacing.advance(-1e6)
    assert (pacing.price, pacing.left) == before
    pacing.advance(50.0 + 1e9 + 30)
    assert pacing.left == 1000
    assert 0 < pacing.price < before[0]
    assert pacing._end - 50 - 1e9 == pytest.approx(100)


events = st.one_of(
    st.tuples(st.just("open"), st.floats(1e-6, 1e6)),
    st.tuples(st.just("spend"), st.floats(-1e5, 1e6)),
    st.tuples(st.just("pass"), st.floats(-1e5, 1e9)),
)


@given(st.lists(events, max_size=40), st.booleans())
def test_it_is_never_negative_and_bounded(events: list[tuple[str, float]], rolling: bool) -> None:
    """Whatever happens; and the same events give the same prices."""
    pacers = [Pacing(Pool(tokens=10_000, per=100.0, rolling=rolling)) for _ in range(2)]
    for pacing in pacers:
        now = 0.0
        for what, amount in events:
            if what == "open":
                pacing.task_opened(state(amount), now)
            elif what == "spend":
                pacing.record_spent(amount)
            else:
                now += amount
                pacing.advance(now)
            assert pacing.price >= 0
            assert LEAST * (1 - 1e-9) <= math.exp(pacing._log) <= MOST * (1 + 1e-9)
            assert 1 <= pacing.scarcity <= 1 / LEAST
    assert pacers[0].price == pacers[1].price


curves = st.sampled_from([EASY, HARD, prior("x", 64)])
needs = st.builds(Need, curves, st.integers(1, 9), st.floats(0.1, 4))


@settings(max_examples=300)
@given(
    needs.map(lambda need: need._replace(calls=1)),
    st.lists(needs, max_size=4),
    st.floats(-100, 3000),
    st.integers(0, 600),
    st.floats(0.001, 1),
    st.sampled_from(["chain", "each"]),
    st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=6),
)
def test_a_higher_price_never_buys_more(
    this: Need,
    others: list[Need],
    room: float,
    most: int,
    chance: float,
    objective: Objective,
    prices: list[float],
) -> None:
    """Of thinking, for any call; and the highest buys none where none was the least."""

    def thinking(price: float) -> int:
        state = State(this, tuple(others), room, most, pool_price=price, chance=chance)
        return Marginal(objective).choose(state).thinking

    given_ = [thinking(price) for price in (0.0, *sorted(prices), 1e9)]
    assert given_ == sorted(given_, reverse=True)


def test_a_price_buys_what_is_worth_it() -> None:
    """One call: the vertex of its envelope at which value less price is greatest, by hand."""

    def thinking(price: float) -> int:
        return Marginal().choose(State(Need(EASY), (), 1e6, 512, pool_price=price)).thinking

    assert pytest.approx(0.0094, abs=1e-4) == (0.92 - 0.77) / 16
    assert thinking(0.0095) == 0
    assert thinking(0.0093) == 16
    assert pytest.approx(0.0002, abs=1e-5) == (0.93 - 0.92) / 48
    assert thinking(0.0003) == 16
    assert thinking(0.0001) == 64


def test_bad_pools() -> None:
    """Say what is wrong."""
    bad: list[dict[str, Any]] = [
        {},
        {"usd": 1, "tokens": 1},
        {"tokens": 0},
        {"tokens": 1, "per": "week"},
        {"tokens": 1, "rolling": True},
        {"tokens": 1, "per": 0.0},
        {"tokens": 1, "fair": 1.0},
    ]
    for options in bad:
        with pytest.raises(ValueError, match=r"pool|per|fair|cap|token"):
            Pool(**options)
    with pytest.raises(ValueError, match="value must be"):
        task_budget(tokens=100, value=0.0)


OUTCOMES = load()


def flood(fair: float, seconds: float = 4000.0) -> tuple[list[Played], list[Played], int]:
    """Tasks worth 100, more than the pool can hold, and one in five worth 0.01: how those went; the pool."""
    pool = Pool(tokens=30_000, per=1000.0, rolling=True, fair=fair)
    dispatcher = Dispatcher(pacing=Pacing(pool))
    work = make_work(pool_of(OUTCOMES), int(seconds / 5), seed=3)
    rng = random.Random(3)
    memory, dear, cheap = Memory.of(load_curves("e1-tiny")), [], []
    for i, one in enumerate(work):
        low = rng.random() < 0.2
        place = Place(dispatcher, None, 5.0 * i, 0.01 if low else 100.0)
        played = play_task(one, 400 * len(one.calls), Marginal(), memory, place=place)
        (cheap if low else dear).append(played)
    return dear, cheap, int(pool.size * seconds / 1000)


def test_nobody_starves() -> None:
    """Those whose tasks are worth next to nothing get every answer; and an even part of what is spent evenly
    as tasks that think as if there were no pool. Without such a part they think no more: the test can fail.
    """
    dear, cheap, size = flood(0.1)
    assert all(played.answered and not played.refused for played in (*dear, *cheap))
    served = sum(played.metered for played in cheap if played.thinking > 100)
    assert served > 0.8 * 0.1 / 2 * size
    assert any(all(played.right) for played in cheap)
    _, none, _ = flood(0.0)
    assert all(played.answered for played in none)
    settled = none[len(none) // 2 :]
    assert sum(played.thinking for played in settled) < 0.1 * sum(played.thinking for played in cheap)
    late = [sum(played.thinking for played in cheap[part::4]) for part in range(4)]
    assert min(late) > 0


def test_keys_share_evenly() -> None:
    """A key with one task in ten has as many unpriced ones as a key with the rest, and one at a time."""
    pacing = Pacing(Pool(tokens=100_000, per=1000.0, rolling=True, fair=0.1))
    served = {"few": 0, "many": 0}
    for i in range(10_000):
        one = state(key="few" if i % 10 == 0 else "many")
        pacing.task_opened(one, float(i))
        other = state(key=one.key)
        pacing.task_opened(other, float(i))
        assert not (pacing.is_unpriced(one) and pacing.is_unpriced(other))
        if pacing.is_unpriced(one):
            served[one.key] += 1
            pacing._tenants[(one.key, 0)].used += 60.0
        pacing.task_closed(one)
        pacing.task_closed(other)
    assert served["few"] == pytest.approx(served["many"], rel=0.1)
    assert served["few"] * 60 == pytest.approx(0.1 / 2 * 1_000_000, rel=0.1)


def test_askers_that_have_gone_are_forgotten() -> None:
    """A thousand keys that each ask once leave nothing behind, and their parts go to those who ask."""
    pacing = Pacing(Pool(tokens=1000, per=100.0))
    for i in range(1000):
        pacing.task_opened(state(key=f"key-{i}"), 10.0 * i)
    assert len(pacing._tenants) <= 11


THINKS = Reply(thinking="hm " * 300, solution="so the answer is 42")


def test_a_scarce_pool_and_what_tasks_are_worth() -> None:
    """Through the scheduler: where much was spent a task thinks less, one that is worth more does not; the
    grant says at which price; a child has its parent's value; every task has its answer.
    """

    async def main() -> None:
        backend, pool = ScriptedBackend(THINKS), Pool(tokens=4000, per=1000.0, fair=0.0)
        async with BudgetScheduler(backend, pool=pool) as scheduler:
            pacing = scheduler.dispatcher.pacing
            assert pacing is not None
            for _ in range(40):
                async with scheduler.task(Caps(tokens=2000)) as task:
                    await task.generate("a", solution=20)
                    await asyncio.sleep(10)
            assert pacing.price > 0
            assert pacing.running == 0
            used = {}
            for value in (0.001, 1000.0):
                async with scheduler.task(Caps(tokens=2000), value=value, expect={"call": 1}) as task:
                    async with task.task(Caps(tokens=1000), expect={"call": 1}) as child:
                        call = child.call("a", solution=20)
                        await call.run()
                    assert child.state.value == value
                    assert call.grant is not None
                    used[value] = call.grant.budget.thinking or 0, call.grant.why["pool_price"]
            assert used[0.001][0] < used[1000.0][0]
            assert used[0.001][1] > used[1000.0][1] > 0

    run(main())


def test_the_pool_counts_what_was_served() -> None:
    """When all calls are over it has lost what they used, whatever was expected; raises, refunds and calls
    that never left included.
    """

    async def main() -> None:
        backend, pool = ScriptedBackend(THINKS), Pool(tokens=10_000, per=1000.0)
        async with BudgetScheduler(backend, pool=pool) as scheduler:
            pacing = scheduler.dispatcher.pacing
            assert pacing is not None
            spent = 0
            for caps in (Caps(tokens=400), Caps(tokens=2000), Caps(tokens=90)):
                async with scheduler.task(caps) as task:
                    await asyncio.gather(*(task.generate("a", solution=20) for _ in range(2)))
                spent += task.spent.tokens
            assert pacing.left == 10_000 - spent
            assert pacing.running == 0

    run(main())


def test_what_others_spend_is_heard() -> None:
    """What another process has spent on the account makes the price rise; what comes back makes it fall."""
    pacing = Pacing(Pool(tokens=1000, per=100.0, fair=0.0))
    pacing.task_opened(state(), 0.0)
    pacing.record_spent(100.0)
    account = Account("day", None, 1000, None, None, 0.0, spent=Amount(100))
    before = pacing.price
    pacing.record_accounts([account])
    assert pacing.price == before
    account.tokens = 600  # less than this process has spent: others have spent 400
    pacing.record_accounts([account])
    assert pacing.left == 500
    assert pacing.price > before
    account.tokens = 900
    pacing.record_accounts([account])
    assert pacing.left == 800
