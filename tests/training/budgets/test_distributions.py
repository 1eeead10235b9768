"""Budgets in training: constant in a group, dealt evenly, the same in every process and after a restart."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.budget import Budget, Caps
from elastic_agent.errors import InvalidBudgetError
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.runlog import events
from elastic_agent.training.agents.agent import make_agent
from elastic_agent.training.budgets import run_logs
from elastic_agent.training.budgets.distributions import (
    Budgets,
    Granted,
    Schedule,
    Spread,
    check_context,
    deal,
    deal_samples,
    mixture,
    parse_mixture,
)
from elastic_agent.training.budgets.run_logs import GrantLogError, parse_grants, read_caps, read_grants
from elastic_agent.training.config.agent import AgentConfig

KINDS: list[Budgets] = [
    mixture((48,), 48),
    mixture((24, 48, 96, None, None), 96),
    Spread(0, 64, 32),
    Spread(16, 256, 32, log=True, unlimited=0.25),
    Granted((Budget(8, 96), Budget(240, 96), Budget(0, 48), Budget(8, 96)), unlimited=0.5),
    Schedule(((2, mixture((96,), 96)), (1, Spread(0, 9, 8)), (5, mixture((None,), 7)))),
]


@pytest.mark.parametrize("budgets", KINDS)
def test_a_group_has_one_budget_wherever_processes_cut_the_batch(budgets: Budgets) -> None:
    whole = deal_samples(budgets, 48, 6, seed=3, batch=2)
    for start in range(0, 48, 6):
        assert len(set(whole[start : start + 6])) == 1
    parts = [
        deal_samples(budgets, 16, 6, seed=3, batch=2, process=process, processes=3) for process in range(3)
    ]
    assert [budget for part in parts for budget in part] == whole
    assert deal_samples(budgets, 48, 6, seed=3, batch=2) == whole
    with pytest.raises(ValueError, match="not whole groups"):
        deal_samples(budgets, 7, 6, seed=0, batch=0)


def test_a_mixture_is_dealt_evenly_and_not_always_alike() -> None:
    budgets = mixture((24, 48, 96, None), 96)
    dealt = [deal(budgets, 8, seed=0, batch=batch) for batch in range(20)]
    assert all(Counter(b.thinking for b in batch) == {24: 2, 48: 2, 96: 2, None: 2} for batch in dealt)
    assert len({tuple(b.thinking for b in batch) for batch in dealt}) > 10
    five = Counter(
        b.thinking for i in range(400) for b in deal(mixture((1, 2, 3, 4, 5), 9), 16, seed=0, batch=i)
    )
    assert max(five.values()) - min(five.values()) < 0.05 * 400 * 16 / 5


def test_uniform_and_log_uniform_cover_their_range_in_their_ways() -> None:
    def drawn(budgets: Budgets) -> list[int | None]:
        return [b.thinking for i in range(200) for b in deal(budgets, 16, seed=0, batch=i)]

    flat = drawn(Spread(0, 63, 9))
    assert set(flat) == set(range(64))
    assert sum(t < 16 for t in flat if t is not None) / len(flat) == pytest.approx(0.25, abs=0.02)
    logged = drawn(Spread(0, 63, 9, log=True))
    assert set(logged) == set(range(64))
    assert sum(t < 7 for t in logged if t is not None) / len(logged) == pytest.approx(0.5, abs=0.02)
    share = drawn(Spread(0, 63, 9, unlimited=0.3)).count(None) / 3200
    assert share == pytest.approx(0.3, abs=0.01)


@given(
    low=st.integers(0, 200),
    more=st.integers(0, 5000),
    log=st.booleans(),
    unlimited=st.floats(0, 1),
    share=st.floats(0, 1, exclude_max=True),
)
def test_no_draw_leaves_the_range(low: int, more: int, log: bool, unlimited: float, share: float) -> None:
    found = Spread(low, low + more, 5, log, unlimited).at(share, 0)
    assert found.thinking is None or low <= found.thinking <= low + more
    if unlimited == 0:
        assert found.thinking is not None
    granted = Granted((Budget(low, 3), Budget(None, 4)), unlimited).at(share, 0)
    assert granted.solution in (3, 4)


def test_a_schedule_goes_through_its_stages_and_keeps_the_last() -> None:
    budgets = KINDS[-1]
    seen = [{b.thinking for b in deal(budgets, 8, seed=0, batch=batch)} for batch in range(5)]
    assert seen[0] == seen[1] == {96}
    assert seen[2] <= set(range(10))
    assert seen[3] == seen[4] == {None}
    assert budgets.largest() == (96, 96)


def test_impossible_budgets_are_refused() -> None:
    for make in (
        lambda: mixture((), 4),
        lambda: mixture((-1,), 4),
        lambda: mixture((4,), 0),
        lambda: Spread(9, 3, 4),
        lambda: Spread(0, 3, 4, unlimited=1.5),
        lambda: Granted(()),
        lambda: Schedule(()),
    ):
        with pytest.raises(InvalidBudgetError):
            make()
    check_context(mixture((24, None), 8), 41, close=1, prompt=8)
    with pytest.raises(InvalidBudgetError, match=r"prompt 8 \+ thinking 24 \+ close 1 \+ solution 8 = 41"):
        check_context(mixture((24, None), 8), 40, close=1, prompt=8)


def test_mixtures_are_read_from_the_command_line() -> None:
    assert parse_mixture("24, 48,none") == (24, 48, None)
    with pytest.raises(ValueError, match="a thinking budget must be a whole number of tokens"):
        parse_mixture("24;48")


def grant(t: Any, s: Any, kind: str = "call") -> str:
    event = {"event": "grant", "kind": kind, "granted": {"thinking": t, "solution": s}}
    return json.dumps(event) + "\n"


def test_grants_are_read_as_the_scheduler_wrote_them(tmp_path: Path) -> None:
    """The format is the scheduler's: its own log is read, and its grants are the distribution."""
    (tmp_path / "a").mkdir()
    opened = json.dumps({"event": "task_opened", "task": "t"}) + "\n"
    (tmp_path / "a" / "run.jsonl").write_text(opened + grant(240, 96, "steps-3") + "\n" + grant(0, 48))
    (tmp_path / "b.jsonl").write_text(grant(76, 96) + '{"event": "gra')  # killed while writing
    every = read_grants([tmp_path])
    assert every == [Budget(240, 96), Budget(0, 48), Budget(76, 96)]
    assert read_grants([tmp_path / "a"], ["steps-3"]) == [Budget(240, 96)]
    dealt = deal(Granted(tuple(every)), 6, seed=0, batch=0)
    assert Counter(dealt) == dict.fromkeys(every, 2)


