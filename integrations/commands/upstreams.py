"""The models that `elastic-agent serve` is given on its command line."""

from __future__ import annotations

import argparse
import os

from elastic_agent.backends.load import load_backend
from elastic_agent.cli_arguments import given_markers
from elastic_agent.credentials import check_address, checked_key, upstream_key
from elastic_agent.prompts.marker_profiles import marker_text
from elastic_agent.scheduler.ledger.prices import Price

from ..gateway.settings import Upstream
from .options import checked_base_url

PARTS = ("tokenizer", "price", "key-env", "served-as", "open", "close")


def parse_upstream(text: str) -> Upstream:
    """The model of `NAME=URL[,tokenizer=..][,price=IN:OUT][,key-env=VARIABLE][,served-as=NAME][,open=..]
    [,close=..]`.

    Raises:
        ValueError: the text is of another form, or its key can't be used.
    """
    named, *parts = text.split(",")
    name, _, url = named.partition("=")
    given = dict(part.partition("=")[::2] for part in parts)
    if not name or not url or not set(given) <= set(PARTS):
        raise ValueError(
            f"--upstream is NAME=URL, then any of {', '.join(f',{part}=..' for part in PARTS)}: {text!r}"
        )
    check_address(url, f"--upstream {name}")
    if "open" in given and "close" not in given:
        raise ValueError(f"--upstream {name}: open= says what begins thinking: say what ends it with close=")
    backend = load_backend(
        given.get("served-as", name),
        base_url=url,
        api_key=_key(name, given.get("key-env")),
        tokenizer=given.get("tokenizer"),
        markers=marker_text((given.get("open", ""), given["close"])) if "close" in given else None,
    )
    return Upstream(name, backend, price=Price.parse(given["price"]) if "price" in given else None)


def upstreams_of(options: argparse.Namespace) -> list[Upstream]:
    """The models of `--upstream`; without one, the model of `--model` and `--base-url`."""
    if options.upstream:
        return [parse_upstream(text) for text in options.upstream]
    markers, base_url = given_markers(options), checked_base_url(options)
    if base_url is None:
        backend = load_backend(options.model, markers=markers)
    else:
        key, tokenizer = upstream_key(options), options.tokenizer
        backend = load_backend(
            options.model, base_url=base_url, api_key=key, tokenizer=tokenizer, markers=markers
        )
    return [Upstream(options.model, backend, price=options.price)]


def _key(name: str, variable: str | None) -> str | None:
    """The key that an environment variable holds."""
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ValueError(f"--upstream {name}: the environment has no {variable}")
    return checked_key(key, f"the environment's {variable}")
