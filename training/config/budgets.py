"""The `budgets` section of a training config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, model_validator

from elastic_agent.budget import Budget
from elastic_agent.errors import InvalidBudgetError
from elastic_agent.validation import field, integer

from ..budgets.distributions import Budgets, Granted, Mixture, Schedule, Spread, Wording, mixture
from .fields import Count, Natural, OneOrSeveral, Section, Share


def _tokens(value: object) -> object:
    """YAML has null for no limit; people also write none."""
    return None if isinstance(value, str) and value.strip().lower() in ("none", "inf") else value


Thinking = Annotated[Annotated[int, field(integer)] | None, BeforeValidator(_tokens)]


class Stage(Section):
    """One stage of a schedule of budgets."""

    steps: Count
    """Batches that this stage lasts; the last stage lasts to the end of the run."""
    thinking: Annotated[tuple[Thinking, ...], OneOrSeveral]
    """The t* of this stage, in equal parts; null is unlimited."""
    solution: Count
    """s* of this stage."""


class BudgetsConfig(Section):
    """Which budget each group of samples gets. t is constant within a group."""

    kind: Literal["mixture", "uniform", "log-uniform", "grants", "schedule"] = "mixture"
    """Mixture: the t* of `thinking` in equal parts (one entry: a fixed t*). Uniform and log-uniform: t*
    between `low` and `high`, drawn for each group. Grants: (t, s) as a scheduler granted them in `logs`.
    Schedule: one stage of `stages` after another."""
    thinking: Annotated[tuple[Thinking, ...], OneOrSeveral] = ()
    """mixture: the t*, in tokens. null is unlimited and holds the unconstrained accuracy; an entry given
    twice is twice as frequent. A single number may stand without brackets."""
    solution: Count | None = None
    """s*, in tokens, for every sample: needed by mixture, uniform and log-uniform. It need not be t*."""
    low: Natural | None = None
    """uniform, log-uniform: the smallest t*."""
    high: Natural | None = None
    """uniform, log-uniform: the largest t*."""
    unlimited: Share = 0.0
    """uniform, log-uniform, grants: share of the groups whose thinking is not limited."""
    logs: Annotated[tuple[str, ...], OneOrSeveral] = ()
    """grants: run logs (`run.jsonl`), or folders of them."""
    kinds: Annotated[tuple[str, ...], OneOrSeveral] = ()
    """grants: the kinds of calls to take; none named: all."""
    stated: Wording | None = None
    """Ask for t* in the prompt, in L1's words (arXiv 2503.04697), and cut nowhere: for reward.length. A
    response is to be t* + s* tokens long: exactly (l1-exact), or at most (l1-max)."""
    stages: tuple[Stage, ...] = ()
    """schedule: stages in order, each with steps, thinking and solution."""

    @model_validator(mode="after")
    def _complete(self) -> BudgetsConfig:
        used = {
            "mixture": {"thinking", "solution"},
            "uniform": {"low", "high", "solution"},
            "log-uniform": {"low", "high", "solution"},
            "grants": {"logs"},
            "schedule": {"stages"},
        }[self.kind]
        missing = [name for name in sorted(used) if getattr(self, name) in (None, ())]
        if missing:
            raise ValueError(f"kind {self.kind} needs {', '.join(missing)}")
        optional = {"mixture": set(), "grants": {"unlimited", "kinds"}, "schedule": set()}
        allowed = used | {"kind", "stated"} | optional.get(self.kind, {"unlimited"})
        surplus = sorted(self.model_fields_set - allowed)
        if surplus:
            raise ValueError(f"{', '.join(surplus)}: not used by kind {self.kind}")
        if self.kind != "grants":
            self.distribution(())  # says what is wrong with the numbers
        every = (*self.thinking, *(t for stage in self.stages for t in stage.thinking))
        if self.stated and (self.unlimited or None in every):
            raise ValueError("stated: a prompt can't ask for unlimited thinking; give each group a number")
        return self

    def distribution(self, grants: tuple[Budget, ...]) -> Budgets:
        """The distribution that this stands for; `grants` are what `logs` hold, read by the caller."""
        if self.kind == "grants":
            if self.stated and any(grant.thinking is None for grant in grants):
                raise InvalidBudgetError("budgets.stated: a prompt can't ask for unlimited grants")
            return Granted(grants, self.unlimited)
        if self.kind == "schedule":
            return Schedule(tuple((s.steps, mixture(s.thinking, s.solution)) for s in self.stages))
        assert self.solution is not None
        if self.kind == "mixture":
            return Mixture(tuple(Budget(t, self.solution) for t in self.thinking))
        assert self.low is not None
        assert self.high is not None
        return Spread(self.low, self.high, self.solution, self.kind == "log-uniform", self.unlimited)
