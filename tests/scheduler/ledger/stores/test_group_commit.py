"""Steps that wait go together, each with its own answer."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

import pytest

from elastic_agent.errors import StoreUnavailableError
from elastic_agent.scheduler.ledger.stores.group_commit import TOGETHER, GroupCommit


class Dispatcher:
    """Runs batches of numbers, when it is let; an answer is the number itself.

    Attributes:
        batches: those that it was given.
    """

    def __init__(self, fails: Callable[[list[int]], BaseException | None] = lambda jobs: None) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()
        self.may.set()
        self.began = threading.Event()
        self._fails = fails

    def together(self, jobs: list[int]) -> list[Any]:
        self.batches.append(jobs)
        self.began.set()
        self.may.wait()
        error = self._fails(jobs)
        if error is not None:
            raise error
        return list(jobs)


async def busy(dispatcher: Dispatcher, commits: GroupCommit[int]) -> asyncio.Future[int]:
    """A first step that is under way until `dispatcher.may` is set."""
    dispatcher.may.clear()
    first = asyncio.ensure_future(commits.run(0))
    await asyncio.to_thread(dispatcher.began.wait)
    return first


async def test_what_waits_behind_a_batch_leaves_in_one() -> None:
    """In the order of arrival, at most so many at once."""
    dispatcher = Dispatcher()
    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together)
    first = await busy(dispatcher, commits)
    rest = [asyncio.ensure_future(commits.run(i)) for i in range(1, TOGETHER + 3)]
    await asyncio.sleep(0)
    dispatcher.may.set()
    assert await asyncio.gather(first, *rest) == list(range(TOGETHER + 3))
    assert dispatcher.batches == [[0], list(range(1, TOGETHER + 1)), [TOGETHER + 1, TOGETHER + 2]]
    await commits.aclose()


async def test_one_that_fails_does_not_spoil_the_others() -> None:
    """The batch goes again one by one."""
    dispatcher = Dispatcher(lambda jobs: ValueError("three") if 3 in jobs else None)
    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together)
    first = await busy(dispatcher, commits)
    rest = [asyncio.ensure_future(commits.run(i)) for i in range(1, 5)]
    await asyncio.sleep(0)
    dispatcher.may.set()
    answers = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["0", "1", "2", "three", "4"]
    assert dispatcher.batches == [[0], [1, 2, 3, 4], [1], [2], [3], [4]]
    await commits.aclose()


async def test_a_place_that_is_away_is_away_for_all() -> None:
    """Nobody waits for it a second time."""
    dispatcher = Dispatcher(lambda jobs: StoreUnavailableError("away") if 0 not in jobs else None)
    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together)
    first = await busy(dispatcher, commits)
    rest = [asyncio.ensure_future(commits.run(i)) for i in range(1, 4)]
    await asyncio.sleep(0)
    dispatcher.may.set()
    assert await first == 0
    for step in rest:
        with pytest.raises(StoreUnavailableError, match="away"):
            await step
    assert dispatcher.batches == [[0], [1, 2, 3]]
    await commits.aclose()


async def test_a_step_that_nobody_waits_for_goes_with_the_next() -> None:
    """And by itself when none comes."""
    dispatcher = Dispatcher()
    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together)
    alone = commits.later(1)
    assert await asyncio.wrap_future(alone) == 1
    behind = [commits.later(2), commits.later(3)]
    assert await commits.run(4) == 4
    assert [step.result() for step in behind] == [2, 3]
    assert dispatcher.batches == [[1], [2, 3, 4]]
    await commits.aclose()


async def test_a_step_that_was_cancelled_before_it_left_does_not_happen() -> None:
    """One that is under way does."""
    dispatcher = Dispatcher()
    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together)
    first = await busy(dispatcher, commits)
    second = asyncio.ensure_future(commits.run(1))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    dispatcher.may.set()
    assert await commits.run(2) == 2
    assert dispatcher.batches == [[0], [2]]
    await commits.aclose()


async def test_a_batch_that_hangs_is_cut_by_who_waited_as_long() -> None:
    """Its own steps and those behind it end; the commits goes on."""
    dispatcher, cut = Dispatcher(), asyncio.Event()

    def end() -> None:
        cut.set()
        dispatcher.may.set()

    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together, timeout=0.1, cut=end)
    first = await busy(dispatcher, commits)
    second = asyncio.ensure_future(commits.run(1))
    with pytest.raises(TimeoutError):
        await first
    await cut.wait()
    with suppress(TimeoutError):  # it had waited as long, or nearly
        assert await second == 1
    assert await commits.run(2) == 2
    await commits.aclose()


async def test_closing_finishes_what_waits() -> None:
    """Lingering steps too; then the thread lets go of its connection."""
    dispatcher, done = Dispatcher(), threading.Event()
    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together, disconnect=done.set, timeout=10)
    behind = commits.later(1)
    await commits.aclose()
    assert behind.result() == 1
    assert done.is_set()


async def test_closing_gives_up_what_hangs() -> None:
    """After the timeout."""
    dispatcher = Dispatcher()
    commits: GroupCommit[int] = GroupCommit("test", dispatcher.together, timeout=0.1, cut=dispatcher.may.set)
    first = await busy(dispatcher, commits)
    await commits.aclose()
    assert first.done() or await asyncio.wait([first])


async def test_a_step_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is there before: an event loop that starts one waits for a processor."""
    commits: GroupCommit[int] = GroupCommit("test", Dispatcher().together)

    def start(thread: threading.Thread) -> None:
        raise AssertionError(f"{thread.name} is started in a step")

    with monkeypatch.context() as watched:
        watched.setattr(threading.Thread, "start", start)
        assert await commits.run(1) == 1
        assert await asyncio.wrap_future(commits.later(2)) == 2
    await commits.aclose()


