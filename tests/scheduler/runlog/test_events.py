"""Law 9: every decision is an event that says why, in a file that survives being killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import CapExceededError, EndpointBusyError
from elastic_agent.scheduler import BudgetScheduler, Price, task_budget
from tests.clock import run
from tests.scheduler.latency.speeds import known

THINKER = Reply(thinking="hm " * 60, solution="so the answer is 42")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_log_tells_the_whole_story(tmp_path: Path) -> None:
    """Opened, granted, settled, refused, closed; the numbers add up; the reason is one clause."""
    path = tmp_path / "run.jsonl"

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=0.1, tpot=0.01)
        scheduler = BudgetScheduler(backend, price=Price("0.5", "2"))
        caps = Caps(tokens=400, usd="0.05", seconds=60)
        async with scheduler, scheduler.task(caps, expect={"step": 2, "final": 1}, log=path) as task:
            for i in range(2):
                await task.generate(f"step {i}", kind="step", solution=30)
            await task.generate("all", kind="final", solution=30)
            for _ in range(20):
                try:
                    await task.generate("more", solution=60)
                except CapExceededError:
                    break

    run(main())
    events = read(path)
    names = [event["event"] for event in events]
    assert names[0] == "task_opened"
    assert names[-3:] == ["refused", "task_closing", "task_closed"]
    assert events[0]["caps"] == {"tokens": 400, "usd": 0.05, "seconds": 60}
    assert events[0]["expect"] == {"step": 2, "final": 1}
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    grants = [event for event in events if event["event"] == "grant"]
    settled = [event for event in events if event["event"] == "settled"]
    assert len(grants) == len(settled)
    for grant, end in zip(grants, settled, strict=True):
        assert grant["call"] == end["call"]
        thinking, solution = grant["granted"]["thinking"], grant["granted"]["solution"]
        assert grant["hold"]["tokens"] == thinking + 1 + solution
        assert end["used"]["thinking"] <= thinking
        assert end["charged"]["tokens"] + end["refund"]["tokens"] == grant["hold"]["tokens"]
        assert set(end["left"]) == {"tokens", "usd", "seconds"}
        assert grant["reason"]
        assert len(grant["reason"]) < 100
    assert grants[0]["why"]["left"]["tokens"] == 400
    assert [grant["last"] for grant in grants[:3]] == [False, False, True]
    refused = events[-3]
    assert refused["needed"]["tokens"] > refused["available"]["tokens"]
    assert events[-1]["spent"]["tokens"] == sum(end["charged"]["tokens"] for end in settled)


def test_a_task_that_is_refused_is_in_the_log(tmp_path: Path) -> None:
    """Instead of its opening, with the numbers of the error; in its own log and in those around it."""
    path, own = tmp_path / "run.jsonl", tmp_path / "own.jsonl"
    errors = []

    async def main() -> None:
        backend = ScriptedBackend(THINKER, ttft=1.0, tpot=0.1)
        scheduler = BudgetScheduler(backend, latency=known(1.0, 0.1), log=path, max_running=1, max_waiting=1)
        async with scheduler, scheduler.task(Caps(tokens=900), key="a") as task:
            await asyncio.sleep(2)
            for caps, options in (
                (Caps(tokens=3), {"log": own, "name": "small"}),
                (Caps(seconds=5), {"final_solution": 100, "name": "slow"}),
            ):
                with pytest.raises(CapExceededError) as error:
                    task.task(caps, **options).open()
                errors.append(error.value)
            calls = [asyncio.ensure_future(task.generate("a", solution=16)) for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(EndpointBusyError) as busy:
                scheduler.task(Caps(tokens=900), key="a", name="crowded").open()
            errors.append(busy.value)
            with pytest.raises(ValueError, match="expect"):
                task.task(Caps(tokens=900), expect={"a": -1}).open()
            await asyncio.gather(*calls)

    run(main())
    refused = [event for event in read(path) if event["event"] == "task_refused"]
    assert read(own) == refused[:1]
    assert [event["task"] for event in refused] == ["small", "slow", "crowded"]
    assert [event["error"] for event in refused] == [type(error).__name__ for error in errors]
    assert [event["reason"] for event in refused] == [str(error) for error in errors]
    assert [event["at"] for event in refused] == [2, 2, 2.1]
    for event, error in zip(refused[:2], errors, strict=False):
        assert event["needed"] == error.needed
        assert event["available"] == error.available
    assert "needed" not in refused[2]


def test_nested_tasks_share_a_time_line_and_a_log(tmp_path: Path) -> None:
    """A child's events are in its parent's file, timed from the outermost opening; its own log has its
    own."""
    path, own = tmp_path / "run.jsonl", tmp_path / "child.jsonl"

    async def main() -> None:
        backend = ScriptedBackend(THINKER, tpot=0.01)
        async with (
            BudgetScheduler(backend, log=path) as scheduler,
            scheduler.task(Caps(tokens=900), name="outer"),
        ):
            await asyncio.sleep(5)
            async with task_budget(tokens=300, name="inner", log=own) as inner:
                await inner.generate("a")

    run(main())
    opened = {event["task"]: event for event in read(path) if event["event"] == "task_opened"}
    assert opened["inner"]["parent"] == "outer"
    assert opened["inner"]["at"] == 5
    names = ["task_opened", "asked", "grant", "settled", "task_closing", "task_closed"]
    assert [event["event"] for event in read(own)] == names


def test_a_listener_hears_everything() -> None:
    """`log=` takes a function, too: what a live display is made of."""
    heard: list[str] = []

    async def main() -> None:
        backend = ScriptedBackend(THINKER, tpot=0.01)
        scheduler = BudgetScheduler(backend, log=lambda event: heard.append(event["event"]))
        async with scheduler, scheduler.task(Caps(tokens=400), on_exhausted="wait") as task:
            await asyncio.gather(*(task.generate(f"{i}", solution=150) for i in range(3)))
            cancelled = asyncio.create_task(task.generate("x", solution=60))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])

    run(main())
    assert heard[0] == "task_opened"
    assert heard[-1] == "task_closed"
    assert heard.count("grant") == heard.count("settled") == 3
    assert heard.count("waiting") >= 1
    assert heard.count("withdrawn") == 1


_PROGRAM = """
import asyncio, sys
from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.scheduler import BudgetScheduler

