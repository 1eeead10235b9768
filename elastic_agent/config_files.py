"""Configs in YAML files, checked by pydantic models: what a training run and a gateway share.

A config is a tree of sections. An unknown field is an error that names the nearest field there is, a field
that is given twice is an error, and every error says where the field stands.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import ConfigError, InvalidValueError
from .validation import MOST_SECONDS, field, integer, real, shown

Tree = dict[str, Any]
Count = Annotated[int, field(integer, least=1, of="")]
Natural = Annotated[int, field(integer, of="")]
Positive = Annotated[float, field(real)]
"""0 or more."""
Seconds = Annotated[float, field(real, above=True, most=MOST_SECONDS, of="seconds")]
Share = Annotated[float, field(real, most=1.0)]


class Section(BaseModel):
    """Unknown fields are errors, and strings under fields document them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Schema(Generic[S]):
    """What a kind of config may hold, and the words of its errors.

    Attributes:
        section: the outermost section.
        missing: what to do about a missing field; {path} is the field.
        all_fields: where all fields are listed.
        branches: names that pydantic puts into a location for the branches of a union: of no use to people.
        by_kind: a field whose section depends on its `kind`.
    """

    section: type[S]
    missing: str
    all_fields: str
    branches: tuple[str, ...] = ("int", "float", "str", "tuple")
    by_kind: str = ""

    def check(self, tree: Mapping[str, Any]) -> S:
        """The config that a tree holds.

        Raises:
            ConfigError: one line a fault, each with the field's path; an unknown field with the nearest.
        """
        try:
            return self.section.model_validate(tree)
        except ValidationError as error:
            faults = [self._fault(fault) for fault in error.errors(include_url=False)]
        raise ConfigError("; ".join(dict.fromkeys(faults)))

    def describe(self) -> str:
        """Every field with its default and its documentation."""
        return "\n".join(f"{line}\n    {text}" for line, text in _fields(self.section, "").items())

    def paths(self) -> list[str]:
        """The paths of all fields, such as "rollout.group"."""
        return [_path(line) for line in _fields(self.section, "")]

    def _fault(self, fault: Any) -> str:
        """One of pydantic's errors as a sentence about a field."""
        where = [part for part in fault["loc"] if not self._is_branch(part)]
        kind = where.pop(1) if self.by_kind and where[:1] == [self.by_kind] and len(where) > 1 else None
        path = ".".join(str(part) for part in where)
        if fault["type"] == "extra_forbidden":
            if kind is not None and path in self.paths():
                return f"{path}: not used by kind {kind}"
            return f"there is no field {path}: {self._nearest(where)}"
        if fault["type"] == "union_tag_invalid":
            return (
                f"{path}.kind: input should be {fault['ctx']['expected_tags']}, not {fault['ctx']['tag']!r}"
            )
        if fault["type"] == "missing":
            return f"{path} is missing: {self.missing.format(path=path)}"
        text = str(fault["msg"]).removeprefix("Value error, ")
        given = fault.get("input")
        if isinstance(fault.get("ctx", {}).get("error"), InvalidValueError):
            named = next((str(part) for part in reversed(where) if not isinstance(part, int)), "")
            said = text.removeprefix(named).strip()  # with the value in the text
            return f"{path}: {said}" if path else said
        value = "" if isinstance(given, Mapping | BaseModel) else f", not {shown(given)}"
        return ": ".join(part for part in (path, f"{text[:1].lower() + text[1:]}{value}") if part)

    def _is_branch(self, part: Any) -> bool:
        return isinstance(part, str) and ("[" in part or part in self.branches)

    def _nearest(self, where: Sequence[Any]) -> str:
        every = self.paths()
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
        return f"{section or 'a config'} has {', '.join(here)}" if here else f"{self.all_fields} lists all"


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """`above` laid over `below`, section by section; a section of another `kind` replaces the one below."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            replaced = "kind" in value and value["kind"] != old.get("kind")
            out[key] = dict(value) if replaced else merge(old, value)
        else:
            out[key] = value
    return out


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


def _fields(section: type[BaseModel], prefix: str) -> dict[str, str]:
    """The fields of a section and of those in it, "path (default)" -> documentation.

    A field that several kinds of a section share is documented in the first.
    """
    found: dict[str, str] = {}
    for name, one in section.model_fields.items():
        if one.is_required():
            default = "required"
        else:
            value = one.get_default(call_default_factory=True)
            plain = {} if isinstance(value, BaseModel) else value
            text = yaml.safe_dump(
                [list(plain) if isinstance(plain, tuple) else plain], default_flow_style=True
            )
            default = "" if isinstance(value, BaseModel) else text.strip()[1:-1]
        found[f"{prefix}{name}{f' ({default})' if default else ''}"] = " ".join(
            (one.description or "").split()
        )
        for inner in _sections_in(one.annotation):
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


def _path(line: str) -> str:
    """The path of a field, from its line in `_fields`."""
    return line.split(" (")[0]
