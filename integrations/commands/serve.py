"""`elastic-agent serve` and `elastic-agent keys`.

elastic-agent serve --model e1-tiny --no-keys
elastic-agent serve --upstream NAME=http://host:8000/v1,tokenizer=HUB/ID,price=0.1:0.4 --ledger spend.db
elastic-agent keys create alice --usd 5 --per day
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from typing import Any

from elastic_agent.arguments import given_markers
from elastic_agent.backends.load import load_backend
from elastic_agent.budget import Caps
from elastic_agent.credentials import check_address, checked_key, ledger_place, upstream_key
from elastic_agent.prompts.markers import MarkerText, marker_text
from elastic_agent.scheduler.ledger.prices import Price

from ..gateway.accounts.keys import Keys
from ..gateway.settings import Config, Limits, Upstream, without_password

GARBAGE = 20_000
"""Objects made between two rounds of the garbage collector. What requests side by side have made is alive,
and looked through in vain: of 64 at once, Python's 700 took 1.1 ms of the processor for each, this 0.1 ms."""
OPEN_TO_ALL = (
    "NO KEYS: EVERY PROGRAM AND USER OF THIS MACHINE CAN SPEND HERE. "
    "To ask for keys: elastic-agent keys create NAME, and start again without --no-keys."
)
SWITCH_SECONDS = 0.001
"""After which a thread that encodes a long prompt lets the loop go on: Python's 5 ms add up by packets."""
PARTS = ("tokenizer", "price", "key-env", "served-as", "open", "close")


def serve(options: argparse.Namespace) -> int:
    """Run a gateway until it is told to stop."""
    try:
        from ..gateway.app import Gateway
    except ImportError as error:
        raise ValueError("the gateway needs: pip install 'elastic-agent[gateway]'") from error

    limits = Limits(
        body=options.max_body,
        call_seconds=options.timeout,
        connections=options.max_connections,
        grace_seconds=options.grace,
        task_idle_seconds=options.task_idle,
        answer_seconds=options.keep_answers,
    )
    config = Config(
        upstreams=[upstream(text) for text in options.upstream or ()] or [_single(options)],
        ledger=ledger_place(options.ledger),
        host=options.host,
        port=options.port,
        limits=limits,
        lease=options.lease,
        max_running=options.max_running,
        max_waiting=options.max_waiting,
        solution=options.solution,
        wrap_up=options.wrap_up,
        log=options.log,
        no_keys=options.no_keys,
        watchdog=options.watchdog,
    )
    asyncio.run(_serve(Gateway(config, None if options.quiet else _line)))
    return 0


async def _serve(gateway: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await gateway.start()
    gc.collect()
    gc.freeze()  # what has been loaded is there to stay, and need not be looked through again and again
    gc.set_threshold(GARBAGE)
    sys.setswitchinterval(SWITCH_SECONDS)
    config = gateway.config
    print(
        f"serving {', '.join(gateway.upstreams)} at {gateway.url}; ledger: {without_password(config.ledger)}",
        file=sys.stderr,
        flush=True,
    )
    if config.no_keys:
        print(OPEN_TO_ALL, file=sys.stderr, flush=True)
    await stop.wait()
    print(f"stopping: what runs has {config.limits.grace_seconds:g} s to end", file=sys.stderr, flush=True)
    await gateway.stop()
    for one in config.upstreams:
        await one.backend.aclose()


def _line(facts: dict[str, Any]) -> None:
    """One request of the access log."""
    print(json.dumps(facts), flush=True)


def upstream(text: str) -> Upstream:
    """`NAME=URL[,tokenizer=..][,price=IN:OUT][,key-env=VARIABLE][,served-as=NAME][,open=..]
    [,close=..]`.

    Raises:
        ValueError: it is none.
    """
    named, *parts = text.split(",")
    name, _, url = named.partition("=")
    said = dict(part.partition("=")[::2] for part in parts)
    if not name or not url or not set(said) <= set(PARTS):
        raise ValueError(
            f"--upstream is NAME=URL, then any of {', '.join(f',{part}=..' for part in PARTS)}: {text!r}"
        )
    check_address(url, f"--upstream {name}")
    secret = None
    if "key-env" in said:
        secret = os.environ.get(said["key-env"])
        if not secret:
            raise ValueError(f"--upstream {name}: the environment has no {said['key-env']}")
        checked_key(secret, f"the environment's {said['key-env']}")
    price = Price.parse(said["price"]) if "price" in said else None
    if "open" in said and "close" not in said:
        raise ValueError(f"--upstream {name}: open= says what begins thinking: say what ends it with close=")
    markers = marker_text((said.get("open", ""), said["close"])) if "close" in said else None
    return served(name, url, said.get("served-as"), secret, said.get("tokenizer"), price, markers)


def served(
    name: str,
    url: str,
    served_as: str | None,
    key: str | None,
    tokenizer: str | None,
    price: Price | None,
    markers: MarkerText | None = None,
) -> Upstream:
    """A model on a vLLM server."""
    backend = load_backend(served_as or name, base_url=url, api_key=key, tokenizer=tokenizer, markers=markers)
    return Upstream(name, backend, price=price)


def _single(options: argparse.Namespace) -> Upstream:
    markers = given_markers(options)
    if options.base_url is not None:
        check_address(options.base_url, "--base-url")
        key = upstream_key(options)
        return served(options.model, options.base_url, None, key, options.tokenizer, options.price, markers)
    return Upstream(options.model, load_backend(options.model, markers=markers), price=options.price)


def keys(options: argparse.Namespace) -> int:
    """Make, list or revoke keys."""
    store = Keys(ledger_place(options.ledger))
    try:
        if options.action == "create":
            capped = options.usd is not None or options.tokens is not None
            if options.per is not None and not capped:
                raise ValueError("--per says for how long a cap is: set --usd or --tokens")
            caps = Caps(usd=options.usd, tokens=options.tokens) if capped else None
            secret, key = store.create(options.name, caps, window=options.per)
            print(secret)
            print(f"{key.name}: {_caps(key.public())}; shown once, keep it", file=sys.stderr)
        elif options.action == "list":
            for key in store.list():
                state = "revoked" if key.revoked else "active"
                print(f"{key.name}\t{state}\t{_caps(key.public())}\t{key.created}\t{key.account}")
        else:
            print(f"{store.revoke(options.name).name}: revoked; gateways that know it take it for 5 s more")
    finally:
        store.close()
    return 0


def _caps(key: dict[str, Any]) -> str:
    parts = []
    if key["usd"] is not None:
        parts.append(f"${key['usd']:g}")
    if key["tokens"] is not None:
        parts.append(f"{key['tokens']:,} tokens")
    window = f" a {key['per']}" if key["per"] else " in all" if parts else ""
    return (" and ".join(parts) or "no cap") + window
