"""Options that several sub-commands share: a model, caps, a price, a ledger, a wrap-up sentence."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from elastic_agent.cli_arguments import CAP, SECONDS, USD, Parser, add_marker_options
from elastic_agent.credentials import LEDGER_VARIABLE, add_key_options, check_address
from elastic_agent.validation import argument

if TYPE_CHECKING:
    from elastic_agent.scheduler import Price

    Commands: TypeAlias = argparse._SubParsersAction[Parser]
    """What a sub-command adds its parser to."""


def _price(name: str, text: str) -> Price:
    from elastic_agent.scheduler import Price

    return Price.parse(text)


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """Text that passes a check, which raises an ElasticError otherwise, as the `type=` of an option."""

    def read(_: str, text: str) -> str:
        check(text)
        return text

    return argument(read)


def _wrap_up(text: str) -> None:
    from elastic_agent.generation.wrap_up import wrap_up_of

    wrap_up_of(text)


PRICE = argument(_price)
"""USD per million tokens: IN:OUT or IN:OUT:CACHED."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which model answers, and where it is served."""
    parser.add_argument(
        "--model",
        default="e1-tiny",
        help="embedded model, folder, hub id, or a served name (default: e1-tiny)",
    )
    parser.add_argument("--base-url", metavar="URL", help="a vLLM server, like http://localhost:8000/v1")
    add_key_options(parser)
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="tokenizer of a served model, when the served name is no hub id"
    )
    add_marker_options(parser)


def checked_base_url(options: argparse.Namespace) -> str | None:
    """The address that `--base-url` gives, if any.

    Raises:
        ValueError: it holds a password.
    """
    url: str | None = options.base_url
    if url is not None:
        check_address(url, "--base-url")
    return url


def add_cap_options(parser: argparse.ArgumentParser) -> None:
    """Caps of a run, and the price that turns dollars into tokens."""
    parser.add_argument("--usd", type=USD, metavar="N", help="money cap in dollars")
    parser.add_argument("--seconds", type=SECONDS, metavar="N", help="deadline in seconds")
    parser.add_argument("--tokens", type=CAP, metavar="N", help="cap on generated tokens (default: none)")
    parser.add_argument(
        "--price",
        type=PRICE,
        metavar="IN:OUT",
        help="USD per million input and output tokens, where the model's price is not known",
    )


def add_wrap_up_option(parser: argparse.ArgumentParser) -> None:
    """What is written before a forced close."""
    parser.add_argument(
        "--wrap-up",
        type=checked(_wrap_up),
        metavar="TEXT",
        help="a sentence before each forced close, or a model family's own: qwen3, seed-oss (default: none)",
    )


def add_ledger_option(parser: argparse.ArgumentParser) -> None:
    """Where accounts and keys are kept."""
    parser.add_argument(
        "--ledger",
        metavar="WHERE",
        help="an SQLite file, postgresql://.. or redis://.. (default: gateway.db). An address with a "
        f"password is for the environment: {LEDGER_VARIABLE}",
    )


def add_no_keys_option(parser: argparse.ArgumentParser) -> None:
    """A gateway without keys."""
    parser.add_argument(
        "--no-keys", action="store_true", help="ask for no key: every user of this machine can spend"
    )
