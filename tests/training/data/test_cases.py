"""The tests of code problems in each published form, and those that can't be used."""

import base64
import json
import pickle
import zlib
from typing import Any

import pytest

from elastic_agent.training.data import Case, load
from elastic_agent.training.data.answers import Unusable
from elastic_agent.training.data.cases import has_cases, read_cases
from elastic_agent.training.data.sources import codeforces_question

STDIN = (Case("stdin", "1 2\n", "3\n"),)
TYPED = {"fn_name": None, "input": "1 2\n", "output": "3\n", "type": "stdin_stdout"}
FUNCTIONAL = {"input": "1\n[2]", "output": "3", "testtype": "functional"}
CALL = (Case("call", "[1, [2]]", "3"),)


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


FORMS: dict[str, tuple[dict[str, Any], tuple[Case, ...], str | None]] = {
    "own, stdin": ({"tests": [{"input": "1 2\n", "output": "3\n"}]}, STDIN, None),
    "own, call": ({"tests": [{"input": [1, [2]], "output": 3}], "entry_point": "f"}, CALL, "f"),
    "own, asserts": ({"tests": ["assert f(1) == 2"]}, (Case("assert", "assert f(1) == 2"),), None),
    "deepcoder taco": ({"tests": json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})}, STDIN, None),
    "deepcoder primeintellect": (
        {"tests": json.dumps([TYPED])},
        STDIN,
        None,
    ),
    "deepcoder lcbv5": (
        {
            "tests": [FUNCTIONAL],
            "metadata": {"func_name": "f"},
            "starter_code": "class Solution:",
        },
        CALL,
        "f",
    ),
    "taco, lines": (
        {"input_output": {"inputs": [["1", "2"]], "outputs": [["3", ""]]}},
        (Case("stdin", "1\n2", "3\n"),),
        None,
    ),
    "taco, call": (
        {"input_output": json.dumps({"fn_name": "f", "inputs": [[1, [2]]], "outputs": [[3]]})},
        CALL,
        "f",
    ),
    "primeintellect": (
        {
            "verification_info": str(
                {
                    "language": "python",
                    "test_cases": [
                        {"fn_name": None, "input": "1 2\n", "output": "3\n", "type": "stdin_stdout"}
                    ],
                }
            )
        },
        STDIN,
        None,
    ),
    "livecodebench": (
        {
            "public_test_cases": json.dumps([FUNCTIONAL]),
            "private_test_cases": packed(json.dumps([FUNCTIONAL])),
            "metadata": json.dumps({"func_name": "f"}),
        },
        CALL * 2,
        "f",
    ),
    "codeforces": ({"official_tests": [{"input": "1 2\n", "output": "3\n"}]}, STDIN, None),
    "humaneval+": (
        {"test": "def check(candidate):\n    assert candidate(1) == 2", "entry_point": "f"},
        (Case("assert", "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n"),),
        "f",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_cases(form: str) -> None:
    row, cases, entry = FORMS[form]
    assert has_cases(row)
    assert read_cases(row) == (cases, entry)


def test_a_wrapper_is_taken_off_only_where_all_results_wear_it() -> None:
    """APPS and TACO write [3] for 3, but [1, 2] for [1, 2] in problems where they don't."""

    def outputs(*values: Any) -> list[str]:
        zipped = {"fn_name": "f", "inputs": [[0]] * len(values), "outputs": list(values)}
        return [case.output for case in read_cases({"input_output": zipped})[0]]

    assert outputs([3], [[4]]) == ["3", "[4]"]
    assert outputs([3], [4, 5]) == ["[3]", "[4, 5]"]
    assert outputs(3, "a") == ["3", '"a"']
    own = {"tests": [{"input": [1], "output": [3]}], "entry_point": "f"}
    assert read_cases(own)[0][0].output == "[3]"


BOMB = base64.b64encode(zlib.compress(b"\x80\x04\x8c\x01xr\xff\xff\xff\x7f.")).decode()
"""A pickle of 12 bytes that has unpickling make a memo of 2 GiB; its one string is no JSON."""


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code ran')",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "it has no tests"),
        ({"tests": []}, "it has no tests"),
        ({"test": "yes"}, "it has no tests"),
        ({"tests": "{not json"}, "neither JSON nor a Python literal"),
        ({"tests": "1"}, "holds no tests"),
        ({"tests": [1, 2]}, "must be a list of objects"),
        ({"tests": [{"input": "1"}]}, "lacks input or output"),
        ({"tests": [{"input": "1", "output": "1", "type": "call"}]}, "nothing names it"),
        (
            {"tests": [{"input": "1", "output": "1"}], "entry_point": "f; import os"},
            "must be the name of a function",
        ),
        (
            {"tests": [{"input": "1", "output": "1", "type": t, "fn_name": "f"} for t in ("call", "stdin")]},
            "mixes tests",
        ),
        ({"tests": "[{'input': [{1}], 'output': 1, 'fn_name': 'f'}]"}, "JSON can't"),
        ({"input_output": {"inputs": ["1"], "outputs": []}}, "not two lists of the same length"),
        ({"verification_info": {"language": "rust", "test_cases": []}}, "its tests are for rust"),
        ({"public_test_cases": "[]", "private_test_cases": "%%%"}, "can't be unpacked"),
        ({"public_test_cases": "[]", "private_test_cases": packed(Evil())}, "GLOBAL has no place in tests"),
        ({"public_test_cases": "[]", "private_test_cases": BOMB}, "can't be unpacked"),
        ({"public_test_cases": "[]", "private_test_cases": packed(json.dumps({}))}, "holds no list"),
        ({"test": "def check(candidate): ..."}, "nothing names the candidate"),
    ],
)
def test_tests_that_cannot_be_used_say_why(row: dict[str, Any], said: str) -> None:
    with pytest.raises(Unusable, match=said):
        read_cases(row)