async def main():
    backend = ScriptedBackend(Reply(thinking="hm " * 100000), tpot=0.0001)
    async with BudgetScheduler(backend, log=sys.argv[1]) as scheduler:
        async with scheduler.task(Caps(tokens=10**6)) as task:
            await task.generate("a", thinking=10)
            print("ready", flush=True)
            await asyncio.gather(*(task.generate("b", thinking=10**5) for _ in range(3)))

asyncio.run(main())
"""


def _interrupted(path: Path, how: signal.Signals) -> list[dict[str, Any]]:
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n"
        while path.read_text().count('"grant"') < 4:
            assert child.poll() is None
        child.send_signal(how)
        child.wait(20)
    return read(path)


def test_a_killed_run_leaves_a_log_that_parses(tmp_path: Path) -> None:
    """SIGKILL: every line that was written is whole."""
    events = _interrupted(tmp_path / "run.jsonl", signal.SIGKILL)
    names = [event["event"] for event in events]
    assert names[0] == "scheduler_opened"
    assert [n for n in names if n in ("task_opened", "grant", "settled")][:3] == [
        "task_opened",
        "grant",
        "settled",
    ]


def test_ctrl_c_settles_the_holds_and_completes_the_log(tmp_path: Path) -> None:
    """SIGINT: what was running is charged for what it used, and the task is closed."""
    events = _interrupted(tmp_path / "run.jsonl", signal.SIGINT)
    names = [event["event"] for event in events]
    assert names.count("grant") == names.count("settled") == 4
    assert names[-1] == "task_closed"
    assert events[-1]["error"] == "CancelledError"
    spent = sum(event["charged"]["tokens"] for event in events if event["event"] == "settled")
    assert events[-1]["spent"]["tokens"] == spent < 10**5
