"""What an answer's usage says: the prompt once, hits of the prompt alone, and beside it what is billed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from elastic_agent.backends.base import TokenChunk, TokenRequest
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.scheduler.ledger.prices import Price
from tests.integrations.gateway.conftest import HELLO, Start, shared_codec

REPLY = Reply(thinking="hm " * 8, solution="so it is 42")


class Caching(ScriptedBackend):
    """Has a prefix cache: says how much of a prompt it has read before, on the last chunk of a pass."""

    def __init__(self) -> None:
        super().__init__(REPLY, codec=shared_codec())
        self._read: list[tuple[int, ...]] = []

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        prompt, hit, output = request.prompt_ids, 0, list[int]()
        for known in self._read:
            same = next(
                (i for i, (a, b) in enumerate(zip(prompt, known, strict=False)) if a != b), len(known)
            )
            hit = max(hit, min(same, len(prompt)))
        async for chunk in super().stream(request):
            output += chunk.ids
            yield chunk if chunk.finish is None else chunk._replace(cached=hit)
        self._read.append((*prompt, *output))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses"])
async def test_cached_tokens_are_hits_of_the_prompt_before_the_call(
    start: Start, path: str, stream: bool
) -> None:
    """A prompt that was never seen has none cached, though its second pass found the first one's blocks; the
    same prompt again has all of itself. `billed` says what the ledger charges."""
    async with start(backend=Caching(), price=Price("1000", "1000")) as served:
        for asked in range(2):
            usage = await _ask(served, path, stream)
            names = (
                ("input_tokens", "output_tokens")
                if path == "/responses"
                else ("prompt_tokens", "completion_tokens")
            )
            prompt, output = (usage[name] for name in names)
            details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
            assert details["cached_tokens"] == (0 if asked == 0 else prompt)
            billed = usage["billed"]
            assert billed["passes"] == 2
            assert billed["input_tokens"] == prompt + prompt + 4 + 1  # thinking and close are read again
            assert billed["cached_input_tokens"] >= prompt + 4
            assert billed["output_tokens"] == output - 1  # the close is forced: input, not output
            assert billed["unknown_tokens"] == 0
            assert usage["total_tokens"] == prompt + output
        spent = await served.settled()
        assert spent.nano == 2 * 1_000_000 * (billed["input_tokens"] + billed["output_tokens"])
        await served.exact()


async def test_choices_bill_the_prompt_each(start: Start) -> None:
    """Two answers side by side: the usage names the prompt once, `billed` what both read."""
    async with start(backend=Caching()) as served:
        body = await served.ask(thinking_budget=4, solution_budget=8, n=2)
        prompt, billed = body["usage"]["prompt_tokens"], body["usage"]["billed"]
        assert billed["input_tokens"] == 2 * (2 * prompt + 5) == served.backend.meter.input
        assert billed["output_tokens"] == served.backend.meter.output


async def _ask(served: Any, path: str, stream: bool) -> Any:
    body: dict[str, Any] = {"stream": stream, "thinking_budget": 4, "solution_budget": 8}
    if path == "/responses":
        body = {"input": "hello there", "stream": stream, "thinking_budget": 4, "solution_budget": 8}
    elif path == "/completions":
        codec = served.backend.codec
        body |= {"prompt": codec.encode_chat(HELLO)}
    else:
        body |= {"messages": HELLO}
    if stream and path != "/responses":
        body["stream_options"] = {"include_usage": True}
    if not stream:
        return (await served.post(path, body))[2]["usage"]
    async with served.session.post(f"{served.gateway.url}{path}", json=body) as response:
        assert response.status == 200
        lines = [line[6:] for line in (await response.text()).splitlines() if line.startswith("data: {")]
    last = json.loads(lines[-1])
    return last["response"]["usage"] if path == "/responses" else last["usage"]
