"""A fresh dispatcher, and what each event of a log tells it.

`feed` takes one event to the dispatcher at the event's exact time. `STEPS` is the table of the events that
tell a dispatcher something; all others are what a dispatcher writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from elastic_agent.errors import ElasticError
from elastic_agent.usage import Probes, Usage

from ..allocation.call_terms import CallSize, CallTerms, ModelFacts
from ..allocation.request import Request, Running, build_request
from ..allocation.task_state import TaskState, build_task_state
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.revision import Extension
from ..dispatch.set_aside import set_aside, settle_part
from ..estimates.agent_history import Histories, History
from ..estimates.call_stats import UsageStats
from ..estimates.online_curves import Curves
from ..latency.model import Speed
from ..latency.slack import Timing
from ..ledger.accounts import Hold
from ..ledger.amounts import Amount
from ..ledger.prices import Price
from ..policies.pacing import Pacing, Pool
from ..policies.protocol import AllocationPolicy
from ..queueing.endpoint import Endpoint
from ..runlog.curve_format import curves_from_json
from ..runlog.events import Event
from ..runlog.recorder import NOT_LOGGED

TERMS = tuple(term.name for term in fields(CallTerms))


class ReplayError(ElasticError, ValueError):
    """A log that can't be replayed; says why, and what to do."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call of the log: its latest request, and its latest extension."""

    request: Request
    extension: Extension | None = None

    @property
    def running(self) -> Running:
        outcome = self.request.outcome
        if not isinstance(outcome, Running):
            raise ValueError(f"call {self.request.number} was not granted")
        return outcome


class _LoggedSpeed:
    """The speed of an endpoint, as the log has it at the place where the replay is. See `Speeds`."""

    def __init__(self, upcoming: Callable[[], Event | None], name: str) -> None:
        self._upcoming, self._name = upcoming, name
        self._known: dict[int | None, Speed | None] = {}

    def occupy(self, load: int, most: int | None) -> None:
        pass

    def speed(self) -> Speed | None:
        return self._read(None)

    def at(self, load: int) -> Speed | None:
        return self._read(load)

    def _read(self, load: int | None) -> Speed | None:
        event = self._upcoming()
        where = ("speed", self._name, load)
        if event is not None and (event["event"], event.get("endpoint"), event.get("load")) == where:
            speed = event["speed"]
            self._known[load] = None if speed is None else Speed(*speed)
        return self._known.get(load)


