"""An event loop whose clock jumps to the next timer: hours pass in microseconds, always in the same order.

    def test_deadline() -> None:
        async def main() -> None:
            await asyncio.sleep(3600)
            assert asyncio.get_running_loop().time() == 3600
        run(main())

Real input (sockets, other threads) still works: the clock only jumps when nothing is ready.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE = 30.0  # real seconds for another thread or process; afterwards it is a deadlock


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: what would have been waited for is added to `now`."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout is None or timeout <= 0:
            if not ready and timeout is None:
                ready = super().select(_PATIENCE)
                if not ready:
                    raise RuntimeError("deadlock: everything waits and no timer is set")
            return ready
        self.now += timeout
        return []


class FakeClockLoop(asyncio.SelectorEventLoop):
    """Starts at 0 seconds."""

    def __init__(self) -> None:
        self._fake = _JumpingSelector()
        super().__init__(self._fake)

    def time(self) -> float:
        return self._fake.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on a fresh fake clock."""
    with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
        return runner.run(main)
