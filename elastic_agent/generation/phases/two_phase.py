"""One call as a two-phase state machine, without IO, clock or text.

Rules (Elastic Reasoning, arXiv 2505.05315, section 3; the laws are DESIGN.md's):

1. Thinking is at most `limit` sampled tokens. The limit starts as the Budget's and may be moved while the
   model thinks.
2. Thinking always ends in the close. Sampled by the model it is natural; in every other case the machine
   forces it: its tokens are spliced in by id, marked as not sampled, and carry no log-prob.
3. After the close come at most `solution` sampled tokens, the end-of-text token included.
4. An end-of-text token while thinking is stripped (counted as discarded) and the close is forced: the
   model still gets to answer.
5. When the prompt opens no thinking block, the model may open one itself. If its first tokens are not the
   start marker it is not thinking: those tokens are the solution (behind the model's header for an answer,
   where it has one).
6. Markers of control tokens are found by id. Markers that are text (`Markers.in_text`) are found in the bytes
   of the tokens, since a tokenizer merges across their borders (`.</` `think` `>\n`). Ids stay as they were
   sampled: every token that carries a part of the close belongs to the close. What else such a token says
   is told as text (`Delta.shown`, `thinking_shown`, `solution_shown`).

             token              limit, cut, end of text          close()
    OPENING ------> THINKING --------------------------> CLOSING -------> SOLUTION ----> DONE
       |             |  ^  |  sampled close                 ^               ^  |  eos, stop string,
       |       limit |  |  +--------------------------------|---------------+  |  limit, deadline
       |             v  | set_limit                         |               |
       |            AT_LIMIT -------------------------------+               |
       |  not the start marker                 cut                          |
       +--------------------------------------------------------------------+

AT_LIMIT is there only where somebody may raise the limit (`raisable`). In the same way thinking pauses at
each border (AT_BORDER), where there are any, until `go_on` or `cut`. Where the engine itself holds both
limits (`one_pass`), one pass brings thinking, close and solution. A close at the limit is then the
engine's, and forced all the same; an engine that goes on without one has the rest discarded, and what
follows is as ever.

The driver (`elastic_agent.generation.generate`, or a batched one in training) asks `next_pass()` what to
request, feeds what comes back, and tells `pass_ended()` when the stream is over. `over` says that the rest of
a running pass is of no use. Training reads `output_ids`, `sampled` and `logprobs`, which stay aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from ...backends.base import DEFAULT_SAMPLING, GREEDY, Finish, Limits, Sampling, TokenRequest
from ...budget import Budget
from ...prompts.markers import Markers, Opening
from ...usage import Usage
from .answer import AnswerReader, Span
from .deltas import Delta, Segment, merge_deltas
from .stop_reasons import CUT, SolutionEnd, ThinkingEnd
from .tool_call_start import ToolStart


class Phase(StrEnum):
    """Where the machine stands."""

    OPENING = "opening"
    THINKING = "thinking"
    AT_LIMIT = "at_limit"
    AT_BORDER = "at_border"
    CLOSING = "closing"
    SOLUTION = "solution"
    DONE = "done"


class TwoPhase:
    """The machine of one call.

    Args:
        prompt_ids: the prompt, generation prompt included.
        budget: the two limits; `thinking` must be a number (`Budget.bounded`).
        markers: the model's markers.
        opening: how thinking stands at the end of the prompt (`markers.opening(prompt_ids)`).
        raisable: thinking that reaches its limit waits for a word (`set_limit`, or `cut`).
        borders: thinking pauses each time it has so many tokens more, below its limit; 0: never.
        one_pass: the engine holds both limits; for an open thinking block, a close of one token, and a limit
            of at least 1 that nobody raises.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        budget: Budget,
        markers: Markers,
        opening: Opening,
        *,
        raisable: bool = False,
        borders: int = 0,
        one_pass: bool = False,
    ) -> None:
        if budget.thinking is None:
            raise ValueError("thinking must be a number here: call budget.bounded(room, close) first")
        self.prompt_ids = tuple(prompt_ids)
        self.markers = markers
        self.budget = budget
        self._step = markers.wrap_up.step if markers.wrap_up is not None else 1
        self.limit = budget.thinking // self._step * self._step
        self.output_ids: list[int] = []
        self.sampled: list[bool] = []
        self.logprobs: list[float | None] = []
        self.thinking_end: ThinkingEnd | None = None
        self.solution_end: SolutionEnd | None = None
        self._thinking = self._close = self._forced = self._discarded = self._unknown = 0
        self._input = self._cached = self._prompt_cached = self._passes = 0
        self._emitted = 0
        self._pieces: list[bytes] = []  # of output_ids, where markers are text, behind the start marker
        self._start = 0  # sampled tokens that carry the start marker
        self._first: tuple[int, ...] = ()  # ids that spell what else these say
        self._closes = [(markers.close_ids, len(markers.close_ids))]
        self._closes += [((*close, *then), len(close)) for close, then in markers.closes_before]
        self._last: tuple[int, ...] = ()  # ids that spell the thinking in the close's tokens
        self._after: tuple[int, ...] = ()  # ids that spell the solution in the close's tokens
        self._reader = AnswerReader(markers)
        self._answer: list[int] = []  # ids whose text is the answer
        self.in_answer: list[bool] = []  # of each solution token
        self._reopened = self._wrap_up = 0
        self._tool_start = ToolStart(markers) if markers.tools is not None else None
        self.began_call = False
        self._pass_start = self._asked = 0
        self._pass_phase = Phase.DONE
        self._raisable = raisable
        self._borders = self._border = borders
        self._one_pass = one_pass
        self._whole = False  # the running pass is one for both segments
        self._written = self._late = 0
        self._opened = opening is not Opening.SELF
        if opening is Opening.CLOSED:
            self.thinking_end = ThinkingEnd.OFF
            self.phase = Phase.SOLUTION
        elif self.limit == 0:
            self.thinking_end = ThinkingEnd.BUDGET
            self.phase = Phase.CLOSING
        elif self._opened or not markers.open_ids:
            self._opened = True
            self.phase = Phase.THINKING
        else:
            self.phase = Phase.OPENING

    # What the driver asks

    @property
    def done(self) -> bool:
        return self.phase is Phase.DONE

    @property
    def over(self) -> bool:
        """The running pass has given what it can: stop reading it."""
        if self._whole and self.phase is Phase.DONE:
            # The engine ends it by itself, with one token more: to break off would leave it unknown
            return self.solution_end is not SolutionEnd.LENGTH or self._late > 1
        if self._whole:
            return self.phase is Phase.CLOSING
        if self._pass_phase is Phase.OPENING:
            paused = self.phase in (Phase.AT_LIMIT, Phase.AT_BORDER)
            closed = self.thinking_end is ThinkingEnd.NATURAL
            return paused or self.phase in (Phase.CLOSING, Phase.DONE) or closed
        return self.phase is not self._pass_phase

    def next_pass(self, sampling: Sampling = DEFAULT_SAMPLING) -> TokenRequest:
        """The next request: the spliced ids and how many tokens may follow them."""
        limits = None
        self._whole = self._one_pass and self.phase is Phase.THINKING
        if self._whole:
            end, close = min(self.markers.eos_ids), self.markers.close_ids[0]
            limits = Limits(close, self.limit, end, self.budget.solution)
            room, stops = self.limit + 1 + self.budget.solution, self.markers.eos_ids
        elif self.phase in (Phase.OPENING, Phase.THINKING):
            room = (min(self.limit, self._border) if self._borders else self.limit) - self._thinking
            stops = self.markers.eos_ids
            if len(self.markers.close_ids) == 1:
                stops = stops | {self.markers.close_ids[0]}
            stops |= self.markers.tool_ids
        elif self.phase is Phase.SOLUTION:
            room = self.budget.solution - self._solution
            stops = self.markers.eos_ids
        else:
            raise RuntimeError(f"no pass to run while {self.phase}")
        self._pass_phase = self.phase
        self._pass_start = len(self.output_ids) + self._discarded
        self._asked = room
        self._passes += 1
        prompt = (*self.prompt_ids, *self.output_ids)
        self._input += len(prompt)
        return TokenRequest(
            prompt_ids=prompt, max_tokens=room, stop_ids=stops, sampling=sampling, limits=limits
        )

    # What the driver tells

    def feed(
        self, ids: Sequence[int], logprobs: Sequence[float | None] | None = None, cached: int = 0
    ) -> list[Delta]:
        """Take sampled tokens of the running pass, in order; returns what became certain.

        Tokens that may turn out to be the beginning of the close are kept back until they are not.
        Tokens past the end of a phase are discarded, and counted.
        """
        self._cached += cached
        if self._passes == 1:
            self._prompt_cached = min(len(self.prompt_ids), self._prompt_cached + cached)
        deltas: list[Delta] = []
        for i, token in enumerate(ids):
            if self.over:
                self._discarded += len(ids) - i
                break
            self._take(token, None if logprobs is None else logprobs[i], deltas)
        return merge_deltas(deltas)

    def pass_ended(self, finish: Finish) -> list[Delta]:
        """The running pass's stream is over, and the last feed did not end its phase."""
        deltas: list[Delta] = []
        brought = len(self.output_ids) + self._discarded - self._pass_start
        if self.phase in (Phase.OPENING, Phase.THINKING):
            if not brought:
                self._end_thinking(
                    ThinkingEnd.EMPTY if not self._thinking else ThinkingEnd.END_OF_TEXT, deltas
                )
            elif finish == "stop":
                self._end_thinking(ThinkingEnd.END_OF_TEXT, deltas)
            elif self._thinking >= self.limit or brought < self._asked:
                # An upstream with a limit of its own may end a pass early. It is not asked again: each pass
                # reads the whole prompt, and no more than two were budgeted for.
                self._end_thinking(ThinkingEnd.BUDGET, deltas)
        elif self.phase is Phase.SOLUTION:
            # A pass that began in OPENING asked for thinking's room and stopped at the close, or at the start
            # of a tool call, none of which ends a solution: it goes on in another pass.
            close = self.markers.close_ids
            unended = finish == "length" or (len(close) == 1 and tuple(self.output_ids[-1:]) == close)
            unended = unended or not self.markers.tool_ids.isdisjoint(self.output_ids[-1:])
            if not brought or self._whole or self._pass_phase is Phase.SOLUTION or not unended:
                self._end(SolutionEnd.EOS if finish == "stop" else SolutionEnd.LENGTH, deltas)
        return merge_deltas(deltas)

    def cut(self, reason: ThinkingEnd) -> list[Delta]:
        """End thinking now; nothing happens when it has ended already."""
        deltas: list[Delta] = []
        if self.phase in (Phase.OPENING, Phase.THINKING, Phase.AT_LIMIT, Phase.AT_BORDER):
            self._end_thinking(reason, deltas)
        return merge_deltas(deltas)

    def go_on(self) -> None:
        """Think on, past the border or a limit that was raised, to the next border."""
        while self._borders and self._border <= self._thinking:
            self._border += self._borders
        self.phase = Phase.THINKING

    def probe(self, lead: Sequence[int], tokens: int) -> TokenRequest:
        """A request for the answer that there would be if thinking were cut here; `probed` takes it in."""
        prompt = (*self.prompt_ids, *self.output_ids, *self.forced_close, *lead)
        self._passes += 1
        self._input += len(prompt)
        return TokenRequest(prompt, tokens, self.markers.eos_ids, GREEDY)

    def probed(self, read: int, cached: int, request: TokenRequest) -> None:
        """It is over: what it brought is in no segment."""
        self._discarded += read
        self._cached += cached
        self.served(read, request)

    def set_limit(self, limit: int) -> list[Delta]:
        """Move the thinking limit, down or up; below what is used it preempts.

        Raised past what the running pass was asked for, it costs one more pass, and that pass's input. One
        that the engine holds can't be raised.
        """
        if self.thinking_end is not None:
            return []
        limit = limit // self._step * self._step
        self.limit = max(0, min(limit, self.limit) if self._whole else limit)
        if self._thinking >= self.limit:
            return self.cut(ThinkingEnd.PREEMPTED)
        if self.phase is Phase.AT_LIMIT:
            self.go_on()
        return []

    def close(self) -> Delta:
        """Force the close: splice its ids in."""
        if self.phase is not Phase.CLOSING:
            raise RuntimeError(f"nothing to close while {self.phase}")
        ids = self.forced_close
        self.output_ids += ids
        self.sampled += [False] * len(ids)
        self.logprobs += [None] * len(ids)
        self._close = self._forced = len(ids)
        if self.thinking_end in CUT:
            self._wrap_up = len(self._cut_close) - len(self.markers.close_ids)
        self._emitted = len(self.output_ids)
        self.phase = Phase.SOLUTION
        return Delta(Segment.CLOSE, ids, forced=True)

    def end_solution(self, reason: SolutionEnd) -> list[Delta]:
        """End the solution from outside: a stop string (which only text shows), or the deadline.

        A stop string may be completed by the very token that reached the limit: then it was the stop.
        """
        if self.phase is Phase.SOLUTION or (
            reason is SolutionEnd.STOP and self.solution_end is SolutionEnd.LENGTH
        ):
            deltas: list[Delta] = []
            self._end(reason, deltas)
            return deltas
        return []

    def served(self, read: int, request: TokenRequest) -> None:
        """A pass is over: `read` tokens were fed; the receipt of its request says what the backend served.

        What it served and nobody read is discarded; where it can't say, all that it may have served is
        counted as unknown. A pass that ended in the ordinary way has nothing of either, and one that never
        reached the engine is none.
        """
        receipt = request.receipt
        if receipt.delivery.free and not read:
            self._passes -= 1
            self._input -= len(request.prompt_ids)
        else:
            self._unknown += receipt.unknown(request.max_tokens, read)
            self._discarded += max(0, (receipt.output or 0) - read)

    def abort(self) -> None:
        """The call was cancelled or failed; what is known stays counted."""
        if self.phase is Phase.DONE:
            return
        if self.thinking_end is None:
            self.thinking_end = ThinkingEnd.ABORTED
        self._end(SolutionEnd.ABORTED, [])

    # What is known

    @property
    def forced_close(self) -> tuple[int, ...]:
        """What a forced close appends: the marker, and before it what is missing of the start marker.

        Where thinking is cut a wrap-up stands around the marker.
        """
        markers = self.markers
        close = self._cut_close if self.thinking_end in (None, *CUT) else markers.close_ids
        if self._opened:
            return close
        begun = tuple(self.output_ids[: self._thinking])
        for header in (markers.open_ids, markers.answer_ids):
            if begun and header[: len(begun)] == begun:
                rest = header[len(begun) :]
                return (*rest, *close) if header is markers.open_ids else rest
        return (*markers.open_ids, *close)

    @property
    def thinking_ids(self) -> tuple[int, ...]:
        return tuple(self.output_ids[: self._thinking])

    @property
    def thinking_shown(self) -> tuple[int, ...]:
        """Ids whose text is the thinking: `thinking_ids`, but for tokens that carry a part of a marker."""
        return (
            *self._first,
            *self.output_ids[min(self._start, self._thinking) : self._thinking],
            *self._last,
        )

    @property
    def said_before_close(self) -> tuple[int, ...]:
        """Ids that spell what the close's tokens say of the thinking."""
        return self._last

    @property
    def said_behind_close(self) -> tuple[int, ...]:
        """Ids that spell what the close's tokens say of the solution."""
        return self._after

    @property
    def solution_shown(self) -> tuple[int, ...]:
        """Ids whose text is the answer: `solution_ids` without thinking that was opened again, and with what
        a token of the close says of it."""
        return (*self._after, *self._answer)

    @property
    def close_ids(self) -> tuple[int, ...]:
        return tuple(self.output_ids[self._thinking : self._thinking + self._close])

    @property
    def solution_ids(self) -> tuple[int, ...]:
        return tuple(self.output_ids[self._thinking + self._close :])

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            prompt=len(self.prompt_ids),
            thinking=self._thinking,
            close=self._close,
            forced=self._forced,
            solution=self._solution,
            discarded=self._discarded,
            unknown=self._unknown,
            input=self._input,
            cached=self._cached,
            passes=self._passes,
            written=self._written,
            prompt_cached=self._prompt_cached,
            reopened=self._reopened,
            wrap_up=self._wrap_up,
        )

    # Inside

    @property
    def _cut_close(self) -> tuple[int, ...]:
        return self.markers.cut_close(thought=self.limit > 0 or self._thinking > 0)

    @property
    def _solution(self) -> int:
        return len(self.output_ids) - self._thinking - self._close

    def _take(self, token: int, logprob: float | None, deltas: list[Delta]) -> None:
        if self.phase is Phase.DONE:
            self._discarded += 1
            self._late += 1
            return
        if self._whole and self.phase is Phase.THINKING and self._thinking == self.limit:
            self._take_written(token, deltas)
            return
        thinking = self.phase in (Phase.OPENING, Phase.THINKING)
        half_opened = self.phase is Phase.OPENING and self._thinking > 0
        if thinking and token in self.markers.eos_ids and not half_opened:
            self._discarded += 1
            self._end_thinking(ThinkingEnd.END_OF_TEXT if self._thinking else ThinkingEnd.EMPTY, deltas)
            return
        self.output_ids.append(token)
        self.sampled.append(True)
        self.logprobs.append(logprob)
        if thinking:
            self._thinking += 1
            if self.phase is Phase.OPENING:
                self._watch_opening(deltas)
            else:
                self._watch_close(deltas)
        else:
            self._tell(self._reader.take(token), deltas)
            self._check_solution(token, deltas)

    def _tell(self, spans: Sequence[Span], deltas: list[Delta]) -> None:
        """What the solution's tokens are has become certain."""
        for reopened, ids, shown in spans:
            deltas.append(Delta(Segment.REOPENED if reopened else Segment.SOLUTION, ids, shown=shown))
            self._emitted += len(ids)
            self.in_answer += [not reopened] * len(ids)
            if reopened:
                self._reopened += len(ids)
            else:
                self._answer += ids if shown is None else shown

    def _take_written(self, token: int, deltas: list[Delta]) -> None:
        """Thinking is at its limit in a pass whose engine holds it: its close is due."""
        if (token,) != self.markers.close_ids:
            self._discarded += 1
            self._end_thinking(ThinkingEnd.BUDGET, deltas)
            return
        self._end_thinking(ThinkingEnd.BUDGET, deltas)
        deltas.append(self.close())
        self._written = self._close

    def _check_solution(self, token: int, deltas: list[Delta]) -> None:
        if token in self.markers.eos_ids:
            self._end(SolutionEnd.EOS, deltas)
        elif self._solution >= self.budget.solution:
            self._end(SolutionEnd.LENGTH, deltas)

    def _watch_opening(self, deltas: list[Delta]) -> None:
        if self.markers.open_in_text:
            self._watch_opening_text(deltas)
            return
        begun, opens, answer = tuple(self.output_ids), self.markers.open_ids, self.markers.answer_ids
        if begun == opens:
            self._open(b"", deltas)
        elif begun == answer:
            self._thinking, self._close = 0, len(answer)
            self.thinking_end = ThinkingEnd.NEVER_OPENED
            self.phase = Phase.SOLUTION
            self._emit(Segment.CLOSE, len(answer), deltas)
        elif begun not in (opens[: len(begun)], answer[: len(begun)]):
            self._never_opened(deltas)
        elif self._thinking >= self.limit:
            self._end_thinking(ThinkingEnd.BUDGET, deltas)

    def _watch_opening_text(self, deltas: list[Delta]) -> None:
        """The same in text; blanks may stand before the start marker."""
        start = self.markers.open_text.encode()
        begun = b"".join(map(self.markers.piece, self.output_ids)).lstrip()
        if begun.startswith(start):
            self._open(begun[len(start) :], deltas)
        elif not start.startswith(begun):
            self._never_opened(deltas)
        elif self._thinking >= self.limit:
            self._end_thinking(ThinkingEnd.BUDGET, deltas)

    def _open(self, rest: bytes, deltas: list[Delta]) -> None:
        """What was sampled so far is the start marker; `rest` is what its last token says behind it."""
        self._opened = True
        self.phase = Phase.THINKING
        self._start, self._first = self._thinking, self.markers.spelled(rest)
        self._pieces = [*[b""] * (self._thinking - 1), rest]
        self._look_for_close(deltas)

    def _never_opened(self, deltas: list[Delta]) -> None:
        """What looked like a start marker is the solution, as far as that may go."""
        self._thinking = 0
        self.thinking_end = ThinkingEnd.NEVER_OPENED
        self._solution_has_begun(deltas)

    def _solution_has_begun(self, deltas: list[Delta]) -> None:
        """Sampled tokens that stand behind the close already are the solution, as far as that may go."""
        self.phase = Phase.SOLUTION
        most = self._thinking + self._close + self.budget.solution
        self._discarded += max(0, len(self.output_ids) - most)
        for aligned in (self.output_ids, self.sampled, self.logprobs):
            del aligned[most:]
        for token in self.output_ids[self._thinking + self._close :]:
            self._tell(self._reader.take(token), deltas)
        if self._solution:
            self._check_solution(self.output_ids[-1], deltas)

    def _watch_close(self, deltas: list[Delta]) -> None:
        if self.markers.close_in_text:
            self._pieces.append(self.markers.piece(self.output_ids[-1]))
        if self._tool_start is not None and self._tool_start.take(self.output_ids[-1]):
            self._end_thinking(ThinkingEnd.TOOL_CALL, deltas)
            return
        self._look_for_close(deltas)

    def _look_for_close(self, deltas: list[Delta]) -> None:
        """The close at the end of what was sampled."""
        if self.markers.close_in_text:
            self._look_for_close_text(deltas)
            return
        keep = 0
        for whole, close in self._closes:
            if self._thinking >= len(whole) and self._ends_with(whole):
                self._closed(self._thinking - len(whole), close, deltas)
                return
            held = min(len(whole) - 1, self._thinking)
            while not self._ends_with(whole[:held]):
                held -= 1
            keep = max(keep, held)
        self._think_on(keep, deltas)

    def _look_for_close_text(self, deltas: list[Delta]) -> None:
        """The same in the bytes of the latest tokens."""
        close, pieces = self.markers.close_text.encode(), self._pieces
        at, data, most = len(pieces), b"", len(close) - 1 + len(pieces[-1])
        while at > 0 and len(data) < most:
            at -= 1
            data = pieces[at] + data
        before = data.find(close)
        if before < 0:
            begun = next(n for n in range(len(close) - 1, -1, -1) if data.endswith(close[:n]))
            keep = 0
            while begun > 0:
                keep += 1
                begun -= len(pieces[-keep])
            self._think_on(keep, deltas)
            return
        self._after = self.markers.spelled(data[before + len(close) :])
        while before >= len(pieces[at]):
            before -= len(pieces[at])
            at += 1
        said = self.markers.spelled(pieces[at][:before])
        if at < self._start:  # one token ends the start marker and begins the close: it is the start marker's
            at, self._first = self._start, said
        else:
            self._last = said
        self._closed(at, self._thinking - at, deltas)

    def _closed(self, thinking: int, close: int, deltas: list[Delta]) -> None:
        """The model has closed its thinking; tokens behind the close are its solution's."""
        self._thinking, self._close = thinking, close
        self._emit(Segment.THINKING, self._thinking, deltas)
        if self._last:
            deltas.append(Delta(Segment.THINKING, (), shown=self._last))
        self._emit(Segment.CLOSE, self._thinking + self._close, deltas)
        if self._after:
            deltas.append(Delta(Segment.SOLUTION, (), shown=self._after))
        self.thinking_end = ThinkingEnd.NATURAL
        self._solution_has_begun(deltas)

    def _think_on(self, keep: int, deltas: list[Delta]) -> None:
        """No close yet; the last `keep` tokens may be the beginning of one (or of a tool call)."""
        keep = max(keep, self._tool_start.tokens if self._tool_start is not None else 0)
        if self._thinking >= self.limit and not (self._raisable or self._whole):
            self._end_thinking(ThinkingEnd.BUDGET, deltas)
            return
        if self._thinking >= self.limit and self._raisable:
            self.phase = Phase.AT_LIMIT
        elif self._borders and self._thinking >= self._border:
            self.phase = Phase.AT_BORDER
        self._emit(Segment.THINKING, self._thinking - keep, deltas)

    def _ends_with(self, ids: tuple[int, ...]) -> bool:
        return not ids or tuple(self.output_ids[-len(ids) :]) == ids

    def _end_thinking(self, reason: ThinkingEnd, deltas: list[Delta]) -> None:
        if self._tool_start is not None and self._tool_start.begun:
            # What the model has said of it goes, as an end of text would: it can begin its call anew
            count, self.began_call = min(self._tool_start.tokens, self._thinking), True
            self._discarded += count
            self._thinking -= count
            for aligned in (self.output_ids, self.sampled, self.logprobs):
                del aligned[len(aligned) - count :]
        if not self._opened:
            self._start = self._thinking  # no more than the beginning of the start marker
        self._emit(Segment.THINKING, self._thinking, deltas)
        self.thinking_end = reason
        self.phase = Phase.CLOSING

    def _end(self, reason: SolutionEnd, deltas: list[Delta]) -> None:
        self._tell(self._reader.end(), deltas)
        if reason is SolutionEnd.EOS and self._reader.inside:
            reason = SolutionEnd.REOPENED
        self.solution_end = reason
        self.phase = Phase.DONE

    def _emit(self, segment: Segment, upto: int, deltas: list[Delta]) -> None:
        if self._emitted < self._start <= upto:
            start = self._start
            deltas.append(Delta(segment, tuple(self.output_ids[:start]), shown=self._first))
            self._emitted = start
        if upto > self._emitted:
            deltas.append(Delta(segment, tuple(self.output_ids[self._emitted : upto])))
            self._emitted = upto
