"""Agents are known by their finished tasks: how many calls come after this one, how long the answer is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler import BudgetScheduler, Task, task_budget
from elastic_agent.scheduler.estimates.agent_history import (
    CALLS,
    ENOUGH,
    RUNS,
    Histories,
    History,
    proportional,
)
from elastic_agent.scheduler.estimates.workload import FIRST_GUESS, LAST_GUESS, MIN_SOLUTION, Forecast
from tests.clock import run

KIND = st.sampled_from(["search", "read", "write"])
RUN = st.lists(KIND, max_size=9)


def naive(runs: list[list[str]], made: list[str], waiting: list[str]) -> dict[str, int]:
    """What is to come besides the first waiting call, from all that is known, looked at anew."""
    found = Counter(waiting[1:])
    runs = [run for run in runs if run][-RUNS:]
    position = len(made) + len(waiting)
    alike = [run[position:] for run in runs if len(run) >= position]
    if len(runs) < ENOUGH or not alike:
        assumed = max(FIRST_GUESS - len(made), min(len(made), LAST_GUESS))
        found[waiting[0]] += max(0, assumed - sum(found.values()))
        return dict(+found)
    total = sorted(len(rest) for rest in alike)[min(len(alike) - 1, int(CALLS * len(alike)))]
    kinds = Counter(kind for rest in alike for kind in rest)
    given, everything = Counter[str](), sum(kinds.values())
    while sum(given.values()) < total:  # whoever lags most behind its share gets the next one
        whole = {k: total * n // everything for k, n in kinds.items()}
        short = [k for k in sorted(kinds) if given[k] < whole[k]]
        rest = {k: total * n % everything for k, n in kinds.items() if given[k] == whole[k]}
        given[short[0] if short else min(rest, key=lambda k: (-rest[k], k))] += 1
    return dict(+(found + given))


@given(st.lists(RUN, max_size=80), RUN, st.lists(KIND, min_size=1, max_size=3))
def test_what_is_to_come_is_what_a_naive_look_back_says(
    runs: list[list[str]], made: list[str], waiting: list[str]
) -> None:
    """Whatever the runs were, and wherever this one is."""
    history = History()
    for one in runs:
        history.record(one, None)
    forecast = Forecast(past=history)
    for kind in made:
        forecast.arrived(kind)
        forecast.left(kind)
        forecast.started(kind)
        forecast.ended()
    for kind in waiting:
        forecast.arrived(kind)
    assert forecast.view().to_come(waiting[0]) == naive(runs, made, waiting)
    assert forecast.made == made
    assert forecast.view().to_come(waiting[0], final=True) == dict(Counter(waiting[1:]))


def test_calls_are_proportional_in_proportion() -> None:
    """All of them, and none twice."""
    assert proportional(4, {"a": 6, "b": 2}) == {"a": 3, "b": 1}
    assert proportional(3, {"a": 1, "b": 1}) == {"a": 2, "b": 1}
    assert proportional(1, {"a": 5, "b": 4, "c": 1}) == {"a": 1}
    assert proportional(0, {"a": 5}) == {}
    assert proportional(5, {}) == {}


def test_declared_calls_win() -> None:
    """A declaration counts more than the history."""
    history = History()
    for _ in range(5):
        history.record(["step"] * 9, None)
    forecast = Forecast(past=history)
    forecast.expect({"step": 2})
    forecast.arrived("step")
    assert forecast.view().to_come("step") == {"step": 1}


def agent(task: Task) -> History:
    """What is known of its agent."""
    assert task.agent is not None
    return task.scheduler.histories[task.agent]


def backend(words: int = 5) -> ScriptedBackend:
    return ScriptedBackend(
        Reply(thinking="hm " * 400, solution=" ".join(["word"] * words)), ttft=0.1, tpot=0.01
    )


def test_a_known_agent_thinks_more_where_little_is_to_come() -> None:
    """Live: after five short runs the second call of a task, its last, gets what nobody else will need."""

    async def main() -> None:
        async with BudgetScheduler(backend()) as scheduler:
            thought = []
            for _ in range(6):
                async with scheduler.task(Caps(tokens=600), agent="brief") as task:
                    await task.generate("look", kind="look", solution=32)
                    answer = await task.generate("say", kind="say", solution=32)
                    thought.append(answer.usage.thinking)
            assert agent(task).runs[0] == ("look", "say")
            assert len(agent(task).runs) == 6
            assert thought[0] == thought[ENOUGH - 1]
            assert thought[-1] > 1.2 * thought[0]

    run(main())


def test_each_level_has_a_history_of_its_own() -> None:
    """A sub-task's calls count in the tasks around it, in their order, and each agent learns its part."""

    async def main() -> None:
        async with BudgetScheduler(backend()) as scheduler:
            async with scheduler.task(Caps(tokens=3000), agent="outer") as outer:
                await outer.generate("a", kind="plan", solution=16)
                async with task_budget(tokens=1000, agent="inner") as inner:
                    await inner.generate("b", kind="look", solution=16)
                await outer.generate("c", kind="write", solution=16, final=True)
            assert list(agent(outer).runs) == [("plan", "look", "write")]
            assert list(agent(inner).runs) == [("look",)]

    run(main())


