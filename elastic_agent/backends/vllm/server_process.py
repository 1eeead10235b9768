"""A server as a child process: started, watched, stopped, together with its workers.

The server runs in a session of its own, and signals go to the session. So no worker outlives the server, and
a Ctrl-C in our terminal reaches the server only if we pass it on. Neither do they outlive us: a shell beside
the server waits for the end of a pipe that we hold, which comes however we end. The server's output goes to a
log file.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ...credentials import make_private
from ...errors import BackendUnavailableError

STOP_SECONDS = 20.0
GONE_SECONDS = 5.0
"""Seconds to wait for killed workers to be gone; where nobody reaps orphans they never are."""
ORPHANED = """
exec 3<&0
(
  trap '' TERM
  read -r _ <&3
  kill -TERM -$$
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1; kill -0 $$ || break; done
  kill -KILL -$$
) >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""
"""Runs the server, and beside it what ends it when the pipe that is its stdin ends; `$$` is both the server
and its session."""
TOLD = 4000
"""Characters of its log that an error quotes."""


class ServerProcess:
    """A server on this machine.

    Args:
        name: what errors call it.
        command: the program and its arguments.
        ready: an address that answers with 200 when it is ready.
        log: where it writes.
        environment: all of its variables; None: ours.
        stop_seconds: between asking it to end and killing it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self.log = log
        self._called, self._command, self._ready = name, list(command), ready
        self._environment, self._stop_seconds = environment, stop_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process; `wait` waits until the server is ready."""
        make_private(self.log)  # an engine may quote prompts
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", ORPHANED, "sh", *self._command],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def answers(self) -> bool:
        """Ask the server now whether it is ready."""
        if not self.running:
            return False
        try:
            with urllib.request.urlopen(self._ready, timeout=10) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait(self, seconds: float = 500.0) -> None:
        """Wait until the server is ready.

        Raises:
            BackendUnavailableError: it was not ready in time, or ended; with the end of its log.
        """
        until = time.monotonic() + seconds
        while not self.answers():
            if not self.running or time.monotonic() > until:
                failed = self.failed("did not start")
                self.kill()
                raise failed
            time.sleep(0.2)

    def ensure(self) -> None:
        """Start the server if it does not run, and wait until it is ready."""
        if not self.running:
            self.launch()
        self.wait()

    def failed(self, what: str) -> BackendUnavailableError:
        """An error that says `what`, how the server ended, and the end of its log."""
        status = None if self._process is None else self._process.poll()
        how = "" if status is None else f" (signal {-status})" if status < 0 else f" (exit status {status})"
        said = self.log.read_text(errors="replace")[-TOLD:] if self.log.exists() else ""
        return BackendUnavailableError(f"{self._called} {what}{how}:\n{said}")

    def stop(self) -> None:
        """Ask the server to end; kill it if it does not."""
        if self._process is not None:
            self.send(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(self._stop_seconds)
        self.kill()

    def kill(self) -> None:
        """Kill the server and its workers, and wait until they are gone."""
        if self._process is None:
            return
        self.send(signal.SIGKILL)
        self._process.wait()
        until = time.monotonic() + GONE_SECONDS
        while self.send(0) and time.monotonic() < until:  # its workers are not our children: nobody tells us
            time.sleep(0.02)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None

    def send(self, number: int) -> bool:
        """Send a signal to the server and its workers (0: none); returns whether any of them exists."""
        if self._process is None:
            return False
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def __enter__(self) -> Self:
        self.launch()
        try:
            self.wait()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on.

    Not from the range that systems give to outgoing connections (32768 and up): a server that takes a minute
    to start would find it taken.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
