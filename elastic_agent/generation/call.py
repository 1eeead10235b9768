"""One call, driven."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, cast

from ..backends.base import (
    DEFAULT_SAMPLING,
    Backend,
    Finish,
    Sampling,
    TokenChunk,
    may_send,
    no_hurry,
)
from ..budget import Budget
from ..errors import BackendProtocolError, UnsupportedError
from ..usage import Usage
from .control import Control
from .early_exit import EarlyExit
from .guided_decoding import check_guide
from .phases.answer import read_answer
from .phases.deltas import Delta, Segment
from .phases.stop_reasons import SolutionEnd, ThinkingEnd
from .phases.two_phase import Phase, TwoPhase
from .prepare import Prompt, bounded, markers_for, prompt_ids, two_passes_reason
from .result import Event, Generation
from .text import IncrementalText


class Call:
    """One call of a model under a Budget; iterate over it once.

    Args:
        backend: the model.
        prompt: text, ids, or a conversation.
        budget: the two limits. `thinking=None` is bounded by the model's context.
        sampling: how tokens are drawn.
        stop: strings that end the solution; never looked for in thinking.
        control: steers the call while it runs.
        solution_extra: fields for the engine in the solution's pass only (guided decoding).
        priority: lower goes first where the engine can choose.
        early_exit: end thinking when the answer no longer changes; nothing of it where the solution's budget
            is smaller than a probe's.
        whole: nobody reads along: the text of a segment comes at its end, decoded once.
        tools: the schemas of the call's tools, where it has some: the start of a call ends thinking, and what
            stands in its arguments is data. They are shown to the model where the prompt is a conversation.
        wrap_up: a sentence before the forced close, or a profile's name (`elastic_agent.generation.wrap_up`).

    Raises:
        InvalidBudgetError: a wrap-up that can't be written (when made).
        ContextLengthError: the prompt leaves no room (when made, before anything is sent).
        UnsupportedError: `solution_extra` for an engine that takes none (when made), or that refuses these
            (while iterating, before anything is sent).
        BackendError: while iterating.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: Prompt,
        budget: Budget,
        *,
        sampling: Sampling = DEFAULT_SAMPLING,
        stop: Sequence[str] = (),
        control: Control | None = None,
        solution_extra: Mapping[str, Any] | None = None,
        priority: int = 0,
        early_exit: EarlyExit | None = None,
        whole: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        wrap_up: str | None = None,
    ) -> None:
        if solution_extra and not backend.guided:
            raise UnsupportedError(
                f"{backend.model} runs on an engine without guided decoding ({', '.join(solution_extra)}): "
                f"serve it with vLLM, or leave out what needs it (a tool choice, strict tools, a format)"
            )
        ids = prompt_ids(backend, prompt, tools)
        markers = markers_for(backend.codec, tools=bool(tools), wrap_up=wrap_up)
        opening = markers.opening(ids)
        self.backend = backend
        self.budget = bounded(backend, len(ids), budget, markers)
        self.control = control or Control()
        # Where nobody steers it, the engine may hold both limits: one request less
        self.two_passes = backend.two_passes or two_passes_reason(
            control, self.budget, markers, opening, stop, solution_extra, sampling, early_exit
        )
        self._exit, self._answers = early_exit, list[str]()
        self._lead = backend.codec.encode(early_exit.lead) if early_exit and early_exit.lead else []
        if early_exit and early_exit.tokens + len(self._lead) > self.budget.solution:
            self._exit = None
        self.machine = TwoPhase(
            ids,
            self.budget,
            markers,
            opening,
            raisable=self.control.more is not None,
            borders=self._exit.every if self._exit else 0,
            one_pass=not self.two_passes,
        )
        self.control._machine = self.machine
        most = bounded(backend, len(ids), replace(budget, thinking=None), markers)
        self.control._most = most.thinking or 0
        self._sampling = sampling
        self._stops = tuple(stop)
        self._extra = dict(solution_extra or {})
        self._again = False  # the latest of the solution was thinking
        self._priority = priority
        self._thinking = IncrementalText(backend.codec.decode, whole=whole)
        self._reopened = IncrementalText(backend.codec.decode, whole=whole)
        # The tags of tool calls may be control tokens
        decode = partial(backend.codec.decode, tool_tags=True) if tools else backend.codec.decode
        self._solution = IncrementalText(decode, stop, whole=whole)

    @property
    def usage(self) -> Usage:
        """Tokens so far; final when the call is over, however it ended."""
        return self.machine.usage

    def result(self) -> Generation:
        """What is known; the whole answer once the iteration has ended."""
        m = self.machine
        return Generation(
            thinking=self._thinking.text.strip(),
            solution=self._solution.text.strip(),
            budget=Budget(max(self.budget.thinking or 0, m.limit), self.budget.solution),
            usage=m.usage,
            thinking_end=m.thinking_end,
            solution_end=m.solution_end,
            prompt_ids=m.prompt_ids,
            thinking_ids=m.thinking_ids,
            close_ids=m.close_ids,
            solution_ids=m.solution_ids,
            output_ids=tuple(m.output_ids),
            sampled=tuple(m.sampled),
            logprobs=tuple(m.logprobs),
            stop=self._solution.stopped,
            two_passes=self.two_passes,
            reopened=self._reopened.text.strip(),
            in_answer=tuple(m.in_answer),
            began_call=m.began_call,
        )

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.stream()

    async def stream(self) -> AsyncGenerator[Event]:
        """Run the call. Closing or cancelling it stops the backend; `usage` then says what is known."""
        machine = self.machine
        try:
            await check_guide(self.backend, self._extra)
            while not machine.done:
                for event in self._events(self.control._apply(asyncio.get_running_loop().time())):
                    yield event
                if machine.phase is Phase.AT_LIMIT:
                    for event in self._events(await self.control._at_limit()):
                        yield event
                elif machine.phase is Phase.AT_BORDER:
                    for event in self._events(await self._probe()):
                        yield event
                elif machine.phase is Phase.CLOSING:
                    for event in self._events([machine.close()]):
                        yield event
                elif not machine.done:
                    async with aclosing(_Pass(self)) as running:
                        while not running.over:
                            for event in await running.step():
                                yield event
            for segment in (Segment.THINKING, Segment.REOPENED, Segment.SOLUTION):
                for event in self._flushed(segment):
                    yield event
            if self._solution.stopped is not None:  # found in what had been kept back
                machine.end_solution(SolutionEnd.STOP)
        finally:
            machine.abort()

    async def _probe(self) -> list[Delta]:
        """Probe the answer, and end thinking or go on."""
        machine, control, loop, exit = self.machine, self.control, asyncio.get_running_loop(), self._exit
        assert exit is not None
        request = machine.probe(self._lead, exit.tokens)
        request = replace(request, priority=self._priority, sending=control.sending)
        source = cast("AsyncGenerator[TokenChunk]", self.backend.stream(request))
        found, cached = list[int](), 0
        try:
            async with asyncio.timeout_at(control._until()) as wait:
                control._wait = wait
                await may_send(request)
                async for chunk in source:
                    found += chunk.ids
                    cached += chunk.cached
        except TimeoutError:
            if not wait.expired():
                raise
            return control._interrupted(loop.time())
        finally:
            control._wait = None
            try:
                await source.aclose()
            finally:
                machine.probed(len(found), cached, request)
        self._answers.append(self.backend.codec.decode(read_answer(machine.markers, found).shown))
        if exit.stable(self._answers):
            return machine.cut(ThinkingEnd.STABLE)
        machine.go_on()
        control._resumed()
        return []

    def _feed(self, chunk: TokenChunk) -> list[Event]:
        """A chunk as events. One token at a time where a stop string may end the solution between two."""
        if not self._stops:
            return self._events(self.machine.feed(chunk.ids, chunk.logprobs, chunk.cached))
        events = self._events(self.machine.feed((), cached=chunk.cached))
        for i in range(len(chunk.ids)):
            logprobs = None if chunk.logprobs is None else chunk.logprobs[i : i + 1]
            events += self._events(self.machine.feed(chunk.ids[i : i + 1], logprobs))
            if self._solution.stopped is not None:
                self.machine.end_solution(SolutionEnd.STOP)
        return events

    def _events(self, deltas: Sequence[Delta]) -> list[Event]:
        events: list[Event] = []
        for delta in deltas:
            text, shown = "", delta.ids if delta.shown is None else delta.shown
            if delta.segment is Segment.THINKING:
                text = self._thinking.feed(shown)
            elif delta.segment is Segment.SOLUTION:
                if self._again:
                    self._again = False
                    events += self._flushed(Segment.REOPENED)
                text = self._solution.feed(shown)
            elif delta.segment is Segment.REOPENED:
                text, self._again = self._reopened.feed(shown), True
            else:
                events += self._flushed(Segment.THINKING)
            began = delta.segment is Segment.CLOSE and self.machine.began_call
            events.append(Event(delta.segment, text, delta.ids, delta.forced, began))
        return events

    def _flushed(self, segment: Segment) -> list[Event]:
        texts = {Segment.THINKING: self._thinking, Segment.REOPENED: self._reopened}
        text = texts.get(segment, self._solution).flush()
        return [Event(segment, text, ())] if text else []


