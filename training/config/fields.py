"""What the sections of a training config are made of."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from elastic_agent.errors import ElasticError, did_you_mean
from elastic_agent.validation import MOST_SECONDS, field, integer, real


class ConfigError(ElasticError, ValueError):
    """A training config that can't be used; says which field, and what to do."""


def several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


OneOrSeveral = BeforeValidator(several)
"""Annotates a tuple: a single value may stand without brackets."""
Count = Annotated[int, field(integer, least=1, of="")]
Natural = Annotated[int, field(integer, of="")]
Positive = Annotated[float, field(real)]
"""0 or more."""
Seconds = Annotated[float, field(real, above=True, most=MOST_SECONDS, of="seconds")]
Share = Annotated[float, field(real, most=1.0)]


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


class Section(BaseModel):
    """Unknown fields are errors, and strings under fields document them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
