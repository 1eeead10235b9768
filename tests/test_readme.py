"""What the README's table of cases says to type is there: commands with their options, names, extras."""

from __future__ import annotations

import io
import re
import tomllib
from contextlib import redirect_stdout, suppress
from pathlib import Path

import elastic_agent
from elastic_agent import scheduler
from elastic_agent.integrations.commands.main import main

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`]+)`", TEXT.partition("## Your case")[2].partition("\n## ")[0])
THEIRS = {"ChatOpenAI", "ChatOllama"}


def test_the_readme_fits_on_a_few_screens() -> None:
    """A stranger reads to its end; what it explains further stands on a page of its own."""
    assert TEXT.count("\n") <= 150


def test_names_to_type_are_found_where_it_says() -> None:
    """`from elastic_agent import ...`, but for one of the scheduler's and other people's classes."""
    called = {name for code in CODE for name in re.findall(r"(?<![.\w])([A-Za-z_]+)\(", code)}
    assert called - THEIRS - {"account"} <= set(elastic_agent.__all__)
    assert {"guard", "task_budget", "BudgetScheduler", "TaskBudgetMiddleware"} <= called
    assert hasattr(scheduler, "account")


def test_commands_to_type_have_these_options() -> None:
    """`--help` of each command has every option of its line."""
    lines = [code.split() for code in CODE if code.startswith("elastic-agent ")]
    assert {line[1] for line in lines} == {"serve", "train"}
    for _, command, *words in lines:
        with redirect_stdout(io.StringIO()) as said, suppress(SystemExit):
            main([command, "--help"])
        missing = [word for word in words if word.startswith("--") and word not in said.getvalue()]
        assert missing == [], command


def test_extras_to_install_exist() -> None:
    """What `pip install '.[NAME]'` names is an extra of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set(re.findall(r"pip install '\.\[([\w,]+)\]'", TEXT))
    assert {"local", "gateway", "train"} <= named <= set(project["optional-dependencies"])
