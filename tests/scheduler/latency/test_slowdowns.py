"""Slowdowns that were seen: what they tell of the next one, and that plans keep time for it."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.scheduler import BudgetScheduler, FixedCap, Timing
from elastic_agent.scheduler.latency.model import Latency, Speed
from elastic_agent.scheduler.latency.prefill import First
from elastic_agent.scheduler.latency.slack import SAFETY, CallWindow, RemainingWork
from elastic_agent.scheduler.latency.slowdowns import KEPT, Slowdown, Slowdowns
from tests.clock import run


def seen(*phases: tuple[float, int]) -> Slowdowns:
    """(factor, seconds) one after the other, a note each second."""
    slowdowns, clock = Slowdowns(), 0.0
    for factor, seconds in phases:
        for _ in range(seconds):
            clock += 1
            slowdowns.note(factor, clock, 1.0, slow=factor >= 1.5)
    return slowdowns


def test_what_was_seen_is_expected_again() -> None:
    """The slowest factor, the longest time, and how often."""
    assert seen((1.0, 100)).next == Slowdown()
    assert seen((1.0, 90), (3.0, 10)).next == Slowdown(3.0, 10.0, 100.0)
    assert seen((1.0, 90), (3.0, 10), (1.0, 80), (2.0, 20)).next == Slowdown(3.0, 20.0, 100.0)


def test_an_endpoint_that_stays_even_is_trusted_more_and_more() -> None:
    """Long after its last slowdown nothing is kept for one."""
    soon, late = seen((1.0, 90), (3.0, 10)).next, seen((1.0, 90), (3.0, 10), (1.0, 9000)).next
    assert soon.delay(10) == late.delay(10) > soon.accepted(0.005)
    assert late.accepted(0.005) > late.delay(10)


def test_the_oldest_are_forgotten() -> None:
    """A slow past does not count for ever."""
    assert seen((9.0, 50), *[(1.0, 50), (2.0, 5)] * KEPT).next.factor == 2.0


@given(st.floats(1.01, 20), st.floats(0.1, 100), st.floats(0, 200))
def test_what_a_slowdown_adds(factor: float, lasts: float, seconds: float) -> None:
    """The same as by following the work through it: slow while it lasts, as usual afterwards."""
    done = min(seconds, lasts / factor)  # during it
    assert Slowdown(factor, lasts, 1).delay(seconds) == pytest.approx(done * (factor - 1), abs=1e-9)


def test_the_end_of_one_is_known_from_those_before() -> None:
    """The first may last for ever, later ones as long as the longest; beyond that nobody knows."""
    assert seen((1.0, 50), (3.0, 10)).left == 0
    again = [(1.0, 50), (3.0, 40), (1.0, 50)]
    assert seen(*again, (3.0, 10)).left == pytest.approx(30)
    assert seen(*again, (3.0, 45)).left == 0
    assert seen(*again).left == 0


@given(st.floats(1.0, 10), st.floats(0, 60), st.floats(0, 200))
def test_work_fits_what_it_takes(now: float, left: float, seconds: float) -> None:
    """The two conversions undo each other, and a slowdown never helps."""
    speed = Speed(0.3, 0.03, 0.1, 0.01, now=now, left=left)
    assert speed.takes(speed.fits(seconds)) == pytest.approx(seconds)
    assert speed.fits(seconds) <= seconds + 1e-9
    assert speed.expected().tpot == pytest.approx(0.01 * (1 if left else now))


def test_thinking_ends_early_enough_for_a_slowdown_like_the_last() -> None:
    """However large a part of the window that takes; `risk` says what need not be provided for."""
    after, window = RemainingWork(solution=1000), CallWindow(0, 40, 40)
    speed = Speed(0.1, 0.01, 0.1, 0.01, slower=3.0, lasts=60.0, every=100.0)
    plan = 0.1 + 10 + SAFETY
    timing = Timing(slowdown=1, risk=0)
    assert timing.think_until(window, after, speed) == pytest.approx(40 - 3 * plan)
    assert Timing(slowdown=1, risk=0.01).think_until(window, after, speed) == pytest.approx(42 - 3 * plan)
    assert Timing(slowdown=1, risk=1).think_until(window, after, speed) == pytest.approx(40 - plan)
    short = speed._replace(lasts=6.0)
    assert timing.think_until(window, after, short) == pytest.approx(40 - plan - 6 * (1 - 1 / 3))


def test_a_slowdown_does_not_become_usual_within_its_first_seconds() -> None:
    """What is kept for the next one is a multiple of what is usual, not of what the present one takes."""
    latency = Latency()
    latency.load = 4
    for each, blocks in ((0.01, 2000), (0.03, 200)):
        latency.first(First(10 * each))
        for _ in range(blocks):
            latency.pace(each)
            latency.block(8, 8 * each)
    speed = latency.speed()
    assert speed is not None
    assert speed.tpot == pytest.approx(0.03)
    assert speed.usual_tpot == pytest.approx(0.01)


@pytest.mark.parametrize("learnt", [True, False])
def test_an_answer_survives_the_second_slowdown(learnt: bool) -> None:
    """The least of what was late on a trace of long answers: thinking went on until the plain plan just
    fitted, so the slowdown that began with the answer made it late. Once one was seen, the next costs
    thinking."""

    async def main() -> None:
        def reply(prompt: str) -> Reply:
            return Reply("hm " * (5000 if "late" in prompt else 600), "so " * 200)

        backend = ScriptedBackend(reply, ttft=0.1, tpot=0.01)
        clock = asyncio.get_running_loop().time
        timing = Timing(risk=0.005 if learnt else 1.0)

        async def slow_spells(*starts: float) -> None:
            for start in starts:
                await asyncio.sleep(start - clock())
                backend.ttft, backend.tpot = 0.3, 0.03
                await asyncio.sleep(30)
                backend.ttft, backend.tpot = 0.1, 0.01

        policy = FixedCap(5000)
        async with BudgetScheduler(backend, timing=timing, policy=policy) as scheduler:
            turning = asyncio.create_task(slow_spells(60, 196.1))
            while clock() < 190:
                async with scheduler.task(Caps(tokens=9000)) as task:
                    await task.generate("a", solution=256)
            async with scheduler.task(Caps(seconds=9), final_solution=256) as task:
                opened = clock()
                answer = await task.generate("late", final=True, solution=256)
                assert clock() <= opened + 9
                assert (answer.solution_end == "eos") == learnt
            await turning

    run(main())