async def test_a_step_after_closing_starts_anew() -> None:
    """Also while the old thread still works: two threads never have the connection at once."""
    dispatcher = Dispatcher()
    closed: list[int] = []
    commits: GroupCommit[int] = GroupCommit(
        "test", dispatcher.together, disconnect=lambda: closed.append(len(dispatcher.batches))
    )
    first = await busy(dispatcher, commits)
    closing = asyncio.ensure_future(commits.aclose())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(commits.run(1))
    await asyncio.sleep(0.05)
    dispatcher.may.set()
    assert await asyncio.gather(first, second) == [0, 1]
    await closing
    await commits.aclose()
    assert (dispatcher.batches, closed) == ([[0], [1]], [1, 2])


def test_a_forked_process_starts_anew() -> None:
    """Whatever the parent's thread was at: its steps stay with the parent, the child's run in the child."""

    async def main() -> None:
        dispatcher = Dispatcher()
        forked: list[int] = []
        commits: GroupCommit[int] = GroupCommit(
            "test", dispatcher.together, forked=lambda: forked.append(os.getpid())
        )
        first = await busy(dispatcher, commits)
        second = commits.later(1)
        child = get_context("fork").Process(target=in_child, args=(dispatcher, commits, forked))
        child.start()
        await asyncio.to_thread(child.join, 10)
        assert child.exitcode == 0
        dispatcher.may.set()
        assert [await first, await asyncio.wrap_future(second)] == [0, 1]
        assert (dispatcher.batches, forked) == ([[0], [1]], [])
        await commits.aclose()

    def in_child(dispatcher: Dispatcher, commits: GroupCommit[int], forked: list[int]) -> None:
        dispatcher.may = threading.Event()
        dispatcher.may.set()
        assert asyncio.run(commits.run(2)) == 2
        assert (dispatcher.batches, forked) == ([[0], [2]], [os.getpid()])
        asyncio.run(commits.aclose())

    asyncio.run(main())
