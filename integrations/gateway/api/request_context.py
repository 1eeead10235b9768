"""What the middleware knows of a request, for the handlers of its route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ..accounts.owner import Owner


@dataclass(slots=True)
class RequestContext:
    """A request's owner, and what the access log says about the request.

    Attributes:
        facts: for the access log; handlers add to them.
        owner: who is charged; unset on the routes that need no key.
    """

    facts: dict[str, Any]
    owner: Owner = field(init=False)


CONTEXT = web.RequestKey("context", RequestContext)
"""Where a request has its context."""
