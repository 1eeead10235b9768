"""The settings of a gateway: its models, its limits, its ledger, its address."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from functools import partial
from urllib.parse import urlsplit

from elastic_agent.backends.base import Backend
from elastic_agent.prompts.told_budget import Tell, check_tell
from elastic_agent.scheduler.ledger.durable.options import LEASE
from elastic_agent.scheduler.ledger.prices import Price
from elastic_agent.scheduler.queueing.endpoint import check_limits
from elastic_agent.scheduler.runlog.events import Log
from elastic_agent.validation import MOST_PORT, MOST_SECONDS, integer, put, real


def _count(default: int, about: str) -> int:
    check = partial(integer, least=1, of="")
    return field(default=default, metadata={"about": about, "check": check})


def _seconds(default: float, about: str, *, above: bool = True) -> float:
    check = partial(real, above=above, most=MOST_SECONDS, of="seconds")
    return field(default=default, metadata={"about": about, "check": check})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a client may ask of the gateway. Each field's metadata says what it limits, and checks it."""

    body: int = _count(4 * 1024 * 1024, "Bytes of a request's body.")
    line: int = _count(16 * 1024, "Bytes of the request line, and of one header.")
    headers: int = _count(100, "Headers of a request.")
    request_seconds: float = _seconds(20.0, "For a request's headers, and again for its body, to arrive.")
    idle_seconds: float = _seconds(75.0, "For which a connection may stay open without a request.")
    send_seconds: float = _seconds(60.0, "That a client may take to read a part of an answer.")
    call_seconds: float = _seconds(600.0, "That a call may take, its time in the queue included.")
    connections: int = _count(8000, "Open at once, as far as the system's limit on open files allows.")
    choices: int = _count(16, "The largest `n`.")
    tasks: int = _count(1000, "Named tasks that are open at once in one process.")
    task_idle_seconds: float = _seconds(900.0, "After which an unused task is closed.")
    grace_seconds: float = _seconds(30.0, "For running calls when the gateway shuts down.", above=False)
    answer_seconds: float = _seconds(3600.0, "For which the answer to an `Idempotency-Key` is kept.")
    leave_seconds: float = _seconds(10.0, "For which such a request runs on after its client has left.")

    def __post_init__(self) -> None:
        for one in dataclass_fields(self):
            put(self, one.name, one.metadata["check"](one.name, getattr(self, one.name)))


@dataclass(frozen=True, slots=True)
class Upstream:
    """A model that the gateway serves.

    Attributes:
        name: what clients call it.
        backend: its backend.
        price: what it costs; None: as in the price list.
    """

    name: str
    backend: Backend = field(repr=False)
    price: Price | None = None

    async def reachable(self, seconds: float) -> bool:
        """Whether its server answers within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.backend.probe()
        except Exception:  # whatever the error is, the model can't be used
            return False
        return True


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What a gateway serves, and how.

    Attributes:
        upstreams: the models; the first is the default of requests that name none. With none, the gateway
            serves the tasks alone that it hosts (`Gateway.host`), and needs no key of the ledger.
        ledger: where accounts and keys are kept, as for `open_store`.
        host, port: where it listens; port 0 takes a free one.
        lease: seconds after which what a process that died holds is charged.
        max_running, max_waiting: for each model, see `BudgetScheduler`.
        solution: solution tokens of a request that names none.
        wrap_up: what is written before a forced close (`elastic_agent.generation.wrap_up`).
        tell: whether models are told what is left of the task that a request names, see `BudgetScheduler`.
        log: where the scheduler's events go.
        no_keys: ask for no key, and listen on this machine's own addresses alone. Every program and user of
            this machine can spend.
        cors: the origins of web pages that browsers may let read answers (`cors`); "*" is all.
        watchdog: report which request makes the event loop stand still (`ops.watchdog`).

    Raises:
        ValueError: two models have one name, other machines could reach the gateway
            without a key, or a number is out of range.
    """

    upstreams: Sequence[Upstream]
    ledger: str = "memory://"
    host: str = "127.0.0.1"
    port: int = 8100
    limits: Limits = Limits()
    lease: float = LEASE
    max_running: int | None = None
    max_waiting: int | None = None
    solution: int | None = None
    wrap_up: str | None = None
    tell: Tell = False
    log: Log = None
    no_keys: bool = False
    cors: Sequence[str] = ()
    watchdog: bool = False

    def __post_init__(self) -> None:
        integer("port", self.port, most=MOST_PORT, of="")
        real("lease", self.lease, above=True, most=MOST_SECONDS, of="seconds")
        check_limits(self.max_running, self.max_waiting)
        check_tell(self.tell)
        if self.solution is not None:
            integer("solution", self.solution, least=1)
        names = [upstream.name for upstream in self.upstreams]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two upstreams are called {', '.join(sorted(twice))}: give each its own name")
        if self.no_keys and not names:
            raise ValueError(
                "a gateway without a model serves hosted tasks alone, which have keys: no no_keys"
            )
        check_origins(self.cors, no_keys=self.no_keys)
        if self.no_keys and not is_loopback(self.host):
            raise ValueError(
                f"without keys (--no-keys) a gateway listens on this machine alone, and {self.host or 'all'} "
                f"can be reached by others: leave --host out, or make a key and leave --no-keys out"
            )


def is_loopback(host: str) -> bool:
    """Whether a host name or address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_origins(origins: Sequence[str], *, no_keys: bool) -> None:
    """Refuse what is no origin, and what would let others' pages spend at a gateway without keys.

    Raises:
        ValueError: saying what to write.
    """
    for origin in origins:
        if origin == "*" and not no_keys:
            continue
        parts = urlsplit(origin)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or f"{parts.scheme}://{parts.netloc}" != origin
        ):
            raise ValueError(
                f"cors: {origin[:100]!r} is no origin: write scheme, host and port, as in "
                f"https://app.example.com (or * for all pages, where keys are asked for)"
            )
        if no_keys and not is_loopback(parts.hostname):
            raise ValueError(
                f"cors: without keys (--no-keys) a page of {parts.hostname[:64]} could spend: make keys, or "
                f"name pages of this machine alone, such as http://localhost:3000"
            )


def without_password(url: str) -> str:
    """A ledger's place without user, password and query, to be shown."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if separator else url
