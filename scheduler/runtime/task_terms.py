"""The arguments of `BudgetScheduler.task`, `Task.task` and `task_budget`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, get_args

from elastic_agent.budget import Caps
from elastic_agent.errors import InvalidBudgetError, InvalidCapsError
from elastic_agent.prompts.told_budget import Tell, check_tell
from elastic_agent.validation import integer, one_of, real, shown

from ..allocation.call_terms import MOST_WORTH, OnExhausted
from ..estimates.workload import Forecast
from ..policies.protocol import AllocationPolicy
from ..runlog.events import Log
from .context import Uncounted, check_uncounted
from .observer import CallObserver

_numbers = count(1)


@dataclass(frozen=True)
class TaskTerms:
    """See the module.

    Attributes:
        caps: what the task may spend.
        name: for logs and reports.
        expect: calls to come, by kind, such as {"steps-3": 4, "final": 1}.
        parallel: kinds whose calls will run side by side; the others are planned one after the other when the
            task is admitted.
        key: the owner among whom models are shared fairly. None: the owner of the task around it, or the task
            itself.
        value: what the task's success is worth beside that of other tasks; where a `pool` is scarce, thinking
            goes by it. None: the value of the task around it, or 1.
        agent: the name of the agent, such as "researcher". A task that declares no calls is expected to go on
            like earlier tasks of this agent (`elastic_agent.scheduler.estimates.agent_history`).
        final_solution: solution tokens to keep for the final answer, from the opening on; None: those of the
            first call, up to a quarter of the token cap.
        on_exhausted: what calls do for which the caps have no room, see `OnExhausted`.
        uncounted: see `BudgetScheduler`; None: as the task around it, or the scheduler.
        policy: None: the policy of the task around it, or the scheduler's.
        log: where the task's events go, besides the scheduler's log.
        tell: whether the models of the task's calls are told what is left, see `BudgetScheduler`; None: as
            the task around it, or the scheduler.
        observer: watches the task's calls, and those of its sub-tasks; None: that of the task around it.

    Raises:
        InvalidCapsError, InvalidBudgetError, InvalidValueError, ValueError: one of them makes no sense.
    """

    caps: Caps
    name: str = ""
    expect: Mapping[str, int] = field(default_factory=dict)
    parallel: Iterable[str] = ()
    key: str | None = None
    value: float | None = None
    agent: str | None = None
    final_solution: int | None = None
    on_exhausted: OnExhausted = "shrink"
    uncounted: Uncounted | None = None
    policy: AllocationPolicy | None = None
    log: Log = None
    tell: Tell | None = None
    observer: CallObserver | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.caps, Caps):
            raise InvalidCapsError(f"a task takes Caps(usd=, seconds=, tokens=), not {shown(self.caps)}")
        one_of("on_exhausted", self.on_exhausted, get_args(OnExhausted))
        check_uncounted(self.uncounted)
        if self.tell is not None:
            check_tell(self.tell)
        if self.final_solution is not None:
            least = integer("final_solution", self.final_solution, least=1, error=InvalidBudgetError)
            self._set("final_solution", least)
        if self.value is not None:
            self._set("value", real("value", self.value, above=True, most=MOST_WORTH))
        self._set("name", self.name or f"{self.agent or 'task'}-{next(_numbers)}")
        Forecast().expect(self.expect or {})  # refuses counts that make no sense
        self._set("expect", dict(self.expect or {}))
        self._set("parallel", frozenset(self.parallel))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
