"""The live view: what it sums up is what the task's report says, and it stays small."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import CapExceededError
from elastic_agent.integrations.page import learnt, view
from elastic_agent.integrations.page.view import View
from elastic_agent.scheduler import BudgetScheduler, Price

Event = dict[str, Any]


async def recorded(name: str = "report") -> tuple[list[Event], Any]:
    """The events of a task with a branch, and the task's report."""
    events: list[Event] = []
    backend = ScriptedBackend(Reply(thinking="hm " * 30, solution="so it is 42"))
    async with BudgetScheduler(backend, log=[events.append], price=Price("1", "2")) as scheduler:
        async with scheduler.task(Caps(tokens=2000, usd="0.01", seconds=30), name=name) as task:
            first = await task.generate("hello there", kind="sum")
            async with task.task(Caps(tokens=300), name="branch") as branch:
                await asyncio.gather(*(branch.generate("hello you", kind="draft") for _ in range(2)))
        assert first.solution
        with pytest.raises(CapExceededError):
            scheduler.task(Caps(tokens=1), name="too small").open()
    return events, task.report()


def opened(id: int, key: str, **more: Any) -> Event:
    """The opening of a task, as the recorder writes it."""
    return {
        "event": "task_opened",
        "id": id,
        "task": f"task {id}",
        "key": key,
        "caps": {"tokens": 100, "seconds": 10.0},
        "parent_id": None,
        **more,
    }


def call(name: str, id: int, number: int, **more: Any) -> Event:
    """An event of a call."""
    return {"event": name, "id": id, "call": number, "kind": "sum", "label": None, "model": "m", **more}


def granted(name: str, id: int, number: int, thinking: int, held: int) -> Event:
    """What a call may use."""
    return call(
        name,
        id,
        number,
        granted={"thinking": thinking, "solution": 20},
        hold={"tokens": held, "usd": 0.0},
        reason="there is room",
        last=False,
        why={"success": 0.5 + thinking / 1000},
    )


async def test_a_tree_adds_up_to_the_report() -> None:
    """Spent of the tree is what the report says; nothing is held when all is over; the branch is below."""
    events, report = await recorded()
    seen = View()
    for event in events:
        seen.apply(event, 0.0)
    found = seen.changes(None, -1, 1.0)
    (tree,) = found["trees"]
    assert tree["spent"]["tokens"] == report.spent.tokens
    assert tree["spent"]["usd"] == pytest.approx(float(report.spent.usd))
    assert tree["held"] == {"tokens": 0, "usd": 0}
    assert [child["name"] for child in tree["children"]] == ["branch"]
    assert [one["state"] for one in tree["children"][0]["calls"]] == ["answered"] * 2
    assert tree["state"] == "closed"
    (refusal,) = found["refusals"]
    assert refusal["task"] == "too small"
    assert "raise tokens" in refusal["reason"]
    assert sum(found["spending"][0]["tokens"]) == report.spent.tokens


async def test_while_a_call_runs_its_hold_stands_beside_what_is_spent() -> None:
    """At every event: held is what running calls hold, and spent, held and left are the cap."""
    events, _ = await recorded()
    seen, holds = View(), {}
    for event in events:
        seen.apply(event, 0.0)
        key = event["id"], event.get("call")
        if "hold" in event:
            holds[key] = event["hold"]["tokens"]
        elif event["event"] in ("settled", "refused", "withdrawn"):
            holds.pop(key, None)
        for tree in seen.changes(None, -1, 0.0)["trees"]:
            assert tree["held"]["tokens"] == sum(holds.values())


def test_a_lowered_limit_is_kept_beside_the_first() -> None:
    """96 -> 17: what was granted, and what is left of that."""
    seen = View()
    for event in (opened(1, "a"), call("asked", 1, 1), granted("grant", 1, 1, 96, 117)):
        seen.apply(event, 0.0)
    seen.apply(granted("reduced", 1, 1, 17, 38), 0.0)
    (tree,) = seen.changes(None, -1, 4.0)["trees"]
    assert tree["calls"][0]["thinking"] == [96, 17]
    assert tree["held"]["tokens"] == 38
    assert tree["ends_in"] == 6.0


