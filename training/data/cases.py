"""The tests of code problems: the published forms, read into `Case`.

    tests               DeepCoder (all four configs) and your own file: a list, or one of the forms below
    input_output        TACO, APPS: {"inputs": [...], "outputs": [...], "fn_name": ...}
    verification_info   PrimeIntellect: {"language": "python", "test_cases": [...]}
    public_test_cases and private_test_cases  LiveCodeBench; the private ones packed
    official_tests      open-r1's Codeforces
    test, entry_point   HumanEval, HumanEval+: Python code that defines check(candidate)

Each may be JSON text instead of values. Tests are data here; nothing is run.
"""

from __future__ import annotations

import ast
import base64
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any, cast

from .answers import Unusable
from .files import Row
from .schema import Case

COLUMNS = ("tests", "input_output", "verification_info", "public_test_cases", "official_tests", "test")
# Unpacked private tests of LiveCodeBench; the largest real problem holds some 100 MB.
MAX_UNPACKED = 1 << 30


def has_cases(row: Row) -> bool:
    return _column(row) is not None


def read_cases(row: Row) -> tuple[tuple[Case, ...], str | None]:
    """The tests of a row and the function that they call, if they call one. Raises Unusable."""
    name = _column(row)
    if name is None:
        raise Unusable("it has no tests")
    entry = _function(row)
    if name == "test":
        return (_check(row["test"], entry),), entry
    found = _parsed(row[name], name)
    if isinstance(found, Mapping):
        if (language := found.get("language", "python")) != "python":
            raise Unusable(f"its tests are for {language}")
        entry = _function(found) or entry
        found = found["test_cases"] if "test_cases" in found else _zipped(found)
    if name == "public_test_cases" and isinstance(found, list):
        found = [*found, *_unpacked(row.get("private_test_cases"))]
    if not isinstance(found, list) or not found:
        raise Unusable(f"{name} holds no tests")
    if all(isinstance(test, str) for test in found):
        return tuple(Case("assert", test) for test in found), entry
    if not all(isinstance(test, Mapping) for test in found):
        raise Unusable(f"{name} must be a list of objects with input and output, or of assert statements")
    for test in found:
        entry = entry or _function(test)
    return _cases(found, entry, name), entry


def _column(row: Row) -> str | None:
    for name in COLUMNS:
        value = row.get(name)
        # Any table may have a column called test; HumanEval's holds code that checks.
        if name == "test" and not (isinstance(value, str) and ("check(" in value or "assert" in value)):
            continue
        if value not in (None, "", [], {}):
            return name
    return None


def _function(row: Row) -> str | None:
    """The function that a row or a test says it calls."""
    said = row.get("entry_point") or row.get("fn_name") or row.get("func_name")
    if not said and isinstance(row.get("metadata"), str | Mapping):
        try:
            inner = _parsed(row["metadata"], "metadata")
        except Unusable:
            return None  # somebody's remarks
        said = inner.get("func_name") if isinstance(inner, Mapping) else None
    if said and not (isinstance(said, str) and said.isidentifier()):
        raise Unusable(f"entry_point must be the name of a function, not {said!r}")
    return said or None


def _cases(tests: list[Row], entry: str | None, name: str) -> tuple[Case, ...]:
    if any("input" not in test or "output" not in test for test in tests):
        raise Unusable(f"a test in {name} lacks input or output")
    kinds = {_kind(test, entry) for test in tests}
    if kinds == {"stdin"}:
        return tuple(Case("stdin", _text(test["input"]), _text(test["output"])) for test in tests)
    if kinds != {"call"}:
        raise Unusable(f"{name} mixes tests on standard input with calls")
    if not entry:
        raise Unusable(f"{name} calls a function, but nothing names it (entry_point)")
    # APPS and TACO wrap every result in a list of one, except where they don't: only when every test of a
    # problem looks wrapped is the wrapper taken off. Your own tests say what they mean.
    wrapped = name != "tests" or any("type" in test for test in tests)
    wrapped = wrapped and all(isinstance(test["output"], list) and len(test["output"]) == 1 for test in tests)
    cases = []
    for test in tests:
        wanted = test["output"][0] if wrapped else _value(test["output"])
        try:
            cases.append(Case("call", json.dumps(_arguments(test["input"])), json.dumps(wanted)))
        except (TypeError, ValueError) as error:
            raise Unusable(f"{name} holds a value that JSON can't: {error}") from None
    return tuple(cases)


def _kind(test: Row, entry: str | None) -> str:
    said = test.get("testtype") or test.get("type")
    if said in ("functional", "function_call", "call"):
        return "call"
    return "stdin" if said or not entry else "call"


def _zipped(found: Row) -> list[Row]:
    given, wanted = found.get("inputs"), found.get("outputs")
    if not isinstance(given, list) or not isinstance(wanted, list) or len(given) != len(wanted):
        raise Unusable("inputs and outputs of the tests are not two lists of the same length")
    kind = "function_call" if found.get("fn_name") else "stdin_stdout"
    return [{"input": a, "output": b, "type": kind} for a, b in zip(given, wanted, strict=True)]


def _check(code: str, entry: str | None) -> Case:
    if "def check(" not in code:
        return Case("assert", code)
    if not entry:
        raise Unusable("its test defines check(candidate), but nothing names the candidate (entry_point)")
    return Case("assert", f"{code}\n\ncheck({entry})\n")


def _text(value: Any) -> str:
    """Standard input or output: some sets write it as a list of lines."""
    return "\n".join(map(_text, value)) if isinstance(value, list) else str(value)


def _arguments(value: Any) -> list[Any]:
    """The arguments of a call: a list, or text with one JSON value a line (LiveCodeBench)."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        return [value]
    return [_value(line) for line in value.split("\n") if line.strip()]


def _value(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value  # a plain string that nobody quoted


def _parsed(value: Any, name: str) -> Any:
    """JSON text, or a Python literal in its place (PrimeIntellect), or the value itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise Unusable(f"{name} is neither JSON nor a Python literal") from None


_TEXT = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


def _pickled_text(packed: bytes) -> str:
    """The one string that LiveCodeBench pickles, read without unpickling: nothing is run or allocated for it.

    Raises:
        ValueError: the pickle holds anything else.
    """
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(packed):
        if opcode.name in _TEXT:
            texts.append(cast("str", argument))
        elif opcode.name not in _AROUND:
            raise ValueError(f"{opcode.name} has no place in tests")
    if len(texts) != 1:
        raise ValueError(f"{len(texts)} strings where one is expected")
    return texts[0]


def _unpacked(value: Any) -> list[Row]:
    """LiveCodeBench's private tests: JSON, or JSON in a pickle in zlib in base64."""
    if not value:
        return []
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(value, validate=True), MAX_UNPACKED)
            found = json.loads(_pickled_text(packed))
        # A broken pickle raises nearly anything.
        except Exception as error:
            raise Unusable(f"private_test_cases can't be unpacked: {error}") from None
    if not isinstance(found, list):
        raise Unusable("private_test_cases holds no list")
    return found
