"""Every python and shell block of README.md, CONTRIBUTING.md and docs/ runs as printed; so does examples/.

A page can say something about the block below it:

    <!-- snippet: skip REASON -->     not run; the reason is shown
    <!-- snippet: continues -->       runs after the block of the same language before it, as one
    <!-- snippet: needs-server -->    runs against a scripted vLLM server (so does any block that names
                                      http://localhost:8000/v1)

Python may await at the top level, as in a notebook. Of a console block the lines after `$ ` are run. `make
demo` is really run; any other `make` is a dry run: its targets are what runs these tests.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.snippets import ROOT, SERVER, Snippet, all_snippets, snippets_of

SNIPPETS = all_snippets()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ARGUMENTS = {"train_agent.py": ["--quick"]}  # of examples that take minutes without

# Stands before `make` on the PATH. -o: the set-up is there already, or these tests would not run.
MAKE = """\
#!/bin/sh
case "$*" in
    demo*) ;;
    *) set -- -n "$@" ;;
esac
exec {make} -C {root} -o .venv/.ready --no-print-directory "$@"
"""


@pytest.fixture
def wire_server() -> Iterator[str]:
    """A scripted vLLM server on this machine: its base URL.

    tests/wire.py provides it: `serving()` is a plain context manager that yields the base URL.
    """
    if importlib.util.find_spec("tests.wire") is None:
        pytest.skip("tests/wire.py is not there yet")
    from tests import wire

    running: AbstractContextManager[str] = wire.serving()
    with running as base_url:
        yield base_url


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Our commands come first on the PATH, and `make` is the one above."""
    tools = tmp_path / "bin"
    tools.mkdir()
    make = tools / "make"
    make.write_text(MAKE.format(make=shutil.which("make"), root=ROOT))
    make.chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))
    }
    return {**inherited, "PATH": path, "COLUMNS": "120"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_a_snippet_runs_as_printed(
    snippet: Snippet,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
) -> None:
    """What a reader copies works."""
    if snippet.skip:
        pytest.skip(snippet.skip)
    code = snippet.code
    if snippet.needs_server:
        code = code.replace(SERVER, request.getfixturevalue("wire_server"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if snippet.language == "python":
        run_python(code, snippet.name)
    else:
        run_shell(code, folder, environment)


def run_python(code: str, name: str) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    namespace: dict[str, Any] = {"__name__": "__main__"}
    result = eval(compile(code, name, "exec", flags=flags), namespace)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def run_shell(code: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each example is a program that ends well, from any folder."""
    code = example.read_text(encoding="utf-8")
    script = example
    if SERVER in code:
        script = tmp_path / example.name
        script.write_text(code.replace(SERVER, request.getfixturevalue("wire_server")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), *ARGUMENTS.get(example.name, [])],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


PAGE = """\
```python
x = 1
```

<!-- snippet: continues -->
```python
assert x == 1
```

<!-- snippet: skip it would format the disk -->
```console
$ rm -rf /
removed
$ echo done
```

- in a list

  ```python
  url = "http://localhost:8000/v1"
  ```

```text
not code
```
"""


def test_what_a_page_says_about_its_blocks() -> None:
    """Continued, skipped, in need of a server, indented: each is understood; text blocks are left alone."""
    first, second, third, fourth = snippets_of(PAGE, "page.md")
    assert (first.code, first.name) == ("x = 1\n", "page.md:1")
    assert second.code == "x = 1\n\nassert x == 1\n"
    assert third.code == "rm -rf /\necho done\n"
    assert third.skip == "it would format the disk"
    assert fourth.code == 'url = "http://localhost:8000/v1"\n'
    assert fourth.needs_server
    assert not first.needs_server


@pytest.mark.parametrize("marker", ["skip", "skipp because"])
def test_a_marker_that_says_nothing_is_refused(marker: str) -> None:
    """A skipped block is a promise not kept: it says why, and a misspelt marker does not pass for one."""
    with pytest.raises(ValueError, match=r"snippet: skip REASON|unknown marker"):
        snippets_of(f"<!-- snippet: {marker} -->\n```python\npass\n```\n", "page.md")


def test_python_may_await() -> None:
    """Snippets read like a notebook."""
    run_python("import asyncio\nawait asyncio.sleep(0)\nfinished = True\nassert finished", "here")
    with pytest.raises(ZeroDivisionError):
        run_python("async def f():\n    return 1 / 0\nawait f()", "here")
