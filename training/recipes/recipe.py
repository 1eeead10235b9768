"""A recipe: what takes a pretrained model to an E1, as data. `elastic_agent.training.recipes.run` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from elastic_agent.config_files import Count, Natural, Section, read_yaml
from elastic_agent.errors import ConfigError, did_you_mean
from elastic_agent.validation import field, real

from ..config.schema import About

FOLDER = Path(__file__).parent
Families = dict[str, dict[str, Any]]


class TracesConfig(Section):
    """The worked solutions that the cold start learns from."""

    each: Count
    """Problems of each family."""
    seed: Natural = 0
    """Of the problems."""


class ColdStartConfig(Section):
    """The cold start, as options of `elastic-agent prepare`."""

    steps: Count
    batch: Count = 16
    microbatch: Count | None = None
    rate: Annotated[float, field(real, above=True, most=1.0)] | None = None
    lora: Count | None = None
    """Rank of adapters; null: all weights."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """To compute in; null: bfloat16 where the machine has it."""


class Recipe(Section):
    """From a pretrained model to an E1 on families of reasoning-gym."""

    base: str
    """Hub id of the pretrained model; `--base` gives a folder of it."""
    families: Families = Field(min_length=1)
    """Families of reasoning-gym with their parameters; worked solutions of each must be there."""
    traces: TracesConfig
    prepare: ColdStartConfig
    train: dict[str, Any]
    """A training config without base, output, data and reward: these are the recipe's own."""
    adapter: Count | None = None
    """Rank of the adapter that is extracted from the E1; null: none."""
    folder: str | None = None
    """Where the base lies, if not on the hub."""
    about: About = About()

    @property
    def start(self) -> str:
        """What is loaded as the base."""
        return self.folder or self.base

    @model_validator(mode="after")
    def _own_parts(self) -> Self:
        if taken := {"base", "output", "data", "reward"} & set(self.train):
            raise ValueError(f"train: {', '.join(sorted(taken))} come from the recipe")
        return self


def recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """A recipe by name, or a YAML file.

    Raises:
        ConfigError: neither, not YAML, or a fault in it, with the field's path.
    """
    path = FOLDER / f"{name}.yaml" if name in recipes() else Path(name).expanduser()
    if not path.is_file():
        hint = did_you_mean(name, recipes())
        raise ConfigError(f"no recipe or file {name!r}: {hint}recipes are {', '.join(recipes())}")
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as error:
        faults = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors(include_url=False)]
        raise ConfigError(f"{path}: {'; '.join(f'{where}: {what}' for where, what in faults)}") from None
