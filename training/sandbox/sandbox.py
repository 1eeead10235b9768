"""Runs code that nobody trusts: a model's program, once for each of its tests.

    with Sandbox().open(code) as session:
        outcome = session.run("3 4\\n")                     # a program that reads stdin
        outcome = session.call("add", [3, 4])              # a function, or a method of Solution
        outcome = session.check(tests, entry_point="add")  # a program of assertions

Each `Session` has a supervisor process (`elastic_agent.training.sandbox.supervisor`), which forks one
confined child a test. What each layer contains, on Linux 6.2 or newer, as root or as anyone, in a container
or not:

    seccomp     an allow-list of system calls: no new processes (so no fork bomb, no daemon, nothing to exec),
                no sockets of any kind, no signals to other processes, no tracing, no shared memory that would
                outlive the sample
    landlock    files: the Python installation and system libraries can be read, plain files in a private
                folder can be written, nothing else can be opened, /proc included
    rlimits     CPU seconds, address space, size of a file, open files, no core dump
    supervisor  wall time, bytes printed, threads, bytes on disk (looked at 20 times a second)
    user        as root: an unused user id that can still read Python, else root without capabilities

stdin is a file without a terminal, the environment is new, and the folder is removed afterwards. Answers are
compared in the caller's process. A program of assertions runs in a second sandbox, which calls the sample
over pipes. So expected outputs are never in a process, or in a file, that the sample can read.

Not contained: the sample sees names and sizes of files anywhere (stat), the kernel's version, the clock and
the load of the machine. It can fill caches, and compete for CPU and memory bandwidth. It can exceed a limit
that the supervisor looks at by as much as fits into a twentieth of a second. A bug in the kernel is a way
out: where samples may be hostile rather than clumsy, run the trainer in a virtual machine. There is no
namespace and no cgroup, because ordinary containers forbid both.

A machine that lacks a layer is refused (`SandboxUnavailable`), unless `require` leaves the layer out;
`capabilities` says which layers the machine has.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

from elastic_agent.errors import ElasticError

from .supervisor import launch
from .supervisor.messages import Closed, decode, encode, read_frame, write_frame

LAYERS = ("user", "landlock", "seccomp")
GRACE = 15.0  # seconds past the wall limit in which the supervisor itself must answer


class SandboxError(ElasticError):
    """The sandbox failed, not the sample: nothing is known about the sample."""


class SandboxUnavailable(SandboxError):
    """This machine can't contain what was asked for; the message names the layers and why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one test may use; `total` is for all the tests of a sample together."""

    cpu: int = 6
    """Seconds of CPU, whole ones, because the kernel counts so."""
    wall: float = 15.0
    """Seconds by the clock: for a sample that sleeps or waits."""
    memory: int = 1 << 30
    """Bytes of address space."""
    file: int = 16 << 20
    """Bytes of one file."""
    disk: int = 64 << 20
    """Bytes of all files, 4 KiB each at least."""
    open_files: int = 64
    threads: int = 32
    output: int = 8 << 20
    """Bytes printed or returned; more ends the test."""
    total: float = 90.0
    """Seconds by the clock for all tests of one sample."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended. `failure` is "" for a process that ended well, right or wrong."""

    failure: str
    stdout: str = ""
    stderr: str = ""
    value: Any = None
    """What the function returned, as plain data."""
    cpu: float = 0.0
    wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The layers of this machine, and why one is missing."""

    layers: dict[str, str] = field(default_factory=dict)
    """Layer -> "" where it works, else the reason."""

    @property
    def missing(self) -> dict[str, str]:
        return {layer: why for layer, why in self.layers.items() if why}

    def __str__(self) -> str:
        return "\n".join(
            f"{layer}: {'missing, ' + why if why else 'enforced'}" for layer, why in self.layers.items()
        )


@cache
def capabilities() -> Capabilities:
    """Try every layer in a throw-away child. Raises SandboxUnavailable off Linux."""
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"code is sandboxed on Linux only, and this is {sys.platform}")
    with Session("", Limits(), LAYERS, (), probe=True) as session:
        found = session.ask_probe()
    return Capabilities({layer: found[layer] for layer in LAYERS})


class Sandbox:
    """Settings for sessions; holds no process. Safe to use from many threads."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        require: Iterable[str] = LAYERS,
        layers: Iterable[str] = LAYERS,
    ) -> None:
        """`layers` are tried, `require` must be had. Raises SandboxUnavailable if one is not."""
        self.limits = limits or Limits()
        self.layers, self.require = tuple(layers), tuple(require)
        lacking = {name: why for name, why in capabilities().missing.items() if name in self.require}
        lacking |= {name: "switched off" for name in self.require if name not in self.layers}
        if lacking:
            reasons = "; ".join(f"{name}: {why}" for name, why in lacking.items())
            raise SandboxUnavailable(f"this machine can't contain a sample ({reasons}); see `require`")

    def open(self, code: str) -> Session:
        """A session for one sample; use it in a ``with``, which ends every process and removes the folder."""
        return Session(code, self.limits, self.layers, self.require)


