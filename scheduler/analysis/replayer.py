"""A dispatcher that is fed a run log: each event that told the first one something is told again.

`Replayer` says everything at the same exact time, and compares what its dispatcher writes with the lines of
the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
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
from ..runlog.events import Event, as_line
from ..runlog.recorder import FOREIGN

TERMS = tuple(term.name for term in fields(CallTerms))
READINGS = ("speed", "progress")
"""Events that stand before or among what a step wrote: they tell nothing by themselves."""


class ReplayError(ElasticError, ValueError):
    """A log that can't be replayed; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line that a replay wrote differently.

    Attributes:
        line: its number in the file, from 1.
        what: the first field that differs, with both values, or what went wrong.
        recorded, replayed: the lines; None where one of the two wrote nothing there.
    """

    line: int
    what: str
    recorded: str | None
    replayed: str | None

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


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

    def __init__(self, replay: Replayer, name: str) -> None:
        self._replay, self._name = replay, name
        self._known: dict[int | None, Speed | None] = {}
        self.load = 1
        self.most: int | None = None

    def speed(self) -> Speed | None:
        return self._read(None)

    def at(self, load: int) -> Speed | None:
        return self._read(load)

    def _read(self, load: int | None) -> Speed | None:
        event = self._replay.next
        where = ("speed", self._name, load)
        if event is not None and (event["event"], event.get("endpoint"), event.get("load")) == where:
            speed = event["speed"]
            self._known[load] = None if speed is None else Speed(*speed)
        return self._known.get(load)


@dataclass(slots=True, eq=False)
class Replayer:
    """One replay on its way: `at` is the line that the dispatcher has to write next."""

    lines: list[str]
    events: list[Event]
    policies: Mapping[str, Callable[..., AllocationPolicy]]
    at: int = 0
    difference: Difference | None = None
    dispatcher: Dispatcher = field(init=False)
    curves: dict[str, Curves] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    tasks: dict[int, TaskState] = field(default_factory=dict)
    calls: dict[tuple[int, int], _Call] = field(default_factory=dict)
    parts: dict[str, Hold] = field(default_factory=dict)
    histories: Histories = field(default_factory=Histories)

    @property
    def next(self) -> Event | None:
        """The line that the dispatcher has to write next; None: the log ends here."""
        return self.events[self.at] if self.at < len(self.events) else None

    def run(self) -> None:
        """Tell the dispatcher everything, up to the first difference."""
        while self.difference is None:
            at = self.at
            while at < len(self.events) and self.events[at]["event"] in READINGS:
                if self.events[at]["event"] == "progress":
                    self._moved(self.events[at]["solution"])
                at += 1
            if at == len(self.events):
                return
            self._step(at)

    def _step(self, at: int) -> None:
        """Tell the dispatcher what the event says; it writes that event, and what follows from it."""
        event = self.events[at]
        tell = getattr(self, f"_on_{event['event']}", None)
        if tell is None:
            self._differs(self.at, "nothing is written here")
            return
        try:
            tell(event)
        except ReplayError:
            raise
        except Exception as error:
            self._differs(at, f"{event['event']} makes no sense here: {type(error).__name__}: {error}")
        if self.at <= at:
            self._differs(self.at, "nothing is written here")

    def hear(self, event: Event) -> None:
        """The dispatcher writes an event."""
        if self.difference is not None or self.at == len(self.lines):
            return  # a killed run wrote no more
        line, recorded = as_line(event), self.lines[self.at]
        if line == recorded:
            self.at += 1
        else:
            self._differs(self.at, _what(self.events[self.at], json.loads(line)), line)

    def _differs(self, at: int, what: str, replayed: str | None = None) -> None:
        if self.difference is None:
            self.difference = Difference(at + 1, what, self.lines[at], replayed)

    # What a log tells a dispatcher, by the name of the event

    def _on_scheduler_opened(self, event: Event) -> None:
        if self.at:
            raise ReplayError("two schedulers have written into this file: give each a log of its own")
        pool, pacing = event["pool"], None
        if pool is not None:
            what = {name: value for name, value in pool.items() if name != "epoch"}
            pacing = Pacing(Pool(**what), pool["epoch"])
        self.dispatcher = Dispatcher(timing=Timing(**event["timing"]), files=[self.hear], pacing=pacing)
        self.dispatcher.request_pass = lambda account, now: None  # the log says when each pass ran

    def _on_endpoint_opened(self, event: Event) -> None:
        limits = {"max_running": event["max_running"], "max_waiting": event["max_waiting"]}
        speeds = self.dispatcher.record.watched(
            _LoggedSpeed(self, event["endpoint"]), event["model"], **limits
        )
        usage_stats = UsageStats()
        self.endpoints[event["endpoint"]] = Endpoint(
            speeds, usage_stats, timing=self.dispatcher.timing, **limits
        )

    def _on_curves(self, event: Event) -> None:
        model = event["model"]
        calls = (event.get("learnt") or {}).get("calls")
        if calls:
            raise ReplayError(
                f"the curves of {model!r} had learnt from {calls} calls before this log begins, and it does "
                f"not hold them: it can't be replayed"
            )
        self.curves[model] = self.curves[event["same_as"]] if "same_as" in event else curves_from_json(event)
        self.dispatcher.record.curves(model, self.curves[model])

    def _on_history(self, event: Event) -> None:
        history = self.histories[event["agent"]]
        history.read(event)
        self.dispatcher.record.history(event["agent"], history)

    def _on_accounts(self, event: Event) -> None:
        self.dispatcher.restore_accounts(event["accounts"], event["now"])

    def _on_task_opened(self, event: Event) -> None:
        parent = None if event["parent_id"] is None else self.tasks[event["parent_id"]]
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
        state = build_task_state(
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
            emit=self.hear,
        )
        self.tasks[event["id"]] = state
        endpoint = None if event["endpoint"] is None else self._endpoint(event)
        about = {"agent": event["agent"], "started": event["started"]}
        with suppress(ElasticError):  # a refusal, which has been written down
            self.dispatcher.open(
                state, event["now"], endpoint, event["close"], expect=event["expect"], **about
            )

    _on_task_refused = _on_task_opened

    def _on_task_closing(self, event: Event) -> None:
        self.dispatcher.dismiss(self.tasks[event["id"]], event["now"])

    def _on_task_closed(self, event: Event) -> None:
        self.dispatcher.close(self.tasks[event["id"]], event["now"], event["error"])

    def _on_expected(self, event: Event) -> None:
        self.dispatcher.expect(self.tasks[event["id"]], event["kinds"], event["now"])

    def _on_set_aside(self, event: Event) -> None:
        task, amount = self.tasks[event["id"]], Amount(*event["amount"])
        hold = set_aside(self.dispatcher, task, amount, event["now"])
        assert isinstance(hold, Hold)  # a run writes this event where there was room
        self.parts[hold.id] = hold

    def _on_part_settled(self, event: Event) -> None:
        task, hold = self.tasks[event["id"]], self.parts[event["hold"]]
        settle_part(self.dispatcher, task, hold, Amount(*event["actual"]), event["now"])

    def _on_pass(self, event: Event) -> None:
        self.dispatcher.run_pass_at(event["root"], event["account"], event["now"])

    def _on_asked(self, event: Event) -> None:
        endpoint, price, at = self._endpoint(event), event["price"], (event["id"], event["call"])
        request = build_request(
            self.tasks[event["id"]],
            CallSize(
                prompt=event["prompt"],
                fresh=event["fresh"],
                thinking=event["thinking"],
                solution=event["solution"],
                close=event["close"],
                probes=None if event["probes"] is None else Probes(*event["probes"]),
            ),
            ModelFacts(
                event["model"],
                self.curves[event["model"]],
                endpoint.latency,
                endpoint.usage_stats,
                None if price is None else Price(*price),
            ),
            CallTerms(**{name: event[name] for name in TERMS}),
            endpoint=endpoint if event["queued"] else None,
            enclosing_holds=frozenset(event["enclosing_holds"]),
            on_reduced=(lambda: None) if event["steerable"] else None,
            before=None if event["again"] is None else self.calls[at].request,
        )
        self.calls[at] = _Call(request)
        self.dispatcher.submit(request, event["now"])

    def _on_withdrawn(self, event: Event) -> None:
        self.dispatcher.withdraw(self._call(event).request, event["now"])

    def _on_limit_reached(self, event: Event) -> None:
        call = self._call(event)
        call.extension = self.dispatcher.extend(call.running, event["used"], event["now"])

    def _on_extension_dropped(self, event: Event) -> None:
        call = self._call(event)
        if call.extension is None:
            raise ValueError("it was not extended")
        self.dispatcher.drop_extension(call.running, call.extension, event["now"])

    def _on_settled(self, event: Event) -> None:
        running, now = self._call(event).running, event["now"]
        running.slot.progress = event["progress"]
        if event["outcome"] == "expired":
            self.dispatcher.expire(running, now)
            return
        used = event["used"]
        learn = {name: value for name, value in used.items() if not name.endswith("_end")}
        self.dispatcher.settle(
            running,
            None if event["actual"] is None else Amount(*event["actual"]),
            now,
            answered=event["answered"],
            used=used,
            learn=Usage(**learn) if learn and event["answered"] else None,
        )

    def _on_feedback(self, event: Event) -> None:
        self.dispatcher.record_feedback(self._call(event).running, event["correct"], event["now"])

    # Inside

    def _moved(self, progress: Mapping[str, int]) -> None:
        """Running calls, by their holds, have come so far."""
        for endpoint in self.endpoints.values():
            for hold in progress.keys() & endpoint.running.keys():
                endpoint.running[hold].slot.progress = progress[hold]

    def _endpoint(self, event: Event) -> Endpoint:
        if event["endpoint"] == FOREIGN:
            raise ReplayError(
                f"task {event['task']!r} has used a model of another scheduler, and the log holds nothing of "
                f"that: it can't be replayed"
            )
        return self.endpoints[event["endpoint"]]

    def _history(self, event: Event) -> History | None:
        agent = event["history"]
        if agent is None:
            return None
        if agent == FOREIGN:
            raise ReplayError(
                f"task {event['task']!r} goes by what another scheduler knows of its agent, and the log "
                f"holds nothing of that: it can't be replayed"
            )
        self.dispatcher.record.history(agent, self.histories[agent])
        return self.histories[agent]

    def _call(self, event: Event) -> _Call:
        return self.calls[event["id"], event["call"]]

    def _policy(self, event: Mapping[str, Any]) -> AllocationPolicy:
        name, parameters = event["class"], {key: value for key, value in event.items() if key != "class"}
        if name not in self.policies:
            raise ReplayError(
                f"the log has a policy of your own, {name}: pass policies={{{name!r}: {name}}} to replay it"
            )
        return self.policies[name](**parameters)


def _what(recorded: Any, replayed: Any, where: str = "") -> str:
    """The first difference of two decoded lines, in words."""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        for key in {**recorded, **replayed}:
            if recorded.get(key) != replayed.get(key) or (key in recorded) != (key in replayed):
                return _what(recorded.get(key), replayed.get(key), f"{where}.{key}" if where else key)
    return f"{where or 'the line'} is {recorded!r}, the replay has {replayed!r}"
