"""The config of `elastic-agent serve`: one YAML file, under the options of the command line.

    host: 0.0.0.0
    ledger: postgresql://elastic:${LEDGER_PASSWORD}@db/spend
    upstreams:
      - {name: qwen, url: http://gpu1:8000/v1, price: 0.10:0.40, key: "${GPU1_KEY}"}
    limits: {call_seconds: 300}

`elastic-agent serve --schema` prints its JSON Schema, and `elastic-agent serve --config FILE --check` checks
a file and stops.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from elastic_agent.config_files import Count, Natural, Schema, Seconds, Section, Tree, merge, read_yaml
from elastic_agent.credentials import ledger_place
from elastic_agent.errors import ConfigError, ElasticError, InvalidValueError
from elastic_agent.generation.wrap_up import wrap_up_of
from elastic_agent.prompts.told_budget import check_tell
from elastic_agent.validation import field

from ..gateway.settings import GatewaySettings, Limits, Upstream
from .config_secrets import Address, SecretsSection
from .upstreams import UpstreamConfig, upstreams_of

if TYPE_CHECKING:
    LimitsConfig = Section
else:
    LimitsConfig = create_model(
        "LimitsConfig",
        __base__=Section,
        __doc__="How much a client may ask of the gateway.",
        **{
            one.name: (
                Annotated[type(one.default), field(one.metadata["check"])],
                Field(default=one.default, description=one.metadata["about"]),
            )
            for one in dataclass_fields(Limits)
        },
    )


def _sentence(text: str) -> str:
    wrap_up_of(text)
    return text


def _told(value: Any) -> Any:
    try:
        check_tell(value)
    except ElasticError as error:
        raise InvalidValueError(str(error)) from None
    return value


class ServeConfig(SecretsSection):
    """What a gateway serves, and how."""

    upstreams: tuple[UpstreamConfig, ...]
    """The models; the first is the default of requests that name none."""
    ledger: Address = None
    """An SQLite file, postgresql://.. or redis://..; a password in it is ${VARIABLE}. null: what the
    environment's ELASTIC_LEDGER says, else gateway.db."""
    host: str = "127.0.0.1"
    """Where to listen."""
    port: Natural = 8100
    """0 takes a free one."""
    workers: Count = 1
    """Processes that share the port and the ledger. Each loads its own copy of an embedded model."""
    no_keys: bool = False
    """Ask for no key, and listen on this machine alone: every user of this machine can spend."""
    cors: tuple[str, ...] = ()
    """Origins of web pages that may read answers, such as https://app.example.com; "*" is all."""
    lease: Seconds = 60.0
    """After how many seconds a dead gateway's holds are charged."""
    max_running: Count | None = None
    """Most calls at once on each model, of one process; null: no limit."""
    max_waiting: Count | None = None
    """Most calls that wait for each model; goes with `max_running`."""
    solution: Count | None = None
    """Solution budget where a request names none; null: 512, or what the model's curves say."""
    wrap_up: Annotated[str, AfterValidator(_sentence)] | None = None
    """A sentence before each forced close, or a model family's own: qwen3, seed-oss."""
    tell: Annotated[bool | str, BeforeValidator(_told)] = False
    """Tell models what is left of the task that a request names: true, in the standard words, or your own
    words with {tokens}, {usd} and {seconds}."""
    log: str | None = None
    """A file that records every decision, for `elastic-agent report`."""
    quiet: bool = False
    """No access log on standard output."""
    watchdog: bool = False
    """Log which request blocks the event loop for 100 ms."""
    limits: LimitsConfig = LimitsConfig()
    """How much a client may ask."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.upstreams:
            raise InvalidValueError("upstreams: name at least one model")
        names = [upstream.name for upstream in self.upstreams]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidValueError(f"upstreams: two are called {', '.join(sorted(twice))}")
        if self.workers > 1 and self.place.partition("://")[0] == "memory":
            raise InvalidValueError(
                "workers: a ledger in memory is one process's own: with several workers, name a ledger that "
                "they share, such as gateway.db or postgresql://.."
            )
        if self.workers > 1 and self.log is not None:
            raise InvalidValueError("workers: one log can't record several processes: leave log out")
        return self

    @property
    def place(self) -> str:
        """Where the ledger is."""
        return ledger_place(None) if self.ledger is None else self.ledger.get_secret_value()

    def settings(self, upstreams: Sequence[Upstream]) -> GatewaySettings:
        """The settings of a gateway with these models, which are those of `upstreams`, loaded.

        Raises:
            ValueError: what is set does not go together.
        """
        return GatewaySettings(
            upstreams=upstreams,
            ledger=self.place,
            host=self.host,
            port=self.port,
            limits=Limits(**self.limits.model_dump()),
            lease=self.lease,
            max_running=self.max_running,
            max_waiting=self.max_waiting,
            solution=self.solution,
            wrap_up=self.wrap_up,
            tell=self.tell,
            log=self.log,
            no_keys=self.no_keys,
            cors=self.cors,
            watchdog=self.watchdog,
        )


SCHEMA = Schema(
    ServeConfig, missing="set it in the config", all_fields="elastic-agent serve --schema", branches=()
)

RELOADED = ("upstreams", "limits")
"""What a running gateway can be given anew; all else needs a restart."""


def read_config(options: argparse.Namespace) -> ServeConfig:
    """The config that a command line says: its options over the file of `--config`, over the defaults.

    Raises:
        ConfigError: something in it can't be used.
        UsageError, ValueError: the command line can't be.
    """
    given = {name: getattr(options, name) for name in ServeConfig.model_fields if hasattr(options, name)}
    tree: Tree = {name: value for name, value in given.items() if value is not None}
    if options.ledger is not None:
        tree["ledger"] = ledger_place(options.ledger)
    if limits := {name: value for name, value in options.limits.items() if value is not None}:
        tree["limits"] = limits
    if upstreams := upstreams_of(options):
        tree["upstreams"] = upstreams
    if options.config is None:
        return SCHEMA.check(tree)
    file = read_yaml(Path(options.config))
    try:
        return SCHEMA.check(merge(file, tree))
    except ConfigError as error:
        raise ConfigError(f"{options.config}: {error}") from None


def check_reload(old: ServeConfig, new: ServeConfig) -> None:
    """Check that a running gateway can go from one config to another.

    Raises:
        ConfigError: something has changed that needs a restart.
    """
    fixed = [name for name in ServeConfig.model_fields if name not in RELOADED]
    if changed := [name for name in fixed if getattr(old, name) != getattr(new, name)]:
        raise ConfigError(f"{', '.join(changed)}: can't change while the gateway runs: restart it")
