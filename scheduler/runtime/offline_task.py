"""One capped task whose calls come one after the other, granted as by the scheduler, without clock or model.

An `OfflineTask` is a dispatcher with one task, asked synchronously: account, forecast, reserve and policy are
those of a live task. Its caller makes the calls, and says what each has used. Training runs its episodes in
such a task, so that an agent learns under the grants that it will get later.

    task = OfflineTask(400)
    budget = task.grant(prompt=60, asked=Budget(None, 64), last=False)
    task.settle(usage)

There is one cap, in tokens, and no deadline: time and money of an offline rollout mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elastic_agent.budget import Budget, Caps
from elastic_agent.usage import Usage

from ..allocation.call_terms import CallSize, CallTerms, ModelFacts
from ..allocation.grant import Grant
from ..allocation.request import Running, build_request
from ..allocation.task_state import build_task_state
from ..dispatch.dispatcher import Dispatcher
from ..estimates.call_stats import UsageStats
from ..estimates.curve_files import load, load_file
from ..estimates.success_curve import CurveSet
from ..latency.model import Latency
from ..ledger.amounts import Amount
from ..ledger.inherited_caps import inherited_room
from ..policies import POLICIES
from ..policies.protocol import AllocationPolicy


class OfflineTask:
    """See the module.

    Args:
        tokens: the cap of the whole task: thinking, close and solution of all its calls.
        close: tokens of the model's close.
        policy: a policy, or the name of one in `POLICIES`.
        curves: success curves by kind, the file that holds them, or the name of an embedded model; a model
            without measured curves has the prior.
        kind: the kind of the calls, as their curve is called.
        expect: calls to come, by kind; {} lets the scheduler assume them, as for an agent that declares none.
        final_solution: solution tokens to keep for the final answer; None: those of the first call, up to a
            quarter of the cap.

    Raises:
        InvalidCapsError: the cap is no positive number of tokens.
        CapExceededError: it can't hold one answer.
        ValueError: there is no policy of that name.
    """

    def __init__(
        self,
        tokens: int,
        *,
        close: int = 1,
        policy: AllocationPolicy | str = "marginal",
        curves: CurveSet | Path | str = "",
        kind: str = "call",
        expect: Mapping[str, int] | None = None,
        final_solution: int | None = None,
    ) -> None:
        if isinstance(policy, str):
            if policy not in POLICIES:
                raise ValueError(f"there is no policy {policy!r}; there are {', '.join(POLICIES)}")
            if policy == "fixed":
                raise ValueError("the policy 'fixed' needs its limit: pass FixedCap(thinking)")
            policy = POLICIES[policy]()
        if isinstance(curves, str):
            curves = Path(curves) if curves.endswith(".json") else load(curves)
        self.curves = load_file(curves) if isinstance(curves, Path) else curves
        self.kind, self.close = kind, close
        self.dispatcher = Dispatcher()
        account = self.dispatcher.ledger.open("task", tokens=Caps(tokens=tokens).tokens, now=0.0)
        self._task = build_task_state("task", account, policy, final_solution=final_solution)
        self._task.forecast.expect(expect or {})
        self.dispatcher.open(self._task, 0.0, None, close)
        self._model = ModelFacts("", self.curves, Latency(), UsageStats())
        self._running: Running | None = None

    @property
    def left(self) -> int:
        """Tokens that can still be spent, the final answer's reserve included."""
        tokens = inherited_room(self._task.account, final=True).tokens
        assert tokens is not None  # the one account is capped in tokens
        return tokens

    @property
    def granted(self) -> Grant | None:
        """The grant of the call that runs, with its reason; None between calls."""
        return None if self._running is None else self._running.grant

    def grant(self, prompt: int, asked: Budget, last: bool = False) -> Budget:
        """The Budget of the next call, at most what it asks for; its worst case is held until `settle`.

        Args:
            prompt: its prompt, in tokens.
            asked: its own limits; `thinking` must be a number.
            last: no call can follow, so this one is the final answer and may use what is reserved for that.

        Raises:
            CapExceededError: what is left can't hold its answer.
            RuntimeError: the call before was not settled.
        """
        if self._running is not None:
            raise RuntimeError("the call before is still running: settle it first")
        if asked.thinking is None:
            raise ValueError("thinking must be a number here: call budget.bounded(room, close) first")
        size = CallSize(
            prompt=prompt,
            fresh=prompt,
            thinking=asked.thinking,
            solution=asked.solution,
            close=self.close,
        )
        request = build_request(self._task, size, self._model, CallTerms(self.kind, final=last))
        self.dispatcher.submit(request, 0.0)
        self.dispatcher.run_pass(self._task.account, 0.0)
        if isinstance(request.outcome, Exception):
            raise request.outcome
        assert request.outcome is not None  # a call waits for running calls alone, and none runs
        self._running = request.outcome
        return request.outcome.grant.budget

    def settle(self, usage: Usage) -> None:
        """Charge what the call used; the rest of its hold comes back.

        Raises:
            RuntimeError: no call is running.
        """
        if self._running is None:
            raise RuntimeError("no call is running")
        running, self._running = self._running, None
        self.dispatcher.settle(running, Amount(usage.generated), 0.0, learn=usage)
