"""Runs the tool calls of many episodes side by side. Nothing that a tool does ends a run.

Each call has a thread of its own (and an event loop in it, if the tool is async). A thread can't be killed:
when its time is up, the run goes on without it, and a tool that hangs keeps its thread until it returns. The
model reads what went wrong as text, as from a careful agent runtime.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .environment import Tool, ToolCall

_AT_ONCE = 64  # threads
_LATE = object()  # what an async tool has returned when its time is up


@dataclass(frozen=True, slots=True)
class Result:
    """What goes back to the model; `failed` where it is an error of the call, the tool or its time."""

    text: str
    failed: bool = False


@dataclass(slots=True)
class _Job:
    thread: threading.Thread
    result: Result | None = None


def run_tools(
    wanted: Sequence[tuple[Mapping[str, Tool], ToolCall]], *, seconds: float, characters: int
) -> list[Result]:
    """Run every (tools, call); results in their order.

    Args:
        seconds: how long one call may take.
        characters: a longer result is cut there, and says so.
    """
    results: list[Result] = []
    for first in range(0, len(wanted), _AT_ONCE):
        jobs = [_start(tools, call, seconds) for tools, call in wanted[first : first + _AT_ONCE]]
        until = time.monotonic() + seconds
        for job in jobs:
            job.thread.join(max(0.0, until - time.monotonic()))
            result = job.result or _late(seconds)
            if len(result.text) > characters:
                cut = f"{result.text[:characters]} ... cut after {characters} characters"
                result = Result(cut, result.failed)
            results.append(result)
    return results


def _start(tools: Mapping[str, Tool], call: ToolCall, seconds: float) -> _Job:
    def work() -> None:
        job.result = _run(tools, call, seconds)

    job = _Job(threading.Thread(target=work, name=f"tool {call.name}", daemon=True))
    job.thread.start()
    return job


def _run(tools: Mapping[str, Tool], call: ToolCall, seconds: float) -> Result:
    tool = tools.get(call.name)
    if tool is None:
        there = ", ".join(sorted(tools)) or "none"
        return Result(f"error: there is no tool {call.name!r}; there are: {there}", failed=True)
    try:
        value = tool(**call.arguments)
        if inspect.isawaitable(value):
            value = asyncio.run(_finish(value, seconds))
        if value is _LATE:
            return _late(seconds)
        return Result(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))
    except BaseException as error:  # a tool may even call sys.exit
        return Result(f"error: {type(error).__name__}: {error}", failed=True)


async def _finish(value: Awaitable[Any], seconds: float) -> Any:
    """An async tool whose time is up is cancelled, and can clean up."""
    done, _ = await asyncio.wait([asyncio.ensure_future(value)], timeout=seconds)
    return done.pop().result() if done else _LATE


def _late(seconds: float) -> Result:
    return Result(f"error: no result within {seconds:g} s", failed=True)