class ReplayedDispatcher:
    """See the module.

    Args:
        hear: gets each event that the dispatcher writes.
        upcoming: returns the event that the dispatcher has to write next; None: the log ends here.
        policies: makes the policies of tasks, by the name of their class.

    Attributes:
        dispatcher: the dispatcher, once the log has opened it.
        curves: by model.
    """

    dispatcher: Dispatcher

    def __init__(
        self,
        hear: Callable[[Event], None],
        upcoming: Callable[[], Event | None],
        policies: Mapping[str, Callable[..., AllocationPolicy]],
    ) -> None:
        self._hear, self._upcoming, self._policies = hear, upcoming, policies
        self.curves: dict[str, Curves] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: dict[int, TaskState] = {}
        self._calls: dict[tuple[int, int], _Call] = {}
        self._parts: dict[str, Hold] = {}
        self._histories = Histories()

    def set_progress(self, progress: Mapping[str, int]) -> None:
        """Set the solution tokens of running calls, by their holds."""
        for endpoint in self._endpoints.values():
            for hold in progress.keys() & endpoint.running.keys():
                endpoint.running[hold].slot.progress = progress[hold]

    def feed(self, event: Event) -> None:
        """Tell the dispatcher what an event of `STEPS` says.

        Raises:
            ReplayError: the event rests on something that the log doesn't hold.
            Exception: whatever the dispatcher raises for an event that makes no sense.
        """
        STEPS[event["event"]](self, event)

    def _open_scheduler(self, event: Event) -> None:
        if hasattr(self, "dispatcher"):
            raise ReplayError("two schedulers have written into this file: give each a log of its own")
        pool, pacing = event["pool"] and dict(event["pool"]), None
        if pool is not None:
            epoch = pool.pop("epoch")
            pacing = Pacing(Pool(**pool), epoch)
        self.dispatcher = Dispatcher(timing=Timing(**event["timing"]), files=[self._hear], pacing=pacing)
        self.dispatcher.request_pass = lambda account, now: None  # the log says when each pass ran

    def _open_endpoint(self, event: Event) -> None:
        name, dispatcher = event["endpoint"], self.dispatcher
        limits = {"max_running": event["max_running"], "max_waiting": event["max_waiting"]}
        speeds = dispatcher.record.watched(_LoggedSpeed(self._upcoming, name), event["model"], **limits)
        self._endpoints[name] = Endpoint(speeds, UsageStats(), timing=dispatcher.timing, **limits)

    def _add_curves(self, event: Event) -> None:
        model = event["model"]
        calls = (event.get("learnt") or {}).get("calls")
        if calls:
            raise ReplayError(
                f"the curves of {model!r} had learnt from {calls} calls before this log begins, and it does "
                f"not hold them: it can't be replayed"
            )
        self.curves[model] = self.curves[event["same_as"]] if "same_as" in event else curves_from_json(event)
        self.dispatcher.record.curves(model, self.curves[model])

    def _add_history(self, event: Event) -> None:
        history = self._histories[event["agent"]]
        history.read(event)
        self.dispatcher.record.history(event["agent"], history)

    def _open_task(self, event: Event) -> None:
        parent = None if event["parent_id"] is None else self._tasks[event["parent_id"]]
        above = None if parent is None else parent.account
        if parent is None and event["account"] is not None:
            above = self.dispatcher.ledger.accounts[event["account"]]
        account = self.dispatcher.ledger.open(
            event["task"],
            parent=above,
            tokens=event["caps"].get("tokens"),
            nano=event["nano"],
            seconds=event["caps"].get("seconds"),
            now=event["now"],
        )
        task = self._tasks[event["id"]] = build_task_state(
            event["task"],
            account,
            self._policy(event["policy_fields"]),
            parent=parent,
            past=self._history(event),
            now=event["now"],
            key=event["key"],
            value=event["value"],
            final_solution=event["final_solution"],
            parallel=event["parallel"],
            emit=self._hear,
        )
        endpoint = None if event["endpoint"] is None else self._endpoint(event)
        about = {name: event[name] for name in ("expect", "agent", "started")}
        with suppress(ElasticError):  # a refusal, which the dispatcher has written
            self.dispatcher.open(task, event["now"], endpoint, event["close"], **about)

    def _submit(self, event: Event) -> None:
        endpoint, price, at = self._endpoint(event), event["price"], (event["id"], event["call"])
        size = {name: event[name] for name in ("prompt", "thinking", "solution", "close", "fresh")}
        probes = event["probes"]
        request = build_request(
            self._tasks[event["id"]],
            CallSize(**size, probes=None if probes is None else Probes(*probes)),
            ModelFacts(
                event["model"],
                self.curves[event["model"]],
                endpoint.latency,
                endpoint.usage_stats,
                None if price is None else Price(**price),
            ),
            CallTerms(**{name: event[name] for name in TERMS}),
            endpoint=endpoint if event["queued"] else None,
            enclosing_holds=frozenset(event["enclosing_holds"]),
            on_reduced=(lambda: None) if event["steerable"] else None,
            before=None if event["again"] is None else self._calls[at].request,
        )
        self._calls[at] = _Call(request)
        self.dispatcher.submit(request, event["now"])

    def _set_aside(self, event: Event) -> None:
        task, amount = self._tasks[event["id"]], Amount(*event["amount"])
        hold = set_aside(self.dispatcher, task, amount, event["now"])
        assert isinstance(hold, Hold)  # a run writes this event where there was room
        self._parts[hold.id] = hold

    def _settle_part(self, event: Event) -> None:
        task, hold = self._tasks[event["id"]], self._parts[event["hold"]]
        settle_part(self.dispatcher, task, hold, Amount(*event["actual"]), event["now"])

    def _extend(self, event: Event) -> None:
        call = self._call(event)
        call.extension = self.dispatcher.extend(call.running, event["used"], event["now"])

    def _drop_extension(self, event: Event) -> None:
        call = self._call(event)
        if call.extension is None:
            raise ValueError("it was not extended")
        self.dispatcher.drop_extension(call.running, call.extension, event["now"])

    def _settle(self, event: Event) -> None:
        running, now, used = self._call(event).running, event["now"], event["used"]
        running.slot.progress = event["progress"]
        if event["outcome"] == "expired":
            self.dispatcher.expire(running, now)
            return
        counts = {name: value for name, value in used.items() if not name.endswith("_end")}
        self.dispatcher.settle(
            running,
            None if event["actual"] is None else Amount(*event["actual"]),
            now,
            answered=event["answered"],
            used=used,
            learn=Usage(**counts) if counts and event["answered"] else None,
        )

    def _call(self, event: Event) -> _Call:
        return self._calls[event["id"], event["call"]]

    def _endpoint(self, event: Event) -> Endpoint:
        if event["endpoint"] == NOT_LOGGED:
            raise ReplayError(
                f"task {event['task']!r} has used a model of another scheduler, and the log holds nothing of "
                f"that: it can't be replayed"
            )
        return self._endpoints[event["endpoint"]]

    def _history(self, event: Event) -> History | None:
        agent = event["history"]
        if agent is None:
            return None
        if agent == NOT_LOGGED:
            raise ReplayError(
                f"task {event['task']!r} goes by what another scheduler knows of its agent, and the log "
                f"holds nothing of that: it can't be replayed"
            )
        self.dispatcher.record.history(agent, self._histories[agent])
        return self._histories[agent]

    def _policy(self, given: Mapping[str, Any]) -> AllocationPolicy:
        name, parameters = given["class"], {key: value for key, value in given.items() if key != "class"}
        if name not in self._policies:
            raise ReplayError(
                f"the log has a policy of your own, {name}: pass policies={{{name!r}: {name}}} to replay it"
            )
        return self._policies[name](**parameters)