class _Pass:
    """One pass of a call.

    Attributes:
        over: it has given what it can.
    """

    def __init__(self, call: Call) -> None:
        machine, sampling = call.machine, call._sampling
        solving = machine.phase is Phase.SOLUTION
        if sampling.seed is not None:  # the passes' draws must not repeat each other
            sampling = replace(sampling, seed=sampling.seed + machine.usage.passes)
        request = machine.next_pass(sampling)
        self._request = replace(
            request,
            priority=call._priority,
            extra=call._extra if solving else {},
            sending=call.control.sending,
        )
        if call.control.on_pass is not None:
            call.control.on_pass(len(request.prompt_ids))
        self._call, self._loop = call, asyncio.get_running_loop()
        self._segment = Segment.SOLUTION if solving else Segment.THINKING
        self._read, self._finish = 0, cast("Finish | None", None)
        self._request.receipt.hurry = self._goes_on
        self._source = cast("AsyncGenerator[TokenChunk]", call.backend.stream(self._request))
        self._sent = False
        self.over = False

    async def step(self) -> list[Event]:
        """What comes next: a chunk, or the pass's end."""
        call, machine, control = self._call, self._call.machine, self._call.control
        # Whoever hears of tokens, or reads us, may have steered since the last ones.
        deltas = control._apply(self._loop.time())
        if machine.over:
            self.over = True
        elif self._finish is not None:
            deltas += machine.pass_ended(self._finish)
            self.over = True
        if deltas or self.over:
            return call._events(deltas)
        try:
            async with asyncio.timeout_at(control._until()) as wait:
                control._wait = wait
                if not self._sent:
                    await may_send(self._request)
                    self._sent = True
                chunk = await anext(self._source)
        except StopAsyncIteration:
            raise BackendProtocolError(f"{call.backend.model}: the stream ended without a finish") from None
        except TimeoutError:
            if not wait.expired():
                raise
            self.over = True
            return call._events(control._interrupted(self._loop.time()))
        finally:
            control._wait = None
        now, self._finish = self._loop.time(), chunk.finish
        self._read += len(chunk.ids)
        events = call._feed(chunk)
        if control.on_cached is not None and chunk.cached:
            control.on_cached(chunk.cached)
        if control.on_tokens is not None and chunk.ids:
            control.on_tokens(self._segment, len(chunk.ids), now)
        return events

    def _goes_on(self) -> bool:
        """It was ended by us, and the call is not: the next pass waits for it."""
        call = self._call
        expired = call.control._wait is not None and call.control._wait.expired()
        return expired or (call.machine.over and not call.machine.done)

    async def aclose(self) -> None:
        """Let go of its stream, and count what it served."""
        try:
            await self._source.aclose()
        finally:  # cancelled once more while it closes: what was served is served
            self._request.receipt.hurry = no_hurry  # whoever keeps the request keeps no call with it
            self._call.machine.served(self._read, self._request)
