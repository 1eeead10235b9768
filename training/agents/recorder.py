"""Records the calls of an episode as they really were, and has their tokens drawn as the trainer needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.scheduler.runtime.call import TaskCall
from elastic_agent.usage import Usage

from ..budgets.distributions import call_seeds


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of the model in training.

    Attributes:
        prompt_ids: what the model read.
        output_ids: thinking, close and solution.
        sampled: for each output token whether the model drew it; a forced token was appended.
        logprobs: for each output token, where the engine gave one.
        solution_ids: the end of the output: behind the close.
        granted: the budget that the scheduler gave.
        kind: of the call.
        task: the name of the task that made the call: the episode's, or a sub-agent's.
        usage: its tokens by segment.
        thinking_end, solution_end: how the segments ended; None: the call was stopped before.
    """

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    logprobs: tuple[float | None, ...]
    solution_ids: tuple[int, ...]
    granted: Budget
    kind: str
    task: str
    usage: Usage
    thinking_end: ThinkingEnd | None
    solution_end: SolutionEnd | None

    @property
    def cut(self) -> bool:
        """Thinking was cut, and the close forced."""
        return self.usage.forced > 0

    @property
    def finished(self) -> bool:
        """The solution ended by itself."""
        return self.solution_end is SolutionEnd.EOS

    @property
    def stopped(self) -> bool:
        """The call was ended from outside, so its output is no sample of the policy."""
        return self.solution_end in (None, SolutionEnd.ABORTED)


class Recorder:
    """Watches the calls of one episode (`CallObserver`).

    Calls of other models than the one in training, such as a judge's, are neither recorded nor changed.

    Args:
        backend: the model in training.
        seed: of the episode; each call draws with a seed of its own that follows from this one.
        sampling: how tokens are drawn, whatever the agent asks for: the loss divides by the same temperature.

    Attributes:
        calls: what was recorded, in the order in which the calls began.
    """

    def __init__(self, backend: Backend, seed: int, sampling: Sampling) -> None:
        self._backend, self._seed, self._sampling = backend, seed, sampling
        self._order: dict[TaskCall, int] = {}
        self._done: dict[int, RecordedCall] = {}

    @property
    def calls(self) -> tuple[RecordedCall, ...]:
        return tuple(self._done[number] for number in sorted(self._done))

    @property
    def running(self) -> int:
        """Calls that were sent and have not ended."""
        return len(self._order)

    def sampling(self, call: TaskCall, sampling: Sampling) -> Sampling:
        """The trainer's sampling, with the call's own seed."""
        if call.backend is not self._backend:
            return sampling
        number = len(self._order) + len(self._done)
        self._order[call] = number
        [seed] = call_seeds(self._seed, calls=[number])
        return replace(self._sampling, seed=seed)

    def settled(self, call: TaskCall) -> None:
        """Keep what the call has come to."""
        number = self._order.pop(call, None)
        grant = call.grant
        if number is None or grant is None:
            return
        made = call.result()
        self._done[number] = RecordedCall(
            prompt_ids=made.prompt_ids,
            output_ids=made.output_ids,
            sampled=made.sampled,
            logprobs=made.logprobs,
            solution_ids=made.solution_ids,
            granted=grant.budget,
            kind=call.terms.kind,
            task=call.task.name,
            usage=made.usage,
            thinking_end=made.thinking_end,
            solution_end=made.solution_end,
        )
