"""What the sections of a training config are made of."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from elastic_agent.errors import ElasticError


class ConfigError(ElasticError, ValueError):
    """A training config that can't be used; says which field, and what to do."""


def no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


OneOrSeveral = BeforeValidator(several)
"""Annotates a tuple: a single value may stand without brackets."""
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1)]
Share = Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=1)]


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
