"""A preset on a small model: the same run but for the fields in REDUCED, on problems in small files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from _small_models import ANSWERS, make_model

REDUCED = (
    *("base", "output", "steps"),
    *("budgets.thinking", "budgets.solution"),
    *("data.path", "data.longest_prompt"),
    *("rollout.prompts", "rollout.context"),
)
"""Fields of a preset that a small run has otherwise; every other one is the preset's."""
STEPS, PROMPTS, THINKING, SOLUTION, CONTEXT = 2, 2, 16, 8, 128
MATH_SETS = {
    # In the columns of the authors' files and of the hub
    "aime-train": {"ID": "1984-{n}", "Year": 1984, "Question": "{question}", "Answer": "{answer}"},
    "amc-train": {
        "problem": "{question}",
        "answer": "{answer}",
        "source": "amc_aime",
        "question_type": "math-word-problem",
        "problem_is_valid": "Yes",
    },
    "omni-math": {"problem": "{question}", "answer": "{answer}"},
    "still": {"question": "{question}", "answer": "{answer}"},
}
MATH_TESTS = ("aime24", "math500", "amc", "olympiadbench", "minerva")
CODE_SETS = ("taco", "synthetic-1", "livecodebench-train")
CODE_TESTS = ("livecodebench", "codeforces", "humaneval+")


@dataclass(frozen=True, slots=True)
class Small:
    """How a preset runs here."""

    size: str
    form: Literal["math", "code"]
    ranks: int = 1
    """Processes, by torch's launcher."""


PRESETS = {
    "e1-math-1.5b": Small("1.5b", "math", ranks=2),
    "e1-math-1.5b-lora": Small("1.5b", "math"),
    "e1-math-7b": Small("7b", "math", ranks=2),
    "e1-code-14b": Small("14b", "code", ranks=2),
}


def make_small(folder: Path, preset: str, steps: int = STEPS) -> tuple[Path, int]:
    """Write the model, the problems and the config of a small run into a folder.

    Returns:
        The config's file, and how many parameters the model has.
    """
    small = PRESETS[preset]
    size = make_model(folder / "base", small.size, small.form)
    changes = reduced(folder, small, steps)
    config = folder / "run.yaml"
    config.write_text(json.dumps({"preset": preset, **changes}))
    return config, size


def reduced(folder: Path, small: Small, steps: int = STEPS) -> dict[str, Any]:
    """The fields of REDUCED for a run in a folder, its problems written."""
    path = _math_files(folder) if small.form == "math" else _code_files(folder)
    return {
        "base": str(folder / "base"),
        "output": str(folder / "out"),
        "steps": steps,
        "budgets": {"thinking": [THINKING], "solution": SOLUTION},
        "data": {"path": path, "longest_prompt": CONTEXT - THINKING - SOLUTION - 1},
        "rollout": {"prompts": PROMPTS, "context": CONTEXT},
    }


def _math_files(folder: Path) -> dict[str, str]:
    """Sums that the model can answer, two a set; and test sets that hold none of them."""
    files = {}
    for place, (name, columns) in enumerate(MATH_SETS.items()):
        rows = []
        for n in range(2):
            digit = ANSWERS[(2 * place + n) % len(ANSWERS)]
            words = {"n": n, "question": f"What is {place + 10 * n} + {int(digit)} - {place + 10 * n}?"}
            rows.append({key: str(text).format(**words, answer=digit) for key, text in columns.items()})
        files[name] = _write(folder, name, rows)
    for name in MATH_TESTS:
        files[name] = _write(folder, name, [{"problem": f"How many legs has a {name} table?", "answer": "5"}])
    return files


def _code_files(folder: Path) -> dict[str, str]:
    """Programs that print a digit."""
    files = {}
    for place, name in enumerate(CODE_SETS + CODE_TESTS):
        digits = ANSWERS[place:] + ANSWERS[:place] if name in CODE_SETS else "5"
        rows = [_program(name, digit) for digit in digits[:2]]
        files[name] = _write(folder, name, rows)
    return files


def _program(name: str, digit: str) -> dict[str, Any]:
    """A row in the columns of agentica-org's data: tests as JSON, by TACO's form or LiveCodeBench's."""
    if name == "humaneval+":
        test = "def check(candidate):\n    assert candidate() == 5"
        return {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "test": test}
    tests: Any = {"inputs": ["\n"], "outputs": [f"{digit}\n"]}
    if name != "taco":
        tests = [{"input": "\n", "output": f"{digit}\n", "testtype": "stdin", "type": "stdin_stdout"}]
    return {"problem": f"Print {digit} ({name}).", "starter_code": "", "tests": json.dumps(tests)}


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)