def test_caps_are_read_as_the_scheduler_wrote_them(tmp_path: Path) -> None:
    """Those of the tasks that stand alone, the tightest first; an agent's groups draw them."""

    async def work() -> None:
        backend = ScriptedBackend(Reply("hm", "so"))
        async with BudgetScheduler(backend, log=tmp_path / "run.jsonl") as scheduler:
            for caps in (Caps(tokens=400), Caps(tokens=90, seconds=20), Caps(tokens=900)):
                async with scheduler.task(caps) as task, task.task(Caps(tokens=50)) as inner:
                    await inner.generate("x", solution=4)

    asyncio.run(work())
    found = read_caps([tmp_path])
    assert found == [Caps(tokens=90, seconds=20), Caps(tokens=400), Caps(tokens=900)]
    section = {"run": "lookups", "caps": {"logs": [str(tmp_path)]}}
    agent = make_agent(AgentConfig.model_validate(section))
    assert [agent.caps_at(share) for share in (0.0, 0.5, 0.99)] == found
    (tmp_path / "run.jsonl").write_text('{"event": "task_opened", "caps": {"tokens": 0}}\n')
    with pytest.raises(GrantLogError, match="line 1: a task without caps that can be read"):
        read_caps([tmp_path])
    (tmp_path / "run.jsonl").write_text("")
    with pytest.raises(GrantLogError, match="no task in"):
        read_caps([tmp_path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no grants in"),
        ('{"event": "settled"}\n', "no grants in"),
        (grant(1, 2, "answer"), "no grant of kind steps-9 in .*: it has answer"),
        (grant(1, 2) + "{not json}\n" + grant(1, 2), "x.jsonl, line 2 is not JSON"),
        ("[1]\n", "x.jsonl, line 1 is not an event"),
        (grant(1, 2) + '{"event": "grant", "granted": null}\n', "line 2: a grant without its budget"),
        ('{"event": "grant", "granted": {"thinking": 3}}\n', "line 1: a grant without its budget"),
        (grant(-1, 2), "line 1: thinking must be at least 0"),
        (grant(1, 0), "line 1: solution must be at least 1"),
        (grant("4.5", 2), "line 1: thinking must be a whole number"),
        ('{"event": "scheduler_opened", "schema": 1}\n', "line 1: the log has schema 1, .* reads 2: run the"),
        (grant(1, 2) + '{"event": "raised"}\n', "line 2: the log has schema 1, and this version reads 2"),
    ],
)
def test_a_bad_log_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(GrantLogError, match=said):
        read_grants([path], ["steps-9"] if "steps-9" in said else [])


def test_its_words_are_the_schedulers() -> None:
    """Training doesn't import the scheduler: what it knows of a log's schema is written down twice."""
    assert (run_logs.SCHEMA, run_logs.GRANTS) == (events.SCHEMA, events.GRANTS)


def test_a_log_that_is_not_there() -> None:
    with pytest.raises(GrantLogError, match="there is no run log"):
        read_grants(["/nowhere/run.jsonl"])
    assert parse_grants([]) == []


def test_draws_do_not_repeat_from_batch_to_batch() -> None:
    """Seeds are mixed, not added: batch 1 of seed 0 is not batch 0 of seed 1."""
    budgets = Spread(0, 1000, 9)
    drawn = {(s, b): tuple(deal(budgets, 4, seed=s, batch=b)) for s in range(6) for b in range(6)}
    assert len(set(drawn.values())) == 36
