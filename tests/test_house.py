"""The house of DESIGN: who may import whom, and where heavy libraries may be imported at module level.

Read from the sources (AST), so a broken rule fails here even when nothing runs the line.
"""

from __future__ import annotations

import ast
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.scheduler.allocation.decision import Allocation, Decision, Refusal, Wait
from elastic_agent.scheduler.allocation.headroom import Headroom
from elastic_agent.scheduler.allocation.reserves import ReserveMoves
from elastic_agent.scheduler.allocation.snapshot import AccountView, Snapshot, TaskView
from elastic_agent.scheduler.allocation.task_state import FinalAnswer, Listener, TaskState, TaskStatus
from elastic_agent.scheduler.estimates.workload import CallsToCome
from elastic_agent.scheduler.ledger.accounts import Account
from tools.imports import (
    PARTS,
    ROOT,
    imports_in,
    package_of,
    package_of_module,
    part_of,
    part_of_module,
    sources,
)

# integrations -> scheduler -> core <- training; integrations may use all.
MAY_IMPORT = {
    "core": {"core"},
    "scheduler": {"core", "scheduler"},
    "training": {"core", "training"},
    "integrations": {"core", "scheduler", "training", "integrations"},
}

# Files that may import further parts, and why.
DOORS = {
    # Names that users type, each loaded from its home when first used.
    "elastic_agent/__init__.py": {"scheduler", "integrations"},
    # An episode is a real task.
    "training/agents/*": {"scheduler"},
    # An agent in training goes through the doors that it has in production: LangChain's model, the gateway.
    "training/agents/clients.py": {"integrations"},
}

# Inside a part: package -> packages of the same part that it may import, type-checking imports included.
# They stand in an order, from the ground up: each may import some of those before it, the scheduler's all.
SCHEDULER = (
    "ledger",
    "latency",
    "estimates",
    "policies",
    "allocation",
    "queueing",
    "runlog",
    "dispatch",
    "runtime",
    "analysis",
)
PACKAGES: dict[str, dict[str, set[str]]] = {
    "core": {
        "charging": set(),
        "tool_calls": set(),
        "prompts": {"tool_calls"},
        "backends": {"charging", "prompts", "tool_calls"},
        "generation": {"backends", "prompts", "tool_calls"},
    },
    "scheduler": {name: set(SCHEDULER[:at]) for at, name in enumerate(SCHEDULER)},
    "training": {
        "budgets": set(),
        "sandbox": set(),
        "plots": {"budgets"},
        "config": {"budgets"},  # whose distributions it checks
        "data": {"config"},
        "rewards": {"config", "data", "sandbox"},
        "rollouts": {"budgets", "config"},
        "agents": {"budgets", "config", "rollouts"},
        "grpo": {"agents", "budgets", "config", "data", "plots", "rewards", "rollouts"},
        "estimate": {"config", "grpo", "rollouts"},
        "prepare": {"config", "data", "grpo", "rewards"},
        "recipes": {"config", "data", "grpo", "prepare"},
        "evaluation": {"agents", "budgets", "config", "data", "plots", "rewards"},
    },
    "integrations": {
        "openai_format": set(),
        "telemetry": set(),
        "report": set(),
        "page": set(),
        "langchain": {"openai_format"},
        "gateway": {"openai_format", "page", "telemetry"},
        "demo": {"langchain", "page"},
        "commands": {"demo", "gateway", "report"},
    },
}

# Who writes accounts and the states of tasks, and calls what moves money on the ledger.
WRITERS = ("scheduler/dispatch/", "scheduler/ledger/")
MOVES = {"hold", "settle", "refund", "expire", "reserve", "close"}
SHARED_NAMES = {"seconds"}  # a field of other classes, too: not to be told apart in the source

HEAVY = ("torch", "vllm", "trl", "transformers", "accelerate", "datasets", "peft", "langchain*", "langgraph*")

# The adapters: the only files in which a heavy library may be imported at module level, and which one.
# tests/test_import_cost.py sees to it that nothing light imports an adapter.
ADAPTERS: dict[str, tuple[str, ...]] = {
    "elastic_agent/backends/transformers/attention.py": ("torch", "transformers"),
    "elastic_agent/backends/transformers/decode.py": ("torch", "transformers"),
    "elastic_agent/backends/transformers/draw.py": ("torch",),
    "elastic_agent/backends/transformers/slots.py": ("torch",),
    "elastic_agent/backends/transformers/backend.py": ("torch", "transformers"),
    "elastic_agent/backends/vllm/plugin/elastic_vllm.py": ("torch", "vllm"),
    "elastic_agent/backends/vllm/plugin/elastic_weights.py": ("torch", "vllm"),
    "elastic_agent/backends/vllm/async_engine.py": ("vllm",),
    "elastic_agent/backends/vllm/engine.py": ("vllm",),
    "scheduler/runtime/uncounted.py": ("langchain*",),
    "integrations/langchain/*": ("langchain*", "langgraph*"),
    "integrations/demo/*": ("langchain*", "langgraph*"),
    "training/*": ("torch", "transformers", "trl", "datasets", "peft", "accelerate"),
}


