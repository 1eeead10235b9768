"""What a prompt costs in time: recovered from passes of different lengths, and none where all are alike."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import DeadlineError
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.latency.model import Latency, Speed
from elastic_agent.scheduler.latency.prefill import First, FirstTokens, quantile_of
from elastic_agent.scheduler.latency.slack import SAFETY, CallWindow, RemainingWork, Timing
from tests.clock import run
from tests.scheduler.latency.speeds import Reading

FIXED, EACH, TPOT = 0.1, 2e-4, 0.01
ALIKE = st.lists(st.tuples(st.integers(100, 199), st.floats(0, 10), st.booleans()), min_size=1, max_size=150)


class Upstream:
    """Answers after a fixed time and a time per uncached prompt token, both growing with the load."""

    def __init__(self, latency: Latency, *, noise: float = 0.0, slower: float = 1.0) -> None:
        self.latency, self.noise, self.slower = latency, noise, slower
        self._random = random.Random(7)

    def serve(self, prompt: int, load: int = 1, *, cached: int = 0, tell: bool = False, **how: bool) -> None:
        latency, factor = self.latency, self.slower * (1 + (load - 1) / 10)
        latency.load = load
        factor *= 1 + self.noise * self._random.uniform(-1, 1)
        first = latency.first(First(factor * (FIXED + EACH * (prompt - cached)), prompt, **how))
        if tell:
            latency.record_cached(first, cached)
        for _ in range(2):
            latency.pace(factor * TPOT)
            latency.block(64, 64 * factor * TPOT * load)


def speed_of(latency: Latency) -> Speed:
    speed = latency.speed()
    assert speed is not None
    return speed


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_known_rate_is_recovered(noise: float) -> None:
    """Its median within 5% without noise and 15% with; the upper quantile on the safe side of it."""
    latency = Latency()
    upstream, lengths = Upstream(latency, noise=noise), random.Random(1)
    for _ in range(120):
        upstream.serve(round(50 * 2 ** lengths.uniform(0, 10)))
    speed, within = speed_of(latency), 0.15 if noise else 0.05
    assert EACH * (1 - within) <= speed.usual_prefill <= speed.prefill <= EACH * (1 + within + 1.2 * noise)
    assert speed.answer(0, 30_000) == pytest.approx(FIXED + 30_000 * EACH, rel=within + 1.2 * noise)


def test_the_load_counts_for_both_parts() -> None:
    """At one call and at nine, each seen with prompts of all lengths, and at five, in between."""
    latency = Latency()
    upstream, lengths = Upstream(latency, noise=0.05), random.Random(2)
    for turn in range(600):
        upstream.serve(lengths.choice((60, 500, 4000, 16_000)), 1 if turn // 20 % 2 else 9)
    for load, factor in ((1, 1.0), (9, 1.8)):
        speed = latency.at(load)
        assert speed is not None
        assert speed.usual_prefill == pytest.approx(factor * EACH, rel=0.1)
        assert speed.answer(0, 8000) == pytest.approx(factor * (FIXED + 8000 * EACH), rel=0.15)
    one, five, nine = (latency.at(load) for load in (1, 5, 9))
    assert one is not None
    assert five is not None
    assert nine is not None
    assert one.prefill < five.prefill <= nine.prefill


@given(ALIKE)
@settings(max_examples=60, deadline=None)
def test_prompts_that_are_alike_give_the_plain_quantiles(passes: list[tuple[int, float, bool]]) -> None:
    """To the number: what a window without prompts says, at any length within a factor of two."""
    plain, with_prompts = Latency(), Latency()
    for latency in (plain, with_prompts):
        for prompt, seconds, further in passes:
            if latency is plain:
                latency.first(First(seconds))
            else:
                latency.first(First(seconds, prompt, further=further))
        latency.pace(TPOT)
    seen = [seconds for _, seconds, _ in passes][-64:]
    assert speed_of(with_prompts) == speed_of(plain)
    assert speed_of(plain).ttft == max(quantile_of(seen, 0.9), quantile_of(seen[-3:], 0.5))
    assert speed_of(plain).prefill == 0
    assert with_prompts.at(3) == plain.at(3)


@given(st.lists(st.tuples(st.integers(1, 40_000), st.floats(0, 10), st.booleans()), min_size=1, max_size=64))
@settings(max_examples=100, deadline=None)
def test_estimates_are_never_below_the_quantile_of_what_was_seen(
    passes: list[tuple[int, float, bool]],
) -> None:
    """Whatever came: nine of ten passes of the window took no longer than is said of their own prompts."""
    firsts = FirstTokens()
    for prompt, seconds, told in passes:
        first = First(seconds, prompt, cached=prompt // 2 if told else None)
        firsts.latest.append(first)
        firsts.length(first)
    line = firsts.line(firsts.slope(), 0.9)
    slack = 1e-9
    covered = sum(f.seconds <= line.ttft + line.prefill * (f.read or 0) + slack for f in firsts.latest)
    assert covered >= 0.9 * len(passes)
    assert line.ttft >= 0
    assert line.prefill >= 0


def test_noise_is_not_taken_for_a_rate() -> None:
    """Prompts of two lengths that take the same: stalls and jitter make no slope."""
    for seed in range(20):
        latency, chance = Latency(), random.Random(seed)
        for _ in range(200):
            latency.first(First(FIXED * chance.lognormvariate(0, 0.5), chance.choice((50, 200))))
        latency.first(First(9.0, 200))
        latency.pace(TPOT)
        assert speed_of(latency).prefill == 0


def test_long_prompts_have_an_upper_quantile_of_their_own() -> None:
    """A rate that swings by a third, and few long prompts among many short ones: nine of ten are covered."""
    latency, chance, long = Latency(), random.Random(8), list[float]()
    for turn in range(320):
        prompt = 50 if turn % 8 else 20_000
        seconds = FIXED + EACH * prompt * chance.uniform(0.67, 1.33)
        long += [seconds] if prompt > 50 else []
        latency.first(First(seconds, prompt))
    latency.pace(TPOT)
    speed = speed_of(latency)
    assert speed.usual_prefill < speed.prefill < 1.4 * EACH
    assert sum(seconds <= speed.answer(0, 20_000) for seconds in long) >= 0.85 * len(long)


def test_a_rare_long_prompt_is_remembered_and_an_old_one_forgotten() -> None:
    """Beside sixty short ones each; and after a few hundred short ones nobody speaks of it."""
    latency = Latency()
    upstream = Upstream(latency)
    for _ in range(3):
        upstream.serve(20_000)
        for _ in range(60):
            upstream.serve(50)
    assert speed_of(latency).prefill == pytest.approx(EACH, rel=0.05)
    for _ in range(600):
        upstream.serve(50)
    assert speed_of(latency).prefill == 0


def test_a_change_of_speed_is_followed() -> None:
    """Four times slower, and as fast again: a window later each is what is known."""
    latency = Latency()
    for slower in (1.0, 4.0, 1.0):
        upstream, lengths = Upstream(latency, slower=slower), random.Random(4)
        for _ in range(160):
            upstream.serve(lengths.choice((60, 500, 4000, 16_000)))
        assert speed_of(latency).answer(0, 8000) == pytest.approx(slower * (FIXED + 8000 * EACH), rel=0.05)


@pytest.mark.parametrize("tell", [True, False])
def test_a_second_pass_from_the_prefix_cache_is_cheap(tell: bool) -> None:
    """Whether the upstream says so or not; and the first pass stays as dear as it is."""
    latency = Latency()
    upstream, lengths = Upstream(latency, noise=0.05), random.Random(5)
    for _ in range(60):
        prompt = lengths.choice((60, 500, 4000, 16_000))
        upstream.serve(prompt, tell=tell)
        upstream.serve(prompt + 100, cached=prompt + 84, tell=tell, further=True)
    speed = speed_of(latency)
    assert speed.usual_prefill == pytest.approx(EACH, rel=0.1)
    one, two = speed.answer(0, 16_000), speed.answer(0, 16_000, passes=2)
    assert one == pytest.approx(FIXED + 16_000 * EACH, rel=0.15)
    assert two - one < 0.35 * one


def test_a_second_pass_without_a_cache_reads_everything_again() -> None:
    """The share is learnt, and is one."""
    latency = Latency()
    upstream, lengths = Upstream(latency), random.Random(6)
    for _ in range(60):
        prompt = lengths.choice((500, 4000, 16_000))
        upstream.serve(prompt)
        upstream.serve(prompt, further=True)
    assert speed_of(latency).again == pytest.approx(1)


def test_moments_count_the_prompts() -> None:
    """A call's own, as far as it is read again, those of the others, and the final answer's."""
    speed = Speed(0.1, 0.01, 0.1, 0.01, 1e-3, 1e-3, 0.5, 0.25)
    bare = RemainingWork(10, 1, 10, 10)
    rest = replace_after(bare, prompt=1000, fresh=100, others_prompt=200, final_prompt=300)
    plain, long = (Timing(slowdown=1).think_until(CallWindow(0, 99, 99), one, speed) for one in (bare, rest))
    assert plain - long == pytest.approx(0.5 + 0.1 + 0.25 * (0.2 + 0.3))
    thought = Timing(slowdown=1).think_until(CallWindow(0, 99, 99), rest, speed, 400)
    assert long - thought == pytest.approx(0.2)
    assert Timing().final_answer_seconds(speed, 10, 300) == pytest.approx(0.1 + 0.25 * 0.3 + 0.1 + SAFETY)


def replace_after(after: RemainingWork, **more: int) -> RemainingWork:
    return after._replace(**more)


def test_a_long_prompt_is_refused_where_a_short_one_is_not() -> None:
    """Live: 30,000 tokens take 6 s to read. 2 s are enough for a short question; the long one is not sent."""

    async def main() -> None:
        backend = Reading(Reply(thinking="hm " * 20, solution="yes"), each=EACH, ttft=FIXED, tpot=TPOT)
        async with BudgetScheduler(backend) as scheduler:
            for i, words in enumerate([20, 2000, 8000] * 5):
                async with scheduler.task(Caps(seconds=60), final_solution=16) as task:
                    await task.generate(f"{i} " * words, solution=16, thinking=10)
            speed = speed_of(scheduler.latency_for(backend))
            assert speed.usual_prefill == pytest.approx(EACH, rel=0.1)
            assert speed.again < 0.2
            async with scheduler.task(Caps(seconds=2), final_solution=16) as task:
                answer = await task.generate("short " * 20, final=True, solution=16)
                assert answer.solution == "yes"
            served = backend.meter.requests
            async with scheduler.task(Caps(seconds=2), final_solution=16, on_exhausted="raise") as task:
                with pytest.raises(DeadlineError) as error:
                    await task.generate("long " * 30_000, solution=16)
            assert error.value.needed["seconds"] > 6
            assert backend.meter.requests == served

    run(main())


def test_a_conversation_that_the_cache_holds_is_not_read_anew() -> None:
    """Live: an agent's twenty calls with a growing prompt, each of which reads what is new in it: its later
    ones are planned as that, and a first call of 12,000 tokens as what it is."""

    async def main() -> None:
        backend = Reading(Reply(thinking="hm " * 20, solution="yes"), each=EACH, ttft=FIXED, tpot=TPOT)
        async with BudgetScheduler(backend) as scheduler:
            for i in range(2):
                async with scheduler.task(Caps(seconds=600), final_solution=16) as task:
                    for turn in range(20):
                        text = " ".join(f"{i}:{word}" for word in range(4000 + 200 * turn))
                        await task.generate([{"role": "user", "content": text}], solution=16, thinking=10)
            speed = speed_of(scheduler.latency_for(backend))
            assert speed.later < 0.1
            assert speed.usual_prefill == pytest.approx(EACH, rel=0.1)
            text = " ".join(f"1:{word}" for word in range(8000))
            async with scheduler.task(Caps(seconds=60), final_solution=16) as task:
                await task.generate([{"role": "user", "content": text}], solution=16, thinking=10)
                call = task.call([{"role": "user", "content": text + " more"}], solution=16, thinking=10)
                call._ids = list(range(16, 8016))
                assert call._build_request().size.fresh < 800
            async with scheduler.task(Caps(seconds=2), final_solution=16, on_exhausted="raise") as task:
                with pytest.raises(DeadlineError):
                    await task.generate("new " * 12_000, solution=16)

    run(main())