def test_a_judged_answer_is_a_point_beside_the_curve() -> None:
    """The chance that the grant was decided by, and how often the answers there were right."""
    seen = View()
    for event in (opened(1, "a"), call("asked", 1, 1), granted("grant", 1, 1, 40, 61)):
        seen.apply(event, 0.0)
    before = seen.version
    seen.apply(call("feedback", 1, 1, correct=True), 0.0)
    (curve,) = seen.changes(None, before, 0.0)["curves"]
    assert curve["expected"] == [(40, 0.54)]
    assert curve["judged"] == [[40, 1, 1]]


def test_an_owner_gets_its_own_alone() -> None:
    """Trees, refusals, what was spent, curves, what is gone: nothing of another owner."""
    seen = View(lambda key: key.split("/")[0])
    for id, key in ((1, "alice/x"), (2, "bob")):
        seen.apply(opened(id, key), 0.0)
        seen.apply(call("asked", id, 1), 0.0)
        seen.apply(granted("grant", id, 1, 10, 31), 0.0)
        seen.apply(call("refused", id, 2, error="E", reason=f"no room for {key}"), 0.0)
        used = {"thinking": 1, "solution": 1}
        charged = {"tokens": 2, "usd": 0.0}
        ended = {"used": used, "charged": charged, "answered": True, "outcome": "settled", "seconds": 1.0}
        seen.apply(call("settled", id, 1, **ended), 0.0)
        seen.apply({"event": "task_closed", "id": id, "error": None}, 0.0)
    text = str(seen.changes("alice", -1, 0.0))
    assert "alice/x" in text
    assert "bob" not in text
    assert seen.changes("alice", -1, 0.0)["open"] == 0
    assert str(seen.changes("bob", -1, 0.0)).count("alice") == 0
    seen.age(view.KEPT_SECONDS + 1)
    assert seen.changes("alice", -1, 0.0)["gone"] == [1]
    assert seen.changes("carol", -1, 0.0)["gone"] == []


def test_a_reader_gets_what_changed_since() -> None:
    """Trees that did not change are not sent again."""
    seen = View()
    seen.apply(opened(1, "a"), 0.0)
    seen.apply(opened(2, "a"), 0.0)
    since = seen.version
    seen.apply(call("asked", 2, 1), 0.0)
    assert [tree["id"] for tree in seen.changes(None, since, 0.0)["trees"]] == [2]


def test_everything_is_bounded() -> None:
    """Many tasks, calls, children, refusals, kinds, hours: the view keeps its bounds."""
    seen = View()
    last = 3 * view.MOST_TREES
    for id in range(1, last):
        seen.apply(opened(id, f"key {id}"), 0.0)
        seen.apply({"event": "task_closed", "id": id, "error": None}, float(id) / 1000)
    assert len(seen._trees) <= view.MOST_TREES
    seen.age(4.0)
    assert len(seen._trees) == len(seen._nodes) == view.KEPT_TREES
    seen.apply(opened(last, "a"), 4.0)
    for number in range(1, 500):
        seen.apply(call("asked", last, number), 4.0)
        seen.apply(call("refused", last, number, error="E", reason="full"), 4.0)
    for id in range(last + 1, last + 1000):
        seen.apply(opened(id, "a", parent_id=last), 4.0)
        seen.apply({"event": "task_closed", "id": id, "error": None}, 4.0)
    node = seen._nodes[last][1]
    assert len(node.calls) <= view.KEPT_CALLS + 1
    assert len(node.children) == view.MOST_CHILDREN
    assert node.hidden
    for at in range(500):
        seen.learnt.expected("a", "m", f"kind {at}", at, 0.5, at)
        seen.learnt.expected("a", "m", "one", at, 0.5, at)
        seen.spending.add(f"key {at}", {"tokens": 1, "usd": 0.0}, at * 600.0)
    assert len(seen.learnt._curves) == learnt.MOST_CURVES
    assert max(len(curve.expected) for curve in seen.learnt._curves.values()) == learnt.MOST_POINTS
    assert len(seen.spending._hours) <= learnt.MOST_OWNERS + 1
    seen.age(500 * 600.0 + 25 * learnt.HOUR)
    assert seen.spending.to_list(None) == []
    assert not [tree for tree in seen._trees.values() if tree.closed_at is not None]
