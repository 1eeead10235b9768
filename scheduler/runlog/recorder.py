"""Writes everything that a dispatcher is told, and everything that it decides.

A dispatcher knows no clock and does no IO, so its inputs determine its decisions. `Recorder` makes an event
of each input and each decision, in the order in which they happen, under the ledger's lock. A fresh
dispatcher that gets the same inputs makes the same decisions, line for line (`analysis.replay`). Events of a
task go to the listeners of that task; events that only a replay needs go to the scheduler's files.

A dispatcher also reads two things that change by themselves while calls run: the speed of an endpoint, and
the progress of its running calls. Both are read once a step (a step is all that follows from one input). A
reading that differs from the last one is written where it was read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from itertools import chain, count
from typing import Any

from elastic_agent import __version__
from elastic_agent.budget import to_usd
from elastic_agent.errors import CapExceededError

from ..allocation.grant import left, units
from ..allocation.request import Request, Running
from ..allocation.task_state import TaskState
from ..estimates.agent_history import History
from ..estimates.online_curves import Curves
from ..latency.model import Speed, Speeds
from ..latency.slack import Timing
from ..ledger.accounts import Account, Hold
from ..ledger.amounts import Amount
from ..ledger.inherited_caps import inherited_room
from ..ledger.prices import Price
from ..policies.pacing import Pacing
from ..policies.protocol import AllocationPolicy
from ..queueing.endpoint import Endpoint
from .curve_format import curves_to_json
from .events import SCHEMA, Sink
from .readings import Readings

NOT_LOGGED = "of another scheduler"
"""Stands for the name of an endpoint or an agent whose events are not in this log."""
PRICES = ("input", "output", "cached_input", "cache_write")


class Recorder:
    """The events of one dispatcher.

    Args:
        files: get all that a replay needs; without any, only the listeners of tasks get events.
        pacing: of the pool that all tasks share, if there is one.

    Attributes:
        step: the number of inputs so far; readings are taken anew in each step.
    """

    def __init__(self, timing: Timing, files: Sequence[Sink] = (), pacing: Pacing | None = None) -> None:
        self.files, self._pacing = files, pacing
        self.step = 0
        self._endpoints: dict[str, Readings] = {}
        self._curves: dict[str, Curves] = {}
        self._histories: dict[str, History] = {}
        self._accounts: list[dict[str, Any]] = []
        pool = None if pacing is None else {**asdict(pacing.pool), "epoch": pacing.epoch}
        head = {"schema": SCHEMA, "version": __version__, "timing": asdict(timing), "pool": pool}
        self._write(event="scheduler_opened", **head)

    # To files only: what a replay needs

    def watched(
        self, latency: Speeds, model: str, max_running: int | None = None, max_waiting: int | None = None
    ) -> Speeds:
        """The speed of an endpoint, written where it is read; `latency` itself where there is no file."""
        if not self.files:
            return latency
        names = chain([model], (f"{model}#{i}" for i in count(2)))
        name = next(name for name in names if name not in self._endpoints)
        self._write(
            event="endpoint_opened",
            endpoint=name,
            model=model,
            max_running=max_running,
            max_waiting=max_waiting,
        )
        readings = self._endpoints[name] = Readings(self, name, latency)
        return readings

    def curves(self, model: str, curves: Curves) -> None:
        """Write the curves of a model when they are first used."""
        if self.files:
            same = next((name for name, known in self._curves.items() if known is curves), None)
            self._curves[model] = curves
            self._write(
                event="curves", model=model, **(curves_to_json(curves) if same is None else {"same_as": same})
            )

    def history(self, agent: str, history: History) -> None:
        """Write what is known of an agent when its first task opens; this log holds what is learnt later."""
        if agent not in self._histories:
            self._histories[agent] = history
            if history.runs or history.finals:
                self._write(event="history", agent=agent, **history.to_dict())

    def run_pass(self, root: str, account: str, now: float) -> None:
        """Write that the dispatcher decides on waiting calls."""
        if self.files:
            self._write(event="pass", root=root, account=account, now=now)

    def speed(self, endpoint: str, load: int | None, speed: Speed | None) -> None:
        """Write a reading: the present speed (load None), or the speed with so many calls."""
        self._write(event="speed", endpoint=endpoint, load=load, speed=speed)

    def progress(self, endpoint: Endpoint) -> None:
        """Read the progress of an endpoint's running calls, and write what has changed."""
        moved = {}
        for hold, running in endpoint.running.items():
            done = running.slot.progress  # read once: a deadline controller may change it at any time
            if done != running.slot.decided_at_progress:
                running.slot.decided_at_progress = moved[hold] = done
        if moved:
            self._write(event="progress", solution=moved)

    def accounts(self, accounts: Sequence[Account], now: float) -> None:
        """Write the caps of a durable ledger's accounts, from the root down, as they were just read."""
        found = [
            {"id": a.id, "tokens": a.tokens, "nano": a.nano, "seconds": a.seconds, "deadline": _end(a)}
            for a in accounts
        ]
        if found != self._accounts or self._pacing is not None:  # pacing learns from each reading
            self._accounts = found
            self._write(event="accounts", now=now, accounts=found)

    # To every listener

    def opened(
        self,
        task: TaskState,
        now: float,
        close: int,
        endpoint: Endpoint | None,
        error: BaseException | None = None,
        **more: Any,
    ) -> None:
        """Write that a task has opened or, with an `error`, that it was refused."""
        if task.listener.emit is None:
            return
        more |= {} if error is None else error_fields(error)
        account, parent = task.account, task.parent
        caps = {"tokens": account.tokens, "usd": _usd(account.nano), "seconds": account.seconds}
        self._task(
            task,
            "task_refused" if "error" in more else "task_opened",
            now,
            parent=None if parent is None else parent.name,
            caps={unit: cap for unit, cap in caps.items() if cap is not None},
            expect=more.pop("expect"),
            final_solution=task.final_answer.given,
            policy=task.policy.name,
            **more,
            now=now,
            parent_id=None if parent is None else parent.listener.task_id,
            account=None if account.parent is None else account.parent.id,
            nano=account.nano,
            value=task.value,
            key=task.key,
            parallel=sorted(task.parallel),
            policy_fields=_policy(task.policy),
            endpoint=None if endpoint is None else self._named(endpoint.latency),
            close=close,
            history=self._known(task.forecast.past),
        )

    def expected(self, task: TaskState, kinds: Mapping[str, int], now: float) -> None:
        """Write that a task has declared more calls."""
        self._task(task, "expected", now, kinds=dict(kinds), now=now)

    def set_aside(self, task: TaskState, amount: Amount, now: float) -> None:
        """Write that a part of a task's caps is held for something other than a call."""
        self._task(task, "set_aside", now, amount=list(amount), now=now)

    def part_settled(self, task: TaskState, hold: Hold, actual: Amount, now: float) -> None:
        """Write that such a hold has ended with what was spent."""
        self._task(task, "part_settled", now, hold=hold.id, actual=list(actual), now=now)

    def closing(self, task: TaskState, now: float) -> None:
        """Write that a task takes no more calls."""
        self._task(task, "task_closing", now, now=now)

    def closed(self, task: TaskState, now: float, error: str | None) -> None:
        """Write that a task has ended, with the name of an error or None."""
        account = task.account
        spent = {**units(account.spent), "seconds": round(now - account.opened, 6)}
        self._task(task, "task_closed", now, spent=spent, calls=task.status.calls, error=error, now=now)

    def asked(self, request: Request, now: float, again: bool) -> None:
        """Write that a call is queued, for the first time or again."""
        if request.task.listener.emit is None:
            return
        size, terms, price = request.size, request.terms, request.model.price
        self.call(
            request,
            "asked",
            now,
            prompt=size.prompt,
            fresh=size.fresh,
            thinking=size.thinking,
            close=size.close,
            solution=size.solution,
            final=terms.final,
            weight=terms.weight,
            priority=terms.priority,
            on_exhausted=terms.on_exhausted,
            price=None if price is None else price_to_json(price),
            enclosing_holds=sorted(request.enclosing_holds),
            probes=size.probes,
            steerable=request.on_reduced is not None,
            again=request.declared if again else None,
            endpoint=self._named(request.model.latency),
            queued=request.endpoint is not None,
            now=now,
        )

    def waiting(self, request: Request, reason: str, now: float) -> None:
        """Write that a call waits, for the first time."""
        self.call(request, "waiting", now, reason=reason, left=self.left(request.task, now))

    def refused(self, request: Request, error: BaseException, now: float) -> None:
        """Write that a call is refused."""
        self.call(request, "refused", now, **error_fields(error))

    def limit_reached(self, running: Running, used: int, now: float) -> None:
        """Write that a call's thinking has reached its limit, so many tokens."""
        self.call(running.request, "limit_reached", now, used=used, now=now)

    def granted(
        self, name: str, running: Running, moment: float, reason: str | None = None, **more: Any
    ) -> None:
        """Write what a call may use from here on; `reason`: by default the grant's own."""
        task, grant = running.request.task, running.grant
        if task.listener.emit is None:
            return
        deadline = grant.deadline
        self.call(
            running.request,
            name,
            moment,
            granted={"thinking": running.limit, "solution": grant.budget.solution},
            hold=units(grant.held),
            policy=grant.policy,
            last=grant.last,
            deadline=None if deadline is None else round(deadline - task.listener.zero, 6),
            left=self.left(task, moment),
            reason=grant.reason if reason is None else reason,
            why=grant.why,
            **more,
        )

    def settled(
        self,
        running: Running,
        now: float,
        *,
        used: Mapping[str, Any],
        actual: Amount | None,
        charged: Amount,
        answered: bool,
    ) -> None:
        """Write that a granted call is over."""
        if running.request.task.listener.emit is None:
            return
        self.call(
            running.request,
            "settled",
            now,
            used=dict(used),
            seconds=round(now - running.started, 6),
            charged=units(charged),
            refund=units(running.held - charged),
            outcome=running.hold.state.value,
            answered=answered,
            left=self.left(running.request.task, now),
            actual=None if actual is None else [actual.tokens, actual.nano],
            progress=running.slot.decided_at_progress,
            now=now,
        )

    def call(self, request: Request, name: str, moment: float, **fields: Any) -> None:
        """Write an event of one call."""
        if request.task.listener.emit is not None:
            terms = request.terms
            call = {"call": request.number, "kind": terms.kind, "label": terms.label}
            self._task(request.task, name, moment, **call, model=request.model.name, **fields)

    def left(self, task: TaskState, now: float) -> dict[str, float]:
        """What can still be spent on a task, its reserve included, by unit."""
        return left(inherited_room(task.account, final=True), now)

    # Inside

    def _task(self, task: TaskState, name: str, moment: float, **fields: Any) -> None:
        listener = task.listener
        if listener.emit is not None:
            at = round(moment - listener.zero, 6)
            listener.emit({"event": name, "task": task.name, "id": listener.task_id, "at": at, **fields})

    def _named(self, speeds: Speeds) -> str:
        """The name of the endpoint with this speed; NOT_LOGGED for one of another scheduler."""
        if isinstance(speeds, Readings) and self._endpoints.get(speeds.name) is speeds:
            return speeds.name
        return NOT_LOGGED

    def _known(self, history: History | None) -> str | None:
        """The agent with this history; NOT_LOGGED for one of another scheduler."""
        if history is None:
            return None
        return next((agent for agent, known in self._histories.items() if known is history), NOT_LOGGED)

    def _write(self, **event: Any) -> None:
        for write in self.files:
            write(event)


def error_fields(error: BaseException) -> dict[str, Any]:
    """Why a task or a call was refused, as fields of its event."""
    why: dict[str, Any] = {"error": type(error).__name__, "reason": str(error)}
    if isinstance(error, CapExceededError):
        why |= {"needed": error.needed, "available": error.available}
    return why


def started() -> str:
    """The wall clock, for people."""
    return datetime.now(UTC).isoformat()


def _usd(nano: int | None) -> float | None:
    return None if nano is None else float(to_usd(nano))


def _end(account: Account) -> float | None:
    return None if math.isinf(account.deadline) else account.deadline


def price_to_json(price: Price) -> dict[str, str]:
    """The arguments of a price; `Price(**...)` makes the same price again."""
    given = {name: getattr(price, name) for name in PRICES}
    return {name: str(value) for name, value in given.items() if value is not None}


def _policy(policy: AllocationPolicy) -> dict[str, Any]:
    """The class and the parameters of a policy."""
    its: Any = policy
    parameters = {f.name: getattr(its, f.name) for f in fields(its)} if is_dataclass(its) else {}
    return {"class": type(policy).__name__, **parameters}
