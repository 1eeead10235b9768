"""Who watches a task's calls: what training records, and how the trainer has its samples drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from elastic_agent.backends.base import Sampling

if TYPE_CHECKING:
    from .call import TaskCall


class CallObserver(Protocol):
    """Watches the calls of a task, and of its sub-tasks, to our backends (`task(observer=...)`).

    Both methods run in the event loop of the call, and must not wait.
    """

    def sampling(self, call: TaskCall, sampling: Sampling) -> Sampling:
        """How the tokens of a call are drawn, once the call is granted.

        Args:
            call: the call; it has its grant, and nothing was sent yet.
            sampling: what the call asks for.
        """
        ...

    def settled(self, call: TaskCall) -> None:
        """A granted call has ended, however it ended, and its hold is settled: `call.result()` is whole."""
