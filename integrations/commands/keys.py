"""`elastic-agent keys`: keys for the gateway, with caps.

elastic-agent keys create alice --usd 5 --per day
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from elastic_agent.budget import Caps
from elastic_agent.cli_arguments import CAP, USD
from elastic_agent.credentials import ledger_place

from .options import add_ledger_option

if TYPE_CHECKING:
    from ..gateway.accounts.keys import Keys
    from .options import Commands


def add_command(commands: Commands) -> None:
    """Add the command, its three actions and their options."""
    keys = commands.add_parser(
        "keys",
        help="keys for the gateway, with caps",
        description="Keys are stored as hashes beside the ledger; a key is shown once, when it is made.",
    )
    actions = keys.add_subparsers(dest="action", metavar="action", required=True)
    create = actions.add_parser("create", help="make a key and print it")
    create.add_argument("name", help="whose it is, for logs")
    create.add_argument("--usd", type=USD, metavar="N", help="cap in dollars")
    create.add_argument("--tokens", type=CAP, metavar="N", help="cap on generated tokens")
    create.add_argument("--per", choices=("day", "month"), help="the caps are for each UTC day or month")
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("name")
    list_all = actions.add_parser("list", help="all keys with what they have spent and have left")
    list_all.add_argument("--json", action="store_true", help="one JSON array instead of the table")
    for action, act in ((create, _create), (list_all, _list), (revoke, _revoke)):
        add_ledger_option(action)
        action.set_defaults(run=run, act=act)


def run(options: argparse.Namespace) -> int:
    """Make, list or revoke keys."""
    from ..gateway.accounts.keys import Keys

    keys = Keys(ledger_place(options.ledger))
    try:
        options.act(keys, options)
    finally:
        keys.close()
    return 0


def _create(keys: Keys, options: argparse.Namespace) -> None:
    capped = options.usd is not None or options.tokens is not None
    if options.per is not None and not capped:
        raise ValueError("--per says for how long a cap is: set --usd or --tokens")
    caps = Caps(usd=options.usd, tokens=options.tokens) if capped else None
    secret, key = keys.create(options.name, caps, window=options.per)
    print(secret)
    print(f"{key.name}: {_caps(key.public())}; shown once, keep it", file=sys.stderr)


def _list(keys: Keys, options: argparse.Namespace) -> None:
    found = asyncio.run(_with_spend(keys, ledger_place(options.ledger)))
    if options.json:
        print(json.dumps(found))
        return
    if not found:
        print("no keys: elastic-agent keys create NAME makes one", file=sys.stderr)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("name", "caps", "spent", "held", "left", "resets"):
        table.add_column(name, justify="right" if name in ("spent", "held", "left") else "left", no_wrap=True)
    for key in found:
        name = f"{key['name']} (revoked)" if key["revoked"] else key["name"]
        numbers = (_amounts(key[what]) for what in ("spent", "held", "left"))
        table.add_row(name, _caps(key), *numbers, "" if key["resets"] is None else key["resets"][:10])
    Console().print(table)


async def _with_spend(keys: Keys, place: str) -> list[dict[str, Any]]:
    """What people may see of every key, with what its account on the ledger says now."""
    from elastic_agent.scheduler.ledger.stores import open_store

    from ..gateway.accounts.key_spend import read_spend, spend_report

    store = open_store(place)
    try:
        return [
            key.public() | spend_report(await read_spend(store, key.spec()), time.time())
            for key in keys.list()
        ]
    finally:
        await store.aclose()


def _amounts(found: dict[str, float]) -> str:
    """By unit, each on a line; a zero beside another amount is left out."""
    forms = {"usd": "${:,.4f}", "tokens": "{:,.0f} tokens"}
    shown = {unit: value for unit, value in found.items() if value} or dict(list(found.items())[:1])
    return "\n".join(forms[unit].format(value) for unit, value in shown.items())


def _revoke(keys: Keys, options: argparse.Namespace) -> None:
    print(f"{keys.revoke(options.name).name}: revoked; gateways that know it take it for 5 s more")


def _caps(key: dict[str, Any]) -> str:
    parts = []
    if key["usd"] is not None:
        parts.append(f"${key['usd']:g}")
    if key["tokens"] is not None:
        parts.append(f"{key['tokens']:,} tokens")
    window = f" a {key['per']}" if key["per"] else " in all" if parts else ""
    return (" and ".join(parts) or "no cap") + window
