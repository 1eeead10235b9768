"""Real PostgreSQL and Redis servers that live as long as a test or a benchmark.

    with PostgresServer() as server:
        server.url       # postgresql://ledger@127.0.0.1:PORT/postgres, no password
        server.kill()    # SIGKILL, everything of it: a power cut, but for the disk's cache
        server.start()   # again, same port and data
    server.hang()    # SIGSTOP: it keeps its connections, takes new ones, and says nothing
    server.go_on()

Each has a temporary folder of its own, a port on 127.0.0.1 that was free a moment ago, and keeps what it
acknowledged (PostgreSQL as it comes; Redis with `appendonly yes`, `appendfsync always`). Where a binary is
missing, the constructor raises `NoServerError`: tests skip, benchmarks say what to install.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from elastic_agent.backends.vllm.server_process import free_port

START_SECONDS = 60.0


class NoServerError(RuntimeError):
    """The server's programs are not on this machine."""


def program(*names: str) -> str:
    """The first of some programs that there is, on PATH or where Debian keeps PostgreSQL's.

    Raises:
        NoServerError: there is none.
    """
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, debian)])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise NoServerError(f"no {' or '.join(names)} on PATH or under /usr/lib/postgresql: install the server")


class _Server(ABC):
    """A server process on a folder of its own; starting, stopping and killing it."""

    url: str

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"elastic-{type(self).__name__.lower()}-"))
        self._log = self.folder / "log"
        self._user: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            RuntimeError: it did not start; with the end of its log.
        """
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C is for us alone, who then stop it.
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._identity(),
            )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"{type(self).__name__} did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is not None:
            self._process.send_signal(self._stop_signal)
            self._process.wait(START_SECONDS)
            self._process = None

    def kill(self) -> None:
        """SIGKILL it and its children. What was acknowledged is on the disk, or it was never durable."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGSTOP)  # no more children
            family = self._signal_all(signal.SIGKILL)
            self._process.wait()
            self._process = None
            until = time.monotonic() + START_SECONDS
            while any(map(_lives, family)) and time.monotonic() < until:
                time.sleep(0.01)  # PostgreSQL won't start beside one of its old processes

    def hang(self) -> None:
        """Stop it and its children in mid-step, until `go_on`; the kernel still takes connections for it."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `hang`."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> Sequence[int]:
        assert self._process is not None, "it does not run"
        family = (self._process.pid, *_children(self._process.pid))
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return family

    def remove(self) -> None:
        """Kill it and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        atexit.register(self.remove)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
        atexit.unregister(self.remove)

    _stop_signal = signal.SIGTERM

    def _identity(self) -> dict[str, object]:
        if self._user is None:
            return {}
        account = pwd.getpwnam(self._user)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...


class PostgresServer(_Server):
    """PostgreSQL with one role, `ledger`, its superuser.

    Args:
        settings: more of postgresql.conf, as in `max_connections=20`.
    """

    _stop_signal = signal.SIGINT  # "fast": ends sessions instead of waiting for them

    def __init__(self, *settings: str) -> None:
        initdb, self._postgres = program("initdb"), program("postgres")
        super().__init__()
        self._settings = ("fsync=on", "max_connections=200", "shared_buffers=32MB", *settings)
        self._data = self.folder / "data"
        self.url = f"postgresql://ledger@127.0.0.1:{self.port}/postgres"
        if os.getuid() == 0:  # PostgreSQL refuses to be root
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._user = next(name for name in ("postgres", "nobody") if name in names)
            shutil.chown(self.folder, self._user)
        made = subprocess.run(
            [
                initdb,
                "-D",
                str(self._data),
                "-U",
                "ledger",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            **self._identity(),
        )
        if made.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise RuntimeError(f"initdb failed:\n{made.stderr[-2000:]}")

    def _command(self) -> list[str]:
        settings = [word for setting in self._settings for word in ("-c", setting)]
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder)]
        return [self._postgres, "-D", str(self._data), *where, *settings]

    def _answers(self) -> bool:
        # Its lock file: line 1 is its process (a killed one leaves a stale file), line 8 how far it is
        pid_file = self._data / "postmaster.pid"
        lines = pid_file.read_text().split("\n") if pid_file.exists() else []
        pid = self._process.pid if self._process else None
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


class RedisServer(_Server):
    """Redis, or Valkey where that is what there is. Every write is on the disk before it is acknowledged.

    Args:
        options: more of the command line, as in `"--maxmemory", "10mb"`.
        binary: which one; None: the first that there is.
    """

    def __init__(self, *options: str, binary: str | None = None) -> None:
        self._binary = program(*([binary] if binary else ["redis-server", "valkey-server"]))
        super().__init__()
        self._options = options
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        return [self._binary, *where, *durable, *self._options]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(5) == b"+PONG"  # "-LOADING" while it reads its file
        except OSError:
            return False


def _children(pid: int) -> list[int]:
    """A process's children. PostgreSQL's are in sessions of their own, which no group signal reaches."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # no such /proc: they see that their postmaster is gone, and end
        return []


def _lives(pid: int) -> bool:
    """A process that is there, and not only waiting for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
