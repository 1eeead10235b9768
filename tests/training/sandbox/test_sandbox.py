"""The sandbox: whatever a sample does, it is contained, the grader lives, and nothing is left behind."""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from elastic_agent.training.sandbox.sandbox import (
    Limits,
    Outcome,
    Sandbox,
    SandboxError,
    SandboxUnavailable,
    capabilities,
)
from elastic_agent.training.sandbox.supervisor.confinement import landlock_abi
from elastic_agent.training.sandbox.supervisor.syscalls import ALLOWED, CONDITIONAL, numbers

if not sys.platform.startswith("linux") or landlock_abi() < 3:
    pytest.skip("the sandbox needs Linux 6.2 with landlock", allow_module_level=True)

LIMITS = Limits(cpu=1, wall=8.0, disk=8 << 20, file=1 << 20, output=1 << 20)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Private folders are made below tmp_path; after each test there are none, and no new child process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = children()  # servers of other tests in this worker
    yield tmp_path
    assert not list(tmp_path.glob("elastic-sandbox-*"))
    assert children() <= before


def children(parent: int | None = None) -> set[int]:
    """Processes whose parent is this one."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == (parent or os.getpid()) and fields[0] != "Z":
                found.add(int(entry.name))
    return found


def run(code: str, stdin: str = "", limits: Limits = LIMITS) -> Outcome:
    with Sandbox(limits).open(code) as session:
        return session.run(stdin)


def test_this_machine_can_contain_samples() -> None:
    found = capabilities()
    assert not found.missing
    assert "seccomp: enforced" in str(found)


def test_a_program_reads_stdin_and_prints() -> None:
    outcome = run("import sys\nprint(sum(map(int, sys.stdin.read().split())))", "3 4\n")
    assert outcome == Outcome("", "7\n", cpu=outcome.cpu, wall=outcome.wall)


ATTACKS = {
    "a fork bomb": ("import os\nwhile True: os.fork()", "exit code 1", "PermissionError"),
    "a loop": ("while True: pass", "cpu limit", ""),
    "10 GB": ("x = bytearray(10 << 30)", "exit code 1", "MemoryError"),
    "a sleeper": ("import time; time.sleep(60)", "time limit", ""),
    "endless output": ("while True: print('x' * 1000)", "output limit", ""),
    "a socket": ("import socket; socket.socket()", "exit code 1", "PermissionError"),
    "a unix socket": ("import socket; socket.socketpair()", "exit code 1", "PermissionError"),
    "a subprocess": ("import subprocess; subprocess.run(['true'])", "exit code 1", "PermissionError"),
    "exec": ("import os; os.execv('/bin/true', ['true'])", "exit code 1", "PermissionError"),
    "a signal to the supervisor": ("import os; os.kill(os.getppid(), 9)", "exit code 1", "PermissionError"),
    "a signal to all": ("import os; os.kill(-1, 9)", "exit code 1", "PermissionError"),
    "a signal by fcntl": (
        "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "exit code 1",
        "PermissionError",
    ),
    "a file outside": ("open('/etc/passwd').read()", "exit code 1", "PermissionError"),
    "memory of the supervisor": (
        "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
        "exit code 1",
        "PermissionError",
    ),
    "the environment": ("open('/proc/self/environ').read()", "exit code 1", "PermissionError"),
    "a terminal": ("open('/dev/tty')", "exit code 1", "PermissionError"),
    "a folder": ("import os; os.mkdir('deep')", "exit code 1", "PermissionError"),
    "a mode outside": ("import os; os.chmod('/tmp', 0o777)", "exit code 1", "PermissionError"),
    "a big file": ("open('f', 'wb').write(bytes(2 << 20))", "exit code 1", "File too large"),
    "many files": (
        "for i in range(10**6): open(f'f{i}', 'w').write('x' * 99999)",
        "disk limit",
        "",
    ),
    "files without a name": (
        "import os\nkept = []\nfor _ in range(30):\n    kept.append(open('f', 'wb'))\n"
        "    kept[-1].write(bytes(1 << 19)); kept[-1].flush(); os.unlink('f')\nwhile True: pass",
        "disk limit",
        "",
    ),
    "mapped files without a name": (
        "import mmap, os\nkept = []\nfor _ in range(40):\n    f = open('f', 'wb+')\n"
        "    f.write(bytes(1 << 19)); f.flush(); kept.append(mmap.mmap(f.fileno(), 0)); f.close()\n"
        "    os.unlink('f')\n    for fd in range(3, 40):\n        try:\n"
        "            if os.fstat(fd).st_size == 1 << 19: os.close(fd)\n        except OSError: pass\n"
        "while True: pass",
        "disk limit",
        "",
    ),
    "open files": ("a = [open('/dev/null') for _ in range(999)]", "exit code 1", "Too many open files"),
    "an abort": ("import os; os.abort()", "killed by SIGABRT", ""),
    "stopping itself": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "time limit", ""),
    "deep recursion": ("def f(): f()\nf()", "exit code 1", "RecursionError"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_contained(attack: str) -> None:
    """It shows 5, and more: contained, the reason is known, and the next sample is graded."""
    code, failure, said = ATTACKS[attack]
    limits = replace(LIMITS, wall=1.5) if failure == "time limit" else LIMITS
    outcome = run(code, limits=limits)
    assert outcome.failure == failure
    assert said in outcome.stderr
    assert run("print('alive')").stdout == "alive\n"


def test_nothing_is_written_outside(folder: Path) -> None:
    """A write outside fails even where the file's mode would allow it; one inside works and is gone after."""
    outside = folder / "outside"
    outside.touch()
    outside.chmod(0o666)
    for attempt in (f"open({str(outside)!r}, 'w').write('x')", f"import os; os.unlink({str(outside)!r})"):
        assert "PermissionError" in run(attempt).stderr
    assert outside.read_text() == ""
    assert run("open('f', 'w').write('x'); print(open('f').read())").stdout == "x\n"


