"""A llama.cpp server (`llama-server`) as a backend, over `/completion` with token ids in both directions.

The prompt is ours, spliced by id, in both passes. The model's tokenizer is ours, too, so what the server
makes of its ids is compared with it before the first call: a GGUF file with another vocabulary is refused.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Unpack

import aiohttp

from ...errors import BackendError, BackendProtocolError, UnknownModelError
from ..base import NO_LIMITS, Meter, TokenChunk, TokenRequest, check_request
from ..served.backend import ServedBackend, ServerOptions
from ..served.server_info import error_answer, unreachable
from .completion_wire import engine_fields
from .server_pass import ONCE, Server, ServerPass

_SENTENCE = "37 - 12 = 25."
"""A text whose ids the server has to read as we do."""


class LlamaCppServerBackend(ServedBackend):
    """One model on one llama.cpp server, version of January 2025 or later.

    Args:
        model: what the model is called, and where its tokenizer is if no other is named.
        base_url: of the server, with or without `/v1`.
        extra_body: further fields of every request, by vLLM's names.
        options: how the server is reached, and its tokenizer; see `ServerOptions`. A context length that is
            given is a bound: the server says how much a slot has.
    """

    guided = True
    two_passes = NO_LIMITS

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        extra_body: Mapping[str, Any] | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        engine_fields(extra_body or {})
        self._extra = dict(extra_body or {})
        super().__init__(model, base_url, options)
        self._server = Server(model, self.base_url.removesuffix("/v1"), self._sessions)
        self._checked = False

    @property
    def meter(self) -> Meter:
        return self._server.meter

    async def ready(self) -> None:
        """Ask the server, once, how long its context is, and whether its vocabulary is that of the tokenizer.

        Raises:
            UnknownModelError: the vocabularies differ.
            BackendProtocolError: it is no llama.cpp server.
            BackendUnavailableError: it can't be reached.
        """
        if not self._checked:
            await self.probe()
            await self._check_vocabulary()
            self._checked = True

    async def probe(self) -> None:
        """Ask the server anew for its properties: whether it is there now, and has loaded its model.

        Raises:
            BackendProtocolError, BackendUnavailableError: as `ready`.
        """
        found = await self._ask("props")
        try:
            here = int(found["default_generation_settings"]["n_ctx"])
        except (KeyError, TypeError, ValueError) as error:
            raise BackendProtocolError(
                f"{self._server.url}/props did not answer like a llama.cpp server: is it one?"
            ) from error
        self.context_length = min(here, self._given_length or here)

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """Why llama.cpp has no such fields; "" where it has. What its grammar says is known in the call."""
        try:
            engine_fields(fields)
        except BackendError as error:
            return str(error)
        return ""

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        check_request(request, self.context_length)
        request.receipt.refused = True
        if not self.closed:
            await self._learn_texts(request.stop_ids)
        if self._extra:
            request = replace(request, extra={**self._extra, **request.extra})
        async with aclosing(ServerPass(self._server, request).stream()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _learn_texts(self, ids: Iterable[int]) -> None:
        """Ask for the texts of stop ids that nobody asked for yet."""
        for one in sorted(set(ids) - set(self._server.texts)):
            text = await self._text_of([one])
            if not text:
                raise BackendError(f"{self.model}: the server has no text for the stop token {one}")
            self._server.texts[one] = text

    async def _check_vocabulary(self) -> None:
        """Compare what the server and the tokenizer make of the same ids."""
        close = self.codec.markers.close_ids
        ids = self.codec.encode(_SENTENCE)
        for mine, given, what in (
            (self.codec.markers.close_text, list(close), "the close of thinking"),
            (self.codec.decode(ids), ids, "a sentence"),
        ):
            theirs = await self._text_of(given)
            if "".join(theirs.split()) != "".join(mine.split()):
                raise UnknownModelError(
                    f"{self.base_url} reads the ids of {what} ({mine!r}) as {theirs!r}: the tokenizer of "
                    f"{self.model!r} is not that of the server's model. Name the right one with tokenizer="
                )

    async def _text_of(self, ids: list[int]) -> str:
        found = await self._ask("detokenize", {"tokens": ids})
        return str(found.get("content", ""))

    async def _ask(self, endpoint: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A question to the server that costs no token."""
        url = f"{self._server.url}/{endpoint}"
        try:
            session = await self._sessions.here()
            method, headers = ("GET", {}) if body is None else ("POST", ONCE)
            async with session.request(method, url, json=body, headers=headers) as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error, self.base_url) from error
        if response.status >= 400:
            raise error_answer(response.status, text, url, self.model)
        try:
            found = json.loads(text)
        except ValueError as error:
            raise BackendProtocolError(f"{url} did not answer in JSON: {text[:80]!r}") from error
        return found if isinstance(found, dict) else {}
