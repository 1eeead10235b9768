"""What the sections of a training config are made of."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from pydantic import BeforeValidator

from elastic_agent.errors import ConfigError, did_you_mean


def several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


OneOrSeveral = BeforeValidator(several)
"""Annotates a tuple: a single value may stand without brackets."""


Named = TypeVar("Named")


def named(table: Mapping[str, Named], name: str, field: str) -> Named:
    """What a name in a config stands for, by one of the tables of what there is.

    Raises:
        ConfigError: there is none of this name; with the nearest, and all there are.
    """
    if name in table:
        return table[name]
    hint = did_you_mean(name, table)
    raise ConfigError(f"{field}: there is no {name!r}; {hint}there are {', '.join(sorted(table))}")


def imported(name: str, field: str) -> Any:
    """What "package.module:name" stands for.

    Raises:
        ConfigError: it can't be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{field}: {name!r} can't be imported: {error}") from None
