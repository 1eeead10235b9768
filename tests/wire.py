"""A server that speaks vLLM's wire, in front of any `Backend` of ours, on a real port of 127.0.0.1.

    async with Wire(ScriptedBackend(...)) as wire:                  # in this event loop
        VllmServerBackend("scripted", wire.base_url, codec=...)
    with serve_in_thread(ScriptedBackend(...)) as wire:             # for synchronous users, and subprocesses
        ...

It sends what vLLM 0.31 sends: `/v1/models` with `max_model_len`; `/v1/completions`, streamed or not, with
prompt ids in, `token_ids` out (the stop token among them), `finish_reason` and `stop_reason`, and a last
usage chunk with `prompt_tokens_details`. The fields in HANDED_ON are for the backend, which may obey them.
With `adapters` it loads and unloads LoRA adapters by name, as vLLM does under
VLLM_ALLOW_RUNTIME_LORA_UPDATING, and samples from the backend whichever is named. A client that goes away
ends the backend's stream. `faults` make it misbehave; `requests` keeps the bodies that came, `checks` those
that were refused before an engine had them. With an `engine` it has vLLM's `/metrics`, as far as we read
them.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aiohttp import web

from elastic_agent.backends.base import Backend, Sampling, TokenChunk, TokenRequest
from elastic_agent.errors import BackendError

HANDED_ON = ("structured_outputs", "logit_bias", "vllm_xargs")


@dataclass
class Faults:
    """How to misbehave. May be changed while the server runs."""

    status: int | None = None
    """Answer completions with this HTTP status."""
    body: str | None = None
    """The text of that answer, instead of an error in vLLM's form."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers of that answer."""
    models: Any = None
    """Answer `/v1/models` with this: JSON, or text as it is."""
    cut_after: int | None = None
    """Close the connection after so many tokens."""
    stall_after: int | None = None
    """Send nothing more after so many tokens, and keep the connection."""
    malformed_after: int | None = None
    """Send an event that is not JSON after so many tokens."""
    error_after: int | None = None
    """Send an error event after so many tokens, as vLLM does when its engine dies."""
    finish: str | None = None
    """Say this as finish_reason."""
    no_token_ids: bool = False
    """Like a server that does not know `return_token_ids`."""
    no_usage: bool = False
    usage: Any = None
    """Say this number of completion tokens."""
    drop_stop: bool = False
    """Leave the stop token out of `token_ids`."""
    extra: int = 0
    """Serve so many tokens more than asked."""
    coalesce: int = 1
    """Send so many tokens an event."""
    refuse_guides: str | None = None
    """Refuse every request with fields of guided decoding, and say this."""
    no_ranks: bool = False
    """Like a server that knows no `X-data-parallel-rank`."""
    refuse_adapters: str | None = None
    """Answer 500 to adapters, and say this."""

    def __str__(self) -> str:
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return ",".join(f"{name}={value}" for name, value in changed.items())


@dataclass
class Engine:
    """An engine's counters; a test may move them, for what others do there."""

    started: float = 1_796_027_961.56
    tokens: int = 0
    steps: int = 0
    running: int = 0
    waiting: int = 0
    ended: int = 0
    more: str = ""
    """Further lines."""
    cut: int | None = None
    """Answer only so many characters."""

    def metrics(self) -> str:
        """As Prometheus reads it."""
        at = '{engine="0",model_name="scripted"}'
        ends = "".join(
            f'vllm:request_success_total{{engine="0",finished_reason="{why}",model_name="m"}} {count}\n'
            for why, count in (("stop", self.ended), ("length", 0), ("abort", 0))
        )
        return (
            f"# HELP process_start_time_seconds Start time.\n"
            f"process_start_time_seconds {self.started}\n"
            f"vllm:num_requests_running{at} {self.running}.0\n"
            f"vllm:num_requests_waiting{at} {self.waiting}.0\n"
            f'vllm:num_requests_waiting_by_reason{{engine="0",reason="capacity"}} 9.0\n'
            f"vllm:generation_tokens_total{at} {float(self.tokens)}\n"
            f'vllm:iteration_tokens_total_bucket{{engine="0",le="1.0",model_name="scripted"}} 7.0\n'
            f"vllm:iteration_tokens_total_count{at} {float(self.steps)}\n"
            f"vllm:iteration_tokens_total_sum{at} {float(self.tokens)}\n{ends}{self.more}"
        )