STEPS: Mapping[str, Callable[[ReplayedDispatcher, Event], object]] = {
    "scheduler_opened": ReplayedDispatcher._open_scheduler,
    "endpoint_opened": ReplayedDispatcher._open_endpoint,
    "curves": ReplayedDispatcher._add_curves,
    "history": ReplayedDispatcher._add_history,
    "accounts": lambda r, e: r.dispatcher.restore_accounts(e["accounts"], e["now"]),
    "task_opened": ReplayedDispatcher._open_task,
    "task_refused": ReplayedDispatcher._open_task,
    "task_closing": lambda r, e: r.dispatcher.dismiss(r._tasks[e["id"]], e["now"]),
    "task_closed": lambda r, e: r.dispatcher.close(r._tasks[e["id"]], e["now"], e["error"]),
    "expected": lambda r, e: r.dispatcher.expect(r._tasks[e["id"]], e["kinds"], e["now"]),
    "set_aside": ReplayedDispatcher._set_aside,
    "part_settled": ReplayedDispatcher._settle_part,
    "pass": lambda r, e: r.dispatcher.run_pass_at(e["root"], e["account"], e["now"]),
    "asked": ReplayedDispatcher._submit,
    "withdrawn": lambda r, e: r.dispatcher.withdraw(r._call(e).request, e["now"]),
    "limit_reached": ReplayedDispatcher._extend,
    "extension_dropped": ReplayedDispatcher._drop_extension,
    "settled": ReplayedDispatcher._settle,
    "feedback": lambda r, e: r.dispatcher.record_feedback(r._call(e).running, e["correct"], e["now"]),
}
"""What each event that tells a dispatcher something does."""
