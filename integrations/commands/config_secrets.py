"""Secrets in a config: `${VARIABLE}`, whose value the environment holds. No secret stands in the file."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr, ValidationInfo, field_validator

from elastic_agent.config_files import Section
from elastic_agent.credentials import checked_key, has_password
from elastic_agent.errors import InvalidValueError

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _filled(text: str, name: str) -> str:
    """A text with the environment's values in place of `${VARIABLE}`."""

    def value(found: re.Match[str]) -> str:
        held = os.environ.get(found[1])
        if not held:
            raise InvalidValueError(f"{name} needs {found[1]}, which the environment does not have")
        return held

    return VARIABLE.sub(value, text)


def _key(value: Any, info: ValidationInfo) -> Any:
    """A key, from `${VARIABLE}`. One that was read elsewhere comes as a SecretStr."""
    if value is None or isinstance(value, SecretStr):
        return value
    name = info.field_name or "key"
    if not isinstance(value, str) or not (found := VARIABLE.fullmatch(value)):
        raise InvalidValueError(
            f"{name} must be ${{VARIABLE}}, whose value the environment holds: no key stands in a config"
        )
    try:
        return SecretStr(checked_key(_filled(value, name), f"the environment's {found[1]}") or "")
    except InvalidValueError:
        raise
    except ValueError as error:
        raise InvalidValueError(str(error)) from None


def _address(value: Any, info: ValidationInfo) -> Any:
    """An address, whose secret parts are `${VARIABLE}`."""
    if value is None or isinstance(value, SecretStr):
        return value
    name = info.field_name or "address"
    if not isinstance(value, str):
        raise InvalidValueError(f"{name} must be a file or an address")
    if has_password(VARIABLE.sub("", value)) and not VARIABLE.search(value):
        raise InvalidValueError(
            f"{name} holds a password, and none stands in a config: write ${{VARIABLE}} in its place, or for "
            f"all of the address, and give its value in the environment"
        )
    return SecretStr(_filled(value, name))


FromEnvironment = object()
"""Marks fields that read the environment."""
Key = Annotated[SecretStr | None, BeforeValidator(_key), FromEnvironment]
Address = Annotated[SecretStr | None, BeforeValidator(_address), FromEnvironment]


class SecretsSection(Section):
    """A section of which only secrets read the environment."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_variable(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, str) and VARIABLE.search(value) and FromEnvironment not in field.metadata:
            secrets = [name for name, one in cls.model_fields.items() if FromEnvironment in one.metadata]
            only = f"only {', '.join(secrets)} may" if secrets else "only secrets may"
            raise InvalidValueError(f"{info.field_name} can't name a variable of the environment: {only}")
        return value
