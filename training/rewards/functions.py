"""Graders as TRL reward functions: they read the rollout's columns, count failures, shape and log.

    decode = partial(tokenizer.decode, skip_special_tokens=True)   # else a code fence ends in "<|im_end|>"
    reward = make_reward_function(RewardConfig(kind="math"), decode, close_ids=markers.close_ids)
    GRPOTrainer(..., reward_funcs=[reward], rollout_func=make_rollout_func(...))

TRL's own ``completions`` are not used: they are decoded with special tokens skipped, so thinking and solution
run together. A sample that the grader fails on scores 0, is logged by name, and counts towards a limit for
the run; a wrong answer is not a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from statistics import fmean
from typing import Any

from elastic_agent.errors import ConfigError

from ..config.fields import imported
from ..config.reward import RewardConfig
from .grades import Grade, Grader, RewardFailedError, Sample, default_workers, grade_finished, log
from .shape import shape_length, well_formed
from .word_problems import WordProblemGrader

Decode = Callable[[Sequence[int]], str]
ROLLOUT_COLUMNS = (
    "solution_ids",
    "finished",
    "thinking_tokens",
    "solution_tokens",
    "completion_ids",
    "length_target",
)
NOT_DATA = (
    *ROLLOUT_COLUMNS,
    "prompts",
    "completions",
    "logprobs",
    "env_mask",
)  # `completions` holds the thinking


class RewardFunction:
    """One grader, with its shaping, in TRL's signature. TRL logs it under the grader's name."""

    def __init__(
        self,
        grader: Grader,
        decode: Decode,
        config: RewardConfig,
        close_ids: Sequence[int] = (),
        close_text: str = "",
    ) -> None:
        self.grader, self.decode, self.config, self.close_ids = grader, decode, config, tuple(close_ids)
        self.close_text = close_text
        self.__name__ = f"{grader.name}_reward"
        self.failures = 0
        """Samples that could not be graded, in this run."""

    def __call__(
        self,
        *,
        solution_ids: Sequence[Sequence[int]],
        finished: Sequence[bool],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """A reward for each sample. Raises RewardFailedError past the limit, KeyError without references."""
        samples = self._samples(solution_ids, finished, columns)
        grades = self._grade(samples)
        formats = [well_formed(self.config.kind, sample) for sample in samples]
        shaped = [shape_length(self.config, g.score, s) for g, s in zip(grades, samples, strict=True)]
        if log_metric is not None and samples:
            log_metric(f"{self.grader.name}/correct", fmean(grade.score for grade in grades))
            log_metric(f"{self.grader.name}/well_formed", fmean(formats))
            log_metric(
                f"{self.grader.name}/length_term",
                fmean(s - g.score for s, g in zip(shaped, grades, strict=True)),
            )
            log_metric(f"{self.grader.name}/failures", float(self.failures))
        weight = self.config.format_weight
        return [reward + weight * good for reward, good in zip(shaped, formats, strict=True)]

    def close(self) -> None:
        """End the grader's processes."""
        self.grader.close()

    def _samples(
        self, solution_ids: Sequence[Sequence[int]], finished: Sequence[bool], columns: dict[str, Any]
    ) -> list[Sample]:
        name = self.config.reference_column
        if name not in columns:
            raise KeyError(f"the data has no column {name!r}, which the {self.grader.name} reward reads")
        count = len(solution_ids)
        lists = {
            key: column
            for key, column in columns.items()
            if isinstance(column, Sequence) and not isinstance(column, str) and len(column) == count
        }
        none = [None] * count
        completions = lists.get("completion_ids", none)
        others = lists.get("alternatives", none)
        return [
            Sample(
                solution=self.decode(ids),
                answer=[columns[name][i], *others[i]] if others[i] else columns[name][i],
                finished=bool(finished[i]),
                thinking_tokens=lists.get("thinking_tokens", none)[i] or 0,
                solution_tokens=lists.get("solution_tokens", none)[i] or len(ids),
                closes=self._closes(completions[i], ids),
                length_target=lists.get("length_target", none)[i],
                columns={key: column[i] for key, column in lists.items() if key not in NOT_DATA},
            )
            for i, ids in enumerate(solution_ids)
        ]

    def _closes(self, completion: Sequence[int] | None, solution: Sequence[int]) -> int:
        """Markers in a completion. Without it: those in the solution, and the one that stands before it."""
        marker, width = list(self.close_ids), len(self.close_ids)
        if not width:
            return 1
        ids = list(solution if completion is None else completion)
        if self.close_text:  # no tokens of its own: its tokens may be merged with what stands around them
            return self.decode(ids).count(self.close_text) + (completion is None)
        found = sum(ids[at : at + width] == marker for at in range(len(ids) - width + 1))
        return found + (completion is None)

    def _grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """Grades in order; the grader's failures are counted."""
        grades = grade_finished(self.grader, samples)
        for i, grade in enumerate(grades):
            if grade.failure:
                self._failed(i, grade.failure)
        return grades

    def _failed(self, index: int, why: str) -> None:
        self.failures += 1
        log.warning(
            "reward %s failed on sample %d of this batch (%d of at most %d in this run): %s",
            self.grader.name,
            index,
            self.failures,
            self.config.failure_limit,
            why,
        )
        if self.failures > self.config.failure_limit:
            raise RewardFailedError(
                f"the {self.grader.name} reward failed on {self.failures} samples, and failure_limit is "
                f"{self.config.failure_limit}; the last failure: {why}"
            )


def make_grader(kind: str, workers: int | None = None) -> Grader:
    """The grader of a kind of problem, for training and evaluation: "word-problems", "math", "code" or "gym".

    Args:
        workers: processes to grade with; None: one a core, 16 at most.

    Raises:
        ValueError: math without math-verify.
        SandboxUnavailable: code on a machine that can't contain it.
    """
    if kind == "math":
        if find_spec("math_verify") is None:
            raise ValueError("grading math needs math-verify: pip install 'elastic-agent[train]'")
        from .math import MathGrader

        return MathGrader(workers=workers)
    if kind == "code":
        from .code import CodeGrader

        return CodeGrader(workers=workers)
    if kind == "gym":
        from .gym import GymGrader

        return GymGrader()
    return WordProblemGrader()


def make_reward_function(
    config: RewardConfig, decode: Decode, *, close_ids: Sequence[int] = (), close_text: str = ""
) -> RewardFunction | Callable[..., list[float]]:
    """What TRL is given. `close_ids` is the end-of-thinking marker, which the format term counts;
    `close_text` where it has no tokens of its own.

    Raises:
        ConfigError: a function of the user's own can't be imported.
    """
    if config.graded:
        grader = make_grader(config.kind, default_workers(config.workers))
        return RewardFunction(grader, decode, config, close_ids, close_text)
    found = imported(config.kind, "reward.kind")
    if not callable(found):
        raise ConfigError(f"reward.kind: {config.kind} is no function but a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def episode_reward(*, episode_score: Sequence[float | None], **_: Any) -> list[float]:
    """What each agent returned. A failed episode has no score: the trainer leaves it out by its column."""
    return [score or 0.0 for score in episode_score]
