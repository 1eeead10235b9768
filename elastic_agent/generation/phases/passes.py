"""The kinds of passes over a model: thinking, solution, or both in one; each says when it is over.

ThinkingPass   asks for thinking alone; the close, and then a SolutionPass, follow
SolutionPass   asks for the solution alone
CombinedPass   asks for thinking, close and solution of an engine that holds both limits itself
"""

from __future__ import annotations

from dataclasses import dataclass

from ...backends.base import Finish, Limits
from .phase import Phase
from .record import CallRecord
from .stop_reasons import SolutionEnd, ThinkingEnd


@dataclass(slots=True)
class Pass:
    """One pass.

    Attributes:
        max_tokens: how many tokens it asks for.
        stop_ids: tokens that end it.
        limits: both limits of the call, where the engine is to hold them.
        surplus: tokens that came after the solution's end.
    """

    max_tokens: int
    stop_ids: frozenset[int]
    limits: Limits | None = None
    surplus: int = 0

    def over(self, machine: CallRecord) -> bool:
        """Whether the rest of the pass is of no use."""
        raise NotImplementedError

    def ends_solution(self, finish: Finish, *, at_marker: bool) -> bool:
        """Whether a solution that this pass brought has ended with it.

        Args:
            at_marker: the pass's last token is a close or the start of a tool call.
        """
        return True


class ThinkingPass(Pass):
    """A pass for thinking."""

    def over(self, machine: CallRecord) -> bool:
        return machine.phase is not Phase.THINKING

    def ends_solution(self, finish: Finish, *, at_marker: bool) -> bool:
        """Only an end of text does: the pass had room for thinking, and stops at markers as well."""
        return finish == "stop" and not at_marker


class OpeningPass(ThinkingPass):
    """A pass for thinking that the model has to open itself; without a start marker it brings the
    solution."""

    def over(self, machine: CallRecord) -> bool:
        paused = machine.phase in (Phase.AT_LIMIT, Phase.AT_CHECKPOINT)
        ended = machine.phase in (Phase.CLOSING, Phase.DONE)
        return paused or ended or machine.thinking_end is ThinkingEnd.NATURAL


class SolutionPass(Pass):
    """A pass for the solution."""

    def over(self, machine: CallRecord) -> bool:
        return machine.phase is not Phase.SOLUTION


class CombinedPass(Pass):
    """A pass for both segments, whose limits the engine holds (`Limits`)."""

    def over(self, machine: CallRecord) -> bool:
        if machine.phase is Phase.DONE:
            # At its limit the engine ends the pass itself, with one token more. To break off before that
            # token would leave unknown how much was served.
            return machine.solution_end is not SolutionEnd.LENGTH or self.surplus > 1
        return machine.phase is Phase.CLOSING


def next_pass(call: CallRecord, checkpoint: int, *, one_pass: bool) -> Pass:
    """The pass that a call needs next.

    Args:
        checkpoint: thinking pauses when it has this many tokens.
        one_pass: the engine holds both limits.

    Raises:
        RuntimeError: the call's phase needs no pass.
    """
    markers, solution, used = call.markers, call.budget.solution, call.usage
    ends = markers.eos_ids
    if call.phase is Phase.SOLUTION:
        return SolutionPass(solution - used.solution, ends)
    if one_pass and call.phase is Phase.THINKING:
        limits = Limits(markers.close_ids[0], call.limit, min(ends), solution)
        return CombinedPass(call.limit + 1 + solution, ends, limits)
    stops = ends | markers.tool_ids
    if len(markers.close_ids) == 1:
        stops |= {markers.close_ids[0]}
    room = min(call.limit, checkpoint) - used.thinking
    if call.phase is Phase.THINKING:
        return ThinkingPass(room, stops)
    if call.phase is Phase.OPENING:
        return OpeningPass(room, stops)
    raise RuntimeError(f"no pass to run while {call.phase}")
