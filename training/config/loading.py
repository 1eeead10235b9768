"""From a preset, a file and the command line to one checked `TrainConfig`.

A config is layers, each over the one before: a preset that ships with the package, then the file's own
fields, then the command line (`--set learning.rate=1e-5`). A file, or a preset, names the preset that it
builds on with `preset: NAME`, and without one it says everything that has no default. A file that changes a
section's `kind` replaces that section, so that a preset's mixture leaves nothing behind in a log-uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from elastic_agent.config_files import Schema, Tree, merge, read_yaml
from elastic_agent.errors import ConfigError, did_you_mean

from .schema import TrainConfig

PRESETS = Path(__file__).parent / "presets"
SCHEMA = Schema(
    TrainConfig,
    missing="set it in the config, or with --set {path}=...",
    all_fields="elastic-agent train --fields",
    branches=("LoraConfig", "int", "float", "str", "tuple"),
    by_kind="budgets",
)


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_layers(config: str) -> Tree:
    """A preset by name, or a YAML file with what it builds on, as one tree.

    Raises:
        ConfigError: neither a preset nor a file, or not YAML.
    """
    path = PRESETS / f"{config}.yaml" if config in presets() else Path(config).expanduser()
    if not path.is_file():
        hint = did_you_mean(config, presets())
        raise ConfigError(f"no preset or file {config!r}: {hint}presets are {', '.join(presets())}")
    tree = read_yaml(path)
    preset = tree.pop("preset", None)
    if preset is None:
        return tree
    if preset not in presets():
        hint = did_you_mean(str(preset), presets())
        raise ConfigError(f"{path}: no preset {preset!r}: {hint}presets are {', '.join(presets())}")
    return merge(read_layers(preset), tree)


def override(tree: Tree, assignments: Sequence[str]) -> Tree:
    """Lay `a.b=value` over a tree; values are YAML, so null, 1e-6 and [24, 48] are what they look like.

    Raises:
        ConfigError: an assignment without `=`, or into something that is no section.
    """
    changed: Tree = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"expected --set section.field=value, not {assignment!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {name}: {text!r} is not a YAML value") from None
        at = changed
        for key in keys[:-1]:
            at = at.setdefault(key, {})
            if not isinstance(at, dict):
                raise ConfigError(f"--set {name}: {key} was set to a value before")
        at[keys[-1]] = value
    return merge(tree, changed)


def build(tree: Mapping[str, Any]) -> TrainConfig:
    """Check a tree; see `Schema.check`."""
    return SCHEMA.check(tree)


def load_config(config: str, assignments: Sequence[str] = ()) -> TrainConfig:
    """A preset's name or a file, with overrides, checked: what `elastic-agent train --config` runs."""
    return build(override(read_layers(config), assignments))


def dump(config: TrainConfig) -> str:
    """A config as YAML, with every default written out, to be read again."""
    plain = config.model_dump(mode="json", exclude={"about"})
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100))


def describe() -> str:
    """Every field with its default and its documentation, for `--fields`."""
    return SCHEMA.describe()
