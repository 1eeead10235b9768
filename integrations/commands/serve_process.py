"""One process of `elastic-agent serve`: a gateway from its start to its end, and its reloads."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from elastic_agent.errors import ElasticError

from ..gateway.app import Gateway
from ..gateway.settings import GatewaySettings, without_password
from .serve_config import ServeConfig, check_reload

COLLECT_EVERY = 20_000
"""New objects between two rounds of the garbage collector. What concurrent requests have made is alive and is
scanned in vain: with 64 requests, the default of 700 took 1.1 ms of processor time a request, this 0.1 ms."""
SWITCH_SECONDS = 0.001
"""Longest time for which a thread that encodes a long prompt keeps the event loop waiting. Python's default
of 5 ms adds up over the packets of such a prompt."""
OPEN_TO_ALL = (
    "NO KEYS: EVERY PROGRAM AND USER OF THIS MACHINE CAN SPEND HERE. "
    "To ask for keys: elastic-agent keys create NAME, and start again without --no-keys."
)
ReadConfig = Callable[[], ServeConfig]
"""Reads the config anew."""


def serve(config: ServeConfig, read: ReadConfig) -> None:
    """Serve in this process until SIGTERM or Ctrl-C; SIGHUP reads the config again."""
    gateway = _gateway(config)
    asyncio.run(run_gateway(gateway, Reload(gateway, config, read)))


def serve_worker(
    config: ServeConfig,
    read: ReadConfig,
    bound: socket.socket,
    parent: int,
    ready: Callable[[], None],
) -> int:
    """Serve as one of several workers (`serve_workers`); the exit status.

    Args:
        bound: the socket to listen on.
        parent: a pipe that the system closes when the parent dies.
        ready: is called when the worker serves.
    """
    try:
        gateway = _gateway(config, bound)
        asyncio.run(run_gateway(gateway, Reload(gateway, config, read), parent=parent, ready=ready))
    except (ElasticError, ValueError, OSError) as error:
        say(f"elastic-agent serve: {error}")
        return 2
    return 0


class Reload:
    """Gives a running gateway its models, prices and limits anew.

    Args:
        config: what the gateway runs by.
        read: reads what it shall run by.
    """

    def __init__(self, gateway: Gateway, config: ServeConfig, read: ReadConfig) -> None:
        self._gateway, self._config, self._read = gateway, config, read

    async def __call__(self) -> None:
        """Reload; a config that can't be used is refused, and the gateway goes on as it is."""
        try:
            config = await asyncio.to_thread(self._read)
            check_reload(self._config, config)
            settings = await asyncio.to_thread(_settings, config)
            await self._gateway.reload(settings.upstreams, settings.limits)
        except (ElasticError, ValueError, OSError) as error:
            say(f"the new config is refused, and the old one stays: {error}")
            return
        self._config = config
        say(f"reloaded: serving {', '.join(self._gateway.upstreams)}")


async def run_gateway(
    gateway: Gateway,
    reload: Callable[[], Awaitable[None]] | None = None,
    *,
    parent: int | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Start a gateway, wait for SIGTERM or Ctrl-C, and stop it; then close its models.

    Args:
        reload: is run at each SIGHUP.
        parent: of a worker, see `serve_worker`; its parent speaks to the operator.
        ready: is called when the gateway serves.
    """
    stop, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, again.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    if parent is not None:
        loop.add_reader(parent, stop.set)
    await gateway.start()
    gc.collect()
    gc.freeze()  # what is loaded by now stays: the collector need not scan it again
    gc.set_threshold(COLLECT_EVERY)
    sys.setswitchinterval(SWITCH_SECONDS)
    if parent is None:
        _greet(gateway)
    if ready is not None:
        ready()
    reloading = None if reload is None else asyncio.ensure_future(_reload_when(again, reload))
    await stop.wait()
    if reloading is not None:
        reloading.cancel()
    if parent is None:
        say(f"stopping: what runs has {gateway.settings.limits.grace_seconds:g} s to end")
    else:
        loop.remove_reader(parent)
    await gateway.stop()
    for one in gateway.settings.upstreams:
        await one.backend.aclose()


def _settings(config: ServeConfig) -> GatewaySettings:
    """The settings of a config, with its models loaded."""
    return config.settings([one.load() for one in config.upstreams])


def _gateway(config: ServeConfig, bound: socket.socket | None = None) -> Gateway:
    return Gateway(_settings(config), None if config.quiet else print_access, bound=bound)


def _greet(gateway: Gateway) -> None:
    settings = gateway.settings
    names, ledger = ", ".join(gateway.upstreams), without_password(settings.ledger)
    say(f"serving {names} at {gateway.url}; ledger: {ledger}")
    if settings.no_keys:
        say(OPEN_TO_ALL)


async def _reload_when(asked: asyncio.Event, reload: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await reload()


def print_access(facts: dict[str, Any]) -> None:
    """Print one request as a line of the access log."""
    print(json.dumps(facts), flush=True)


def say(line: str) -> None:
    """Tell the operator, on standard error."""
    print(line, file=sys.stderr, flush=True)