def test_remarks_in_metadata_are_not_tests() -> None:
    assert read_cases({"tests": [{"input": "", "output": "1"}], "metadata": "from a friend"})[1] is None


def test_code_sets_load_from_files(tmp_path: Any) -> None:
    """One row each of DeepCoder, HumanEval+ and open-r1's Codeforces, through `load`."""
    file = tmp_path / "x.json"
    file.write_text(
        json.dumps([{"problem": "Add.", "starter_code": "", "tests": FORMS["deepcoder taco"][0]["tests"]}])
    )
    (taco,) = load("taco", path=file)
    assert (taco.kind, taco.tests, taco.answer) == ("code", STDIN, None)
    prompt = "from typing import List\n\n\ndef f(x: int) -> int:\n    '''Add one.'''\n"
    row = {"task_id": "HumanEval/0", "prompt": prompt, "canonical_solution": "x", **FORMS["humaneval+"][0]}
    file.write_text(json.dumps([row]))
    (human,) = load("humaneval+", path=file)
    assert (human.id, human.entry_point, human.starter_code) == ("humaneval+/HumanEval/0", "f", prompt)
    row = {
        "id": "1A",
        "description": "Add.",
        "input_format": "a b",
        "examples": [{"input": "1 2", "output": "3"}],
    }
    row |= {"rating": 800, "contest_start_year": 2024, "time_limit": 2.0, **FORMS["codeforces"][0]}
    file.write_text(json.dumps([row]))
    (rated,) = load("codeforces-rated", path=file)
    assert rated.question == "Add.\n\nInput\na b\n\nExample input\n1 2\nExample output\n3"
    assert (rated.difficulty, rated.year, rated.meta["time_limit"]) == (800.0, 2024, 2.0)


def test_interactive_problems_are_left_out() -> None:
    assert codeforces_question({"description": "Guess.", "interaction_format": "ask"}) == ""
