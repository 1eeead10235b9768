"""The speed of an endpoint is learnt quickly, forgotten again, and never guessed."""

from __future__ import annotations

import pytest

from elastic_agent.scheduler.latency.model import Latency, Pace
from elastic_agent.scheduler.latency.prefill import First


def feed(latency: Latency, tokens: int, each: float) -> None:
    pace = Pace(latency)
    for _ in range(tokens):
        pace.more(1, each)


def test_nothing_is_known_at_first() -> None:
    """No number before there is one."""
    latency = Latency()
    assert latency.speed() is None
    latency.first(First(0.1))
    assert not latency.known
    feed(latency, 1, 0.01)
    speed = latency.speed()
    assert speed is not None
    assert (speed.ttft, speed.tpot) == (0.1, 0.01)


def test_the_upstreams_own_start_is_forgotten() -> None:
    """What was sent before anything was answered counts until something sent later is there."""
    latency = Latency()
    assert latency.cold
    latency.load = 4
    for _ in range(3):
        latency.first(First(20.0, 100), cold=True)
    assert not latency.cold
    feed(latency, 16, 0.01)
    speed = latency.speed()
    assert speed is not None
    assert speed.ttft == 20.0
    latency.first(First(0.1, 100, further=True))
    latency.first(First(21.0, 100), cold=True)  # the last of them
    assert latency.speed() == latency.at(4)
    speed = latency.speed()
    assert speed is not None
    assert (speed.ttft, speed.tpot) == (0.1, pytest.approx(0.01))
    latency.first(First(20.0, 100))
    speed = latency.speed()
    assert speed is not None
    assert speed.ttft == 20.0  # it is slow, and not for its start


def test_a_tenfold_slow_down_shows_within_three_tokens() -> None:
    """The present pace counts where it is slower than the window."""
    latency = Latency()
    latency.first(First(0.1))
    pace = Pace(latency)
    for each in [0.01] * 500 + [0.1] * 3:
        pace.more(1, each)
    speed = latency.speed()
    assert speed is not None
    assert speed.tpot == pytest.approx(0.1)
    assert speed.usual_tpot == pytest.approx(0.01)


def test_a_single_stall_is_not_a_slow_down() -> None:
    """Not even when 32 calls stall together."""
    latency = Latency()
    latency.first(First(0.1))
    paces = [Pace(latency) for _ in range(32)]
    for each in [0.01] * 20 + [0.5] + [0.01] * 3:
        for pace in paces:
            pace.more(1, each)
        speed = latency.speed()
        assert speed is not None
        assert speed.tpot < 0.1


def test_it_forgets() -> None:
    """A window later the slow time is over."""
    latency = Latency(window=16)
    latency.first(First(5.0))
    feed(latency, 100, 0.1)
    for _ in range(16):
        latency.first(First(0.1))
    feed(latency, 17 * 8, 0.01)
    speed = latency.speed()
    assert speed is not None
    assert speed.ttft == pytest.approx(0.1)
    assert speed.tpot == pytest.approx(0.01)


def test_one_slow_token_does_not_count_for_a_whole_answer() -> None:
    """Jitter averages out in the window; the fast average lets it go again."""
    latency = Latency()
    latency.first(First(0.1))
    pace = Pace(latency)
    for i in range(400):
        pace.more(1, 0.08 if i % 40 == 0 else 0.01)
        assert latency.speed() is not None
    speed = latency.speed()
    assert speed is not None
    assert speed.tpot < 0.02


def test_lumps_count_per_token() -> None:
    """A chunk of 10 tokens after 0.1 s is 10 ms a token, be it the only one."""
    latency = Latency()
    pace = Pace(latency)
    pace.first(10, First(0.1))
    speed = latency.speed()
    assert speed is not None
    assert speed.tpot == pytest.approx(0.01)
    for _ in range(10):
        pace.more(10, 0.1)
    speed = latency.speed()
    assert speed is not None
    assert speed.tpot == pytest.approx(0.01)
    assert speed.answer(100, 0, passes=2) == pytest.approx(0.2 + 1.0)
