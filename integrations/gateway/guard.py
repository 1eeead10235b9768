"""Connections that bring nothing are closed: idle ones, and those whose request drips in.

aiohttp bounds a request's size and waits for it as long as it takes. So somebody looks at all connections
every few seconds: one without a running request has `idle_seconds` to begin one, and since nobody can see a
half-sent header from outside, that is also how long headers may take. (Bodies have their own limit, where
they are read.)
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from elastic_agent.integrations.gateway.config import Limits
from elastic_agent.integrations.gateway.errors import GatewayError


class Guard:
    """Looks after the connections of a server.

    Args:
        limits: how long they may bring nothing, and how many there may be.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.server: web.Server | None = None
        self._quiet: dict[Any, float] = {}  # connections, and since when
        self._busy: set[Any] = set()

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self.server.connections) if self.server is not None else 0

    def begin(self, request: web.Request) -> None:
        """A request's headers are there.

        Raises:
            GatewayError: 503, there are too many connections.
        """
        self._busy.add(request.protocol)
        if self.connections > self.limits.connections:
            raise GatewayError(
                503,
                "the gateway has too many connections: try again soon",
                "too_many_connections",
                retry_after=1.0,
            )

    def end(self, request: web.Request) -> None:
        """It has been answered."""
        self._busy.discard(request.protocol)
        self._quiet.pop(request.protocol, None)

    def sweep(self) -> None:
        """Close connections that have brought nothing for too long; beyond the limit the oldest of them."""
        if self.server is None:
            return
        now, before = asyncio.get_running_loop().time(), self._quiet
        quiet = [one for one in self.server.connections if one not in self._busy]
        self._quiet = {one: before.get(one, now) for one in quiet}
        waiting = []
        for connection, since in self._quiet.items():
            if now - since >= self.limits.idle_seconds:
                _close(connection)
            else:
                waiting.append((since, connection))
        beyond = self.connections - self.limits.connections
        if beyond > 0:
            waiting.sort(key=lambda found: found[0])
            for _, connection in waiting[:beyond]:
                _close(connection)


def _close(connection: Any) -> None:
    if connection.transport is not None:
        connection.transport.abort()
