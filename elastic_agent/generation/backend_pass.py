"""One pass of a call over its backend, and a probe in between: sent, read chunk by chunk, settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..backends.base import (
    Backend,
    Finish,
    Sampling,
    TokenChunk,
    TokenRequest,
    confirm_send,
    no_call_waits,
)
from ..errors import BackendProtocolError
from .control import Control, Interrupted, Steering
from .phases.deltas import Delta, Segment
from .phases.phase import Phase
from .phases.two_phase import TwoPhase


@dataclass(frozen=True, slots=True)
class PassSetting:
    """What all passes of one call share.

    Attributes:
        sampling: how tokens are drawn.
        priority: lower goes first where the engine can choose.
        solution_extra: fields for the engine in the solution's pass only.
    """

    backend: Backend
    machine: TwoPhase
    control: Control
    steering: Steering
    sampling: Sampling
    priority: int
    solution_extra: Mapping[str, Any]

    def complete(self, request: TokenRequest, extra: Mapping[str, Any]) -> TokenRequest:
        """A machine's request with the call's own fields."""
        before_send = self.control.before_send
        return replace(request, priority=self.priority, extra=extra, before_send=before_send)


class BackendPass:
    """One pass of a call.

    Attributes:
        over: the pass has given what it can.
    """

    def __init__(self, setting: PassSetting) -> None:
        machine, sampling = setting.machine, setting.sampling
        solving = machine.phase is Phase.SOLUTION
        if sampling.seed is not None:  # the passes' draws must not repeat each other
            sampling = replace(sampling, seed=sampling.seed + machine.usage.passes)
        extra = setting.solution_extra if solving else {}
        self.over = False
        self._setting = setting
        self._request = setting.complete(machine.next_pass(sampling), extra)
        self._request.receipt.call_waits = self._call_waits
        setting.steering.pass_sent(len(self._request.prompt_ids))
        self._segment = Segment.SOLUTION if solving else Segment.THINKING
        self._source = cast("AsyncGenerator[TokenChunk]", setting.backend.stream(self._request))
        self._sent = False
        self._read, self._came_at = 0, 0.0
        self._finish: Finish | None = None

    async def step(self) -> TokenChunk | list[Delta]:
        """What comes next: a chunk to be fed; or, where the control or the pass's end changed the machine,
        the deltas that came of this."""
        machine, steering = self._setting.machine, self._setting.steering
        deltas = steering.apply()  # who reads the events may have steered since the last tokens
        if machine.pass_over:
            self.over = True
        elif self._finish is not None:
            deltas += machine.pass_ended(self._finish)
            self.over = True
        if deltas or self.over:
            return deltas
        try:
            chunk = await steering.wait_for(self._next_chunk())
        except Interrupted:
            self.over = True
            return steering.interrupted()
        self._came_at = asyncio.get_running_loop().time()
        self._finish = chunk.finish
        self._read += len(chunk.ids)
        return chunk

    def fed(self, chunk: TokenChunk) -> None:
        """The latest chunk has been fed to the machine: tell the control."""
        self._setting.steering.chunk_came(self._segment, len(chunk.ids), chunk.cached, self._came_at)

    async def aclose(self) -> None:
        """Close the stream, and count what the pass served."""
        try:
            await self._source.aclose()
        finally:  # also when cancelled once more while the stream closes: what was served is served
            self._request.receipt.call_waits = no_call_waits  # a kept request must not keep the call alive
            self._setting.machine.settle_pass(self._read, self._request)

    async def _next_chunk(self) -> TokenChunk:
        if not self._sent:
            await confirm_send(self._request)
            self._sent = True
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            model = self._setting.backend.model
            raise BackendProtocolError(f"{model}: the stream ended without a finish") from None

    def _call_waits(self) -> bool:
        """Whether the pass was ended by us while the call goes on: the next pass waits for this one."""
        machine = self._setting.machine
        return self._setting.steering.interrupting or (machine.pass_over and not machine.done)


async def probe(setting: PassSetting, lead: Sequence[int], tokens: int) -> list[int]:
    """The ids of the answer that there would be if thinking were cut here.

    Args:
        lead: ids that begin the answer.
        tokens: at most this many are sampled.

    Raises:
        Interrupted: the control's moment came meanwhile.
    """
    request = setting.complete(setting.machine.start_probe(lead, tokens), {})
    source = cast("AsyncGenerator[TokenChunk]", setting.backend.stream(request))
    found, cached = list[int](), 0

    async def read() -> None:
        nonlocal cached
        await confirm_send(request)
        async for chunk in source:
            found.extend(chunk.ids)
            cached += chunk.cached

    try:
        await setting.steering.wait_for(read())
    finally:
        try:
            await source.aclose()
        finally:
            setting.machine.end_probe(len(found), cached, request)
    return found
