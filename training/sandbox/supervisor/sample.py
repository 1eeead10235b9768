"""What a confined process does: run a program, call its function, serve calls, or test another process.

Each function is the body of a child that `main` has forked and `confinement` has confined. The child ends in
``os._exit`` and never returns to the supervisor. Results leave through one pipe. A sample that gets hold of
the pipe can only lie about what its function returned, because no process that runs the sample knows the
right answers.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Never

from .messages import Closed, Handle, decode, encode, read_frame, write_frame

EXIT_OK, EXIT_ERROR = 0, 1

NOT_PASSED_ON = (AssertionError, StopIteration, StopAsyncIteration)
"""Raised in the tester as RuntimeError: a test may catch the first as its own, and the others end a loop of
assertions early (``all(map(...))`` of nothing is true), which would pass."""


def finish(body: Callable[[], None]) -> Never:
    """Run `body` as a program runs: exit code, exit handlers and last output included. Does not return."""
    code = EXIT_OK
    try:
        body()
    except SystemExit as leaving:
        code = (
            leaving.code if isinstance(leaving.code, int) else EXIT_OK if leaving.code is None else EXIT_ERROR
        )
    except BaseException:
        code = EXIT_ERROR
        with contextlib.suppress(BaseException):
            sys.excepthook(*sys.exc_info())
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            code = code or EXIT_ERROR
    os._exit(code & 0xFF)


def load(code: str, name: str) -> dict[str, Any]:
    """Execute a sample's code; returns the names that the code defines."""
    module = type(sys)(name)
    sys.modules[name] = module
    exec(compile(code, "solution.py", "exec"), module.__dict__)
    return module.__dict__


def run_program(code: str) -> None:
    load(code, "__main__")


def call_function(code: str, name: str, arguments: list[Any], out: int) -> None:
    """Call a function, or a method of ``Solution`` (LeetCode), and write what it returns to `out`."""
    result = find(load(code, "solution"), name)(*arguments)
    write_frame(out, {"value": encode(result)})


def find(names: dict[str, Any], name: str) -> Any:
    if name not in names and "Solution" in names:
        return getattr(names["Solution"](), name)
    return names[name]


def serve(code: str, inward: int, out: int) -> None:
    """Load the sample, then answer calls of its names until the tester hangs up."""
    names: dict[str, Any] = {}
    kept: list[Any] = []

    def keep(value: Any) -> int:
        kept.append(value)
        return len(kept) - 1

    failed: BaseException | None = None
    try:
        names = load(code, "solution")
    except BaseException as error:
        failed = error
    while True:
        try:
            request = read_frame(inward)
        except Closed:
            return
        try:
            if failed is not None:
                raise failed
            target = kept[request["of"]] if "of" in request else find(names, request["name"])
            if "attribute" in request:
                target = getattr(target, request["attribute"])
            if "arguments" in request:
                arguments, named = decode(request["arguments"], kept.__getitem__)
                target = target(*arguments, **named)
            answer = {"value": encode(target, keep)}
        except BaseException as error:
            answer = {"error": type(error).__name__, "message": str(error)[:300]}
        write_frame(out, answer)


class Proxy:
    """Stands for a name or an object of the sample under test; calls and attributes go over the pipes."""

    def __init__(self, remote: Remote, address: dict[str, Any]) -> None:
        self.__dict__["_remote"], self.__dict__["_address"] = remote, address

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        packed = encode((self._remote.unwrap(list(arguments)), self._remote.unwrap(named)))
        return self._remote.ask({**self._address, "arguments": packed})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._remote.ask({**self._address, "attribute": name})


class Remote:
    """The tester's end of the pipes. It counts calls, because tests that call nothing prove nothing."""

    def __init__(self, out: int, inward: int) -> None:
        self.out, self.inward, self.calls = out, inward, 0

    def ask(self, request: dict[str, Any]) -> Any:
        self.calls += 1
        write_frame(self.out, request)
        answer = read_frame(self.inward, limit=1 << 26)
        if "error" in answer:
            kind: Any = getattr(builtins, str(answer["error"]), None)
            usable = isinstance(kind, type) and issubclass(kind, Exception)
            if not usable or issubclass(kind, NOT_PASSED_ON):
                kind = RuntimeError
            raise kind(answer.get("message", ""))
        value = decode(answer["value"])
        return Proxy(self, {"of": value.number}) if isinstance(value, Handle) else value

    def unwrap(self, value: Any) -> Any:
        """The value with handles in place of proxies."""
        if isinstance(value, Proxy) and "of" in value._address:
            return Handle(value._address["of"])
        if isinstance(value, list | tuple):
            return type(value)(self.unwrap(item) for item in value)
        if isinstance(value, dict):
            return {key: self.unwrap(item) for key, item in value.items()}
        return value


def test(program: str, entry_point: str, out: int, inward: int, verdict: int) -> None:
    """Run a test program whose unknown names are the sample's; call ``check`` if it defines one (HumanEval).

    A failed assertion, an error of the sample and an error of the test all raise; only the end sends a
    verdict.
    """
    remote = Remote(out, inward)
    names: dict[str, Any] = {name: Proxy(remote, {"name": name}) for name in _free_names(program)}
    names["__name__"] = "__main__"
    names["candidate"] = Proxy(remote, {"name": entry_point})
    exec(compile(program, "tests.py", "exec"), names)
    if callable(names.get("check")) and not isinstance(names["check"], Proxy):
        names["check"](names["candidate"])
    write_frame(verdict, {"passed": remote.calls > 0, "calls": remote.calls})


def _free_names(program: str) -> set[str]:
    """The names that a program uses without defining them."""
    import ast  # here, because every supervisor starts anew and only testers need it

    used: set[str] = set()
    made = set(dir(builtins))
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return used - made
