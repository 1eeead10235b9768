"""Terms beside the right answer: format and length, and the small config that combines them.

    reward = length(correct) + format_weight * format

`correct` is the grader's score, 0 or 1. `format` is 1 for a finished completion with exactly one close whose
solution holds what is graded (a boxed answer, a closed code block). `length` leaves `correct` as it is, or:

    l1-exact   correct - alpha * |target - tokens|                       (L1, arXiv 2503.04697, equation 1)
    l1-max     correct * clip(alpha * (target - tokens) + delta, 0, 1)   (the same, equation 2)
    overlong   correct + 0 up to longest - cache, from there falling to -1 at longest   (DAPO, 2503.14476)

`tokens` are the tokens that the model sampled, thinking and solution; a forced close is not among them. L1's
target is the number that its prompt names: the column ``length_target`` of the data, else the config's.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from elastic_agent.errors import did_you_mean

from ..config.fields import Count, Section
from ..data.word_problems import parse_answer
from .answers import boxed
from .code import last_block
from .grades import Sample

GRADED = ("word-problems", "math", "code")
KINDS = (*GRADED, "episode")
Length = Literal["none", "l1-exact", "l1-max", "overlong"]


class RewardConfig(Section):
    """Which reward, and what is added to it. The defaults are the paper's: the right answer, nothing else."""

    kind: str = "word-problems"
    """Who grades: "word-problems", "math" by math-verify, "code" by unit tests; "episode" is the
    score that an agent's environment gives; or MODULE:FUNCTION, a TRL reward function of your own, which gets
    `solution_ids`, `finished` and the columns of the data."""
    column: str | None = None
    """Column of the data with the reference; by default "answer", and "tests" for code."""
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
    """Processes to grade with; by default one a core, 16 at most."""
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
        return self.column or ("tests" if self.kind == "code" else "answer")


def l1_exact(correct: float, tokens: int, target: int, alpha: float) -> float:
    return correct - alpha * abs(target - tokens)


def l1_max(correct: float, tokens: int, target: int, alpha: float, delta: float) -> float:
    return correct * min(1.0, max(0.0, alpha * (target - tokens) + delta))


def overlong(tokens: int, longest: int, cache: int) -> float:
    return min(0.0, max(-1.0, (longest - cache - tokens) / cache))


def shape_length(config: RewardConfig, correct: float, sample: Sample) -> float:
    """`correct` with the length term. Raises ValueError for L1 without a target."""
    tokens = sample.thinking_tokens + sample.solution_tokens
    if config.length == "none":
        return correct
    if config.length == "overlong":
        assert config.longest is not None
        assert config.cache is not None
        return correct + overlong(tokens, config.longest, config.cache)
    target = sample.length_target or config.length_target
    if target is None:
        raise ValueError(f"length: {config.length} needs `length_target`, in the config or as a column")
    if config.length == "l1-exact":
        return l1_exact(correct, tokens, target, config.alpha)
    return l1_max(correct, tokens, target, config.alpha, config.delta)


def well_formed(kind: str, sample: Sample) -> bool:
    """Exactly one close, a solution that ended by itself, and in it something to grade."""
    if not sample.finished or sample.closes != 1:
        return False
    if kind == "math":
        return bool(boxed(sample.solution))
    if kind == "code":
        return last_block(sample.solution) is not None
    return parse_answer(sample.solution) is not None
