"""Episodes of agents that behave, and of those that don't: each costs its own sample only."""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.budget import Caps
from elastic_agent.errors import BackendUnavailableError
from elastic_agent.scheduler.runtime.context import current_task
from elastic_agent.training.agents import runner
from elastic_agent.training.agents.episode import Episode, EpisodeSpec
from elastic_agent.training.agents.result import EpisodeResult
from elastic_agent.training.agents.runner import Limits
from tests.training.agents.scripted import REPLY, ask, one_call, run, specs

Row = Mapping[str, Any]


def test_an_episode_is_a_task_whose_calls_are_recorded_as_they_were() -> None:
    backend = ScriptedBackend(REPLY)

    async def agent(row: Row, llm: Any) -> dict[str, float]:
        task = current_task()
        assert task is not None
        first = await ask("one ?")
        async with task.task(Caps(tokens=40), name="helper"):
            await asyncio.gather(ask("two ?"), ask("three ?", kind="steps-2"))
        return {"right": 1.0, "short": 0.25 * len(first.split()) / 4}

    [episode] = run(agent, specs(1), backend=backend)
    assert episode.reward == 1.25
    assert episode.result is not None
    assert episode.result.metrics == {"right": 1.0, "short": 0.25}
    assert [call.task for call in episode.calls] == ["row-1", "helper", "helper"]
    assert {call.kind for call in episode.calls} == {"call", "steps-2"}
    assert sum(call.usage.generated for call in episode.calls) == episode.tokens == episode.spent.tokens  # type: ignore[union-attr]
    assert sum(sum(call.sampled) for call in episode.calls) == backend.meter.output
    for call in episode.calls:
        assert len(call.output_ids) == len(call.sampled) == len(call.logprobs)
        assert call.usage.thinking <= (call.granted.thinking or 0)
        assert all(
            (logprob is None) != sampled for logprob, sampled in zip(call.logprobs, call.sampled, strict=True)
        )
        assert call.cut == (not all(call.sampled))


def test_plain_functions_run_on_threads_of_their_own() -> None:
    def agent(row: Row, llm: Any) -> float:
        task = current_task()
        assert task is not None
        return float("so" in asyncio.run(ask()))

    began = time.monotonic()
    episodes = run(agent, specs(16))
    assert [episode.reward for episode in episodes] == [1.0] * 16
    assert time.monotonic() - began < 10


async def _crashes(row: Row, llm: Any) -> float:
    await ask()
    raise KeyError("price")


async def _returns_nothing(row: Row, llm: Any) -> Any:
    await ask()


async def _returns_nan(row: Row, llm: Any) -> float:
    await ask()
    return float("nan")


async def _calls_nobody(row: Row, llm: Any) -> float:
    return 1.0


async def _miscounts(row: Row, llm: Any) -> EpisodeResult:
    await ask()
    return EpisodeResult(1.0, calls=[1.0, 0.0])


async def _hangs(row: Row, llm: Any) -> float:
    await ask()
    await asyncio.sleep(1000)
    return 1.0


async def _is_deaf(row: Row, llm: Any) -> float:
    await ask()
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            continue


async def _spins(row: Row, llm: Any) -> float:
    await ask()
    while True:
        pass


async def _leaves(row: Row, llm: Any) -> float:
    sys.exit(3)


async def _leaves_elsewhere(row: Row, llm: Any) -> float:
    async def leave() -> None:
        sys.exit(3)

    await asyncio.ensure_future(leave())
    return 1.0


def _sleeps_on_a_thread(row: Row, llm: Any) -> float:
    time.sleep(1000)
    return 1.0


async def _forks(row: Row, llm: Any) -> float:
    child = os.fork()
    if child == 0:
        return 1.0  # the copy comes back
    os.waitpid(child, 0)  # noqa: ASYNC222
    await ask()
    raise RuntimeError("the fork is gone")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the agent that is deaf
