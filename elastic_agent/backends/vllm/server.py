"""A vLLM server as a backend, over `/v1/completions` with token ids in both directions.

Completions and not chat completions: the prompt is ours, spliced by id, in both passes. The request asks for
`return_token_ids`; a server that sends none is an error, since text can't be counted. Closing a stream closes
its connection, at which vLLM aborts the request (`server_pass`).

The meter counts what arrived, or what the server's own usage says if that is more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Unpack

import aiohttp

from ..base import NO_LIMITS, Meter, TokenChunk, TokenRequest, check_request
from ..limits_probe import PASSED, UNPROBED, probe_once
from ..served.backend import ServedBackend, ServerOptions
from ..served.connection import extra_fields
from ..served.server_info import error_answer, models_in, not_served, unreachable
from .abandoned_passes import EngineCounters
from .guided_decoding import GuidedFieldsCheck
from .server_pass import Server, ServerPass


class VllmServerBackend(ServedBackend):
    """One model on one vLLM server.

    Args:
        model: the name that the server serves it under.
        base_url: up to and with `/v1`, which is added to a bare host; see `server_info.address`.
        extra_body: further fields of every request, for the engine.
        native: have `ready` probe whether the server holds both limits of a call itself (it does when it was
            started with `elastic-agent up --native`); calls that nobody steers then take one request.
        options: how the server is reached, and its tokenizer; see `ServerOptions`.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        extra_body: Mapping[str, Any] | None = None,
        native: bool = False,
        **options: Unpack[ServerOptions],
    ) -> None:
        self._extra = extra_fields(extra_body)
        super().__init__(model, base_url, options)
        self.counters = EngineCounters(f"{self.base_url.removesuffix('/v1')}/metrics")
        self._server = Server(model, self.base_url, self._sessions, self.counters)
        self.guided = True
        self._guides = GuidedFieldsCheck(self._server.completions, model, self.meter)
        self.two_passes = UNPROBED if native else NO_LIMITS
        self._checked = False

    @property
    def meter(self) -> Meter:
        return self._server.meter

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
        """Ask the server, once for the same fields; see `GuidedFieldsCheck`."""
        return "" if self.closed else await self._guides.refusal(await self._sessions.here(), fields)

    async def probe(self) -> None:
        """Ask the server anew whether it has the model: whether it is there now.

        Raises:
            UnknownModelError, BackendUnavailableError: as `ready`.
        """
        try:
            session = await self._sessions.here()
            url = f"{self.base_url}/models"
            async with session.get(url) as response:
                text = await response.text(errors="replace")
                if response.status >= 400:
                    raise error_answer(response.status, text, url, self.model)
                served = models_in(text, url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error, self.base_url) from error
        if self.model not in served:
            raise not_served(self.base_url, self.model, served)
        self.context_length = served[self.model].context_length or self.context_length
        self._checked = True

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        check_request(request, self.context_length)
        if self._extra:
            request = replace(request, extra={**self._extra, **request.extra})
        running = ServerPass(self._server, request)
        try:
            async with aclosing(running.stream()) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            if request.limits is not None and not request.limits.kept(running.ids):
                self.two_passes = PASSED
