"""The `budgets` section of a training config: one class for each kind of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from elastic_agent.budget import Budget
from elastic_agent.config_files import Count, Natural, Section, Share
from elastic_agent.errors import InvalidBudgetError
from elastic_agent.validation import field, integer

from ..budgets.distributions import Budgets, Granted, Schedule, Spread, Wording, mixture
from .fields import OneOrSeveral


def _tokens(value: object) -> object:
    """YAML has null for no limit; people also write none."""
    return None if isinstance(value, str) and value.strip().lower() in ("none", "inf") else value


Thinking = Annotated[Annotated[int, field(integer)] | None, BeforeValidator(_tokens)]
Several = Annotated[tuple[Thinking, ...], OneOrSeveral, Field(min_length=1)]


class _Budgets(Section):
    """Which budget each group of samples gets. t is constant within a group."""

    stated: Wording | None = None
    """Ask for t* in the prompt, in L1's words (arXiv 2503.04697), and cut nowhere: for reward.length. A
    response is to be t* + s* tokens long: exactly (l1-exact), or at most (l1-max)."""

    def distribution(self) -> Budgets:
        """The distribution that this stands for."""
        raise NotImplementedError

    def may_be_unlimited(self) -> bool:
        """Whether the thinking of some groups has no limit."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self.distribution()  # says what is wrong with the numbers
        if self.stated and self.may_be_unlimited():
            raise ValueError("stated: a prompt can't ask for unlimited thinking; give each group a number")
        return self


class MixtureBudgets(_Budgets):
    """Some t* in equal parts."""

    kind: Literal["mixture"] = "mixture"
    """Mixture: the t* of `thinking` in equal parts (one entry: a fixed t*). Uniform and log-uniform: t*
    between `low` and `high`, drawn for each group. Grants: (t, s) as a scheduler granted them in `logs`.
    Schedule: one stage of `stages` after another."""
    thinking: Several
    """mixture: the t*, in tokens. null is unlimited and holds the unconstrained accuracy; an entry given
    twice is twice as frequent. A single number may stand without brackets."""
    solution: Count
    """mixture, uniform, log-uniform: s*, in tokens, for every sample. It need not be t*."""

    def distribution(self) -> Budgets:
        return mixture(self.thinking, self.solution)

    def may_be_unlimited(self) -> bool:
        return None in self.thinking


class SpreadBudgets(_Budgets):
    """t* anywhere between two numbers."""

    kind: Literal["uniform", "log-uniform"]
    low: Natural
    """uniform, log-uniform: the smallest t*."""
    high: Natural
    """uniform, log-uniform: the largest t*."""
    solution: Count
    unlimited: Share = 0.0
    """uniform, log-uniform, grants: share of the groups whose thinking is not limited."""

    def distribution(self) -> Budgets:
        return Spread(self.low, self.high, self.solution, self.kind == "log-uniform", self.unlimited)

    def may_be_unlimited(self) -> bool:
        return self.unlimited > 0


class GrantedBudgets(_Budgets):
    """What a scheduler granted."""

    kind: Literal["grants"]
    logs: Annotated[tuple[str, ...], OneOrSeveral, Field(min_length=1)]
    """grants: run logs (`run.jsonl`), or folders of them."""
    kinds: Annotated[tuple[str, ...], OneOrSeveral] = ()
    """grants: the kinds of calls to take; none named: all."""
    unlimited: Share = 0.0

    def distribution(self, grants: tuple[Budget, ...] | None = None) -> Budgets:
        """The distribution of `grants`, which the caller has read from `logs`; None: of a stand-in."""
        if self.stated and any(grant.thinking is None for grant in grants or ()):
            raise InvalidBudgetError("budgets.stated: a prompt can't ask for unlimited grants")
        return Granted((Budget(0, 1),) if grants is None else grants, self.unlimited)

    def may_be_unlimited(self) -> bool:
        return self.unlimited > 0


class Stage(Section):
    """One stage of a schedule of budgets."""

    steps: Count
    """Batches that this stage lasts; the last stage lasts to the end of the run."""
    thinking: Several
    """The t* of this stage, in equal parts; null is unlimited."""
    solution: Count
    """s* of this stage."""


class ScheduledBudgets(_Budgets):
    """One mixture after another."""

    kind: Literal["schedule"]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """schedule: stages in order, each with steps, thinking and solution."""

    def distribution(self) -> Budgets:
        return Schedule(tuple((s.steps, mixture(s.thinking, s.solution)) for s in self.stages))

    def may_be_unlimited(self) -> bool:
        return any(None in stage.thinking for stage in self.stages)


def _with_kind(value: object) -> object:
    """Without a kind, budgets are a mixture."""
    return {"kind": "mixture", **value} if isinstance(value, Mapping) else value


BudgetsConfig = Annotated[
    MixtureBudgets | SpreadBudgets | GrantedBudgets | ScheduledBudgets,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]
