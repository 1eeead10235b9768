"""A vLLM server, over `/v1/completions` with token ids in both directions.

Completions and not chat completions: the prompt is ours, spliced by id, in both passes. The request asks for
`return_token_ids`; a server that sends none is an error, since text can't be counted. Closing a stream
closes its connection, at which vLLM aborts the request.

The meter counts what arrived, or what the server's own usage says if that is more. From the moment a request
is written until its finish arrives nobody here knows how far the engine has come. When a stream is left in
between, the server's counters bound what it was served (`engine_counters`); where they don't, the receipt
says so, and the call is charged in full. A request that never found a connection is charged nothing; of an
answer that is an error `elastic_agent.charging.delivery` says whether the engine ran it.
"""

from __future__ import annotations

import asyncio
import atexit
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakSet

import aiohttp

from ...charging.delivery import delivery_of_status
from ...charging.provider_usage import token_count
from ...errors import (
    BackendError,
    BackendProtocolError,
    BackendUnavailableError,
)
from ...prompts.marker_profiles import MarkerText
from ...prompts.tokenizer import load_codec
from ...validation import MOST_SECONDS, integer, real
from ..base import (
    NO_LIMITS,
    Codec,
    Finish,
    Meter,
    Receipt,
    TokenChunk,
    TokenRequest,
    check_request,
    confirm_send,
)
from ..limits_probe import FIELD, PASSED, UNPROBED, probe_once
from .engine_counters import (
    HURRY_SECONDS,
    SETTLE_SECONDS,
    EngineCounters,
    Watch,
)
from .guided_decoding import GuideCheck
from .served import address, find_codec, models_in, not_served, told, unreachable

_CLOSE_SECONDS, _CLOSE_HURRY = 0.5, 0.1
"""For a server to close its half of a connection after we have closed ours; the same while a call waits."""
_KEEP_ALIVE = 2.0
"""Seconds that an unused connection is kept. vLLM closes it after 5 (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): a request
that is sent at that very moment is lost, and nobody can know whether it was served."""


_BACKENDS: WeakSet[VllmServerBackend] = WeakSet()


@atexit.register
def _at_exit() -> None:
    """Open sessions would say on standard error that they are."""
    for backend in list(_BACKENDS):
        backend.end()