@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (_crashes, "the agent raised KeyError: 'price'"),
        (_returns_nothing, "the agent returned nothing"),
        (_returns_nan, "the agent returned nan"),
        (_calls_nobody, "never called `llm`"),
        (_miscounts, "the agent returned rewards for 2 calls, and made 1"),
        (_hangs, "did not end within 1 s"),
        (_is_deaf, "did not end within 1 s"),
        (_spins, "blocked"),
        (_leaves, "the agent raised SystemExit: 3"),
        (_leaves_elsewhere, "the agent raised SystemExit: 3"),
        (_sleeps_on_a_thread, "did not end within 1 s"),
        (_forks, "the fork is gone"),
    ],
)
def test_what_an_agent_does_wrong_costs_its_own_episode_only(
    agent: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third episode is wrong; the others end as if it were not there."""
    monkeypatch.setattr(runner, "_HELP", 1.0)

    async def some(row: Row, llm: Any) -> float:
        if row["number"] % 3 == 1:
            found = agent(row, llm)
            return await found if asyncio.iscoroutine(found) else found
        return await one_call(row, llm)

    def some_on_threads(row: Row, llm: Any) -> Any:
        return agent(row, llm) if row["number"] % 3 == 1 else one_call(row, llm)

    on_thread = agent is _sleeps_on_a_thread
    seconds = 1.0 if "1 s" in words or agent is _spins else 20.0
    count = 3 if agent in (_is_deaf, _spins) else 6
    episodes = run(some_on_threads if on_thread else some, specs(count), seconds=seconds)
    for episode in episodes:
        if episode.spec.row["number"] % 3 == 1:
            assert episode.reward is None
            assert words in episode.failure
        else:
            assert (episode.reward, episode.failure) == (1.0, "")
    gc.collect()  # what an agent has left behind is told here, and in no other test


def test_an_agent_that_blocks_the_loop_for_good_is_left_behind_and_the_others_run_again() -> None:
    async def agent(row: Row, llm: Any) -> float:
        if row["number"] == 1:
            await ask()
            time.sleep(15)  # noqa: ASYNC251  # no interruption reaches it
        await asyncio.sleep(0.2)
        return await one_call(row, llm)

    began = time.monotonic()
    episodes = run(agent, specs(4), seconds=1.0)
    assert time.monotonic() - began < 25
    assert [episode.reward for episode in episodes] == [1.0, None, 1.0, 1.0]
    assert "blocked the event loop" in episodes[1].failure


def test_a_budget_error_is_an_outcome_and_not_a_failure() -> None:
    async def agent(row: Row, llm: Any) -> float:
        while True:
            await ask()

    [episode] = run(agent, specs(1, tokens=60))
    assert (episode.refused, episode.failed, episode.reward) == (True, False, 0.0)
    assert episode.tokens <= 60
    assert episode.calls


def test_caps_that_hold_not_even_one_call_are_told() -> None:
    backend = ScriptedBackend(REPLY)
    [episode] = run(one_call, specs(1, tokens=2), backend=backend)
    assert (episode.refused, episode.reward, episode.calls, episode.spent) == (True, 0.0, (), None)
    assert episode.notes[0].startswith("the caps hold not even one call: ")
    assert backend.meter.requests == 0


def test_calls_left_running_are_stopped_told_and_left_out() -> None:
    async def agent(row: Row, llm: Any) -> float:
        await ask()
        asyncio.ensure_future(ask("slow ?"))  # noqa: RUF006
        await asyncio.sleep(0.1)
        return 1.0

    backend = ScriptedBackend(lambda text: REPLY, tpot=0.02)
    [episode] = run(agent, specs(1, tokens=400), backend=backend)
    assert episode.reward == 1.0
    assert len(episode.calls) == 1
    assert "still running" in episode.notes[0]


def test_a_sub_task_with_wider_caps_is_told_and_bounded() -> None:
    async def agent(row: Row, llm: Any) -> float:
        task = current_task()
        assert task is not None
        async with task.task(Caps(tokens=5000)):
            for _ in range(3):
                await ask()
        return 1.0

    [episode] = run(agent, specs(1, tokens=100))
    assert episode.notes == (
        "the agent opened a sub-task with tokens=5000, more than its own: its own holds",
    )
    assert episode.tokens <= 100


def test_terms_that_no_task_takes_end_the_run() -> None:
    with pytest.raises(ValueError, match="tell"):
        run(one_call, specs(2), terms=lambda spec: {"tell": "{nothing} left"})


def test_the_last_tenth_does_not_hold_a_batch() -> None:
    async def agent(row: Row, llm: Any) -> float:
        if row["number"] == 7:
            await asyncio.sleep(15)
        return await one_call(row, llm)

    began = time.monotonic()
    episodes = run(agent, specs(20), limits=Limits(patience=0.5))
    assert time.monotonic() - began < 10
    assert [e.spec.number for e in episodes if e.failed] == [8]
    assert "longer than nine tenths" in episodes[7].failure


def test_no_more_episodes_at_once_than_allowed() -> None:
    running, most = 0, 0

    async def agent(row: Row, llm: Any) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return await one_call(row, llm)

    assert len(run(agent, specs(20), limits=Limits(concurrency=3))) == 20
    assert most == 3


def test_episodes_that_lost_the_engine_run_again_and_one_that_never_comes_back_ends_the_run() -> None:
    lost = set(range(4))

    async def agent(row: Row, llm: Any) -> float:
        if row["number"] in lost:
            lost.discard(row["number"])
            raise RuntimeError("agents wrap errors") from BackendUnavailableError("the server is gone")
        return await one_call(row, llm)

    assert [e.reward for e in run(agent, specs(6), limits=Limits(backoff=0.01))] == [1.0] * 6

    async def never(row: Row, llm: Any) -> float:
        raise BackendUnavailableError("the server is gone")

    with pytest.raises(BackendUnavailableError, match="2 of 2 episodes are missing, and 3 tries in a row"):
        run(never, specs(2), limits=Limits(retries=2, backoff=0.01))


def test_specs_can_be_replaced_until_they_are_good() -> None:
    asked: list[list[float | None]] = []

    def again(episodes: Any) -> Mapping[int, EpisodeSpec]:
        asked.append([episode.reward for episode in episodes])
        return {1: specs(1, tokens=300)[0]} if len(asked) == 1 else {}

    episodes: list[Episode] = run(one_call, specs(3), again=again)
    assert [episode.spec.caps.tokens for episode in episodes] == [200, 300, 200]
    assert len(asked) == 2
    assert len(episodes) == 3


def test_64_episodes_of_8_calls_spend_no_more_than_their_caps_at_the_meter() -> None:
    backend = ScriptedBackend(REPLY)

    async def agent(row: Row, llm: Any) -> float:
        for turn in range(4):
            await asyncio.gather(ask(f"{row['number']} {turn} a"), ask(f"{row['number']} {turn} b"))
        return 1.0

    episodes = run(agent, specs(64, tokens=300), backend=backend)
    assert all(episode.tokens <= 300 for episode in episodes)
    assert sum(len(episode.calls) for episode in episodes) >= 64 * 7
    assert backend.meter.output == sum(sum(call.sampled) for e in episodes for call in e.calls)
