"""docs/life-of-a-call.md names the functions of a call in the order in which they are called: so they are."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.scheduler import BudgetScheduler

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "life-of-a-call.md"
STEP = re.compile(r"^\| `([\w/]+)\.py:([\w.]+)` \|", re.MULTILINE)


def named() -> list[str]:
    """The functions of the page, as module and name, in its order."""
    found = []
    for path, name in STEP.findall(PAGE.read_text(encoding="utf-8")):
        module = path.replace("/", ".")
        found.append(f"{module if module.startswith('elastic_agent.') else f'elastic_agent.{module}'}:{name}")
    return found


def called(log: Path) -> list[str]:
    """The functions that a call enters, each where it is entered for the first time."""
    entered: dict[str, None] = {}

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            entered.setdefault(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}")

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm " * 60, "it is 42"))
        scheduler = BudgetScheduler(backend, log=log)
        async with scheduler, scheduler.task(Caps(tokens=100), expect={"step": 2}) as task:
            sys.setprofile(profile)
            try:
                await task.call("what is 6 times 7?", kind="step", solution=24).run()
            finally:
                sys.setprofile(None)

    asyncio.run(main())
    return list(entered)


def test_the_page_is_what_a_call_does(tmp_path: Path) -> None:
    """Every function is called, and none before the one that stands above it."""
    log, steps = tmp_path / "run.jsonl", named()
    entered = called(log)
    assert len(steps) > 30
    assert [step for step in steps if step not in entered] == []
    assert steps == sorted(steps, key=entered.index)
    events = [json.loads(line)["event"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert [e for e in events if e in ("asked", "grant", "limit_reached", "settled")] == [
        "asked",
        "grant",
        "limit_reached",
        "settled",
    ]
