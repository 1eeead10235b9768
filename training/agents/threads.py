"""Plain functions on threads of their own, which may hang without holding up the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any


def in_thread(function: Callable[[], Any]) -> Awaitable[Any]:
    """What a function returns on a thread of its own, in the context of now.

    A thread that hangs is left behind; it doesn't keep the process alive, as a pool's thread would.
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    found: asyncio.Future[Any] = loop.create_future()

    def answer(value: Any, error: BaseException | None) -> None:
        if not found.done():
            found.set_result(value) if error is None else found.set_exception(error)

    def work() -> None:
        value: Any = None
        failed: BaseException | None = None
        try:
            value = context.run(function)
        except StopIteration as error:  # a future can't hold it
            failed = RuntimeError(f"StopIteration: {error}")
        except BaseException as error:
            failed = error
        try:
            loop.call_soon_threadsafe(answer, value, failed)
        except RuntimeError:  # the loop has ended without it
            return

    threading.Thread(target=work, name="agent", daemon=True).start()
    return found
