"""The code grader: runs the last fenced block of a solution against every test, in the sandbox.

A sample scores 1.0 if all tests pass; the first failure ends its run. Programs are compared by what they
print, functions by what they return. Assertions (HumanEval+, MBPP+) run beside the sample, never in its
process.
`CodeTests.read` takes our own form and those of TACO, APPS and LiveCodeBench.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from ..sandbox.sandbox import Sandbox, SandboxError, Session
from .grades import Grade, Sample, default_workers

FENCE = re.compile(r"[ \t]*(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
TOLERANCE = 1e-6
"""Relative and absolute tolerance for expected values with a fraction, as contests usually allow."""


def last_block(solution: str) -> str | None:
    """The content of the last fenced block; None if there is none, or the last one is never closed.

    Fences as in CommonMark: a block ends at a bare fence of its own kind, at least as long as its first, so a
    block opened with four backticks can hold one of three.
    """
    content: list[str] | None = None
    fence, found = "", None
    for line in solution.splitlines():
        mark = FENCE.fullmatch(line)
        if content is None:
            if mark and not (mark["fence"][0] == "`" and "`" in mark["info"]):
                content, fence, found = [], mark["fence"], None
        elif mark and mark["fence"].startswith(fence) and not mark["info"].strip():
            found, content = "\n".join(content) + "\n", None
        else:
            content.append(line)
    return found


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests of one problem: of a program, of a function (`function`), or assertions (`program`)."""

    cases: tuple[tuple[Any, Any], ...] = ()
    """(stdin, expected output), or (arguments, expected result)."""
    function: str = ""
    program: str = ""
    """Assertions, or HumanEval's ``check(candidate)``."""
    entry_point: str = ""
    wrapped: bool = False
    """Results may stand in a list of one, as TACO and APPS write them."""

    @classmethod
    def read(cls, tests: Any) -> Self:
        """Read tests from a mapping or its JSON. Raises ValueError if there are none, or the form is unknown.

        ``{"cases": [[stdin, stdout], ...]}``; with ``"function": name`` the cases are ``[arguments,
        result]``; ``{"program": text, "entry_point": name}``; ``{"inputs": [...], "outputs": [...],
        "fn_name": name}`` (TACO, APPS); ``[{"input": ..., "output": ..., "testtype": ...}]`` (LiveCodeBench,
        which writes the arguments of a function as one JSON value a line; pass ``{"tests": [...], "fn_name":
        name}`` for those).
        """
        if isinstance(tests, cls):
            return tests
        given = json.loads(tests) if isinstance(tests, str) else tests
        given = {"tests": given} if isinstance(given, Sequence) else given
        if not isinstance(given, Mapping):
            raise ValueError(f"tests of a problem are a mapping or JSON text, not {type(given).__name__}")
        if given.get("program"):
            return cls(program=given["program"], entry_point=given.get("entry_point", ""))
        function = given.get("function") or given.get("fn_name") or ""
        if "cases" in given:
            cases = [(have, want) for have, want in given["cases"]]
        elif "inputs" in given:
            cases = list(zip(given["inputs"], given["outputs"], strict=True))
        elif "tests" in given:
            cases = [(one["input"], one["output"]) for one in given["tests"]]
            if function:
                cases = [
                    ([json.loads(a) for a in have.splitlines()], json.loads(want)) for have, want in cases
                ]
            elif any(one.get("testtype") == "functional" for one in given["tests"]):
                raise ValueError('tests of a function need its name: {"tests": [...], "fn_name": name}')
        else:
            raise ValueError(f"tests of unknown form, with the fields {sorted(given)}")
        if not cases:
            raise ValueError("no tests: anything would pass")
        if not function:
            cases = [(_lines(have), _lines(want)) for have, want in cases]
        return cls(tuple(cases), function, wrapped="inputs" in given)


def _lines(text: Any) -> str:
    """APPS and TACO write some inputs and outputs as lists of lines."""
    return "\n".join(map(_lines, text)) if isinstance(text, list) else str(text)


