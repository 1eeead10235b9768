"""Runs Python snippets as one program, `python -W error`, one after the other: JSON lines in and out.

One process for many snippets, since each would load the same libraries and models. What a program may
leave behind shows at its end, when the process ends.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import sys
import traceback
from typing import IO, Any


def run_python(code: str, name: str) -> None:
    """Run a snippet; it may await at the top level, as in a notebook."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    namespace: dict[str, Any] = {"__name__": "__main__"}
    result = eval(compile(code, name, "exec", flags=flags), namespace)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def main() -> None:
    """Answer each line on the standard output that the process began with; a snippet's own goes to a file."""
    with os.fdopen(os.dup(1), "w") as answers:
        _serve(answers)
    end = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(end, 2)


def _serve(answers: IO[str]) -> None:
    for line in sys.stdin:
        job = json.loads(line)
        os.chdir(job["folder"])
        for number, path in ((1, job["stdout"]), (2, job["stderr"])):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
            os.close(opened)
        failed = ""
        try:
            run_python(job["code"], job["name"])
        except BaseException:
            failed = traceback.format_exc()
        sys.stdout.flush()
        answers.write(json.dumps({"failed": failed}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
