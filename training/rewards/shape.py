"""Terms beside the right answer: format and length, as a config combines them.

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

from ..config.reward import RewardConfig
from ..data.word_problems import parse_answer
from .answers import boxed
from .code import last_block
from .grades import Sample


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
