"""Everything that is known of one call: its tokens, its counts, how its segments ended."""

from __future__ import annotations

from collections.abc import Sequence

from ...budget import Budget
from ...prompts.markers import Markers
from ...usage import Usage
from .emitter import Emitter
from .marker_scan import MarkerScan
from .output import Output
from .pass_counts import PassCounts
from .phase import Phase
from .stop_reasons import CUT, SolutionEnd, ThinkingEnd


class CallRecord:
    """The readable state of a call; `TwoPhase` changes it.

    Attributes:
        phase: where the call stands.
        limit: the thinking limit, in tokens.
        thinking_end, solution_end: why the segments ended; None before they have.
        began_call: the model began a tool call while it thought.
    """

    phase: Phase

    def __init__(self, prompt_ids: Sequence[int], budget: Budget, markers: Markers) -> None:
        if budget.thinking is None:
            raise ValueError("thinking must be a number here: call budget.bounded(room, close) first")
        self.prompt_ids = tuple(prompt_ids)
        self.budget = budget
        self.markers = markers
        self._step = markers.wrap_up.step if markers.wrap_up is not None else 1
        self.limit = budget.thinking // self._step * self._step
        self.thinking_end: ThinkingEnd | None = None
        self.solution_end: SolutionEnd | None = None
        self.began_call = False
        self._output = Output()
        self._counts = PassCounts()
        self._scan = MarkerScan(markers)
        self._emitter = Emitter(markers)
        self._opened = True  # the thinking block: by the prompt or by the model
        self._forced = self._wrap_up = 0

    @property
    def done(self) -> bool:
        return self.phase is Phase.DONE

    @property
    def in_answer(self) -> list[bool]:
        """For each solution token, whether it belongs to the answer and not to reopened thinking."""
        return self._emitter.in_answer

    @property
    def output_ids(self) -> list[int]:
        """Every token of thinking, close and solution."""
        return self._output.ids

    @property
    def sampled(self) -> list[bool]:
        """For each output token, whether it was sampled and not forced."""
        return self._output.sampled

    @property
    def logprobs(self) -> list[float | None]:
        """For each output token, its log-prob; None where it was forced or the log-prob not asked for."""
        return self._output.logprobs

    @property
    def thinking_ids(self) -> tuple[int, ...]:
        return self._output.thinking_ids

    @property
    def close_ids(self) -> tuple[int, ...]:
        return self._output.close_ids

    @property
    def solution_ids(self) -> tuple[int, ...]:
        return self._output.solution_ids

    @property
    def thinking_text_ids(self) -> tuple[int, ...]:
        """Ids whose text is the thinking: `thinking_ids`, but for tokens that carry a part of a marker."""
        scan, thinking = self._scan, self.thinking_ids
        return (*scan.start_text_ids, *thinking[scan.start :], *scan.thinking_text_ids)

    @property
    def solution_text_ids(self) -> tuple[int, ...]:
        """Ids whose text is the answer: `solution_ids` without reopened thinking, and with what a token of
        the close says of the solution."""
        return (*self._scan.solution_text_ids, *self._emitter.answer_ids)

    @property
    def thinking_in_close(self) -> tuple[int, ...]:
        """Ids whose text is what the close's tokens say of the thinking."""
        return self._scan.thinking_text_ids

    @property
    def solution_in_close(self) -> tuple[int, ...]:
        """Ids whose text is what the close's tokens say of the solution."""
        return self._scan.solution_text_ids

    @property
    def forced_close(self) -> tuple[int, ...]:
        """What a forced close appends: the marker, and before it what is missing of the start marker.

        Where thinking is cut a wrap-up stands around the marker.
        """
        markers = self.markers
        close = self._cut_close if self.thinking_end in (None, *CUT) else markers.close_ids
        if self._opened:
            return close
        begun = self.thinking_ids
        for header in (markers.open_ids, markers.answer_ids):
            if begun and header[: len(begun)] == begun:
                rest = header[len(begun) :]
                return (*rest, *close) if header is markers.open_ids else rest
        return (*markers.open_ids, *close)

    @property
    def _cut_close(self) -> tuple[int, ...]:
        return self.markers.cut_close(thought=self.limit > 0 or self._output.thinking > 0)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        counts, out = self._counts, self._output
        return Usage(
            prompt=len(self.prompt_ids),
            thinking=out.thinking,
            close=out.close,
            forced=self._forced,
            solution=out.solution,
            discarded=counts.discarded,
            unknown=counts.unknown,
            input=counts.input,
            cached=counts.cached,
            passes=counts.passes,
            written=counts.written,
            prompt_cached=counts.prompt_cached,
            reopened=self._emitter.reopened,
            wrap_up=self._wrap_up,
        )