class VllmServerBackend:
    """One model on one vLLM server.

    Args:
        model: the name that the server serves it under.
        base_url: up to and with `/v1`, which is added to a bare host; see `served.address`.
        api_key: sent as a bearer token.
        tokenizer: folder or hub id of the tokenizer, when `model` is not one. Left out, the server is asked
            what it loaded (`root` in its `/models`): enough where that is a hub id or a folder of ours.
        codec: instead of `tokenizer`.
        markers: what begins and ends its thinking, where the tokenizer doesn't tell.
        context_length: when the server doesn't tell (`ready` asks it).
        connect_timeout: seconds to reach the server.
        idle_timeout: seconds without a byte after which a stream counts as broken.
        native: have `ready` probe whether the server holds both limits of a call itself (it does when it was
            started with `elastic-agent up --native`); calls that nobody steers then take one request.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str | None = None,
        tokenizer: str | None = None,
        codec: Codec | None = None,
        markers: MarkerText | None = None,
        context_length: int | None = None,
        connect_timeout: float = 10.0,
        idle_timeout: float = 300.0,
        native: bool = False,
    ) -> None:
        self.model = model
        self.base_url = address(base_url)
        self.codec = codec or find_codec(
            model,
            tokenizer,
            self.base_url,
            api_key,
            lambda where, name: load_codec(where, name=name, markers=markers),
        )
        self.context_length = (
            32_768 if context_length is None else integer("context_length", context_length, least=1)
        )
        self.meter = Meter()
        self.counters = EngineCounters(f"{self.base_url.removesuffix('/v1')}/metrics")
        self.guided = True
        self._guides = GuideCheck(f"{self.base_url}/completions", model, self.meter)
        self.two_passes = UNPROBED if native else NO_LIMITS
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=real("connect_timeout", connect_timeout, above=True, most=MOST_SECONDS),
            sock_read=real("idle_timeout", idle_timeout, above=True, most=MOST_SECONDS),
        )
        self._sessions: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[Any]]]
        self._sessions = {}
        self._responses: dict[aiohttp.ClientResponse, asyncio.AbstractEventLoop] = {}
        self._checked = False
        self.closed = False
        _BACKENDS.add(self)

    async def ready(self) -> None:
        """Ask the server, once, whether it has the model and how long its context is.

        Raises:
            UnknownModelError: it serves other models.
            BackendUnavailableError: it can't be reached.
        """
        if not self._checked:
            await self.probe()
        await probe_once(self)

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """Ask the server, once for the same fields; see `GuideCheck`."""
        return "" if self.closed else await self._guides.refusal(await self._session(), fields)

    async def probe(self) -> None:
        """The same, asked anew: whether the server is there now.

        Raises:
            UnknownModelError, BackendUnavailableError: as `ready`.
        """
        try:
            session = await self._session()
            url = f"{self.base_url}/models"
            async with session.get(url) as response:
                if response.status >= 400:
                    text = await response.text(errors="replace")
                    raise told(response.status, text, url, self.model)
                served = models_in(await response.text(errors="replace"), url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error, self.base_url) from error
        if self.model not in served:
            raise not_served(self.base_url, self.model, served)
        length = served[self.model].context_length or self.context_length
        self.context_length = length
        self._checked = True

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        check_request(request, self.context_length)
        receipt, served = request.receipt, 0
        ids: list[int] = []
        receipt.refused = True  # until its headers are sent: `_left`
        if self.closed:
            raise BackendUnavailableError(f"{self.model} has been closed")
        last: TokenChunk | None = None
        watch: Watch | None = None
        try:
            session = await self._session()
            watch = await self.counters.begin(session, request.max_tokens)
            posted = await self._posted(session, request, watch)
            async with posted as response, _Open(self._responses, response):
                if response.status >= 400:
                    raise await self._told(response, receipt)
                self.meter.requests += 1
                self.meter.input += len(request.prompt_ids)
                try:
                    async for data in _events(response):
                        if self.closed:
                            raise BackendUnavailableError(f"{self.model} has been closed")
                        chunk = _chunk(data, request)
                        if chunk is not None:
                            watch.came += _tokens(data)
                            if last is not None:
                                raise BackendProtocolError(f"{self.model}: more tokens after the finish")
                            served += len(chunk.ids)
                            ids += chunk.ids
                            self.meter.output += len(chunk.ids)
                            if served > request.max_tokens:
                                raise BackendProtocolError(
                                    f"{self.model}: {served} tokens came, {request.max_tokens} were asked for"
                                )
                            if chunk.finish is None:
                                yield chunk
                            else:
                                last = chunk  # the usage comes with it or after it
                        if last is not None and data.get("usage"):
                            output, cached = _usage(data["usage"], request)
                            if 0 < output < watch.came:  # something between us sent a part of it twice
                                raise BackendProtocolError(
                                    f"{self.model}: {watch.came} tokens came, the server says that it "
                                    f"served {output}"
                                )
                            watch.told = output
                            self.meter.output += max(0, output - served)
                            served = max(served, output)
                            last = TokenChunk(last.ids, last.logprobs, last.finish, cached)
                finally:
                    self.counters.end(watch, ended=last is not None)
                    if last is None:
                        await _to_its_end(self._leave(session, response, request, watch))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if receipt.refused:
                raise unreachable(error, self.base_url) from error
            if last is None:
                raise BackendUnavailableError(
                    f"{self.model}: the stream broke off after {served} tokens: {error!r}"
                ) from error
        finally:
            if watch is not None:
                self.counters.end(watch, ended=last is not None)
            if request.limits is not None and not request.limits.kept(ids):
                self.two_passes = PASSED
        if last is None:
            raise BackendUnavailableError(f"{self.model}: the stream broke off after {served} tokens")
        receipt.output = served
        yield last

    async def _leave(
        self,
        session: aiohttp.ClientSession,
        response: aiohttp.ClientResponse,
        request: TokenRequest,
        watch: Watch,
    ) -> None:
        """Close a stream before its end, and find out how much it was served at most.

        Only our half is closed first: what had been sent still comes, and when the server closes the other
        half it has seen that we left, and stops. Over TLS there are no halves.
        """
        hurry, connection = request.receipt.call_waits(), response.connection
        transport = None if connection is None else connection.transport
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            try:
                transport.write_eof()
                async with asyncio.timeout(_CLOSE_HURRY if hurry else _CLOSE_SECONDS):
                    async for data in _events(response):
                        watch.came += _tokens(data)
                        self.meter.output += _tokens(data)
            except aiohttp.ClientPayloadError:
                watch.noticed = True  # the answer ends without its end
            except (aiohttp.ClientError, TimeoutError, OSError, BackendError, RuntimeError):
                pass
        response.close()
        if not self.closed:
            seconds = HURRY_SECONDS if hurry else SETTLE_SECONDS
            request.receipt.output_bound = await self.counters.served(session, watch, seconds)

    async def _posted(
        self, session: aiohttp.ClientSession, request: TokenRequest, watch: Watch
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for its answer to begin. Cancelled meanwhile, the answer is left as soon as
        it begins: a request that was sent and not answered may be served, and nobody could know how far."""
        posting = asyncio.ensure_future(self._post(session, request))
        try:
            return await asyncio.shield(posting)
        except asyncio.CancelledError:
            await _to_its_end(self._leave_unanswered(session, posting, request, watch))
            raise

    async def _leave_unanswered(
        self,
        session: aiohttp.ClientSession,
        posting: asyncio.Future[aiohttp.ClientResponse],
        request: TokenRequest,
        watch: Watch,
    ) -> None:
        if watch.before is not None and not request.receipt.refused:
            await asyncio.wait([posting], timeout=_CLOSE_SECONDS)
        posting.cancel()
        await asyncio.wait([posting])
        if posting.cancelled() or posting.exception() is not None:
            return
        response = posting.result()
        if response.status >= 400:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with response, asyncio.timeout(_CLOSE_SECONDS):
                    await self._told(response, request.receipt)
            return
        self.meter.requests += 1
        self.meter.input += len(request.prompt_ids)
        self.counters.end(watch, ended=False)
        await self._leave(session, response, request, watch)

    async def _told(self, response: aiohttp.ClientResponse, receipt: Receipt) -> BackendError:
        """An answer that is an error; the receipt says whether the engine ran its request."""
        text = await response.text(errors="replace")
        hops = [hop.status for hop in response.history]
        receipt.refused = delivery_of_status(response.status, text, response.headers, hops).free
        return told(response.status, text, f"{self.base_url}/completions", self.model)

    async def _post(self, session: aiohttp.ClientSession, request: TokenRequest) -> aiohttp.ClientResponse:
        """Send a request; once more where a kept connection was found closed before a byte went."""
        url = f"{self.base_url}/completions"
        try:
            body = json.dumps(self._body(request)).encode()
        except (TypeError, ValueError) as error:
            raise BackendError(f"{self.model}: the request can't be written as JSON: {error}") from error
        headers = {"Content-Type": "application/json"}
        await confirm_send(request)
        try:
            return await session.post(url, data=body, headers=headers, trace_request_ctx=request.receipt)
        except aiohttp.ClientOSError as error:
            if not isinstance(error.__cause__, aiohttp.ClientConnectionResetError):
                raise
            request.receipt.refused = True
            await confirm_send(request)
            return await session.post(url, data=body, headers=headers, trace_request_ctx=request.receipt)

    async def aclose(self) -> None:
        """Close the connections of this event loop; other loops' close with them."""
        self.closed = True
        running = asyncio.get_running_loop()
        for response in [one for one, loop in list(self._responses.items()) if loop is running]:
            # aiohttp lets a reader that waits wait on
            response.content.set_exception(aiohttp.ClientConnectionError("closed"))
        _, keeper = self._sessions.get(running, (None, None))
        if keeper is not None:
            await keeper.aclose()

    async def _session(self) -> aiohttp.ClientSession:
        """This event loop's session, with its open connections."""
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            await self._let_go([other for other in list(self._sessions) if other.is_closed()])
            keeper = self._keeper(loop)
            self._sessions[loop] = (await anext(keeper), keeper)
        return self._sessions[loop][0]

    async def _keeper(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[aiohttp.ClientSession]:
        """Holds a session open as long as its event loop runs: `asyncio.run` closes, at its end, the
        generators that are still open."""
        # No limit of our own: a queue in the client would hide the engine's priorities
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        watch = aiohttp.TraceConfig()
        watch.on_request_headers_sent.append(_left)
        session = aiohttp.ClientSession(
            connector=connector, headers=self._headers, timeout=self._timeout, trace_configs=[watch]
        )
        try:
            yield session
        finally:
            self._sessions.pop(loop, None)
            await session.close()

    async def _let_go(self, loops: Iterable[asyncio.AbstractEventLoop]) -> None:
        """Let the sessions of these loops go: closed ones, on which nothing can be awaited any more."""
        for loop in loops:
            session, _ = self._sessions.pop(loop)
            if session.connector is not None:
                await session.connector.close()
            session.detach()

    def end(self) -> None:
        """Close what loops that don't run have left open: those of `asyncio.run` have left nothing."""
        for loop, (_, keeper) in list(self._sessions.items()):
            if not loop.is_running() and not loop.is_closed():
                loop.run_until_complete(keeper.aclose())
        if loops := [loop for loop in self._sessions if loop.is_closed()]:
            asyncio.run(self._let_go(loops))

    def _body(self, request: TokenRequest) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            **request.extra,
            "model": self.model,
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_token_ids": sorted(request.stop_ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        if sampling.top_k > 0:
            body["top_k"] = sampling.top_k
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.logprobs:
            body["logprobs"] = 0
        if request.priority:
            body["priority"] = request.priority
        if request.limits is not None:
            body["vllm_xargs"] = {**body.get("vllm_xargs", {}), FIELD: list(astuple(request.limits))}
        return body


class _Open:
    """Has a response among those that `aclose` breaks off, with its event loop.

    Not made of a generator: an event loop that ends closes every async generator, in any order.
    """

    def __init__(
        self,
        responses: dict[aiohttp.ClientResponse, asyncio.AbstractEventLoop],
        response: aiohttp.ClientResponse,
    ) -> None:
        self._responses, self._response = responses, response

    async def __aenter__(self) -> None:
        self._responses[self._response] = asyncio.get_running_loop()

    async def __aexit__(self, *_: object) -> None:
        del self._responses[self._response]


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work`, which takes a second or two at most, whoever cancels us meanwhile: then the cancel
    comes afterwards."""
    task, interrupted = asyncio.ensure_future(work), cast("asyncio.CancelledError | None", None)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    task.result()


def _tokens(data: dict[str, Any]) -> int:
    """How many tokens an event brings; whatever else is wrong with it is found elsewhere."""
    try:
        return len(data["choices"][0].get("token_ids") or ())
    except (AttributeError, LookupError, TypeError):
        return 0


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, up to [DONE]; lines of any length (aiohttp's own end at
    128 KiB)."""
    rest, more = b"", True
    while more:
        piece = await _read(response)
        more = bool(piece)
        *lines, rest = (rest + piece).split(b"\n") if more else (rest, b"")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield _event(data)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """What has come; b"" at the end."""
    try:
        return await response.content.readany()
    except RuntimeError as error:  # how aiohttp says that its session was closed meanwhile
        raise aiohttp.ClientConnectionError(str(error)) from error


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data.decode())  # bytes have their encoding guessed first
    except (ValueError, RecursionError) as error:
        raise BackendProtocolError(f"a malformed event from the server: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise BackendProtocolError(f"an unexpected event from the server: {data[:80]!r}")
    if "error" in event:
        raise BackendError(f"the server failed in the middle of the stream: {str(event['error'])[:500]}")
    return event


def _usage(usage: Any, request: TokenRequest) -> tuple[int, int]:
    """(output, cached) tokens of a usage, as the server says; 0 where it says nothing."""
    told = usage.get("completion_tokens") if isinstance(usage, dict) else usage
    output = token_count(told)
    if output is None and told is not None and not (isinstance(told, int | float) and told < 0):
        raise BackendProtocolError(f"an unexpected usage from the server: {str(usage)[:80]}")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = token_count(details.get("cached_tokens")) if isinstance(details, dict) else None
    output = output or 0
    if output > request.max_tokens:
        raise BackendProtocolError(
            f"the server says that it served {output} tokens, {request.max_tokens} were asked for"
        )
    return output, min(cached or 0, len(request.prompt_ids))


def _chunk(data: dict[str, Any], request: TokenRequest) -> TokenChunk | None:
    """One event's choice as a chunk; None when it has none."""
    choices = data.get("choices")
    if not choices:
        return None
    try:
        choice = choices[0]
        ids, finish = choice.get("token_ids"), choice.get("finish_reason")
        if ids is None:
            if finish is None and not choice.get("text"):
                return None
            raise BackendProtocolError(
                "the server sent no token ids: it must be a vLLM that knows return_token_ids (0.10.2)"
            )
        ids = tuple(map(int, ids))
        stopped_by = choice.get("stop_reason")
        if finish == "stop" and isinstance(stopped_by, int) and ids[-1:] != (stopped_by,):
            ids = (*ids, stopped_by)  # some versions leave the stop token out
        values: tuple[float | None, ...] | None = None
        if request.sampling.logprobs:
            told = [None if p is None else float(p) for p in choice["logprobs"]["token_logprobs"]]
            values = (*told, *[None] * (len(ids) - len(told)))[: len(ids)]
    except (AttributeError, TypeError, ValueError, LookupError, OverflowError) as error:
        raise BackendProtocolError(f"an unexpected choice from the server: {error!r}") from error
    if finish not in (None, "stop", "length"):
        raise BackendUnavailableError(f"the server ended the stream with {finish!r}")
    return TokenChunk(ids, values, cast("Finish | None", finish))


async def _left(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    """The request is about to be written: from here on the engine may be ahead of what has arrived."""
    if isinstance(context.trace_request_ctx, Receipt):
        context.trace_request_ctx.refused = False
