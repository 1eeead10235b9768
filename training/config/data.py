"""The `data` section of a training config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from elastic_agent.config_files import Count, Section

from .fields import OneOrSeveral, several


class DataConfig(Section):
    """Where the problems come from."""

    source: Annotated[tuple[str, ...], OneOrSeveral] = Field(default=("word-problems",), min_length=1)
    """A set by name, or several that are joined: deepscaler, taco, ... (`elastic_agent.training.data.sources`
    lists them), "own" for a file of your own; "rows" for a file whose rows an agent gets as they are; or,
    without end, "word-problems", and "gym", the families of reasoning-gym that `gym` names."""
    gym: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Families of reasoning-gym with their parameters, in equal parts: {chain_sum: {max_terms: 4}}."""
    path: dict[str, Path] = Field(default_factory=dict)
    """A local copy instead of the hub, a file or a folder; of several sets (those of `decontaminate` too) a
    copy by name: {aime-train: a.json, aime24: b.json}."""
    split: str | None = None
    """Split to read instead of each set's usual one."""
    limit: Count | None = None
    """Most problems of each set."""
    times: dict[str, Count] = Field(default_factory=dict)
    """How often a set's problems come in one pass over the data, by name: {own: 3}; 1 where it isn't said."""
    deduplicate: bool = False
    """Keep the first of problems that ask the same, in all sets together; what is removed is logged. If
    false, a set of which more than half repeats itself is an error."""
    decontaminate: Annotated[tuple[str, ...], OneOrSeveral] = ()
    """Evaluation sets by name: problems that stand in them, or share 60% of their runs of 8 words with one
    that does, are removed, and the log says which."""
    instruction: str | None = None
    """Text behind each question; null is the usual one of math or code, and none for an agent; "" is none."""
    longest_prompt: Count | None = None
    """Problems whose prompt has more tokens are left out, and counted; null: such a problem is an error."""

    @model_validator(mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        """A path alone is that of the only source."""
        if not isinstance(value, Mapping) or not isinstance(value.get("path"), str | Path):
            return value
        names = several(value.get("source", "word-problems"))
        if len(names) != 1:
            raise ValueError(f"path: one path for {len(names)} sources: give each its own, by name")
        return {**value, "path": {names[0]: value["path"]}}

    @model_validator(mode="after")
    def _gym_has_families(self) -> Self:
        if bool(self.gym) != ("gym" in self.source):
            raise ValueError("gym: source: gym and the families of reasoning-gym in `gym` go together")
        return self

    @model_validator(mode="after")
    def _names_are_used(self) -> Self:
        for what, names, used in (
            ("source", self.source, None),
            ("path", self.path, (*self.source, *self.decontaminate)),
            ("times", self.times, self.source),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: {', '.join(names)}: each once")
            if used is not None and (strange := sorted(set(names) - set(used))):
                raise ValueError(f"{what}: {', '.join(strange)} is not among {', '.join(used)}")
        return self
