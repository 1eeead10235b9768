"""One call, driven: the machine says what to ask, the backend answers, events with text come out.

call = Call(backend, prompt, Budget(thinking=256, solution=128))
async for event in call:          # thinking deltas, the close, solution deltas
    print(event.segment, event.text)
call.result()                     # the Generation; after a cancel too: what is known so far
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ..backends.base import DEFAULT_SAMPLING, Backend, Sampling, TokenChunk
from ..budget import Budget
from ..errors import UnsupportedError
from ..usage import Usage
from .backend_pass import BackendPass, PassSetting, probe
from .control import Control, Interrupted
from .early_exit import EarlyExit
from .events import EventWriter
from .guided_decoding import check_guided_fields
from .phases.answer import read_answer
from .phases.deltas import Delta
from .phases.phase import Phase
from .phases.stop_reasons import SolutionEnd, ThinkingEnd
from .phases.two_phase import TwoPhase
from .prepare import Prompt, bounded, markers_for, prompt_ids, two_passes_reason
from .result import Event, Generation


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
        early_exit: end thinking when the answer no longer changes. Ignored where the solution's budget is
            smaller than a probe's.
        buffered: nobody reads along: a segment's text comes at its end, decoded once.
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
        buffered: bool = False,
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
        self.two_passes = backend.two_passes or two_passes_reason(
            control, self.budget, markers, opening, stop, solution_extra, sampling, early_exit
        )
        self._lead = backend.codec.encode(early_exit.lead) if early_exit and early_exit.lead else []
        if early_exit and early_exit.tokens + len(self._lead) > self.budget.solution:
            early_exit = None
        self._early_exit, self._probe_texts = early_exit, list[str]()
        self.control = control or Control()
        self.machine = TwoPhase(
            ids,
            self.budget,
            markers,
            opening,
            extendable=self.control.extend_limit is not None,
            checkpoint_every=early_exit.every if early_exit else 0,
            one_pass=not self.two_passes,
        )
        room = bounded(backend, len(ids), replace(budget, thinking=None), markers).thinking or 0
        self._steering = self.control.attach(self.machine, room)
        extra = dict(solution_extra or {})
        self._setting = PassSetting(
            backend, self.machine, self.control, self._steering, sampling, priority, extra
        )
        self._by_token = bool(stop)  # a stop string may end the solution between two tokens of a chunk
        self._writer = EventWriter(backend.codec, stop, tool_tags=bool(tools), buffered=buffered)

    @property
    def usage(self) -> Usage:
        """Tokens so far; final when the call is over, however it ended."""
        return self.machine.usage

    def result(self) -> Generation:
        """What is known; the whole answer once the iteration has ended."""
        m, writer = self.machine, self._writer
        return Generation(
            thinking=writer.thinking.text.strip(),
            solution=writer.solution.text.strip(),
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
            stop=writer.solution.stopped,
            two_passes=self.two_passes,
            reopened=writer.reopened.text.strip(),
            in_answer=tuple(m.in_answer),
            began_call=m.began_call,
        )

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.stream()

    async def stream(self) -> AsyncGenerator[Event]:
        """Run the call. Closing or cancelling it stops the backend; `usage` then says what is known."""
        machine = self.machine
        try:
            await check_guided_fields(self.backend, self._setting.solution_extra)
            while not machine.done:
                for event in self._events(self._steering.apply()):
                    yield event
                if machine.phase in (Phase.OPENING, Phase.THINKING, Phase.SOLUTION):
                    async with aclosing(BackendPass(self._setting)) as running:
                        while not running.over:
                            for event in await self._step(running):
                                yield event
                elif not machine.done:
                    for event in self._events(await self._between_passes()):
                        yield event
            for event in self._writer.flush():
                yield event
            if self._writer.solution.stopped is not None:  # found in what had been kept back
                machine.end_solution(SolutionEnd.STOP)
        finally:
            machine.abort()

    async def _between_passes(self) -> list[Delta]:
        """Thinking has paused, or the close is due: what comes of it."""
        if self.machine.phase is Phase.AT_LIMIT:
            return await self._steering.at_limit()
        if self.machine.phase is Phase.AT_CHECKPOINT:
            return await self._probe()
        return [self.machine.close()]

    async def _probe(self) -> list[Delta]:
        """Probe the answer, and end thinking or go on."""
        assert self._early_exit is not None
        try:
            found = await probe(self._setting, self._lead, self._early_exit.tokens)
        except Interrupted:
            return self._steering.interrupted()
        answer = read_answer(self.machine.markers, found)
        self._probe_texts.append(self.backend.codec.decode(answer.text_ids))
        if self._early_exit.stable(self._probe_texts):
            return self.machine.cut(ThinkingEnd.STABLE)
        self.machine.resume_thinking()
        self._steering.resumed()
        return []

    async def _step(self, running: BackendPass) -> list[Event]:
        """One step of a pass as events."""
        came = await running.step()
        if isinstance(came, list):
            return self._events(came)
        events = self._feed(came)
        running.fed(came)
        return events

    def _feed(self, chunk: TokenChunk) -> list[Event]:
        """A chunk as events."""
        if not self._by_token:
            return self._events(self.machine.feed(chunk.ids, chunk.logprobs, chunk.cached))
        events = self._events(self.machine.feed((), cached=chunk.cached))
        for i in range(len(chunk.ids)):
            logprobs = None if chunk.logprobs is None else chunk.logprobs[i : i + 1]
            events += self._events(self.machine.feed(chunk.ids[i : i + 1], logprobs))
            if self._writer.solution.stopped is not None:
                self.machine.end_solution(SolutionEnd.STOP)
        return events

    def _events(self, deltas: Sequence[Delta]) -> list[Event]:
        return self._writer.events(deltas, began_call=self.machine.began_call)
