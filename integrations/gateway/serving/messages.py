"""`/v1/messages` and `/v1/messages/count_tokens`, Anthropic's wire: requests for answers like all others."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from ..answers.messages_format import MessagesFormatter
from ..api.messages_schema import RENAMED, CountRequest, MessagesRequest, read_messages
from ..api.request_schema import ChatRequest
from ..errors import GatewayError
from .generation import GenerationHandler, MakeFormatter


class MessagesHandler:
    """Handles requests on Anthropic's wire."""

    def __init__(self, generations: GenerationHandler) -> None:
        self.generations = generations

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """`/v1/messages`."""
        try:
            return await self.generations.handle(request, partial(_read, MessagesRequest), event_names=True)
        except GatewayError as error:
            raise error.with_names(RENAMED) from None

    async def count_tokens(self, request: web.Request) -> web.Response:
        """`/v1/messages/count_tokens`: the tokens of the prompt."""
        try:
            tokens = await self.generations.count_prompt(request, partial(_read, CountRequest))
        except GatewayError as error:
            raise error.with_names(RENAMED) from None
        return web.json_response({"input_tokens": tokens})


def _read(kind: type[CountRequest], raw: bytes) -> tuple[ChatRequest, MakeFormatter]:
    chat, sent = read_messages(kind, raw)
    stops = tuple(sent.stop_sequences or ())
    return chat, partial(MessagesFormatter, stops=stops, omit_thinking=sent.omits_thinking)