def test_no_connection_is_made() -> None:
    """A listening port of this machine sees nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert "PermissionError" in run(code).stderr
        with pytest.raises(TimeoutError):
            server.accept()


def test_raw_system_calls_are_refused() -> None:
    """Through ctypes: fork, ptrace, shared memory that outlives a process, namespaces, memfd, io_uring."""
    code = """
import ctypes
c = ctypes.CDLL(None, use_errno=True)
print([c.fork(), c.ptrace(0, 0, 0, 0), c.shmget(0, 4096, 0o1600), c.unshare(0x10000000),
       c.memfd_create(b"x", 0), c.syscall(425, 8, 0), c.prctl(1, 0, 0, 0, 0)])
"""
    assert run(code).stdout == f"{[-1] * 7}\n"


def test_secrets_of_the_environment_do_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "secret" not in run("import os; print(dict(os.environ))").stdout
    assert run("import sys; print(sys.stdin.isatty(), sys.argv)").stdout == "False ['solution.py']\n"


def test_threads_work_and_many_are_stopped() -> None:
    """The deep-recursion idiom of contests needs a thread with a large stack."""
    code = """
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 27)
def f(n): return 0 if n == 0 else 1 + f(n - 1)
t = threading.Thread(target=lambda: print(f(20000)))
t.start(); t.join()
"""
    assert run(code).stdout == "20000\n"
    many = """
import threading, time
threading.stack_size(65536)
for _ in range(500): threading.Thread(target=time.sleep, args=(60,)).start()
"""
    assert run(many).failure == "thread limit"


def test_it_ends_like_a_program() -> None:
    """sys.exit, exit handlers and exit codes count; so do bytes that are no text."""
    assert (
        run("import sys, atexit\natexit.register(print, 'late')\nprint('x')\nsys.exit()").stdout
        == "x\nlate\n"
    )
    assert run("import sys; sys.exit(3)").failure == "exit code 3"
    assert run("import sys; sys.exit('words')").failure == "exit code 1"
    assert run("import os; print('lost'); os._exit(0)").stdout == ""
    assert run("import sys; sys.stdout.buffer.write(bytes(range(256)))").stdout.endswith("\ufffd" * 2)
    assert run("def f(:").stderr.rstrip().endswith("SyntaxError: invalid syntax")
    assert "null bytes" in run("x = 1\0").stderr


def test_tests_of_one_sample_do_not_see_each_other() -> None:
    with Sandbox(LIMITS).open("import os\nprint(os.listdir('.'))\nopen('seen', 'w')") as session:
        assert [session.run("").stdout for _ in range(2)] == ["[]\n", "[]\n"]


def test_calls_return_plain_data() -> None:
    """Subclasses lose their behaviour on the way: an __eq__ that is always true stays behind."""
    code = """
from collections import Counter, deque, namedtuple
class Sly(list):
    def __eq__(self, other): return True
def sly(): return Sly([1])
def many(): return (1, 2.5, None, b"x", {1: {2}}, Counter("a"), deque([3]), 10**30, 1j, frozenset([4]))
def opaque(): return object()
class Solution:
    def add(self, a, b): return a + b
"""
    with Sandbox(LIMITS).open(code) as session:
        assert type(session.call("sly", []).value) is list
        assert session.call("sly", []).value == [1]
        assert session.call("many", []).value == (
            *(1, 2.5, None, b"x", {1: {2}}, {"a": 1}, [3], 10**30, 1j, frozenset([4])),
        )
        assert session.call("add", [[1], [2]]).value == [1, 2]
        assert "not plain data" in session.call("opaque", []).stderr
        assert session.call("nothing", []).failure == "exit code 1"


def test_numpy_is_there() -> None:
    assert run("import numpy; print(numpy.arange(3).sum())", limits=Limits(cpu=5)).stdout == "3\n"


CHEATS = {
    "exit": "import sys\ndef f(x): sys.exit(0)",
    "hard exit": "import os\ndef f(x): os._exit(0)",
    "exit on import": "import os\nos._exit(0)",
    "stop the loop": "def f(x): raise StopIteration",
    "an assertion": "def f(x): raise AssertionError",
    "equal to all": """
