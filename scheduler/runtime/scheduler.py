"""The scheduler: what tasks share. The model, prices, curves, speeds, the policy, the ledger and the log.

    async with BudgetScheduler(load_backend("e1-tiny")) as scheduler:
        async with scheduler.task(Caps(usd=0.05, seconds=20)) as task:
            answer = await task.generate("...")

The dispatcher decides (`elastic_agent.scheduler.dispatch.dispatcher`). Speeds and usage are kept for each
backend object, so a task profits from the tasks before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from elastic_agent.budget import Caps
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.told_budget import Tell, check_tell
from elastic_agent.validation import integer, shown

from ..allocation.call_terms import ModelFacts
from ..dispatch.dispatcher import Dispatcher
from ..estimates import curve_files
from ..estimates.agent_history import Histories, History
from ..estimates.call_stats import UsageStats
from ..estimates.online_curves import Curves
from ..latency.model import Latency
from ..latency.slack import Timing
from ..ledger.accounts import Account
from ..ledger.durable.durable_ledger import DurableLedger
from ..ledger.durable.options import LEASE, Failure
from ..ledger.prices import Price, check_price
from ..ledger.stores import open_store
from ..ledger.stores.protocol import Spec, Store
from ..policies.marginal import Marginal
from ..policies.pacing import Pacing, Pool
from ..policies.protocol import AllocationPolicy
from ..queueing.endpoint import Endpoint, check_limits
from ..runlog import events
from ..runlog.events import Log, RunLog
from .context import Uncounted, check_uncounted
from .held_call import CalledModel
from .passes import run_passes_soon
from .task import Task
from .task_terms import TaskTerms

if TYPE_CHECKING:
    from elastic_agent.backends.base import Backend

DEFAULT_SOLUTION = 512
"""Solution tokens of a call that asks for no number, on a model without measured curves."""


class BudgetScheduler:
    """Grants calls their tokens.

    Args:
        backend: the model of calls that don't name one.
        price: what every model here costs.
        prices: what models cost, by name; `elastic_agent.scheduler.ledger.prices` says which price counts.
        policy: how thinking is shared out; `Marginal()` by default.
        curves: success curves: a CurveSet, a file, `LearntCurves`, or any of them by model name; None: the
            curves that ship with the model.
        latency: the speed of `backend`, if something is known before the first call.
        log: where events go: a path (`run.jsonl`), a function, or several of these. A file can be replayed
            (`elastic_agent.scheduler.analysis.replay`); functions hear of tasks and calls alone.
        solution: solution tokens of calls that ask for no number.
        timing: how careful to be with deadlines.
        max_running: most calls at once on each model; the others wait and hold no tokens, in an order that
            `elastic_agent.scheduler.queueing.endpoint` explains. None: no limit.
        max_waiting: most calls that wait for each model; tasks and calls beyond are refused with
            `EndpointBusyError`, except final answers of tasks that were admitted. None: no limit.
        store: a durable ledger that other processes and later runs share: a `Store`, or where it is, such as
            "spend.db" or "postgresql://..." (`elastic_agent.scheduler.ledger.stores.open_store`). None: this
            process's memory.
        accounts: what tasks are charged to in the store: accounts (`account(name, caps)`) from the root down,
            opened when they don't exist yet, or the name of one that exists.
        lease: seconds after which the holds of a silent process in the store are charged.
        pool: what all tasks together should spend in a window: where they want more, thinking goes to the
            calls that gain most by it (`elastic_agent.scheduler.policies.pacing`). A pace, not a cap. None:
            first come, first served.
        on_store_failure: what happens to calls while the store can't be reached: "closed" refuses them,
            "open" sends them and writes their charges when the store is back, so that processes together may
            overspend the caps.
        history: a file that keeps what is known of agents (`task(agent=)`): read now, written at the end. A
            file that can't be read is begun anew, with a warning. None: this process's memory.
        uncounted: what happens to LangChain models that are called inside a task and can't be counted,
            because they are neither ours nor under `guard`: "warn" once for each task and class of model,
            "refuse" before the call is sent, or "ignore".
        wrap_up: a sentence before the forced close, or a profile's name (`elastic_agent.generation.wrap_up`),
            of calls that have none of their own.
        tell: whether models are told what is left of the task's caps, behind the last message of each call:
            True, in the standard words; or words of your own, with {tokens}, {usd} and {seconds}
            (`elastic_agent.prompts.told_budget`). Said when the call asks for tokens, so before its grant is
            known: other calls in flight count as spent in full. Of prompts that are ids nothing is told.
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
        max_running: int | None = None,
        max_waiting: int | None = None,
        store: Store | str | Path | None = None,
        accounts: str | Sequence[Spec] = (),
        lease: float = LEASE,
        pool: Pool | None = None,
        on_store_failure: Failure = "closed",
        history: str | Path | None = None,
        uncounted: Uncounted = "warn",
        wrap_up: str | None = None,
        tell: Tell = False,
    ) -> None:
        check_uncounted(uncounted)
        check_tell(tell)
        check_limits(max_running, max_waiting)
        check_price(price)
        for model, one in (prices or {}).items():
            check_price(one, f"prices[{shown(model)}]")
        self.backend = backend
        self.uncounted: Uncounted = uncounted
        self.price = price
        self.prices = dict(prices or {})
        self.policy: AllocationPolicy = policy or Marginal()
        self.sinks = events.sinks(log)
        self.dispatcher = Dispatcher(
            timing=timing,
            files=[one for one in self.sinks if isinstance(one, RunLog)],
            pacing=None if pool is None else Pacing(pool, time.time() - time.monotonic()),
        )
        run_passes_soon(self.dispatcher)
        self.solution = None if solution is None else integer("solution", solution, least=1)
        self.wrap_up, self.tell = wrap_up, tell
        self.max_running, self.max_waiting = max_running, max_waiting
        self._given = curves
        self._curves: dict[str, Curves] = {}
        self._latency: WeakKeyDictionary[CalledModel, Latency] = WeakKeyDictionary()
        self._endpoints: WeakKeyDictionary[CalledModel, Endpoint] = WeakKeyDictionary()
        self._usage_stats: WeakKeyDictionary[CalledModel, UsageStats] = WeakKeyDictionary()
        self._tasks: set[Task] = set()
        self.histories = Histories(history)
        if backend is not None and latency is not None:
            self._latency[backend] = latency
        self.durable: DurableLedger | None = None
        if store is not None:
            opened = open_store(store) if isinstance(store, str | Path) else store
            self.durable = DurableLedger(
                self.dispatcher.ledger, opened, accounts, lease=lease, failure=on_store_failure
            )
            self.dispatcher.running.hold_ended = self.durable.end
            self.durable.mirror.looked = self.dispatcher.record_accounts
        elif accounts:
            raise ValueError("accounts= are kept in a store: pass store=, such as store='spend.db'")

    def task(self, caps: Caps, **options: Any) -> Task:
        """A task with these caps; enter it with `async with` or `with`.

        Inside another task it becomes a child of that task: the tighter cap wins.

        Args:
            caps: what it may spend.
            options: what else may be said of a task, such as `expect=` or `agent=`: see `TaskTerms`.
        """
        return Task(self, TaskTerms(caps, **options))

    async def __aenter__(self) -> Self:
        if self.durable is not None:
            await self.durable.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every open task, then close the store and the log. Whoever made the backend closes it."""
        for task in list(self._tasks):
            await task.aclose()
        if self.durable is not None:
            await self.durable.aclose()
        events.close(self.sinks)
        self.histories.save()

    def check(self) -> None:
        """Check the law of conservation on every open account; AssertionError says what is wrong."""
        self.dispatcher.ledger.check()

    # What tasks and calls ask

    def facts_of(self, model: CalledModel, price: Price | None) -> ModelFacts:
        """What the request of a call says about the call's model."""
        latency = self.endpoint_for(model).latency
        return ModelFacts(model.model, self.curves_for(model), latency, self.usage_stats_for(model), price)

    def latency_for(self, backend: CalledModel) -> Latency:
        """What is known of the speed of a model."""
        with self.dispatcher.ledger.lock:
            return self._latency.setdefault(backend, Latency())

    def usage_stats_for(self, backend: CalledModel) -> UsageStats:
        """What is known of the calls of a model."""
        with self.dispatcher.ledger.lock:
            return self._usage_stats.setdefault(backend, UsageStats())

    def history_for(self, agent: str | None) -> History | None:
        """What is known of an agent; None for a task that has none."""
        if agent is None:
            return None
        with self.dispatcher.ledger.lock:
            found = self.histories[agent]
            self.dispatcher.record.history(agent, found)
            return found

    def endpoint_for(self, backend: CalledModel) -> Endpoint:
        """The queue of a model, and the promises that tasks have there."""
        with self.dispatcher.ledger.lock:
            found = self._endpoints.get(backend)
            if found is None:
                limits = {"max_running": self.max_running, "max_waiting": self.max_waiting}
                speeds = self.dispatcher.record.watched(self.latency_for(backend), backend.model, **limits)
                found = self._endpoints[backend] = Endpoint(
                    speeds, self.usage_stats_for(backend), timing=self.dispatcher.timing, **limits
                )
            return found

    def curves_for(self, backend: CalledModel) -> Curves:
        """The curves of a model: given, shipped, or a prior whose scale is a sixteenth of the context."""
        with self.dispatcher.ledger.lock:
            found = self._curves.get(backend.model)
            if found is None:
                given = self._given
                if isinstance(given, Mapping):
                    given = given.get(backend.model)
                if isinstance(given, str | Path):
                    given = curve_files.load_file(given)
                found = given or curve_files.load(backend.model, scale=max(16.0, backend.context_length / 16))
                self._curves[backend.model] = found
                self.dispatcher.record.curves(backend.model, found)
            return found

    def solution_for(self, backend: CalledModel) -> int:
        """Solution tokens of a call that asks for no number."""
        return self.solution or self.curves_for(backend).solution or DEFAULT_SOLUTION

    def close_for(self, backend: Backend) -> int:
        """Tokens of the forced close, with the scheduler's wrap-up sentence."""
        return markers_for(backend.codec, wrap_up=self.wrap_up or None).close_length(Opening.PREFILLED)

    def account(self) -> Account | None:
        """The store's account, in which tasks are opened; None without a store."""
        return None if self.durable is None else self.durable.account()

    def opened(self, task: Task) -> None:
        """Remember a task that has opened."""
        self._tasks.add(task)

    def closed(self, task: Task) -> None:
        """Forget a task that has ended; the store gets back what was reserved for its final answer."""
        self._tasks.discard(task)
        if self.durable is not None and task.parent is None:
            self.durable.close(task.state.account)


_default: BudgetScheduler | None = None


def default_scheduler() -> BudgetScheduler:
    """The scheduler of tasks that name none; made when first needed, shared by the process."""
    global _default
    if _default is None:
        _default = BudgetScheduler()
    return _default