IMPORTS = [found for path in sources() for found in imports_in(path)]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    """integrations -> scheduler -> core <- training, at any depth of the code."""
    wrong = [
        str(found)
        for found in IMPORTS
        if part_of(found.file) == part
        and (target := part_of_module(found.module)) is not None
        and target
        not in MAY_IMPORT[part].union(*(may for file, may in DOORS.items() if fnmatch(found.file, file)))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", PACKAGES)
def test_a_package_imports_only_what_it_may(part: str) -> None:
    """The table is whole, and nothing goes around it."""
    table = PACKAGES[part]
    inside = [found for found in IMPORTS if part_of(found.file) == part]
    assert {name for found in inside if (name := package_of(found.file)) is not None} == set(table)
    wrong = [
        str(found)
        for found in inside
        if (name := package_of(found.file)) is not None
        and part_of_module(found.module) == part
        and (target := package_of_module(found.module)) in table
        and target not in table[name] | {name}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", PACKAGES)
def test_the_packages_of_a_part_stand_in_layers(part: str) -> None:
    """No circle: a package imports only those that stand before it in the table."""
    below: set[str] = set()
    for name, may in PACKAGES[part].items():
        assert may <= below, (
            f"{part}/{name} may import {', '.join(sorted(may - below))}, which stand above it"
        )
        below.add(name)


def writes_in(source: str) -> list[tuple[int, str]]:
    """What a module writes of an account or a task's state, or moves on a ledger: line and text."""
    kinds = (Account, TaskState, TaskStatus, Listener)
    names = {field.name for kind in kinds for field in fields(kind)} - SHARED_NAMES
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            writes = node.attr in names and ast.unparse(node.value) != "self"
            found += [(node.lineno, ast.unparse(node))] if writes else []
        if isinstance(node, ast.Call) and isinstance(called := node.func, ast.Attribute):
            moves = called.attr in MOVES and ast.unparse(called.value).endswith("ledger")
            found += [(node.lineno, ast.unparse(node))] if moves else []
    return found


@pytest.mark.parametrize("part", ["scheduler", "integrations"])
def test_only_dispatch_and_the_ledger_write_accounts_and_task_states(part: str) -> None:
    """Whatever decides reads a snapshot; what was decided is written in one place."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in (ROOT / part).rglob("*.py")
        if not path.relative_to(ROOT).as_posix().startswith(WRITERS)
        for line, what in writes_in(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)
    breach = "task.account.reserve = 1\nstate.chance *= 2\nself._ledger.reserve(account, 3)\n"
    assert [line for line, _ in writes_in(breach)] == [1, 2, 3]


@pytest.mark.parametrize(
    "kind",
    [
        *(Snapshot, Headroom, Decision, Allocation, Wait, Refusal),
        *(AccountView, TaskView, CallsToCome, ReserveMoves, FinalAnswer),
    ],
)
def test_what_a_decision_reads_and_answers_is_frozen(kind: type[Any]) -> None:
    """Nothing can be written on the way: named tuples, whose fields can't be set."""
    assert issubclass(kind, tuple)
    with pytest.raises(AttributeError):
        setattr(kind._make(kind._fields), kind._fields[0], None)


def test_imports_are_relative_inside_a_part_and_absolute_across_parts() -> None:
    """A line shows at once whether it leaves its part, and a module has one name (never `scheduler.task`)."""
    wrong = [
        str(found)
        for found in IMPORTS
        if found.module.split(".")[0] in PARTS
        or (part_of_module(found.module) == part_of(found.file)) != found.relative
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_that_ships_imports_what_does_not() -> None:
    """The wheel holds no tests, tools, benchmarks or examples."""
    outside = ("tests", "tools", "benchmarks", "examples")
    wrong = [str(found) for found in IMPORTS if found.module.split(".")[0] in outside]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_only_in_their_adapters() -> None:
    """torch, vllm, trl, transformers, langchain and langgraph at module level only where the table says."""
    wrong = [
        str(found)
        for found in IMPORTS
        if found.at_module_level
        and _matches(found.module, HEAVY)
        and not _matches(found.module, _allowed(found.file))
    ]
    assert not wrong, "\n".join(wrong)


def _allowed(file: str) -> tuple[str, ...]:
    return tuple(name for pattern, names in ADAPTERS.items() if fnmatch(file, pattern) for name in names)


def _matches(module: str, names: tuple[str, ...]) -> bool:
    return any(fnmatch(module.split(".")[0], name) for name in names)


def test_the_links_are_relative_links(root: Path) -> None:
    """A clone works wherever it lies, and every part has exactly one home."""
    for part in PARTS:
        link = root / "elastic_agent" / part
        assert link.is_symlink(), f"{link} is not a link"
        assert link.readlink().as_posix() == f"../{part}"


def test_the_rules_catch_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test itself is tested: each kind of import is seen, with the right level."""
    monkeypatch.setattr("tools.imports.ROOT", tmp_path)
    module = tmp_path / "scheduler" / "wrong.py"
    module.parent.mkdir()
    module.write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "import torch\n"
        "from elastic_agent.training import sft\n"
        "from . import near\n"
        "class Here:\n    import vllm\n"
        "if TYPE_CHECKING:\n    import trl\n"
        "def later():\n    import transformers\n"
    )
    seen = {(found.module, found.relative, found.at_module_level) for found in imports_in(module)}
    assert {
        ("torch", False, True),
        ("elastic_agent.training.sft", False, True),
        ("elastic_agent.scheduler.near", True, True),
        ("vllm", False, True),
        ("trl", False, False),
        ("transformers", False, False),
    } <= seen
    assert part_of_module("elastic_agent.training.sft") not in MAY_IMPORT["scheduler"]
