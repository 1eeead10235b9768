"""Rollouts to read: every so many batches, the first samples of the batch with what they earned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from itertools import groupby
from pathlib import Path
from typing import Any

from ..config.observe import SamplesConfig
from .phases import Phases

Decode = Callable[[Sequence[int]], str]
TEXTS = ("prompts", "completion_ids", "call_ids", "call_solutions", "first_prompt_ids")
"""Columns whose texts are written."""
VALUES = (
    *("thinking_limit", "thinking_tokens", "solution_tokens", "cut", "finished"),
    *("task_cap", "tokens", "seconds", "failed", "refused"),
)
"""Columns that are written as they are."""
TAIL = 100
"""Tokens of a call's prompt that are written, its last ones."""


class SampleTable:
    """`samples.jsonl`: a line a rollout; in an episode's line the calls stand apart.

    Args:
        path: the file.
        config: how often, and how many.
        decode: ids to text, special tokens kept.
    """

    def __init__(self, path: Path, config: SamplesConfig, decode: Decode) -> None:
        self.path, self._config, self._decode = path, config, decode

    def begin(self, step: int) -> None:
        """A run starts, or goes on after `step` batches: the lines behind are dropped."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if step and self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        if kept or self.path.exists():
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def due(self, step: int) -> bool:
        """Whether batch number `step`, from 1, has a table."""
        return bool(self._config.every) and step % self._config.every == 0

    def add(self, step: int, columns: Mapping[str, Any], rewards: Sequence[float | None]) -> None:
        """The rollouts of a batch, by the columns that a reward gets; those of one group stand together."""
        read = {name: columns[name] for name in (*TEXTS, *VALUES) if name in columns}
        lines = [
            self._line(step, {name: values[i] for name, values in read.items()}, rewards[i])
            for i in range(min(self._config.rows, len(rewards)))
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def _line(self, step: int, row: Mapping[str, Any], reward: float | None) -> str:
        completion = row["completion_ids"]
        texts: dict[str, Any]
        if "call_ids" in row:
            texts = {"episode": self._calls(row)}
        else:
            texts = self._segments(completion, row["solution_tokens"])
        kept = {name: row[name] for name in VALUES if name in row}
        line = {"step": step, "prompt": row["prompts"], **texts, "reward": reward, **kept}
        return json.dumps(line, ensure_ascii=False, default=str)

    def _calls(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        """The calls of an episode by their places in the row, each with the new part of its prompt."""
        calls: list[dict[str, str]] = []
        prompt = row["first_prompt_ids"]
        tokens = zip(row["call_ids"], row["completion_ids"], strict=True)
        for number, run in groupby(tokens, lambda at: at[0]):
            ids = [token for _, token in run]
            if number < 0:
                prompt = ids
                continue
            texts = self._segments(ids, row["call_solutions"][number])
            calls.append({"prompt": self._decode(prompt[-TAIL:]), **texts})
            prompt = []
        return calls

    def _segments(self, ids: Sequence[int], solution: int) -> dict[str, str]:
        """The texts of an output, whose last `solution` ids are its solution."""
        split = len(ids) - solution
        return {"thinking": self._decode(ids[:split]), "solution": self._decode(ids[split:])}


def observed(
    reward: Callable[..., Any], phases: Phases, table: SampleTable | None, updates: int
) -> Callable[..., Any]:
    """The reward function, timed, and its batches in the table where they are due.

    Args:
        table: None in all processes but the first.
        updates: optimizer updates a batch.
    """
    if iscoroutinefunction(reward):  # TRL runs those together, in a loop of its own
        return reward

    def call(**columns: Any) -> Any:
        with phases.phase("reward"):
            rewards = reward(**columns)
        state = columns.get("trainer_state")
        if table is not None and state is not None and table.due(step := state.global_step // updates + 1):
            table.add(step, columns, rewards)
        return rewards

    call.__name__ = reward.__name__
    return call
