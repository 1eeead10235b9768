"""The answers of one request while they come: `n` calls side by side, as pieces to show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.result import Event
from elastic_agent.scheduler.runtime.call import TaskCall
from elastic_agent.tool_calls import HERMES, ToolFormat
from elastic_agent.usage import Usage

from ...openai_format.deltas import Delta, DeltaBuilder, ToolCallDelta

FINISH = {SolutionEnd.EOS: "stop", SolutionEnd.STOP: "stop"}


class Choice:
    """One of the answers.

    Args:
        index: which of them.
        call: what brings it.
        tools: the schemas of its tools; its solution may hold calls of them.
        format: how they are written.
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
        self._pieces = DeltaBuilder(tools, format)

    def feed(self, event: Event) -> Delta:
        """Take an event; what it brings to show."""
        return self._shown(self._pieces.feed(event))

    def flush(self) -> Delta:
        """The call is over: what was held back."""
        return self._shown(self._pieces.flush())

    def _shown(self, piece: Delta) -> Delta:
        """OpenAI knows no invalid tool call: one is shown as the text that it is."""
        calls = [call for call in piece.tool_calls if call["name"] is not None]
        broken = "".join(call["args"] or "" for call in piece.tool_calls if call["name"] is None)
        calls = [{**call, "index": len(self.tool_calls) + at} for at, call in enumerate(calls)]
        piece = Delta(piece.reasoning, piece.text + broken, calls)
        self.reasoning += piece.reasoning
        self.text += piece.text
        self.tool_calls += calls
        return piece

    @property
    def finish(self) -> str:
        """OpenAI's `finish_reason`."""
        if self.tool_calls:
            return "tool_calls"
        end = self.call.result().solution_end
        return FINISH.get(end, "length") if end is not None else "length"

    def logprobs(self) -> list[tuple[int, float]]:
        """Id and log-prob of each token of the answer of which the engine told it."""
        result = self.call.result()
        start = len(result.output_ids) - len(result.solution_ids)
        said = zip(result.output_ids[start:], result.logprobs[start:], result.in_answer, strict=True)
        return [(token, value) for token, value, answers in said if answers and value is not None]


async def run(choices: Sequence[Choice]) -> AsyncGenerator[tuple[Choice, Delta | None]]:
    """What there is to show, as it comes; None when an answer is whole. Closed, it stops all of them."""
    if len(choices) == 1:
        async with aclosing(_one(choices[0])) as pieces:
            async for shown in pieces:
                yield shown
        return
    queue: asyncio.Queue[tuple[Choice, Delta | None] | BaseException] = asyncio.Queue(maxsize=64)

    async def pump(choice: Choice) -> None:
        try:
            async with aclosing(_one(choice)) as pieces:
                async for shown in pieces:
                    await queue.put(shown)
        except Exception as error:
            await queue.put(error)

    running = [asyncio.ensure_future(pump(choice)) for choice in choices]
    try:
        left = len(choices)
        while left:
            found = await queue.get()
            if isinstance(found, BaseException):
                raise found
            left -= found[1] is None
            yield found
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _one(choice: Choice) -> AsyncGenerator[tuple[Choice, Delta | None]]:
    async with aclosing(choice.call.stream()) as events:
        async for event in events:
            yield choice, choice.feed(event)
    if piece := choice.flush():
        yield choice, piece
    yield choice, None


def usage(choices: Sequence[Choice]) -> dict[str, Any]:
    """OpenAI's usage, from our own count: the prompt once; thinking, close and solution of all answers.

    `billed` is what the upstream bills and the ledger charges: the input of all passes (the second pass reads
    prompt, thinking and close again; each answer reads the prompt), and tokens that no answer shows.
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
