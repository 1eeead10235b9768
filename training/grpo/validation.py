"""Validation during training: problems held out, answered at fixed budgets with the weights of the moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget
from elastic_agent.prompts.markers import Markers

from ..budgets.distributions import budget_name, call_seeds, check_context, mixture
from ..config.schema import TrainConfig
from ..data.training_set import Row
from ..rollouts.engines.engine import Batch, Engine
from ..rollouts.prompts import prompt_ids_of
from ..rollouts.rollout import Call
from ..rollouts.trl_columns import for_trl

_VALIDATION = 211  # part of a draw's seed: what is drawn


def hold_out(rows: Sequence[Row], problems: int) -> tuple[Sequence[Row], list[Row]]:
    """(rows to train on, the last problems that are held out); a problem held out is in no row of the first.

    Raises:
        ValueError: nothing would be left to train on.
    """
    held: dict[str, Row] = {}
    for row in reversed(rows):
        if len(held) == problems:
            break
        held.setdefault(str(row["prompt"]), row)
    left = [row for row in rows if str(row["prompt"]) not in held]
    if not left:
        raise ValueError(f"validation.problems: all {len(rows)} problems would be held out")
    return left, list(held.values())


@dataclass(frozen=True, slots=True)
class Validation:
    """What is asked, and how it is graded."""

    rows: Sequence[Row]
    prompts: Sequence[Sequence[int]]
    """Their ids."""
    budgets: Sequence[Budget]
    samples: int
    markers: Markers
    context: int
    sampling: Sampling
    seed: int
    reward: Callable[..., list[float]]

    def run(self, engine: Engine, trainer: Any) -> dict[str, float]:
        """Mean reward and mean tokens of thinking at each budget, over all processes.

        The draws are the same each time. Every process must call this: each answers its part.
        """
        from accelerate.utils import gather_object

        accelerator = trainer.accelerator
        asked = [
            (row, budget)
            for budget in range(len(self.budgets))
            for row in range(len(self.rows))
            for _ in range(self.samples)
        ]
        mine = range(accelerator.process_index, len(asked), accelerator.num_processes)
        numbers = list(mine) or [0]  # decoding may be collective
        calls: list[Call] = [(self.prompts[asked[n][0]], self.budgets[asked[n][1]]) for n in numbers]
        seeds = call_seeds(self.seed, _VALIDATION, calls=numbers)
        engine.sync_weights()
        done = engine.decode(trainer, Batch(calls, self.markers, self.context, self.sampling, seeds))
        engine.rest()
        limits = [budget.thinking for _, budget in calls]
        given = [(list(r.completion_ids), list(r.env_mask)) for r in done]
        rows = [self.rows[asked[n][0]] for n in numbers]
        rewards = self.reward(**columns_of(rows), **for_trl(done, limits, given))
        found = [
            (asked[n][1], reward, rollout.thinking_tokens)
            for n, reward, rollout in zip(numbers, rewards, done, strict=True)
            if n in mine
        ]
        return self._means(gather_object(found))

    def _means(self, found: Sequence[tuple[int, float, int]]) -> dict[str, float]:
        out: dict[str, float] = {}
        for number, budget in enumerate(self.budgets):
            here = [(reward, thinking) for at, reward, thinking in found if at == number]
            name = budget_name(budget.thinking)
            out[f"validation/{name}/reward"] = sum(reward for reward, _ in here) / len(here)
            out[f"validation/{name}/thinking"] = sum(thinking for _, thinking in here) / len(here)
        return out


def make_validation(
    config: TrainConfig,
    rows: Sequence[Row],
    tokenizer: Any,
    markers: Markers,
    solution: int,
    reward: Callable[..., list[float]],
) -> Validation:
    """The validation of a config on these problems.

    Args:
        solution: tokens of a solution, where the config doesn't say.

    Raises:
        InvalidBudgetError: a budget does not fit behind a prompt.
    """
    budgets = mixture(config.validation.budgets, config.validation.solution or solution)
    prompts = [prompt_ids_of(tokenizer, row["prompt"], config.named_markers) for row in rows]
    longest = max(prompts, key=len)
    close = markers.close_length(markers.opening(longest))
    where = "validation: the longest prompt"
    check_context(budgets, config.rollout.context, close=close, prompt=len(longest), longest=where)
    return Validation(
        rows=rows,
        prompts=prompts,
        budgets=budgets.parts,
        samples=config.validation.samples,
        markers=markers,
        context=config.rollout.context,
        sampling=Sampling(temperature=config.rollout.temperature, top_p=config.rollout.top_p),
        seed=config.seed,
        reward=reward,
    )


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The rows' data as TRL hands it to a reward; `prompts` for the conversation."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row.get(name) for row in rows] for name in names}
    found["prompts"] = found.pop("prompt")
    return found
