"""`/v1/keys/me`: what a key may spend, and has spent."""

from __future__ import annotations

from aiohttp import web

from ..api.request_context import CONTEXT


async def own_key(request: web.Request) -> web.Response:
    """GET: the key that the request brings; nothing of other keys."""
    owner = request[CONTEXT].owner
    return web.json_response(
        {"object": "key", "name": owner.name, **await owner.spend(), "models": list(owner.upstreams())}
    )