def test_runs_that_were_cut_short_teach_nothing() -> None:
    """An error, a refused call, a task without calls: where they stopped is not where such tasks end."""

    async def main() -> None:
        async with BudgetScheduler(backend()) as scheduler:
            task = await scheduler.task(Caps(tokens=1000), agent="a").__aenter__()
            await task.generate("a", solution=16)
            await task.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
            async with scheduler.task(Caps(tokens=100), agent="a", on_exhausted="raise") as task:
                await task.generate("a", solution=16, thinking=0)
                with pytest.raises(CapExceededError):
                    await task.generate("b", solution=1000)
            async with scheduler.task(Caps(tokens=100), agent="a"):
                pass
            assert not agent(task).runs
            async with scheduler.task(Caps(tokens=1000), agent="a") as task:
                await task.generate("a", solution=16)
            assert len(agent(task).runs) == 1

    run(main())


def test_the_reserve_is_as_long_as_this_agents_answers() -> None:
    """Nine of ten, at least the smallest solution; a cut answer counts as long as it might have become."""

    async def main() -> None:
        async with BudgetScheduler(backend(words=39)) as scheduler:
            kept = []
            for _ in range(5):
                async with scheduler.task(Caps(tokens=4000), agent="a") as task:
                    await task.generate("a", solution=500)
                    kept.append(task.state.final_answer.size)
                    await task.generate("b", kind="final", solution=500)
            assert kept[0] == 500
            assert kept[-1] == 40
            for _ in range(RUNS):
                async with scheduler.task(Caps(tokens=4000), agent="cut") as task:
                    await task.generate("b", kind="final", solution=8)
            assert agent(task).final == 8
            for _ in range(ENOUGH):
                async with scheduler.task(Caps(tokens=30), agent="squeezed") as task:
                    answer = await task.generate("b", kind="final", solution=500, thinking=0)
                    assert answer.usage.solution < 30
            assert agent(task).final == 500
            async with scheduler.task(Caps(tokens=4000), agent="cut") as task:
                await task.generate("b", solution=300)
                assert task.state.final_answer.size == MIN_SOLUTION

    run(main())


def test_what_is_known_outlives_the_process(tmp_path: Path) -> None:
    """Written whole at the end, read at the beginning; nothing else is left beside it."""
    path = tmp_path / "agents.json"

    async def main() -> None:
        for times in (3, 1):
            async with BudgetScheduler(backend(), history=path) as scheduler:
                for _ in range(times):
                    async with scheduler.task(Caps(tokens=1000), agent="a") as task:
                        await task.generate("x", kind="x", solution=16, final=True)
        assert list(agent(task).runs) == [("x",)] * 4
        assert agent(task).final == 6

    run(main())
    assert [one.name for one in tmp_path.iterdir()] == ["agents.json"]
    assert json.loads(path.read_text())["agents"]["a"]["finals"] == [6] * 4
    assert Histories(path)["a"].to_come(1) == {}


BAD_RUN = '{"version": 1, "agents": {"a": {"runs": [[1]], "finals": []}}}'
BAD_FINAL = '{"version": 1, "agents": {"a": {"runs": [["x"]], "finals": [-1]}}}'


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "agents": {}}', BAD_RUN, BAD_FINAL])
def test_a_file_that_is_no_history_is_begun_anew(tmp_path: Path, text: str) -> None:
    """With a warning that names it; nothing of it is believed."""
    path = tmp_path / "agents.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"agents\.json: not a history"):
        histories = Histories(path)
    assert not histories
    histories["b"].record(["x"], 3)
    histories.save()
    assert list(Histories(path)) == ["b"]
