"""Anytime rewards: one thinking, answered at several cuts (after AnytimeReasoner, arXiv 2505.13438).

Each sample thinks once, up to the largest of its m cuts. At every cut the thinking so far is closed, just as
a live call with that budget would close it, and k solutions are sampled. TRL sees a row for every solution:
m x k rows a sample, shortest cut first. A row's mask covers the thinking since the previous cut and the row's
own solution, so every sampled token is in the loss once:

    thinking   z z z z z z z z z        cuts at 3, 6 and 9
    row 1      T T T c S S              T, S: in the loss; c: the forced close
    row 2      . . . T T T c S S        .: thinking that an earlier row trains
    row 3      . . . . . . T T T c S S

Which rewards a token is credited with is in `elastic_agent.training.grpo.advantages`.

Cuts come from the `budgets` of the config: a group gets one cut from each of m equal slices of the
distribution, and its samples share the cuts. So the distribution is the prior over budgets, and a mixture of
m is m fixed cuts. A thinking that closed by itself before a cut gets a new answer at the cut. A thinking that
never opened is answered as with t=0. An engine gets two batches of ordinary calls: first the thinking, then
the answers, whose prompts hold the closed thinking. An engine with a prefix cache does not compute the
thinking again; the engine "transformers" does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.markers import Markers, Opening

from ..budgets.distributions import Budgets, by_thinking, call_seeds, deal, seeded
from ..config.schema import AnytimeConfig
from ..rollouts.engines.engine import Batch, Decode
from ..rollouts.engines.in_process import decode_in_process
from ..rollouts.prompts import codec_of, prompt_ids_of
from ..rollouts.rollout import Rollout, machine_for, rollout_of
from ..rollouts.trl_columns import RolloutFunc, batch_of, for_trl


@dataclass(frozen=True, slots=True)
class _Slice:
    """One of some equal slices of a distribution."""

    whole: Budgets
    number: int
    slices: int

    def at(self, share: float, batch: int) -> Budget:
        return self.whole.at(min((self.number + share) / self.slices, math.nextafter(1.0, 0.0)), batch)

    def largest(self) -> tuple[int | None, int]:
        return self.whole.largest()


def deal_cuts(budgets: Budgets, groups: int, cuts: int, *, seed: int, batch: int) -> list[tuple[Budget, ...]]:
    """The cuts of each group of a batch, shortest first; they follow from (seed, batch) alone."""
    slices = [_Slice(budgets, i, cuts) for i in range(cuts)]
    dealt = [deal(part, groups, seed=seeded(seed, i), batch=batch) for i, part in enumerate(slices)]
    return [tuple(sorted(cut, key=by_thinking)) for cut in zip(*dealt, strict=True)]


def closed_at(thought: Rollout, budget: Budget, markers: Markers, context: int) -> TwoPhase:
    """The machine of a live call with this budget, after the thinking of `thought`, before its solution.

    Args:
        thought: a sample whose budget had at least as much thinking.
        context: most tokens of a sample, which bound unlimited thinking.
    """
    machine = machine_for(thought.prompt_ids, budget, markers, context)
    if machine.phase in (Phase.OPENING, Phase.THINKING):
        n = sampled_thinking(thought)
        machine.next_pass()
        machine.feed(thought.completion_ids[:n], thought.logprobs[:n])
        machine.cut(ThinkingEnd.END_OF_TEXT)  # it ended before this cut, and not by a close of its own
    if machine.phase is Phase.CLOSING:
        machine.close()
    return machine


def sampled_thinking(rollout: Rollout) -> int:
    """Tokens of the thinking that were sampled, the close included where the model closed by itself."""
    return sum(rollout.env_mask[: len(rollout.completion_ids) - len(rollout.solution_ids)])


def answered(machine: TwoPhase, answer: Rollout) -> Rollout:
    """A closed machine with the solution that was sampled for it."""
    machine.next_pass()
    machine.feed(answer.solution_ids, answer.logprobs)
    if not machine.done:
        machine.pass_ended("length")
    return rollout_of(machine)


def masks_of(rows: Sequence[Rollout]) -> list[list[int]]:
    """Loss masks for the rows of one sample, shortest cut first: each sampled token counts in one row."""
    masks, trained = [], 0
    for row in rows:
        masks.append([0] * trained + list(row.env_mask[trained:]))
        trained = max(trained, sampled_thinking(row))
    return masks


def make_anytime_rollout_func(
    tokenizer: Any,
    *,
    anytime: AnytimeConfig,
    budgets: Budgets,
    context: int,
    sampling: Sampling,
    seed: int,
    engine: Decode = decode_in_process,
    markers: MarkerText | None = None,
    wrap_up: str | None = None,
) -> RolloutFunc:
    """The ``rollout_func`` for TRL under anytime rewards; like that of `make_rollout_func`, without a memory.

    TRL's group (``trainer.num_generations``) is samples x cuts x solutions; a process holds whole samples.
    """
    marks = markers_for(codec_of(tokenizer, markers), wrap_up=wrap_up)

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        batch, process = batch_of(trainer), trainer.accelerator.process_index
        asked = [prompt_ids_of(tokenizer, prompt, markers) for prompt in prompts[:: anytime.rows]]
        group, first = trainer.num_generations // anytime.rows, process * len(asked)
        groups = len(asked) * trainer.accelerator.num_processes // group
        dealt = deal_cuts(budgets, groups, anytime.cuts, seed=seed, batch=batch)
        cuts = [dealt[(first + i) // group] for i in range(len(asked))]

        longest = [(ids, sample[-1]) for ids, sample in zip(asked, cuts, strict=True)]
        draws = call_seeds(seed, batch, 1, calls=range(first, first + len(asked)))
        thoughts = engine(trainer, Batch(longest, marks, context, sampling, draws))
        # A sample's rows: each of its cuts, `solutions` times. The last of them has its solution already
        limits = [[cut for cut in sample for _ in range(anytime.solutions)] for sample in cuts]
        closed = [
            [closed_at(thought, cut, marks, context) for cut in sample[:-1]]
            for thought, sample in zip(thoughts, limits, strict=True)
        ]
        calls = [
            ((*machine.prompt_ids, *machine.output_ids), replace(machine.budget, thinking=0))
            for sample in closed
            for machine in sample
        ]
        # A call keeps room for a close, and here it stands already
        room = context + marks.close_length(Opening.PREFILLED)
        start = process * len(calls)
        draws = call_seeds(seed, batch, 2, calls=range(start, start + len(calls)))
        answers = iter(engine(trainer, Batch(calls, marks, room, sampling, draws)))
        rows = [
            [*(answered(machine, next(answers)) for machine in sample), thought]
            for thought, sample in zip(thoughts, closed, strict=True)
        ]
        done = [row for sample in rows for row in sample]
        masks = [mask for sample in rows for mask in masks_of(sample)]
        given = [(list(row.completion_ids), mask) for row, mask in zip(done, masks, strict=True)]
        return for_trl(done, [cut.thinking for sample in limits for cut in sample], given)

    return rollout
