"""Code: the last fenced block of the solution alone, and every test must pass."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from elastic_agent.training.rewards.code import CodeGrader, CodeTests, last_block, same_output, same_value
from elastic_agent.training.rewards.grades import Sample
from elastic_agent.training.sandbox.sandbox import Limits, Sandbox
from elastic_agent.training.sandbox.supervisor.confinement import landlock_abi

needs_sandbox = pytest.mark.skipif(
    not sys.platform.startswith("linux") or landlock_abi() < 3, reason="the sandbox needs Linux 6.2"
)

ADD = "a, b = map(int, input().split())\nprint(a + b)"
ADD_TESTS = {"cases": [["3 4\n", "7\n"], ["1 1", "2"]]}


@pytest.mark.parametrize(
    ("solution", "code"),
    [
        ("no code", None),
        ("```python\nx\n```", "x\n"),
        ("```\nx\n```\nand\n```py\ny\n```\nDone.", "y\n"),
        ("```python\nx\n```\nthen\n```python\ncut off", None),
        ("```python\nx", None),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("~~~\nx\n~~~", "x\n"),
        ("```python\nx\n~~~\n```", "x\n~~~\n"),
        ("1. So:\n   ```python\n   x\n   ```", "   x\n"),
        ("inline ```x``` only", None),
        ("```x``` alone on its line", None),
        ("```python\r\nx\r\n```\r\n", "x\n"),
        ("```\n```", "\n"),
        ("`" * 99999, None),
    ],
)
def test_the_last_closed_block_counts(solution: str, code: str | None) -> None:
    """Several blocks, none, an unclosed one, nested fences: one rule, CommonMark's."""
    assert last_block(solution) == code


@pytest.mark.parametrize(
    "said", ["sNaN", "-sNaN123", "1e999999", "1e-999999", "9" * 5000, "NaN", "\x00", "\ud800"]
)
@pytest.mark.parametrize("want", ["1", "1.5", "sNaN", "inf"])
def test_output_that_no_number_can_be_compared_with_is_wrong(said: str, want: str) -> None:
    """A sample may print anything: the grader says wrong, and never raises."""
    assert same_output(said, want) is (said == want)


def _deep(levels: int) -> list[object]:
    found: list[object] = []
    for _ in range(levels):
        found = [found]
    return found


BEYOND: dict[str, object] = {
    "an int": 10**400,
    "a longer int": -(10**5000),
    "a key": {10**5000: 1},
    "NaN": float("nan"),
    "nested": _deep(5000),
    "complex": 1j,
    "a mapping": {1: {}},
}


@pytest.mark.parametrize("said", BEYOND)
@pytest.mark.parametrize("want", [1, 1.5, [1.5], {"1": 1}, "x", None])
def test_a_result_that_nothing_can_be_compared_with_is_wrong(said: str, want: object) -> None:
    """The same for what a function returns."""
    assert not same_value(BEYOND[said], want)
    assert not same_value(BEYOND[said], _deep(5000))