class Session:
    """One sample's supervisor. Not for use by two threads at once."""

    def __init__(
        self,
        code: str,
        limits: Limits,
        layers: tuple[str, ...],
        require: tuple[str, ...],
        *,
        probe: bool = False,
    ) -> None:
        self.limits = limits
        self.deadline = time.monotonic() + limits.total
        self.folder = tempfile.mkdtemp(prefix="elastic-sandbox-")
        try:
            self.process = subprocess.Popen(
                launch.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=launch.environment(),
                start_new_session=True,
            )
        except BaseException:
            os.rmdir(self.folder)
            raise
        uid = launch.sample_user(self.process.pid)
        if uid is not None:
            os.chmod(self.folder, 0o711)
        job = {
            "code": code,
            "probe": probe,
            "folder": self.folder,
            "layers": layers,
            "required": require,
            "uid": uid,
            "path": launch.python_path(),
            "readable": launch.readable(),
            "limits": {
                "wall": limits.wall,
                "cpu": limits.cpu,
                "output": limits.output,
                "threads": limits.threads,
                "disk": limits.disk,
            },
            "rlimits": {
                "CPU": limits.cpu,
                "AS": limits.memory,
                "FSIZE": limits.file,
                "NOFILE": limits.open_files,
                "STACK": 64 << 20,
                "CORE": 0,
                "MEMLOCK": 0,
            },
        }
        try:
            self._send(job)
        except BaseException:
            self.close()
            raise

    def run(self, stdin: str) -> Outcome:
        """The sample as a program: `stdin` in, `Outcome.stdout` out."""
        return self._test({"kind": "run", "stdin": stdin})

    def call(self, function: str, arguments: list[Any]) -> Outcome:
        """The sample's function, or that method of its ``Solution``; the result is `Outcome.value`.

        Raises TypeError if an argument is not plain data.
        """
        return self._test({"kind": "call", "function": function, "arguments": encode(arguments)})

    def check(self, program: str, entry_point: str) -> Outcome:
        """Assertions against the sample; no failure means that they ran to their end and called it."""
        return self._test({"kind": "assert", "entry_point": entry_point}, program)

    def ask_probe(self) -> dict[str, str]:
        found: dict[str, str] = self._receive(GRACE)
        return found

    def _test(self, test: dict[str, Any], program: str | None = None) -> Outcome:
        left = self.deadline - time.monotonic()
        if left <= 0:
            return Outcome("total time limit")
        self._send(test)
        if program is not None:
            self._send(program)
        said = self._receive(min(left, self.limits.wall) + GRACE)
        if said["unconfined"]:
            raise SandboxError(f"the sample could not be confined: {said['unconfined']}")
        failure = said["stopped"] or _exit_failure(said["exit"])
        value = None
        if test["kind"] != "run" and not failure:
            try:
                value = json.loads(said["result"])
                value = decode(value["value"]) if test["kind"] == "call" else value
            except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
                failure = "no result"  # it left before its end, or wrote into our pipe
            if test["kind"] == "assert" and not (isinstance(value, dict) and value.get("passed") is True):
                failure = failure or "the tests called nothing"
        return Outcome(failure, said["stdout"], said["stderr"], value, said["cpu"], said["wall"])

    def _send(self, message: Any) -> None:
        assert self.process.stdin is not None
        try:
            write_frame(self.process.stdin.fileno(), message)
        except OSError as error:
            raise SandboxError(f"the supervisor is gone ({error})") from error

    def _receive(self, seconds: float) -> Any:
        assert self.process.stdout is not None
        try:
            return read_frame(self.process.stdout.fileno(), deadline=time.monotonic() + seconds)
        except (Closed, TimeoutError, ValueError, OSError) as error:
            raise SandboxError(f"no answer from the supervisor ({type(error).__name__})") from error

    def close(self) -> None:
        """End the supervisor, and with it whatever runs; remove the folder. Does nothing the second time."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(2.0)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _exit_failure(code: int) -> str:
    if code == 0:
        return ""
    if code > 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