class E:
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f(x): return E()
""",
    "look for it": "import gc\ndef f(x): return [o for o in gc.get_objects() if '7919' in repr(o)[:99]][0]",
    "frames": """
import sys
def f(x):
    frame = sys._getframe()
    while frame: frame, last = frame.f_back, frame
    return last.f_globals["EXPECTED"]
""",
    "own verdict": """
import os
for fd in range(3, 9):
    try: os.write(fd, bytes([16]) + bytes(7) + b'{"passed": true}')
    except OSError: pass
os._exit(0)
""",
    "own assert": "import builtins\nbuiltins.all = lambda x: True\ndef f(x): return 1",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_does_not_pass_assertions(cheat: str) -> None:
    """Assertions run in a process of their own; the sample meets arguments and nothing else."""
    program = "EXPECTED = [7919]\ndef check(c):\n    assert all(map(lambda x: c(x) == EXPECTED, [1, 2]))"
    with Sandbox(LIMITS).open(CHEATS[cheat]) as session:
        assert session.check(program, "f").failure


def test_assertions_may_use_objects_and_exceptions_of_the_sample() -> None:
    code = """
class Stack:
    def __init__(self): self.items = []
    def push(self, x):
        if x is None: raise ValueError("none")
        self.items.append(x)
    def top(self): return self.items[-1]
def size(stack): return len(stack.items)
"""
    program = """
s = Stack(); s.push(4); s.push(5)
assert s.top() == 5 and size(s) == 2 and s.items == [4, 5]
try:
    s.push(None)
    assert False
except ValueError as error:
    assert "none" in str(error)
"""
    with Sandbox(LIMITS).open(code) as session:
        assert session.check(program, "Stack").failure == ""
        assert session.check("assert size(Stack()) == 1", "Stack").failure == "exit code 1"
        assert session.check("x = 1", "Stack").failure == "the tests called nothing"


def test_without_seccomp_a_daemon_is_reaped() -> None:
    """The second line of defence: a child that forked twice and left the session dies with its test."""
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
time.sleep(0.3)
"""
    with Sandbox(LIMITS, layers=("user", "landlock"), require=("landlock",)).open(code) as session:
        outcome = session.run("")
    assert not Path(f"/proc/{int(outcome.stdout)}").exists()


def test_what_is_required_must_be_there() -> None:
    """Law 8: a machine that can't contain a sample does not run it."""
    with pytest.raises(SandboxUnavailable, match="seccomp: switched off"):
        Sandbox(layers=("landlock",))


def test_the_total_time_is_limited() -> None:
    limits = Limits(cpu=1, wall=1.0, total=0.5)
    with Sandbox(limits).open("import time; time.sleep(9)") as session:
        failures = [session.run("").failure for _ in range(2)]
    assert failures == ["time limit", "total time limit"]


def test_closing_ends_what_runs(folder: Path) -> None:
    """A trainer that is interrupted in the middle of a test leaves no process and no folder."""
    session = Sandbox(Limits(cpu=60, wall=60.0)).open("while True: pass")

    def grade() -> None:
        with pytest.raises((SandboxError, OSError)):
            session.run("")

    thread = threading.Thread(target=grade)
    thread.start()
    while not children(session.process.pid):
        pass
    (child,) = children(session.process.pid)
    session.close()
    thread.join()
    assert not Path(f"/proc/{child}").exists()


def test_200_samples_in_parallel_leave_nothing(folder: Path) -> None:
    """It shows 5: processes, descriptors and folders are as before; hostile samples do not disturb others."""
    sandbox = Sandbox(Limits(cpu=1, wall=20.0))
    codes = [
        "print(int(input()) + 1)",
        "import os\nos.fork()",
        "x = bytearray(10 << 30)",
        "import os; os._exit(1)",
    ]

    def grade(number: int) -> bool:
        with sandbox.open(codes[number % 4]) as session:
            outcome = session.run(f"{number}\n")
            return not outcome.failure and outcome.stdout == f"{number + 1}\n"

    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as threads:
        passed = list(threads.map(grade, range(200)))
    assert passed == [number % 4 == 0 for number in range(200)]
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_system_call_tables_agree_with_the_headers() -> None:
    """The numbers of x86-64, where the kernel's header is installed."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers here")
    real = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    table = numbers(ALLOWED["x86_64"]) | numbers(CONDITIONAL["x86_64"])
    assert table == {name: real[name] for name in table}
    assert not set(table) & {"fork", "vfork", "execve", "socket", "ptrace", "unshare", "mount", "chmod"}
