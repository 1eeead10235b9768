"""The models that `elastic-agent serve` serves, as its command line and its config name them."""

from __future__ import annotations

import argparse
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, SecretStr, model_validator

from elastic_agent.backends.load import load_backend
from elastic_agent.cli_arguments import chosen_markers
from elastic_agent.credentials import check_address, has_password, upstream_key
from elastic_agent.errors import InvalidValueError, UsageError
from elastic_agent.scheduler.ledger.prices import Price

from ..gateway.settings import Upstream
from .config_secrets import Key, SecretsSection
from .options import checked_base_url

PARTS = ("engine", "tokenizer", "price", "key-env", "served-as", "open", "close")


def _price(text: str) -> str:
    Price.parse(text)
    return text


class UpstreamConfig(SecretsSection):
    """A model."""

    name: str
    """What clients call the model."""
    url: str | None = None
    """A server, such as http://gpu1:8000/v1; null: the model runs in this process."""
    engine: Literal["vllm", "llama.cpp"] | None = None
    """What serves the model at `url`; null: vLLM."""
    served_as: str | None = None
    """What the server calls the model; without `url` an embedded model, a folder or a hub id. null: `name`
    says it."""
    tokenizer: str | None = None
    """The model's tokenizer, where `served_as` is no hub id."""
    price: Annotated[str, AfterValidator(_price)] | None = None
    """IN:OUT or IN:OUT:CACHED in USD per million tokens; null: as in the price list."""
    key: Key = None
    """The server's key: ${VARIABLE}, from the environment."""
    open: str | None = None
    """What begins the model's thinking, where that can't be found; goes with `close`."""
    close: str | None = None
    """What ends it; alone, it may be the name of a known pair."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url is not None and has_password(self.url):
            raise InvalidValueError("url holds a password: leave it out, and name the key in key")
        if self.open is not None and self.close is None:
            raise InvalidValueError("open says what begins thinking: say what ends it with close")
        if self.engine is not None and self.url is None:
            raise InvalidValueError("engine says what serves the model at url: say url, too")
        return self

    def load(self) -> Upstream:
        """The model, ready to be served. A model of this process is loaded once, however often it is named.

        Raises:
            ElasticError: there is no such model, or its markers are none.
        """
        backend = load_backend(
            self.served_as or self.name,
            base_url=self.url,
            api_key=None if self.key is None else self.key.get_secret_value(),
            tokenizer=self.tokenizer,
            markers=chosen_markers(self.open, self.close),
            engine=self.engine,
        )
        return Upstream(self.name, backend, price=None if self.price is None else Price.parse(self.price))


def parse_upstream(text: str) -> dict[str, Any]:
    """The fields of an `UpstreamConfig` from `NAME=URL[,engine=..][,tokenizer=..][,price=IN:OUT]
    [,key-env=VARIABLE][,served-as=NAME][,open=..][,close=..]`.

    Raises:
        UsageError: the text is of another form.
    """
    named, *parts = text.split(",")
    name, _, url = named.partition("=")
    given = dict(part.partition("=")[::2] for part in parts)
    if not name or not url or not set(given) <= set(PARTS):
        raise UsageError(
            f"--upstream is NAME=URL, then any of {', '.join(f',{part}=..' for part in PARTS)}: {text!r}"
        )
    check_address(url, f"--upstream {name}")
    if "key-env" in given:
        given["key"] = f"${{{given.pop('key-env')}}}"
    return {"name": name, "url": url} | {part.replace("-", "_"): value for part, value in given.items()}


def upstreams_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The fields of the models that the command line names; none: it names none.

    Raises:
        UsageError: an option says something of a model that no option names.
    """
    if options.upstream:
        return [parse_upstream(text) for text in options.upstream]
    of_model = {
        "--base-url": options.base_url,
        "--tokenizer": options.tokenizer,
        "--api-key-file": options.api_key_file,
        "--open": options.open,
        "--close": options.close,
        "--price": options.price,
    }
    model = options.model
    if model is None and options.config is None:
        model = "e1-tiny"
    if model is None:
        if stray := [name for name, value in of_model.items() if value is not None]:
            raise UsageError(f"{', '.join(stray)}: of which model? name it with --model")
        return []
    key = upstream_key(options) if options.base_url is not None else None
    return [
        {
            "name": model,
            "url": checked_base_url(options),
            "tokenizer": options.tokenizer,
            "price": options.price,
            "key": None if key is None else SecretStr(key),
            "open": options.open,
            "close": options.close,
        }
    ]
