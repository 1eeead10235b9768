"""The settings of a gateway: its models, its limits, its ledger, its address."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields

from elastic_agent.backends.base import Backend
from elastic_agent.prompts.told_budget import Tell, check_tell
from elastic_agent.scheduler.ledger.durable.options import LEASE
from elastic_agent.scheduler.ledger.prices import Price
from elastic_agent.scheduler.queueing.endpoint import check_limits
from elastic_agent.scheduler.runlog.events import Log
from elastic_agent.validation import MOST_PORT, MOST_SECONDS, integer, put, real


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a client may ask of the gateway.

    Attributes:
        body: bytes of a request's body.
        line: bytes of the request line, and of one header.
        headers: how many headers.
        request_seconds: for a request's headers, and again for its body, to arrive.
        idle_seconds: for which a connection may stay open without a request.
        send_seconds: that a client may take to read a part of an answer.
        call_seconds: that a call may take, its time in the queue included.
        connections: open at once, as far as the system's limit on open files allows.
        choices: the largest `n`.
        tasks: open at once in this process.
        task_idle_seconds: after which an unused task is closed.
        grace_seconds: for running calls when the gateway shuts down.
        answer_seconds: for which the answer of a request with an `Idempotency-Key` is kept.
        leave_seconds: for which such a request runs on after its client has left, for a retry.
    """

    body: int = 4 * 1024 * 1024
    line: int = 16 * 1024
    headers: int = 100
    request_seconds: float = 20.0
    idle_seconds: float = 75.0
    send_seconds: float = 60.0
    call_seconds: float = 600.0
    connections: int = 8_000
    choices: int = 16
    tasks: int = 1000
    task_idle_seconds: float = 900.0
    grace_seconds: float = 30.0
    answer_seconds: float = 3600.0
    leave_seconds: float = 10.0

    def __post_init__(self) -> None:
        for one in dataclass_fields(self):
            value = getattr(self, one.name)
            if not one.name.endswith("_seconds"):
                put(self, one.name, integer(one.name, value, least=1, of=""))
            elif one.name == "grace_seconds":
                put(self, one.name, real(one.name, value, most=MOST_SECONDS, of="seconds"))
            else:
                put(self, one.name, real(one.name, value, above=True, most=MOST_SECONDS, of="seconds"))


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


def without_password(url: str) -> str:
    """A ledger's place without user, password and query, to be shown."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if separator else url
