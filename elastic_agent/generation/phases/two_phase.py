"""One call as a two-phase state machine, without IO, clock or text.

Rules (Elastic Reasoning, arXiv 2505.05315, section 3):

1. Thinking is at most `limit` sampled tokens. The limit starts as the Budget's and may be moved while the
   model thinks.
2. Thinking always ends in the close. A close that the model samples is natural. In every other case the
   machine forces the close: its tokens are spliced in by id, marked as not sampled, and carry no log-prob.
3. After the close come at most `solution` sampled tokens, the end-of-text token included.
4. An end-of-text token in thinking is stripped (counted as discarded) and the close is forced: the model
   still gets to answer.
5. When the prompt opens no thinking block, the model may open one itself. If its first tokens are not the
   start marker, the model is not thinking and these tokens are the solution (behind the model's header for
   an answer, where it has one).

             token              limit, cut, end of text          close()
    OPENING ------> THINKING --------------------------> CLOSING -------> SOLUTION ----> DONE
       |             |  ^  |  sampled close                 ^               ^  |  eos, stop string,
       |       limit |  |  +--------------------------------|---------------+  |  limit, deadline
       |             v  | set_limit                         |               |
       |            AT_LIMIT -------------------------------+               |
       |  not the start marker                 cut                          |
       +--------------------------------------------------------------------+

AT_LIMIT occurs only where the limit may be extended (`extendable`). In the same way thinking pauses at each
checkpoint (AT_CHECKPOINT, every `checkpoint_every` tokens), until `resume_thinking` or `cut`. Where the
engine holds both limits itself (`one_pass`), one pass brings thinking, close and solution. The engine's close
at the limit is forced all the same. If the engine goes on thinking beyond the limit, the machine discards the
rest and continues in two passes.

The driver (`elastic_agent.generation.call`, or `machine_runner` in training) asks `next_pass()` what to
request, feeds what comes back, and calls `pass_ended()` when the stream is over. `pass_over` says that the
rest of a running pass is of no use. Training reads `output_ids`, `sampled` and `logprobs`, which stay
aligned.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...backends.base import DEFAULT_SAMPLING, GREEDY, Finish, Sampling, TokenRequest
from ...budget import Budget
from ...prompts.markers import Markers, Opening
from .deltas import Delta, Segment
from .marker_scan import FoundClose, Start
from .passes import CombinedPass, Pass, next_pass
from .phase import Phase
from .record import CallRecord
from .stop_reasons import CUT, SolutionEnd, ThinkingEnd
from .tool_call_start import ToolStart


class TwoPhase(CallRecord):
    """The machine of one call.

    Args:
        prompt_ids: the prompt, generation prompt included.
        budget: the two limits; `thinking` must be a number (`Budget.bounded`).
        markers: the model's markers.
        opening: how thinking stands at the end of the prompt (`markers.opening(prompt_ids)`).
        extendable: thinking that reaches its limit waits for `set_limit` or `cut`.
        checkpoint_every: thinking pauses each time it has this many tokens more, below its limit; 0: never.
        one_pass: the engine holds both limits. Requires an open thinking block, a close of one token, and a
            limit of at least 1 that is never extended.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        budget: Budget,
        markers: Markers,
        opening: Opening,
        *,
        extendable: bool = False,
        checkpoint_every: int = 0,
        one_pass: bool = False,
    ) -> None:
        super().__init__(prompt_ids, budget, markers)
        self._tool_start = ToolStart(markers) if markers.tools is not None else None
        self._pass: Pass | None = None  # the latest
        self._pass_start = 0
        self._extendable, self._one_pass = extendable, one_pass
        self._checkpoint_every = self._checkpoint = checkpoint_every
        self._opened = opening is not Opening.SELF or not markers.open_ids
        if opening is Opening.CLOSED:
            self.thinking_end = ThinkingEnd.OFF
            self.phase = Phase.SOLUTION
        elif self.limit == 0:
            self._opened = opening is not Opening.SELF
            self.thinking_end = ThinkingEnd.BUDGET
            self.phase = Phase.CLOSING
        else:
            self.phase = Phase.THINKING if self._opened else Phase.OPENING

    # Passes: what the driver asks

    @property
    def pass_over(self) -> bool:
        """Whether the running pass has given what it can: the driver stops reading it."""
        return self._pass is None or self._pass.over(self)

    def next_pass(self, sampling: Sampling = DEFAULT_SAMPLING) -> TokenRequest:
        """The next request: the spliced ids, and how many tokens may follow."""
        checkpoint = self._checkpoint if self._checkpoint_every else self.limit
        running = self._pass = next_pass(self, checkpoint, one_pass=self._one_pass)
        self._pass_start = len(self._output.ids) + self._counts.discarded
        prompt = (*self.prompt_ids, *self._output.ids)
        self._counts.start(len(prompt))
        return TokenRequest(
            prompt_ids=prompt,
            max_tokens=running.max_tokens,
            stop_ids=running.stop_ids,
            sampling=sampling,
            limits=running.limits,
        )

    def start_probe(self, lead: Sequence[int], tokens: int) -> TokenRequest:
        """A request for the answer that there would be if thinking were cut here; `end_probe` follows."""
        prompt = (*self.prompt_ids, *self._output.ids, *self.forced_close, *lead)
        self._counts.start(len(prompt))
        return TokenRequest(prompt, tokens, self.markers.eos_ids, GREEDY)

    def end_probe(self, read: int, cached: int, request: TokenRequest) -> None:
        """Count a probe that is over; its tokens belong to no segment."""
        self._counts.discarded += read
        self._counts.cached += cached
        self.settle_pass(read, request)

    def settle_pass(self, read: int, request: TokenRequest) -> None:
        """Count what a finished pass served beyond the `read` tokens that were fed (`PassCounts.settle`)."""
        self._counts.settle(read, request)

    # What the driver feeds and decides

    def feed(
        self, ids: Sequence[int], logprobs: Sequence[float | None] | None = None, cached: int = 0
    ) -> list[Delta]:
        """Take sampled tokens of the running pass, in order; returns what became certain.

        Tokens that may be the beginning of the close are kept back until this is decided. Tokens past the end
        of a phase are discarded, and counted.
        """
        self._counts.add_cached(cached, len(self.prompt_ids))
        for i, token in enumerate(ids):
            if self.pass_over:
                self._counts.discarded += len(ids) - i
                break
            self._take(token, None if logprobs is None else logprobs[i])
        return self._emitter.drain()

    def pass_ended(self, finish: Finish) -> list[Delta]:
        """The running pass's stream is over, and the last feed did not end its phase."""
        assert self._pass is not None
        out = self._output
        brought = len(out.ids) + self._counts.discarded - self._pass_start
        if self.phase in (Phase.OPENING, Phase.THINKING):
            if not brought:
                self._end_thinking(ThinkingEnd.END_OF_TEXT if out.thinking else ThinkingEnd.EMPTY)
            elif finish == "stop":
                self._end_thinking(ThinkingEnd.END_OF_TEXT)
            elif out.thinking >= self.limit or brought < self._pass.max_tokens:
                # An upstream with a limit of its own may end a pass early. The machine doesn't ask again:
                # each pass reads the whole prompt, and the budget is for two passes.
                self._end_thinking(ThinkingEnd.BUDGET)
        elif self.phase is Phase.SOLUTION:
            last, close = out.ids[-1:], self.markers.close_ids
            at_marker = tuple(last) == close or not self.markers.tool_ids.isdisjoint(last)
            if not brought or self._pass.ends_solution(finish, at_marker=at_marker):
                self._end_solution(SolutionEnd.EOS if finish == "stop" else SolutionEnd.LENGTH)
        return self._emitter.drain()

    def set_limit(self, limit: int) -> list[Delta]:
        """Move the thinking limit, down or up; a limit below what is used preempts.

        A limit above what the running pass asked for costs one more pass, with its input. A limit that the
        engine holds can't be extended.
        """
        if self.thinking_end is not None:
            return []
        limit = limit // self._step * self._step
        if isinstance(self._pass, CombinedPass):
            limit = min(limit, self.limit)
        self.limit = max(0, limit)
        if self._output.thinking >= self.limit:
            return self.cut(ThinkingEnd.PREEMPTED)
        if self.phase is Phase.AT_LIMIT:
            self.resume_thinking()
        return []

    def cut(self, reason: ThinkingEnd) -> list[Delta]:
        """End thinking now; does nothing when thinking has ended already."""
        if self.phase in (Phase.OPENING, Phase.THINKING, Phase.AT_LIMIT, Phase.AT_CHECKPOINT):
            self._end_thinking(reason)
        return self._emitter.drain()

    def resume_thinking(self) -> None:
        """Think on, past the checkpoint or an extended limit, to the next checkpoint."""
        while self._checkpoint_every and self._checkpoint <= self._output.thinking:
            self._checkpoint += self._checkpoint_every
        self.phase = Phase.THINKING

    def close(self) -> Delta:
        """Force the close: splice its ids in."""
        if self.phase is not Phase.CLOSING:
            raise RuntimeError(f"nothing to close while {self.phase}")
        ids = self.forced_close
        self._output.add_forced(ids)
        self._output.close = self._forced = len(ids)
        if self.thinking_end in CUT:
            self._wrap_up = len(self._cut_close) - len(self.markers.close_ids)
        self.phase = Phase.SOLUTION
        self._emitter.skip(len(self._output.ids))
        return Delta(Segment.CLOSE, ids, forced=True)

    def end_solution(self, reason: SolutionEnd) -> list[Delta]:
        """End the solution from outside: at a stop string (which only text shows), or at the deadline.

        The token that reaches the limit may also complete a stop string: the reason is then the stop string.
        """
        stopped_at_limit = reason is SolutionEnd.STOP and self.solution_end is SolutionEnd.LENGTH
        if self.phase is Phase.SOLUTION or stopped_at_limit:
            self._end_solution(reason)
        return self._emitter.drain()

    def abort(self) -> None:
        """The call was cancelled or failed; what is known stays counted."""
        if self.done:
            return
        if self.thinking_end is None:
            self.thinking_end = ThinkingEnd.ABORTED
        self._end_solution(SolutionEnd.ABORTED)
        self._emitter.drain()

    # Inside: one token

    def _take(self, token: int, logprob: float | None) -> None:
        assert self._pass is not None
        if self.done:
            self._counts.discarded += 1
            self._pass.surplus += 1
            return
        thinks, out = self.phase in (Phase.OPENING, Phase.THINKING), self._output
        if thinks and isinstance(self._pass, CombinedPass) and out.thinking == self.limit:
            self._take_engine_close(token)
            return
        half_opened = self.phase is Phase.OPENING and out.thinking > 0
        if thinks and token in self.markers.eos_ids and not half_opened:
            self._counts.discarded += 1
            self._end_thinking(ThinkingEnd.END_OF_TEXT if out.thinking else ThinkingEnd.EMPTY)
            return
        out.add_sampled(token, logprob)
        if not thinks:
            self._emitter.take_solution(token)
            self._check_solution(token)
            return
        out.thinking += 1
        if self.phase is Phase.OPENING:
            self._take_opening()
        else:
            self._take_thinking(token)

    def _take_engine_close(self, token: int) -> None:
        """Thinking is at its limit in a combined pass: the engine's close is due."""
        self._end_thinking(ThinkingEnd.BUDGET)
        if (token,) == self.markers.close_ids:
            self._emitter.add(self.close())
            self._counts.written = self._output.close
        else:
            self._counts.discarded += 1

    def _take_opening(self) -> None:
        """A token of what may be a start marker has come."""
        out = self._output
        match self._scan.read_start(out.ids):
            case Start.THINKING:
                self._opened = True
                self.phase = Phase.THINKING
                self._look_for_close()
            case Start.ANSWER_HEADER:
                out.thinking, out.close = 0, len(out.ids)
                self.thinking_end = ThinkingEnd.NEVER_OPENED
                self.phase = Phase.SOLUTION
                self._emit(Segment.CLOSE, out.close)
            case Start.ANSWER:
                out.thinking = 0
                self.thinking_end = ThinkingEnd.NEVER_OPENED
                self._begin_solution()
            case Start.UNDECIDED if out.thinking >= self.limit:
                self._end_thinking(ThinkingEnd.BUDGET)

    def _take_thinking(self, token: int) -> None:
        """A token of the thinking has come."""
        self._scan.add(token)
        if self._tool_start is not None and self._tool_start.take(token):
            self._end_thinking(ThinkingEnd.TOOL_CALL)
        else:
            self._look_for_close()

    def _look_for_close(self) -> None:
        found = self._scan.find_close(self._output.ids)
        if found is None:
            self._think_on()
        else:
            self._close_naturally(found)

    def _close_naturally(self, found: FoundClose) -> None:
        """The model has closed its thinking; tokens after the close are its solution's."""
        self._output.thinking, self._output.close = found
        self._emit(Segment.THINKING, found.thinking)
        self._emitter.emit_text(Segment.THINKING, self._scan.thinking_text_ids)
        self._emit(Segment.CLOSE, found.thinking + found.close)
        self._emitter.emit_text(Segment.SOLUTION, self._scan.solution_text_ids)
        self.thinking_end = ThinkingEnd.NATURAL
        self._begin_solution()

    def _think_on(self) -> None:
        """No close yet: pause or end at a limit, and give out what is certainly thinking."""
        thinking = self._output.thinking
        if thinking >= self.limit and self._extendable:
            self.phase = Phase.AT_LIMIT
        elif thinking >= self.limit and not isinstance(self._pass, CombinedPass):
            self._end_thinking(ThinkingEnd.BUDGET)
            return
        elif self._checkpoint_every and thinking >= self._checkpoint:
            self.phase = Phase.AT_CHECKPOINT
        tool_start = self._tool_start.tokens if self._tool_start is not None else 0
        self._emit(Segment.THINKING, thinking - max(self._scan.pending, tool_start))

    # Inside: the ends of the segments

    def _end_thinking(self, reason: ThinkingEnd) -> None:
        out = self._output
        if self._tool_start is not None and self._tool_start.begun:
            # The tokens of a tool call that was begun are dropped, like an end of text: the model can begin
            # its call anew in the solution
            count, self.began_call = min(self._tool_start.tokens, out.thinking), True
            self._counts.discarded += out.truncate(len(out.ids) - count)
            out.thinking -= count
        if not self._opened:
            self._scan.start = out.thinking  # no more than the beginning of the start marker
        self._emit(Segment.THINKING, out.thinking)
        self.thinking_end = reason
        self.phase = Phase.CLOSING

    def _begin_solution(self) -> None:
        """Sampled tokens after the close already are the solution, as far as its limit goes."""
        out = self._output
        self.phase = Phase.SOLUTION
        begin = out.thinking + out.close
        self._counts.discarded += out.truncate(begin + self.budget.solution)
        for token in out.ids[begin:]:
            self._emitter.take_solution(token)
        if out.solution:
            self._check_solution(out.ids[-1])

    def _check_solution(self, token: int) -> None:
        if token in self.markers.eos_ids:
            self._end_solution(SolutionEnd.EOS)
        elif self._output.solution >= self.budget.solution:
            self._end_solution(SolutionEnd.LENGTH)

    def _end_solution(self, reason: SolutionEnd) -> None:
        reopened = self._emitter.end_solution()
        self.solution_end = SolutionEnd.REOPENED if reopened and reason is SolutionEnd.EOS else reason
        self.phase = Phase.DONE

    def _emit(self, segment: Segment, upto: int) -> None:
        """Give out the tokens up to `upto`; a sampled start marker's with its own text."""
        ids, scan = self._output.ids, self._scan
        if scan.start <= upto:
            self._emitter.emit_start(segment, ids[: scan.start], scan.start_text_ids)
        self._emitter.emit(segment, ids, upto)
