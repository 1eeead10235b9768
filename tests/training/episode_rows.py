"""Batches of episodes that no agent has made: random calls, as the columns that the trainer reads."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from elastic_agent.training.agents.sequences import row_of
from elastic_agent.training.rollouts.trl_columns import batch_of, episode_columns
from elastic_agent.usage import Usage

END = 9
"""What placeholders are made of."""


@dataclass
class Recorded:
    """A call as an episode records it; by default its last token is its solution."""

    prompt_ids: list[int]
    output_ids: list[int]
    sampled: list[bool]
    logprobs: list[float | None]
    usage: Usage = field(default_factory=lambda: Usage(solution=1))


def call(
    prompt: Sequence[int], output: Sequence[int], forced: Sequence[int] = (), number: int = 0
) -> Recorded:
    """A call; the positions in `forced` were not sampled. No two log-probs are alike."""
    sampled = [i not in forced for i in range(len(output))]
    logprobs = [-(number + i / 100) - 0.001 if s else None for i, s in enumerate(sampled)]
    return Recorded(list(prompt), list(output), sampled, logprobs)


def episode(seed: int, kind: int) -> list[Recorded]:
    """Calls of random ids. Kind 0 is one call; 1 is three as one sequence; 2 is three as two sequences, the
    first of them long; 3 sampled nothing."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(20, 160) for _ in range(draw.randint(low, high))]

    first = call(ids(3, 9), ids(4, 30 if kind == 2 else 8), forced=[2])
    if kind == 3:
        return [call(first.prompt_ids, first.output_ids, range(99))]
    if kind == 0:
        return [first]
    second = call([*first.prompt_ids, *first.output_ids, *ids(1, 4)], ids(2, 6), number=1)
    before = [*second.prompt_ids, *second.output_ids] if kind == 1 else []
    return [first, second, call([*before, *ids(2, 5)], ids(2, 6), forced=[0], number=2)]


def dealt(batch: int, row: int) -> list[Recorded]:
    """The episode in a row of a batch: four kinds in turn."""
    return episode(1000 * batch + row, row % 4)


def failing(row: int) -> bool:
    """The second row of the first group of four, and all of the third group."""
    return row == 1 or row // 4 == 2


def earned(row: int) -> float:
    return (row * 5 % 7) / 7


def rolled(prompts: list[Any], trainer: Any, *, logprobs: bool = False) -> dict[str, Any]:
    """A batch of `dealt` episodes as a ``rollout_func``; the same whatever the number of processes."""
    first = trainer.accelerator.process_index * len(prompts)
    numbers = range(first, first + len(prompts))
    episodes = [dealt(batch_of(trainer), n) for n in numbers]
    columns = episode_columns(
        [row_of(calls) for calls in episodes], [failing(n) for n in numbers], token=END, logprobs=logprobs
    )
    return columns | {
        "row": list(numbers),
        "calls": [len(calls) for calls in episodes],
        "refused": [n % 4 == 3 for n in numbers],
        "tokens": [sum(len(c.output_ids) for c in calls) for calls in episodes],
        "task_cap": [100 for _ in numbers],
        "seconds": [1.0 for _ in numbers],
        "resampled": [0.0 for _ in numbers],
        "episode_metrics": [{} for _ in numbers],
        "earned": [earned(n) for n in numbers],
        "thinking_limit": [None for _ in numbers],
        "thinking_tokens": [1 for _ in numbers],
        "solution_tokens": [1 for _ in numbers],
        "forced_tokens": [0 for _ in numbers],
        "cut": [False for _ in numbers],
        "finished": [True for _ in numbers],
    }


def earned_reward(**columns: Any) -> list[float]:
    """What the column says."""
    return list(columns["earned"])


@contextmanager
def rolling(rollouts: Callable[..., dict[str, Any]] = rolled) -> Iterator[None]:
    """Within, trainers that are made get these rollouts."""
    with patch("elastic_agent.training.run.make_rollouts", lambda *_: rollouts):
        yield
