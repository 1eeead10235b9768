"""Web pages of other hosts (CORS): which of them a browser lets read this gateway's answers.

No origin is allowed but those that the settings name. Keys come in headers, which pages set themselves;
cookies play no part, so `Access-Control-Allow-Credentials` is never sent, to `*` or to anyone.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import hdrs, web

METHODS = "GET, HEAD, POST, DELETE"
READABLE = (
    "X-Request-Id, X-Elastic-Granted, X-Elastic-Used, X-Elastic-Left, Retry-After, x-should-retry, "
    "Idempotent-Replayed"
)
"""Headers of answers that pages may read."""
REMEMBER_SECONDS = 600
MOST_HEADERS = 2000
"""Characters of `Access-Control-Request-Headers`: SDKs bring a dozen names."""


class Cors:
    """Answers preflights, and adds the headers of CORS to answers.

    Args:
        origins: as the settings have checked them.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks whether a page may send a request; None: this is something else.

        Such a question brings no key, and none is needed for its answer.
        """
        asks = request.method == hdrs.METH_OPTIONS and "Access-Control-Request-Method" in request.headers
        if not asks or self._allowed(request) is None:
            return None
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Max-Age": str(REMEMBER_SECONDS),
        }
        names = request.headers.get("Access-Control-Request-Headers", "")
        if names and len(names) <= MOST_HEADERS:
            headers["Access-Control-Allow-Headers"] = names
        return web.Response(status=204, headers=headers)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add to any answer, before its headers are sent."""
        if not self._origins:
            return
        response.headers.add("Vary", "Origin")
        if (origin := self._allowed(request)) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = READABLE

    def _allowed(self, request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        return "*" if "*" in self._origins else origin if origin in self._origins else None
