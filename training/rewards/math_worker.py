"""The process that math-verify runs in: started by `elastic_agent.training.rewards.math`, fed over pipes.

The process imports math-verify once, which takes seconds, and then forks a child that grades. A child that
was killed because it hung, or whose caches have grown over many gradings, is replaced by a new fork within
milliseconds. The kernel's limit of CPU time ends a child even inside one big-integer operation, where no
Python signal handler runs.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable
from typing import Any, Never

from ..sandbox.supervisor.messages import Closed, read_frame, write_frame

GRADINGS = 2000  # of one child: sympy's caches grow
MEMORY = 3 << 30
NOBODY_THERE = 3


def make_grade() -> Callable[[str, list[str], int], bool]:
    """math-verify as a function, set up once: (answer, references, seconds a step) -> right or wrong."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    configs = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def read(text: str, seconds: int) -> Any:
        return parse(text, extraction_config=configs, parsing_timeout=seconds)

    def grade(answer: str, references: list[str], seconds: int) -> bool:
        said = read(answer, seconds)
        if not said:
            return False
        for reference in references:
            text = reference if "$" in reference else f"$\\boxed{{{reference}}}$"
            gold = read(text, seconds) or read(reference, seconds)
            if gold and verify(gold, said, timeout_seconds=seconds):
                return True
        return False

    return grade


def serve(grade: Callable[[str, list[str], int], bool]) -> Never:
    """Answer requests in a forked child, `GRADINGS` of them at most."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    write_frame(1, {"ready": os.getpid()})
    for number in range(GRADINGS):
        try:
            request = read_frame(0)
        except Closed:
            os._exit(NOBODY_THERE)
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime + request["limit"]) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        answer: dict[str, Any]
        try:
            answer = {"right": grade(request["answer"], request["references"], request["seconds"])}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        finally:
            signal.alarm(0)
        write_frame(1, answer | {"last": number == GRADINGS - 1})
    os._exit(0)


def main() -> None:
    import logging

    logging.disable(logging.CRITICAL)  # a timeout in an answer is a wrong answer, not news
    grade = make_grade()
    with contextlib.suppress(BrokenPipeError):
        while True:
            child = os.fork()
            if child == 0:
                try:
                    serve(grade)
                finally:
                    os._exit(NOBODY_THERE)
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == NOBODY_THERE:
                return
