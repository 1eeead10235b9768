"""Rewards. They read the solution alone: nothing that stands in the thinking can earn anything.

codeforces     Rating and percentile from pass results.
code           Unit tests in a sandbox.
functions      Any grader as a TRL reward function.
math           math-verify, for AIME, MATH500, GSM8K and the like.
shape          Format and length terms, added or multiplied.
word_problems  Word problems, e1-tiny's task.

The `reward` section of a config says which and how they combine; `make_reward_function` builds what TRL
calls.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .grades import Grade, Grader, RewardFailedError, Sample
from .word_problems import solution_reward

_HOME = {
    "CodeGrader": "elastic_agent.training.rewards.code",
    "CodeTests": "elastic_agent.training.rewards.code",
    "MathGrader": "elastic_agent.training.rewards.math",
    "RewardFunction": "elastic_agent.training.rewards.functions",
    "make_reward_function": "elastic_agent.training.rewards.functions",
}

__all__ = [
    "CodeGrader",
    "CodeTests",
    "Grade",
    "Grader",
    "MathGrader",
    "RewardFailedError",
    "RewardFunction",
    "Sample",
    "make_reward_function",
    "solution_reward",
]

if TYPE_CHECKING:
    from .code import CodeGrader, CodeTests
    from .functions import RewardFunction, make_reward_function
    from .math import MathGrader


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
