"""What the middleware knows of a request, for the handlers of its route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from elastic_agent.scheduler.ledger.stores.protocol import Spec

NO_KEY = Spec("open")
"""The account of all requests to a gateway without keys."""


@dataclass(slots=True)
class RequestContext:
    """A request's owner, and what the access log says about the request.

    Attributes:
        facts: for the access log; handlers add to them.
        owner: the account of the key that sent the request.
    """

    facts: dict[str, Any]
    owner: Spec = NO_KEY


CONTEXT = web.RequestKey("context", RequestContext)
"""Where a request has its context."""
