"""The `reward` section of a training config; `elastic_agent.training.rewards.shape` applies its terms."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from elastic_agent.config_files import Count, Section
from elastic_agent.errors import did_you_mean

GRADED = ("word-problems", "math", "code", "gym")
KINDS = GRADED
Length = Literal["none", "l1-exact", "l1-max", "overlong"]


class RewardConfig(Section):
    """Which reward, and what is added to it. The defaults are the paper's: the right answer, nothing else."""

    kind: str = "word-problems"
    """Who grades: "word-problems", "math" by math-verify, "code" by unit tests, "gym" by reasoning-gym's
    scorers; or MODULE:FUNCTION, a TRL reward function of your own, which gets `solution_ids`, `finished` and
    the columns of the data. An agent returns its reward by itself."""
    column: str | None = None
    """Column of the data with the reference; by default "answer", and "tests" for code and gym."""
    format_weight: float = Field(default=0.0, ge=0.0)
    """Added for a well-formed completion. Keep it far below 1, or form is learnt before content."""
    length: Length = "none"
    """The length term, one of the four above."""
    alpha: float = Field(default=0.0003, ge=0.0)
    """L1's weight of a token."""
    delta: float = Field(default=0.5, ge=0.0, le=1.0)
    """L1-Max: what a right answer of exactly the target length earns."""
    length_target: Count | None = None
    """L1: tokens aimed at, where neither budgets.stated nor a column of the data of that name says it."""
    longest: Count | None = None
    """Overlong: tokens at which the penalty is whole."""
    cache: Count | None = None
    """Overlong: tokens before `longest` at which it begins."""
    workers: Count | None = None
    """Processes to grade with on one machine, which the processes of training there share; by default one a
    core, 16 at most."""
    failure_limit: int = Field(default=100, ge=0)
    """Failures of the grader (not wrong answers) in a run, each scored 0, before the run stops."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS and not all(kind.partition(":")):
            hint = did_you_mean(kind, KINDS)
            raise ValueError(f"no reward {kind!r}: {hint}there are {', '.join(KINDS)}, and MODULE:FUNCTION")
        return kind

    @model_validator(mode="after")
    def _terms_go_with_a_grader(self) -> Self:
        fields = type(self).model_fields
        changed = [n for n, f in fields.items() if n != "kind" and getattr(self, n) != f.default]
        if changed and not self.graded:
            raise ValueError(f"{', '.join(changed)}: goes with {', '.join(GRADED)}, not with {self.kind}")
        return self

    @model_validator(mode="after")
    def _overlong_has_its_numbers(self) -> Self:
        if self.length == "overlong":
            if self.longest is None or self.cache is None:
                raise ValueError("length: overlong needs `longest` and `cache` (DAPO: 20480 and 4096)")
            if self.cache > self.longest:
                raise ValueError(f"cache ({self.cache}) is more than longest ({self.longest})")
        return self

    @property
    def graded(self) -> bool:
        """A grader that ships; the terms are for these."""
        return self.kind in GRADED

    @property
    def columns(self) -> tuple[str, ...]:
        """What the data must have, as far as it is known."""
        return (self.reference_column,) if self.graded else ()

    @property
    def reference_column(self) -> str:
        return self.column or ("tests" if self.kind in ("code", "gym") else "answer")
