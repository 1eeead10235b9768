"""A small server that speaks OpenAI's chat completions, and meters what it serves by itself.

    with openai_server(answer="five words are in here") as server:
        ChatOpenAI(model="gpt-4o-mini", base_url=server.base_url, api_key="k")

A word is a token. It obeys `max_completion_tokens` (or `max_tokens`), thinks as many tokens as the effort
says before it answers, calls the first tool once when there are tools, and fails when told to.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

EFFORT = {"low": 5, "medium": 50, "high": 500}


@dataclass
class OpenAIServer:
    """See the module.

    Attributes:
        answer: what it says.
        pause: seconds before each token.
        status: answer with this HTTP status.
        cut_after: close the connection after so many tokens.
        usage: tell it.
        input, output: its meter, in tokens.
        bodies: what came.
    """

    answer: str = "the answer is five"
    pause: float = 0.0
    status: int | None = None
    cut_after: int | None = None
    usage: bool = True
    base_url: str = ""
    input: int = 0
    output: int = 0
    requests: int = 0
    running: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def complete(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        self.bodies.append(body)
        if self.status is not None:
            return web.json_response({"error": {"message": "told to", "type": "x"}}, status=self.status)
        self.requests += 1
        asked = sum(len(json.dumps(m).split()) for m in [*body["messages"], *body.get("tools", ())])
        self.input += asked
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 10_000
        thinking = min(EFFORT.get(body.get("reasoning_effort", ""), 0), most)
        call = body.get("tools") and body["messages"][-1]["role"] == "user"
        words = [] if call else self.answer.split()[: most - thinking]
        served = thinking + (len(words) if not call else 8)
        usage = {
            "prompt_tokens": asked,
            "completion_tokens": served,
            "total_tokens": asked + served,
            "completion_tokens_details": {"reasoning_tokens": thinking},
        }
        base = {"id": "c1", "created": 1, "model": body["model"]}
        self.running += 1
        try:
            if not body.get("stream"):
                for _ in range(served):
                    await self._token()
                message: dict[str, Any] = {"role": "assistant", "content": " ".join(words)}
                if call:
                    message["tool_calls"] = [self._call(body)]
                choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if call else "stop"}
                whole = {**base, "object": "chat.completion", "choices": [choice]}
                return web.json_response({**whole, "usage": usage} if self.usage else whole)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(http)
            deltas: list[dict[str, Any]] = [{"content": f"{word} "} for word in words]
            if call:
                deltas = [{"tool_calls": [{**self._call(body), "index": 0}]}]
            for _ in range(served - len(deltas)):
                await self._token()
            for n, delta in enumerate(deltas):
                if n == self.cut_after and http.transport is not None:
                    http.transport.abort()
                await self._token()
                choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}
                await self._send(response, {**base, "object": "chat.completion.chunk", "choices": [choice]})
            choice = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if call else "stop"}
            await self._send(response, {**base, "object": "chat.completion.chunk", "choices": [choice]})
            if self.usage and (body.get("stream_options") or {}).get("include_usage"):
                last = {**base, "object": "chat.completion.chunk", "choices": [], "usage": usage}
                await self._send(response, last)
            await response.write(b"data: [DONE]\n\n")
            return response
        finally:
            self.running -= 1

    async def _token(self) -> None:
        if self.pause:
            await asyncio.sleep(self.pause)
        self.output += 1

    @staticmethod
    async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    @staticmethod
    def _call(body: dict[str, Any]) -> dict[str, Any]:
        function = body["tools"][0]["function"]
        args = dict.fromkeys(function["parameters"].get("properties", {}), "say 5")
        return {
            "id": "call_1",
            "type": "function",
            "function": {"name": function["name"], "arguments": json.dumps(args)},
        }


@contextmanager
def openai_server(**options: Any) -> Iterator[OpenAIServer]:
    """The server, in a thread with an event loop of its own."""
    server = OpenAIServer(**options)
    started = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.complete)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        stop.append((asyncio.get_running_loop(), asyncio.Event()))
        started.set()
        await stop[0][1].wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="openai-server")
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join()
