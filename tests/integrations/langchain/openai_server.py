"""A small server that speaks OpenAI's chat completions, and meters what it serves by itself.

    with openai_server(answer="five words are in here") as server:
        ChatOpenAI(model="gpt-4o-mini", base_url=server.base_url, api_key="k")

A word is a token. It obeys `max_completion_tokens` (or `max_tokens`), thinks as many tokens as the effort
says before it answers, calls the first tool once when there are tools, and fails when told to.
"""

from __future__ import annotations

import asyncio
import json
import socket
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
        says: in the usage, instead of what is true: numbers by name, or anything.
        continuous: tell the usage with each chunk of a stream, as `continuous_usage_stats` asks vLLM.
        garbage: answer 200 with this text, after serving.
        drop: close the connections of so many requests, after serving.
        input, output: its meter, in tokens.
        bodies: what came.
    """

    answer: str = "the answer is five"
    pause: float = 0.0
    status: int | None = None
    cut_after: int | None = None
    usage: bool = True
    says: Any = None
    continuous: bool = False
    garbage: str | None = None
    drop: int = 0
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
        said = usage if self.says is None else {**usage, **self.says}
        base = {"id": "c1", "created": 1, "model": body["model"]}
        self.running += 1
        try:
            if self.garbage is not None or self.drop > 0:
                self.output += served
                self.drop -= 1
                if self.garbage is None and http.transport is not None:
                    http.transport.abort()
                return web.Response(text=self.garbage or "", content_type="application/json")
            if not body.get("stream"):
                for _ in range(served):
                    await self._token()
                message: dict[str, Any] = {"role": "assistant", "content": " ".join(words)}
                if call:
                    message["tool_calls"] = [self._call(body)]
                choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if call else "stop"}
                whole = {**base, "object": "chat.completion", "choices": [choice]}
                return web.json_response({**whole, "usage": said} if self.usage else whole)
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
                chunk = {**base, "object": "chat.completion.chunk", "choices": [choice]}
                if self.continuous:
                    told = served - len(deltas) + n + 1
                    sofar = {**said, "completion_tokens": told}
                    if self.says is None:
                        sofar["total_tokens"] = asked + told
                    chunk["usage"] = sofar
                await self._send(response, chunk)
            choice = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if call else "stop"}
            await self._send(response, {**base, "object": "chat.completion.chunk", "choices": [choice]})
            if self.usage and (body.get("stream_options") or {}).get("include_usage"):
                last = {**base, "object": "chat.completion.chunk", "choices": [], "usage": said}
                await self._send(response, last)
            await response.write(b"data: [DONE]\n\n")
            return response
        finally:
            self.running -= 1

    async def respond(self, http: web.Request) -> web.Response:
        """OpenAI's Responses API, in one piece or as the two events that clients can't do without."""
        body = await http.json()
        self.bodies.append(body)
        self.requests += 1
        asked = len(json.dumps(body["input"]).split())
        most = body.get("max_output_tokens") or 10_000
        thinking = min(EFFORT.get((body.get("reasoning") or {}).get("effort", ""), 0), most)
        words = self.answer.split()[: most - thinking]
        self.input, self.output = self.input + asked, self.output + thinking + len(words)
        text = {"type": "output_text", "text": " ".join(words), "annotations": []}
        message = {
            "type": "message",
            "id": "m",
            "status": "completed",
            "role": "assistant",
            "content": [text],
        }
        answer = {
            "id": "r1",
            "object": "response",
            "created_at": 1,
            "model": body["model"],
            "status": "completed",
            "output": [message],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": asked,
                "output_tokens": thinking + len(words),
                "total_tokens": asked + thinking + len(words),
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": thinking},
            },
        }
        if not body.get("stream"):
            return web.json_response(answer)
        delta = {"type": "response.output_text.delta", "delta": text["text"], "item_id": "m"}
        events = [
            {**delta, "sequence_number": 1, "output_index": 0, "content_index": 0, "logprobs": []},
            {"type": "response.completed", "sequence_number": 2, "response": answer},
        ]
        lines = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
        return web.Response(text=lines, content_type="text/event-stream")

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


_used: set[int] = set()


def unused_address() -> socket.socket:
    """A listening socket on a port that no server here has had. langchain-openai keeps one client for each
    address, whose connections belong to the event loop of an earlier test."""
    while True:
        found = socket.create_server(("127.0.0.1", 0))
        port = found.getsockname()[1]
        if port not in _used:
            _used.add(port)
            return found
        found.close()


@contextmanager
def openai_server(**options: Any) -> Iterator[OpenAIServer]:
    """The server, in a thread with an event loop of its own."""
    server = OpenAIServer(**options)
    started = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.complete)
        app.router.add_post("/v1/responses", server.respond)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, unused_address()).start()
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
