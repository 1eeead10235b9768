"""The answers of one request: `n` calls that run side by side, and the deltas that they bring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from elastic_agent.errors import TaskClosedError
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.result import Event
from elastic_agent.scheduler.runtime.call import TaskCall
from elastic_agent.tool_calls import HERMES, ToolFormat
from elastic_agent.usage import Usage

from ...openai_format.deltas import Delta, DeltaBuilder, ToolCallDelta

FINISH = {SolutionEnd.EOS: "stop", SolutionEnd.STOP: "stop"}


class Choice:
    """One answer of a request.

    Args:
        index: its number.
        call: the call that writes it.
        tools: the schemas of the call's tools, whose calls its solution may hold.
        format: how the model writes tool calls.
    """

    def __init__(
        self,
        index: int,
        call: TaskCall,
        tools: Sequence[Mapping[str, Any]] = (),
        format: ToolFormat = HERMES,
    ) -> None:
        self.index, self.call = index, call
        self.reasoning = self.text = ""
        self.tool_calls: list[ToolCallDelta] = []
        self._deltas = DeltaBuilder(tools, format)

    def feed(self, event: Event) -> Delta:
        """What an event adds to the answer."""
        return self._add(self._deltas.feed(event))

    def flush(self) -> Delta:
        """What was held back until the end of the call."""
        return self._add(self._deltas.flush())

    def _add(self, delta: Delta) -> Delta:
        """Add a delta to the answer. OpenAI's format has no invalid tool calls: they become text."""
        calls = [call for call in delta.tool_calls if call["name"] is not None]
        invalid = "".join(call["args"] or "" for call in delta.tool_calls if call["name"] is None)
        calls = [{**call, "index": len(self.tool_calls) + at} for at, call in enumerate(calls)]
        delta = Delta(delta.reasoning, delta.text + invalid, calls)
        self.reasoning += delta.reasoning
        self.text += delta.text
        self.tool_calls += calls
        return delta

    @property
    def finish(self) -> str:
        """OpenAI's `finish_reason`."""
        if self.tool_calls:
            return "tool_calls"
        end = self.call.result().solution_end
        return FINISH.get(end, "length") if end is not None else "length"

    def logprobs(self) -> list[tuple[int, float]]:
        """Id and log-prob of each token of the answer, as far as the engine reported them."""
        result = self.call.result()
        start = len(result.output_ids) - len(result.solution_ids)
        found = zip(result.output_ids[start:], result.logprobs[start:], result.in_answer, strict=True)
        return [(token, value) for token, value, in_answer in found if in_answer and value is not None]


async def run(choices: Sequence[Choice]) -> AsyncGenerator[tuple[Choice, Delta | None]]:
    """The deltas of all answers as they come; None ends an answer. Closing the generator stops all calls."""
    if len(choices) == 1:
        async with aclosing(_one(choices[0])) as deltas:
            async for found in deltas:
                yield found
        return
    queue: asyncio.Queue[tuple[Choice, Delta | None] | BaseException] = asyncio.Queue(maxsize=64)

    async def forward(choice: Choice) -> None:
        try:
            async with aclosing(_one(choice)) as deltas:
                async for found in deltas:
                    await queue.put(found)
        except Exception as error:
            await queue.put(error)

    running = [asyncio.ensure_future(forward(choice)) for choice in choices]
    try:
        left = len(choices)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            left -= item[1] is None
            yield item
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _one(choice: Choice) -> AsyncGenerator[tuple[Choice, Delta | None]]:
    async with aclosing(choice.call.stream()) as events:
        async for event in events:
            yield choice, choice.feed(event)
    if choice.call.result().solution_end is SolutionEnd.ABORTED:  # between two steps of this reader
        raise TaskClosedError("the task ended while the answer was read: the answer is not whole")
    if delta := choice.flush():
        yield choice, delta
    yield choice, None


def usage(choices: Sequence[Choice]) -> dict[str, Any]:
    """OpenAI's usage by our own count: the prompt once; thinking, close and solution of all answers.

    `billed` is what the upstream bills and the ledger charges: with the input of all passes (the second pass
    reads prompt, thinking and close again; each answer reads the prompt), and tokens that no answer shows.
    """
    used = [choice.call.usage for choice in choices]
    all_of = sum(used, Usage())
    prompt, output = used[0].prompt, all_of.output
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": used[0].prompt_cached},
        "completion_tokens_details": {"reasoning_tokens": all_of.reasoning},
        "billed": all_of.billed(),
    }
