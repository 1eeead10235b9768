"""From a preset, a file and the command line to one checked `TrainConfig`.

A config is layers, each over the one before: a preset that ships with the package, then the file's own
fields, then the command line (`--set learning.rate=1e-5`). A file, or a preset, names the preset that it
builds on with `preset: NAME`, and without one it says everything that has no default. A file that changes a
section's `kind` replaces that section, so that a preset's mixture leaves nothing behind in a log-uniform.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from elastic_agent.errors import InvalidValueError, did_you_mean
from elastic_agent.validation import shown

from .fields import ConfigError
from .schema import TrainConfig

PRESETS = Path(__file__).parent / "presets"
Tree = dict[str, Any]


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


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """`above` laid over `below`, section by section."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            replaced = "kind" in value and value["kind"] != old.get("kind")
            out[key] = dict(value) if replaced else merge(old, value)
        else:
            out[key] = value
    return out


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
    """Check a tree.

    Raises:
        ConfigError: one line a fault, each with the field's path; an unknown field with the nearest there is.
    """
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        faults = [_fault(fault) for fault in error.errors(include_url=False)]
    raise ConfigError("; ".join(dict.fromkeys(faults)))


def load_config(config: str, assignments: Sequence[str] = ()) -> TrainConfig:
    """A preset's name or a file, with overrides, checked: what `elastic-agent train --config` runs."""
    return build(override(read_layers(config), assignments))


def dump(config: TrainConfig) -> str:
    """A config as YAML, with every default written out, to be read again."""
    plain = config.model_dump(mode="json", exclude={"about"})
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100))


def describe() -> str:
    """Every field with its default and its documentation, for `--fields`."""
    return "\n".join(f"{line}\n    {text}" for line, text in _fields(TrainConfig, "").items())


def _fields(section: type[BaseModel], prefix: str) -> dict[str, str]:
    """The fields of a section and of those in it, "path (default)" -> documentation.

    A field that several kinds of a section share is documented in the first.
    """
    found: dict[str, str] = {}
    for name, field in section.model_fields.items():
        if field.is_required():
            default = "required"
        else:
            value = field.get_default(call_default_factory=True)
            plain = {} if isinstance(value, BaseModel) else value
            text = yaml.safe_dump(
                [list(plain) if isinstance(plain, tuple) else plain], default_flow_style=True
            )
            default = "" if isinstance(value, BaseModel) else text.strip()[1:-1]
        found[f"{prefix}{name}{f' ({default})' if default else ''}"] = " ".join(
            (field.description or "").split()
        )
        for inner in _sections_in(field.annotation):
            known = {_path(line) for line in found}
            more = _fields(inner, f"{prefix}{name}.")
            found |= {line: text for line, text in more.items() if _path(line) not in known}
    return found


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field may hold, looked for inside `X | Y` and `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _sections_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return [section for inner in get_args(annotation) for section in _sections_in(inner)]
    return []


def _fault(fault: Any) -> str:
    """One of pydantic's errors as a sentence about a field."""
    where = [part for part in fault["loc"] if not _is_branch(part)]
    kind = where.pop(1) if where[:1] == ["budgets"] and len(where) > 1 else None
    path = ".".join(str(part) for part in where)
    if fault["type"] == "extra_forbidden":
        if kind is not None and path in _paths():
            return f"{path}: not used by kind {kind}"
        return f"there is no field {path}: {_nearest(where)}"
    if fault["type"] == "union_tag_invalid":
        return f"{path}.kind: input should be {fault['ctx']['expected_tags']}, not {fault['ctx']['tag']!r}"
    if fault["type"] == "missing":
        return f"{path} is missing: set it in the config, or with --set {path}=..."
    text = str(fault["msg"]).removeprefix("Value error, ")
    given = fault.get("input")
    if isinstance(fault.get("ctx", {}).get("error"), InvalidValueError):
        named = next((str(part) for part in reversed(where) if not isinstance(part, int)), "")
        return f"{path}: {text.removeprefix(named).strip()}"  # with the value in the text
    value = "" if isinstance(given, Mapping | BaseModel) else f", not {shown(given)}"
    return f"{path}: {text[:1].lower() + text[1:]}{value}"


def _is_branch(part: Any) -> bool:
    """pydantic names the branch of a union in the location: of no use to people."""
    return isinstance(part, str) and ("[" in part or part in ("LoraConfig", "int", "float", "str", "tuple"))


def _path(line: str) -> str:
    """The path of a field, from its line in `_fields`."""
    return line.split(" (")[0]


def _paths() -> list[str]:
    return [_path(line) for line in _fields(TrainConfig, "")]


def _nearest(where: Sequence[Any]) -> str:
    every = _paths()
    name, section = str(where[-1]), ".".join(str(p) for p in where[:-1] if not isinstance(p, int))
    here = {path.rpartition(".")[2]: path for path in every if path.rpartition(".")[0] == section}
    elsewhere: dict[str, str] = {}
    for path in every:  # learning_rate is looked for as learning.rate too
        elsewhere.setdefault(path.replace(".", "_"), path)
        elsewhere.setdefault(path.rpartition(".")[2], path)
    for names, least in ((elsewhere, 1.0), (here, 0.6), (elsewhere, 0.75)):
        near = get_close_matches(name, names, 1, least)
        if near:
            return f"did you mean {names[near[0]]}?"
    return (
        f"{section or 'a config'} has {', '.join(here)}" if here else "elastic-agent train --fields lists all"
    )


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML in which a key that is given twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> Tree:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> Tree:
    """A YAML file that holds fields.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {getattr(error, 'problem', None) or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no fields: expected lines like `steps: 60`")
    return tree