@pytest.mark.parametrize(
    ("given", "cases", "function"),
    [
        (ADD_TESTS, (("3 4\n", "7\n"), ("1 1", "2")), ""),
        (json.dumps(ADD_TESTS), (("3 4\n", "7\n"), ("1 1", "2")), ""),
        ({"function": "add", "cases": [[[1, 2], 3]]}, (([1, 2], 3),), "add"),
        ({"inputs": ["3 4\n"], "outputs": ["7\n"]}, (("3 4\n", "7\n"),), ""),
        ({"inputs": [["3", "4"]], "outputs": [["7"]]}, (("3\n4", "7"),), ""),
        ({"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "add"}, (([1, 2], [3]),), "add"),
        ([{"input": "3 4", "output": "7", "testtype": "stdin"}], (("3 4", "7"),), ""),
        (
            {"tests": [{"input": "[1, 2]\n3", "output": "true", "testtype": "functional"}], "fn_name": "f"},
            (([[1, 2], 3], True),),
            "f",
        ),
    ],
)
def test_forms_of_tests(given: Any, cases: tuple[Any, ...], function: str) -> None:
    """Ours, TACO's and APPS's, LiveCodeBench's."""
    tests = CodeTests.read(given)
    assert (tests.cases, tests.function) == (cases, function)
    assert CodeTests.read(tests) is tests


@pytest.mark.parametrize(
    "given",
    [
        *({"cases": []}, {}, [], "nonsense", 7),
        {"inputs": ["1"], "outputs": []},
        [{"input": "1", "output": "1", "testtype": "functional"}],
    ],
)
def test_no_tests_or_an_unknown_form_is_an_error(given: Any) -> None:
    """Anything would pass no tests, so that is a failure of the data and never a reward."""
    with pytest.raises(ValueError):
        CodeTests.read(given)


@pytest.mark.parametrize(
    ("said", "want", "same"),
    [
        ("7", "7\n", True),
        ("7  \n\n", "7", True),
        ("a\nb", "a b", False),
        ("1 2", "1  2", True),
        ("7.0", "7", True),
        ("0.33333333", "0.3333333333", True),
        ("0.34", "0.33", False),
        ("10000001", "10000002", False),
        ("nan", "7", False),
        ("NaN", "0.5", False),
        ("1e999999999", "0.5", False),
        ("yes", "YES", False),
        ("", "7", False),
        ("7 7", "7", False),
        ("\u0667", "8", False),
    ],
)
def test_outputs_are_compared_by_line_and_number(said: str, want: str, same: bool) -> None:
    assert same_output(said, want) is same


@pytest.mark.parametrize(
    ("said", "want", "same"),
    [
        ((1, [2]), [1, [2]], True),
        ([1, 2, 3], [1, 2], False),
        ("12", ["1", "2"], False),
        (0.1 + 0.2, 0.3, True),
        (float("nan"), 0.3, False),
        (float("inf"), float("inf"), True),
        ({1: (2,)}, {"1": [2]}, True),
        ({1: 2}, {1: 3}, False),
        (None, 0, False),
        ({1, 2}, {2, 1}, True),
    ],
)
def test_values_are_compared_as_data(said: Any, want: Any, same: bool) -> None:
    assert same_value(said, want) is same


@needs_sandbox
def test_all_tests_must_pass() -> None:
    """1 for all, 0 for all but one; the reasons are named."""
    half = f"```python\n{ADD.replace('a + b', '7')}\n```"
    samples = [
        Sample(f"Add them.\n```python\n{ADD}\n```", ADD_TESTS),
        Sample(half, ADD_TESTS),
        Sample("Just add them: 7.", ADD_TESTS),
        Sample(f"```python\n{ADD}\n```\nOutput:\n```\n7\n```", ADD_TESTS),
        Sample(
            "```python\nclass Solution:\n    def add(self, a, b):\n        return a + b\n```",
            {"inputs": [[1, 2]], "outputs": [[3]], "fn_name": "add"},
        ),
        Sample(
            "```python\ndef add(a, b):\n    return a + b\n```",
            {"program": "def check(candidate):\n    assert candidate(1, 2) == 3", "entry_point": "add"},
        ),
        Sample(
            "```python\ndef add(a, b):\n    return 3\n```",
            {"program": "assert add(1, 2) == 3\nassert add(1, 1) == 2"},
        ),
    ]
    grades = CodeGrader(sandbox=Sandbox(Limits(cpu=2, wall=20.0)), workers=2).grade(samples)
    assert [grade.score for grade in grades] == [1, 0, 0, 0, 1, 1, 0]
    assert grades[1].why == "wrong answer: test 1: other output"
    assert grades[2].why == "no closed code block"
    assert not any(grade.failure for grade in grades)


SEARCH = """
import gc, os, sys
seen = repr([o for o in gc.get_objects() if isinstance(o, (str, dict, list, tuple))])
for fd in range(64):
    try: seen += repr(os.read(fd, 99999))
    except OSError: pass
frame = sys._getframe()
while frame:
    seen += repr(frame.f_locals)
    frame = frame.f_back
print("found" if "TUPTUO-DETCEPXE" in seen[::-1] else "nothing")
"""


@needs_sandbox
def test_expected_outputs_are_out_of_reach() -> None:
    """A sample that searches its memory and descriptors finds its input, and not what it should print.

    The word stands backwards in the sample, so that it does not find its own text.
    """
    sandbox = Sandbox(Limits(cpu=5, wall=20.0))
    with sandbox.open(SEARCH) as session:
        assert session.run("EXPECTED-OUTPUT").stdout == "found\n"
    tests = {"cases": [["input", "nothing"], ["input", "EXPECTED-OUTPUT"]]}
    (grade,) = CodeGrader(sandbox=sandbox, workers=1).grade([Sample(f"```python\n{SEARCH}\n```", tests)])
    assert grade.why == "wrong answer: test 1: other output"


@needs_sandbox
def test_unreadable_tests_are_failures_of_the_grader() -> None:
    (grade,) = CodeGrader(workers=1).grade([Sample(f"```python\n{ADD}\n```", {"cases": []})])
    assert (grade.score, grade.failure) == (0.0, "unreadable tests: no tests: anything would pass")
