"""A fast, deterministic upstream for `gateway.py`: vLLM's `/v1/completions` by token ids, and chat.

    python benchmarks/_gateway_upstream.py PORT [SECONDS]

It computes nothing: what it says was put together when it started, so what is measured beside it is what
stands in front of it. It thinks for 12 tokens and answers in 8, each pass in one piece, and serves e1-tiny's
vocabulary under that name. With SECONDS each pass takes so long, as an engine's would.
`/metered` says what it has served: requests, input and output tokens.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

from elastic_agent.model_location import model_path
from elastic_agent.prompts.tokenizer import load_codec

MODEL = "e1-tiny"
THINKING, ANSWER = "0 1 2 3 4 5", "42"


class Upstream:
    """The two routes, and the meter."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        codec = load_codec(model_path(MODEL), name=MODEL)
        self._close = tuple(codec.markers.close_ids)
        self._end = min(codec.markers.eos_ids)
        self._thinking = [*codec.encode(THINKING)[:12], *self._close]
        self._answer = [*codec.encode(ANSWER)[:7], self._end]
        self.requests = self.input = self.output = 0

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "max_model_len": 4096}]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """One pass: thinking, unless the prompt has been closed already."""
        body = await request.json()
        if self._seconds:
            await asyncio.sleep(self._seconds)
        prompt = body["prompt"]
        closed = tuple(prompt[-len(self._close) :]) == self._close or self._close[-1] in prompt
        ids = (self._answer if closed else self._thinking)[: body["max_tokens"]]
        stopped = ids[-1] in body.get("stop_token_ids", ())
        usage = self._usage(len(prompt), len(ids))
        choice = {
            "index": 0,
            "text": "",
            "token_ids": ids,
            "finish_reason": "stop" if stopped else "length",
            "stop_reason": ids[-1] if stopped else None,
        }
        events = [{"choices": [choice]}, {"choices": [], "usage": usage}]
        return web.Response(body=_sse(events), content_type="text/event-stream")

    async def chat(self, request: web.Request) -> web.Response:
        """The same answer in one pass, as any OpenAI-compatible server gives it."""
        await request.json()
        usage = self._usage(50, len(self._thinking) + len(self._answer))
        message = {"role": "assistant", "content": ANSWER, "reasoning_content": THINKING}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": MODEL,
                "choices": [choice],
                "usage": usage,
            }
        )

    async def metered(self, request: web.Request) -> web.Response:
        return web.json_response({"requests": self.requests, "input": self.input, "output": self.output})

    def _usage(self, prompt: int, completion: int) -> dict[str, int]:
        self.requests += 1
        self.input += prompt
        self.output += completion
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def _sse(events: list[dict[str, Any]]) -> bytes:
    return (
        b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    )


def main() -> None:
    upstream = Upstream(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_get("/v1/models", upstream.models)
    app.router.add_post("/v1/completions", upstream.completions)
    app.router.add_post("/v1/chat/completions", upstream.chat)
    app.router.add_get("/metered", upstream.metered)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
