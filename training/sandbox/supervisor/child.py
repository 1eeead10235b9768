"""A forked and confined process, as the supervisor holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Never

from . import confinement, sample


class Child:
    """A forked and confined process. `alive` holds the children that have not been waited for.

    On SIGTERM the supervisor kills the children in `alive` and leaves. The signal is blocked during a fork,
    because the new child is not in `alive` yet.
    """

    alive: ClassVar[set[Child]] = set()

    def __init__(self, body: Callable[[], None], fds: list[int], job: Mapping[str, Any], folder: str) -> None:
        report, write = os.pipe()
        supervisor = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.pid = os.fork()
        if self.pid == 0:
            _become(body, fds, job, folder, write, supervisor)
        self.waited: tuple[int, float] | None = None
        Child.alive.add(self)
        os.close(write)
        self.unconfined = _read_all(report) or "the child died before it was confined"
        self.unconfined = "" if self.unconfined == "confined" else self.unconfined
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def over(self) -> bool:
        if self.waited is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._ended(status, used.ru_utime + used.ru_stime)
        return self.waited is not None

    def kill(self) -> None:
        if self.waited is None:
            os.kill(self.pid, signal.SIGKILL)
            _, status, used = os.wait4(self.pid, 0)
            self._ended(status, used.ru_utime + used.ru_stime)

    def _ended(self, status: int, cpu: float) -> None:
        self.waited = status, cpu
        Child.alive.discard(self)

    def threads(self) -> int:
        try:
            return len(os.listdir(f"/proc/{self.pid}/task"))
        except OSError:
            return 0


def _become(
    body: Callable[[], None],
    fds: list[int],
    job: Mapping[str, Any],
    folder: str,
    report: int,
    supervisor: int,
) -> Never:
    """In the child: keep the given fds alone, as 0, 1, ...; confine the process; run the body."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.setsid()
        # Copied above 255 first, so that no fd lies where another one goes
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 256) for fd in [*fds, report]]
        for low, fd in enumerate(high):
            os.dup2(fd, low)
        report = len(fds)
        os.closerange(len(high), 1 << 16)
        os.chdir(folder)
        os.umask(0o077)
        missing = confinement.confine(
            job["layers"],
            limits=job["rlimits"],
            readable=job["readable"],
            writable=folder,
            uid=job["uid"],
        )
        if os.getppid() != supervisor:
            os._exit(1)  # the supervisor died before PR_SET_PDEATHSIG was set
        faults = {name: why for name, why in missing.items() if why and name in job["required"]}
        os.write(report, (json.dumps(faults) if faults else "confined").encode())
        os.close(report)
        if faults:
            os._exit(1)
        sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.argv, sys.path = ["solution.py"], list(job["path"])
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(report, repr(error).encode())
        os._exit(1)
    sample.finish(body)


def _read_all(fd: int) -> str:
    text = b""
    while part := os.read(fd, 4096):
        text += part
    os.close(fd)
    return text.decode()
