"""Every python and shell block of README.md, CONTRIBUTING.md and docs/ runs as printed; so does examples/.

A page can say something about the block below it:

    <!-- snippet: skip REASON -->     not run; the reason is shown
    <!-- snippet: continues -->       runs after the block of the same language before it, as one
    <!-- snippet: needs-server -->    runs against a scripted vLLM server (so does any block that names
                                      http://localhost:8000/v1)
    <!-- snippet: output -->          is what the block before it prints, to the letter

Python may await at the top level, as in a notebook. It runs under `-W error`: it warns of nothing, and writes
nothing on standard error, at the end of the program neither. What is printed as an answer to a question about
a shop has to be the right one. Of a console block the lines after `$ ` are run. `make
demo` is really run; any other `make` is a dry run: its targets are what runs these tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from tests.snippet_runner import run_python
from tests.snippets import ROOT, SERVER, Snippet, all_snippets, right_answers, said_answers, snippets_of

SNIPPETS = all_snippets()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ARGUMENTS = {"train_agent.py": ["--quick"], "train_langgraph_agent.py": ["--steps", "1"]}
"""Of examples that take long without."""

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


class Runner:
    """The program in which Python snippets run; started anew when one has ended it."""

    def __init__(self, folder: Path) -> None:
        self.end = folder / "end"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(ROOT / "tests" / "snippet_runner.py"), str(self.end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )

    def run(self, code: str, name: str, folder: Path) -> str:
        """What the snippet printed; AssertionError if it failed, warned, or wrote on standard error."""
        out, err = folder.parent / "stdout", folder.parent / "stderr"
        job = {"code": code, "name": name, "folder": str(folder), "stdout": str(out), "stderr": str(err)}
        to, back = _pipe(self._process.stdin), _pipe(self._process.stdout)
        to.write(json.dumps(job) + "\n")
        to.flush()
        answer = json.loads(back.readline() or '{"failed": "the program ended"}')
        said = err.read_text()
        assert not answer["failed"], f"{code}\n{answer['failed']}\n{said[-3000:]}"
        assert said == "", f"{code}\n{said[-3000:]}"
        return out.read_text()

    def close(self) -> str:
        """End the program; what it wrote on standard error then."""
        _pipe(self._process.stdin).close()
        self._process.wait(60)
        _pipe(self._process.stdout).close()
        return self.end.read_text()


def _pipe(found: IO[str] | None) -> IO[str]:
    assert found is not None
    return found


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One for the snippets of this process: libraries and models are loaded once."""
    running = Runner(tmp_path_factory.mktemp("runner"))
    with contextlib.ExitStack() as stack:
        stack.callback(running._process.kill)
        yield running
        assert running.close() == ""


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
        printed = request.getfixturevalue("runner").run(code, snippet.name, folder)
    else:
        printed = run_shell(code, folder, environment)
    assert said_answers(printed) <= right_answers(code), printed
    if snippet.output is not None:
        assert printed.strip() == snippet.output.strip()


def run_shell(code: str, folder: Path, environment: dict[str, str]) -> str:
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
    return done.stdout


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

<!-- snippet: output -->
```text
done
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
    assert (second.output, third.output) == (None, "done\n")
    assert fourth.code == 'url = "http://localhost:8000/v1"\n'
    assert fourth.needs_server
    assert not first.needs_server


@pytest.mark.parametrize("marker", ["skip", "skipp because"])
def test_a_marker_that_says_nothing_is_refused(marker: str) -> None:
    """A skipped block is a promise not kept: it says why, and a misspelt marker does not pass for one."""
    with pytest.raises(ValueError, match=r"snippet: skip REASON|unknown marker"):
        snippets_of(f"<!-- snippet: {marker} -->\n```python\npass\n```\n", "page.md")


def test_the_right_answers_are_known() -> None:
    """A question's steps give its answer; several questions, several answers."""
    code = (
        'ask("A shop has 37 apples . #1 It sells 12 . #2 It gets 3 boxes of 8 . How many apples are left ?")'
    )
    assert right_answers(code) == {49}
    assert right_answers(code + "A shop has 9 hats . #1 It gets 14 . #2 It uses 3 . How") == {49, 20}
    assert right_answers("nothing is asked") == set()
    assert said_answers("so 7. Answer: 49. {'content': 'Answer: 20.'}") == {49, 20}


def test_the_runner_tells_of_warnings_and_of_what_is_left(tmp_path: Path) -> None:
    """Itself tested: a warning, a word on standard error, and a word at the end are each seen."""
    (tmp_path / "here").mkdir()
    runner = Runner(tmp_path)
    assert runner.run("print('fine')", "here", tmp_path / "here") == "fine\n"
    for code in (
        "import warnings; warnings.warn('w')",
        "import sys; sys.stderr.write('e')",
        "import os; os.write(2, b'e')",
    ):
        with pytest.raises(AssertionError):
            runner.run(code, "here", tmp_path / "here")
    runner.run(
        "import atexit, sys; atexit.register(lambda: sys.stderr.write('left'))", "here", tmp_path / "here"
    )
    assert runner.close() == "left"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("page", ["docs/quickstart.md", "docs/gateway.md"])
def test_the_gateways_block_ends_where_the_server_has_died(page: str, tmp_path: Path) -> None:
    """The fault: without the gateway's extra the loop waited for a dead server for ever."""
    blocks = snippets_of((ROOT / page).read_text(encoding="utf-8"), page)
    waits = [one.code for one in blocks if "until curl" in one.code]
    assert waits
    (tmp_path / "elastic-agent").write_text("#!/bin/sh\necho 'install elastic-agent[gateway]' >&2; exit 1\n")
    (tmp_path / "elastic-agent").chmod(0o755)
    for code in waits:
        done = subprocess.run(
            ["bash", "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "elastic-agent[gateway]" in done.stderr


def test_python_may_await() -> None:
    """Snippets read like a notebook."""
    run_python("import asyncio\nawait asyncio.sleep(0)\nfinished = True\nassert finished", "here")
    with pytest.raises(ZeroDivisionError):
        run_python("async def f():\n    return 1 / 0\nawait f()", "here")
