"""The scheduler: what tasks share. The model, prices, curves, speeds, the policy, the ledger and the log.

    async with BudgetScheduler(load_backend("e1-tiny")) as scheduler:
        async with scheduler.task(Caps(usd=0.05, seconds=20)) as task:
            answer = await task.generate("...")

It decides nothing itself: the desk does (`elastic_agent.scheduler.desk`). Speeds and habits are kept per
model (per backend object), so a task profits from those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from elastic_agent.budget import Caps
from elastic_agent.scheduler import curves as curve_files
from elastic_agent.scheduler.cost import Price
from elastic_agent.scheduler.desk import Desk
from elastic_agent.scheduler.events import Log, RunLog, sink
from elastic_agent.scheduler.forecast import Habits
from elastic_agent.scheduler.latency import Latency
from elastic_agent.scheduler.learnt import Curves
from elastic_agent.scheduler.policies import AllocationPolicy, Marginal
from elastic_agent.scheduler.task import Task
from elastic_agent.scheduler.timing import Timing

if TYPE_CHECKING:
    from elastic_agent.backends.base import Backend

DEFAULT_SOLUTION = 512
"""Solution tokens of a call that doesn't say, on a model without measured curves."""


class BudgetScheduler:
    """Grants calls their tokens.

    Args:
        backend: the model of calls that don't name one.
        price: what every model here costs.
        prices: what models cost, by name. See `elastic_agent.scheduler.cost` for the order of look-up.
        policy: how thinking is shared out; `Marginal()` by default.
        curves: success curves: a CurveSet, a file, `LearntCurves`, or any of them by model name; else those
            that ship with the model.
        latency: the speed of `backend`, if something is known before the first call.
        log: where events go: a path (`run.jsonl`) or a function.
        solution: solution tokens of calls that don't say.
        timing: how careful to be with deadlines.
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        price: Price | None = None,
        prices: Mapping[str, Price] | None = None,
        policy: AllocationPolicy | None = None,
        curves: Curves | str | Path | Mapping[str, Curves | str | Path] | None = None,
        latency: Latency | None = None,
        log: Log = None,
        solution: int | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.backend = backend
        self.price = price
        self.prices = dict(prices or {})
        self.policy: AllocationPolicy = policy or Marginal()
        self.desk = Desk(timing=timing)
        self.sink = sink(log)
        self.solution = solution
        self._given = curves
        self._curves: dict[str, Curves] = {}
        self._latency: WeakKeyDictionary[Backend, Latency] = WeakKeyDictionary()
        self._habits: WeakKeyDictionary[Backend, Habits] = WeakKeyDictionary()
        self._tasks: set[Task] = set()
        if backend is not None and latency is not None:
            self._latency[backend] = latency

    def task(self, caps: Caps, **options: Any) -> Task:
        """A task with these caps; enter it with `async with` or `with`.

        Inside another task it is that one's child: the tighter cap wins.

        Args:
            caps: what it may spend.
            name: for logs and reports.
            expect: calls to come, by kind, such as {"steps-3": 4, "final": 1}.
            final_solution: solution tokens to keep for the final answer, from the opening on; None: those
                of the first call, up to a quarter of the token cap.
            on_exhausted: what calls do that don't fit any more, see `OnExhausted`.
            policy: instead of the scheduler's.
            log: where its events go, besides the scheduler's log.
        """
        return Task(self, caps, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every task that is still open, then the log. The backend is its owner's."""
        for task in list(self._tasks):
            await task.aclose()
        if isinstance(self.sink, RunLog):
            self.sink.close()

    def check(self) -> None:
        """Hold the conservation law against every open account; AssertionError says what is wrong."""
        self.desk.ledger.check()

    # What tasks and calls ask

    def latency_for(self, backend: Backend) -> Latency:
        """What is known of the speed of a model."""
        with self.desk.ledger.lock:
            return self._latency.setdefault(backend, Latency())

    def habits_for(self, backend: Backend) -> Habits:
        """What is known of the calls of a model."""
        with self.desk.ledger.lock:
            return self._habits.setdefault(backend, Habits())

    def curves_for(self, backend: Backend) -> Curves:
        """The curves of a model; the scale of a prior is a sixteenth of its context."""
        with self.desk.ledger.lock:
            found = self._curves.get(backend.model)
            if found is None:
                given = self._given
                if isinstance(given, Mapping):
                    given = given.get(backend.model)
                if isinstance(given, str | Path):
                    given = curve_files.load_file(given)
                found = given or curve_files.load(backend.model, scale=max(16.0, backend.context_length / 16))
                self._curves[backend.model] = found
            return found

    def solution_for(self, backend: Backend) -> int:
        """Solution tokens of a call that doesn't say."""
        return self.solution or self.curves_for(backend).solution or DEFAULT_SOLUTION

    def opened(self, task: Task) -> None:
        """A task tells that it has opened."""
        self._tasks.add(task)

    def closed(self, task: Task) -> None:
        """A task tells that it has ended."""
        self._tasks.discard(task)


_default: BudgetScheduler | None = None


def default_scheduler() -> BudgetScheduler:
    """The scheduler of tasks that name none; made when first needed, shared by the process."""
    global _default
    if _default is None:
        _default = BudgetScheduler()
    return _default