class Wire:
    """The server; `base_url` ends in `/v1`.

    Args:
        backend: what answers.
        key: the bearer token that it wants, if any.
        adapters: folders of the adapters that are loaded, by name; None for a server without LoRA.
        faults: how to misbehave.
        engine: its counters; None for a server that has none.

    `port` is that of its next start; 0 takes a free one.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        key: str | None = None,
        adapters: dict[str, str] | None = None,
        faults: Faults | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.backend = backend
        self.engine = engine
        self.key = key
        self.adapters = adapters
        self.loads: list[str] = []
        """Names of the adapters that were loaded, in order."""
        self.faults = faults or Faults()
        self.requests: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.base_url = ""
        self.port = 0

    async def __aenter__(self) -> Wire:
        app = web.Application(middlewares=[self._authorized])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/health", self._health)
        if self.engine is not None:
            app.router.add_get("/metrics", self._metrics)
        if self.adapters is not None:
            app.router.add_post("/v1/load_lora_adapter", self._load_adapter)
            app.router.add_post("/v1/unload_lora_adapter", self._unload_adapter)
        self.add_routes(app)
        # Waiting handlers must not hold up the end; a client that leaves cancels its handler
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def add_routes(self, app: web.Application) -> None:
        """More of vLLM's endpoints, for a subclass."""

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)  # type: ignore[no-any-return]

    async def _models(self, _: web.Request) -> web.Response:
        if isinstance(self.faults.models, str):
            return web.Response(text=self.faults.models)
        if self.faults.models is not None:
            return web.json_response(self.faults.models)
        entry = {"id": self.backend.model, "object": "model", "owned_by": "vllm", "root": self.backend.model}
        entry["max_model_len"] = self.backend.context_length  # type: ignore[assignment]
        loaded = [
            {"id": name, "root": path, "parent": self.backend.model, "max_model_len": None}
            for name, path in (self.adapters or {}).items()
        ]
        return web.json_response({"object": "list", "data": [entry, *loaded]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.faults.status or 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        assert self.engine is not None
        return web.Response(text=self.engine.metrics()[: self.engine.cut])

    async def _load_adapter(self, http: web.Request) -> web.Response:
        body = await http.json()
        name, path = body["lora_name"], body["lora_path"]
        assert self.adapters is not None
        if (self.faults.status or 0) >= 500 or self.faults.refuse_adapters is not None:
            return _error(self.faults.refuse_adapters or "EngineCore encountered an issue.", 500)
        if not (Path(path) / "adapter_config.json").is_file():
            return _error(f"Loading lora {name} failed: No adapter found for {path}", 404)
        if name in self.adapters:
            return _error(f"The lora adapter '{name}' has already been loaded.", 400)
        self.adapters[name] = path
        self.loads.append(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload_adapter(self, http: web.Request) -> web.Response:
        name = (await http.json())["lora_name"]
        if self.adapters is None or self.adapters.pop(name, None) is None:
            return _error(f"The lora adapter '{name}' cannot be found.", 404)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        faults = self.faults
        refused = self._checked(body, http.headers.get("X-data-parallel-rank"))
        if refused is not None:
            self.checks.append(body)
            return _error(refused, 400)
        self.requests.append(body)
        if faults.status is not None:
            answer = _error(f"told to answer {faults.status}", faults.status)
            if faults.body is not None:
                answer = web.Response(status=faults.status, text=faults.body, content_type="text/html")
            answer.headers.update(faults.headers)
            return answer
        if body["model"] not in {self.backend.model, *(self.adapters or ())}:
            return _error(f"The model `{body['model']}` does not exist.", 404)
        request = self._request(body)
        room = self.backend.context_length - len(request.prompt_ids)
        if not request.prompt_ids or request.max_tokens < 1:
            return _error("max_tokens must be at least 1, got a prompt or limit of none", 400)
        if body["max_tokens"] > room:
            return _error(f"maximum context length is {self.backend.context_length} tokens", 400)
        events = self._events(body, request, http)
        async with aclosing(events):
            if not body.get("stream"):
                return web.json_response(_whole([event async for event in events if isinstance(event, dict)]))
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
            await response.prepare(http)
            async for event in events:
                text = event if isinstance(event, str) else json.dumps(event)
                await response.write(f"data: {text}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
            return response

    def _checked(self, body: dict[str, Any], rank: str | None) -> str | None:
        """Why a request is refused before its engine has it: first for its fields, then for its engine."""
        if "structured_outputs" in body and self.faults.refuse_guides is not None:
            return self.faults.refuse_guides
        if rank in (None, "0") or self.faults.no_ranks:
            return None
        return f"data_parallel_rank {rank} is out of range [0, 1)."

    def _request(self, body: dict[str, Any]) -> TokenRequest:
        eos = min(self.backend.codec.markers.eos_ids)
        return TokenRequest(
            prompt_ids=tuple(body["prompt"]),
            max_tokens=body["max_tokens"] + (self.faults.extra if body["max_tokens"] > 0 else 0),
            stop_ids=frozenset(body.get("stop_token_ids") or ()) | {eos},
            sampling=Sampling(
                temperature=body.get("temperature", 1.0),
                top_p=body.get("top_p", 1.0),
                top_k=body.get("top_k", 0),
                seed=body.get("seed"),
                logprobs=body.get("logprobs") is not None,
            ),
            extra={name: body[name] for name in HANDED_ON if name in body},
        )

    async def _events(
        self, body: dict[str, Any], request: TokenRequest, http: web.Request
    ) -> AsyncIterator[dict[str, Any] | str]:
        faults, served, cached = self.faults, 0, 0
        held: list[TokenChunk] = []
        engine = self.engine or Engine()
        engine.running += 1
        try:
            async with aclosing(self.backend.stream(request)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    cached = max(cached, chunk.cached)
                    if served == faults.cut_after and http.transport is not None:
                        http.transport.abort()
                    if served == faults.stall_after:
                        await asyncio.Event().wait()
                    if served == faults.malformed_after:
                        yield '{"choices": [{"tok'
                    if served == faults.error_after:
                        yield {"error": {"message": "EngineCore died", "code": 500}}
                        return
                    served += len(chunk.ids)
                    engine.tokens += len(chunk.ids)
                    engine.steps += len(chunk.ids)
                    engine.ended += chunk.finish is not None
                    held.append(chunk)
                    if len(held) >= faults.coalesce or chunk.finish is not None:
                        yield self._event(body, held, first=served == len(held))
                        held = []
        except BackendError as error:
            yield {"error": {"message": str(error), "code": 500}}
            return
        finally:
            engine.running -= 1
        options = body.get("stream_options") or {}
        if (options.get("include_usage") or not body.get("stream")) and not faults.no_usage:
            completion = served if faults.usage is None else faults.usage
            yield {
                "id": "cmpl-1",
                "object": "text_completion",
                "model": self.backend.model,
                "choices": [],
                "usage": {
                    "prompt_tokens": len(request.prompt_ids),
                    "completion_tokens": completion,
                    "total_tokens": len(request.prompt_ids) + served,
                    "prompt_tokens_details": {"cached_tokens": cached} if cached else None,
                },
            }

    def _event(self, body: dict[str, Any], chunks: list[TokenChunk], *, first: bool) -> dict[str, Any]:
        ids = [i for chunk in chunks for i in chunk.ids]
        finish = chunks[-1].finish
        reason = ids[-1] if finish == "stop" and ids[-1] in (body.get("stop_token_ids") or ()) else None
        if reason == min(self.backend.codec.markers.eos_ids):
            reason = None  # vLLM looks for the model's own end of text first, and names no reason for it
        logprobs = None
        if body.get("logprobs") is not None:
            values = [p for chunk in chunks for p in chunk.logprobs or ()]
            logprobs = {"token_logprobs": values, "tokens": [str(i) for i in ids], "top_logprobs": []}
        if self.faults.drop_stop and reason is not None:
            ids = ids[:-1]
        choice: dict[str, Any] = {
            "index": 0,
            "text": self.backend.codec.decode(ids) or " ",
            "logprobs": logprobs,
            "finish_reason": (self.faults.finish or finish) if finish else None,
            "stop_reason": reason,
        }
        if body.get("return_token_ids") and not self.faults.no_token_ids:
            choice["token_ids"] = ids
            choice["prompt_token_ids"] = body["prompt"] if first else None
        return {"id": "cmpl-1", "object": "text_completion", "model": self.backend.model, "choices": [choice]}


def _whole(events: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream's events as one answer."""
    whole = events[-1]  # the usage
    parts = [event["choices"][0] for event in events[:-1]]
    choice = {**parts[-1], "text": "".join(part["text"] for part in parts)}
    if "token_ids" in choice:
        choice["token_ids"] = [i for part in parts for i in part["token_ids"]]
    return {**whole, "choices": [choice]}


def _error(message: str, status: int) -> web.Response:
    error = {"message": message, "type": "Error", "param": None, "code": status}
    return web.json_response({"error": error}, status=status)


@contextmanager
def serve_in_thread(backend: Backend, *, make: Callable[..., Wire] = Wire, **options: Any) -> Iterator[Wire]:
    """A `Wire` (or what `make` makes instead) in a thread with an event loop of its own."""
    wire = make(backend, **options)
    started = threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        async with wire:
            stop.append((asyncio.get_running_loop(), asyncio.Event()))
            started.set()
            await stop[0][1].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="wire")
    thread.start()
    started.wait()
    try:
        yield wire
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join()


@contextmanager
def serving(model: str = "e1-tiny") -> Iterator[str]:
    """The embedded model behind the wire, served under a name of the caller's choice; yields the base URL."""
    from elastic_agent.backends.transformers.backend import TransformersBackend
    from elastic_agent.model_location import model_path

    backend = TransformersBackend.load(model_path("e1-tiny"), name=model)
    try:
        with serve_in_thread(backend) as wire:
            yield wire.base_url
    finally:
        asyncio.run(backend.aclose())