class CodeGrader:
    """Grades samples whose `answer` is a `CodeTests` or what it reads. Safe to call from any thread."""

    name = "code"

    def __init__(self, *, sandbox: Sandbox | None = None, workers: int | None = None) -> None:
        """Raises SandboxUnavailable on a machine that can't contain samples."""
        self.sandbox = sandbox or Sandbox()
        self.workers = workers or default_workers()

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade a sample, in order. Never raises for what a sample holds."""
        with ThreadPoolExecutor(self.workers, "code-grader") as threads:
            return list(threads.map(self._one, samples))

    def close(self) -> None:
        """Nothing outlives a grading."""

    def _one(self, sample: Sample) -> Grade:
        try:
            tests = CodeTests.read(sample.answer)
        except (ValueError, KeyError, TypeError) as error:
            return Grade.failed(f"unreadable tests: {error}")
        code = last_block(sample.solution)
        if code is None:
            return Grade(0.0, "no closed code block")
        try:
            with self.sandbox.open(code) as session:
                why = run_tests(session, tests)
        except (SandboxError, OSError) as error:
            return Grade.failed(str(error))
        return Grade(0.0, why) if why else Grade(1.0)


def run_tests(session: Session, tests: CodeTests) -> str:
    """Why the sample is wrong: which test failed first, and how; "" if all tests pass."""
    if tests.program:
        failure = session.check(tests.program, tests.entry_point).failure
        return f"wrong answer: {failure}" if failure else ""
    for number, (have, want) in enumerate(tests.cases):
        if tests.function:
            outcome = session.call(tests.function, list(have))
            right = not outcome.failure and (
                same_value(outcome.value, want)
                or (
                    (tests.wrapped and isinstance(want, list) and len(want) == 1)
                    and same_value(outcome.value, want[0])
                )
            )
        else:
            outcome = session.run(have)
            right = not outcome.failure and same_output(outcome.stdout, want)
        if not right:
            return f"wrong answer: test {number}: {outcome.failure or 'other output'}"
    return ""


def same_output(said: str, want: str) -> bool:
    """Whether two outputs are equal: line by line without outer spaces, or token by token, numbers by value.

    Values that can't be compared (a signalling NaN, a number beyond all bounds) are not equal.
    """
    return _compared(_same_output, said, want)


def same_value(said: Any, want: Any) -> bool:
    """Whether two values are equal as data: tuples count as lists, as in JSON; floats have a tolerance.

    Values that can't be compared (an int of 5,000 digits, lists nested without end) are not equal.
    """
    return _compared(_same_value, said, want)


def _compared(same: Callable[[Any, Any], bool], said: Any, want: Any) -> bool:
    """Whether both are the same; False where the comparison raises, since a sample may print anything."""
    try:
        return same(said, want)
    except (ArithmeticError, ValueError, TypeError, RecursionError):
        return False


def _same_output(said: str, want: str) -> bool:
    ours, theirs = _rows(said), _rows(want)
    if ours == theirs:
        return True
    if len(ours) != len(theirs):
        return False
    return all(
        len(a) == len(b) and all(map(_same_token, a, b))
        for a, b in ((x.split(), y.split()) for x, y in zip(ours, theirs, strict=True))
    )


def _rows(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _same_token(said: str, want: str) -> bool:
    if said == want:
        return True
    if max(len(said), len(want)) > 400:
        return False
    try:
        ours, theirs = Decimal(said), Decimal(want)
    except InvalidOperation:
        return False
    if theirs == theirs.to_integral_value() and "." not in want and "e" not in want.lower():
        return ours == theirs
    return math.isclose(float(ours), float(theirs), rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _same_value(said: Any, want: Any) -> bool:
    if isinstance(want, list | tuple):
        return isinstance(said, list | tuple) and len(said) == len(want) and all(map(_same_value, said, want))
    if isinstance(want, Mapping) and isinstance(said, Mapping):
        ours, theirs = ({str(key): value for key, value in one.items()} for one in (said, want))
        return ours.keys() == theirs.keys() and all(_same_value(ours[key], theirs[key]) for key in theirs)
    if isinstance(want, float) and isinstance(said, int | float) and not isinstance(said, bool):
        return said == want or math.isclose(said, want, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(said == want)
