"""Several processes of `elastic-agent serve` on one port, and the parent that keeps them running.

Each worker is a gateway of its own, and the ledger is what they share: keys, caps and tasks are the same in
all. The parent makes a listening socket for each (SO_REUSEPORT: the system spreads connections over the
sockets), and keeps the socket when its worker dies, so that connections wait for the next worker and none is
refused. The parent serves nothing. It passes SIGTERM and SIGHUP on, restarts a worker that has died, and goes
when all have gone; workers stop when their parent has died.

The workers' metrics are in files in one folder (prometheus_client's multiprocess mode), so that `/metrics` of
any of them shows the sums of all.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.context import ForkProcess
from typing import Any

from elastic_agent.errors import ElasticError

from ..gateway.ops.listener import address_of, listening_sockets
from ..gateway.settings import without_password
from .serve_config import ServeConfig, check_reload

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client looks for the folder."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BACKOFF, MOST_BACKOFF = 1.0, 30.0
"""Seconds between a death and the restart; doubled while a worker dies within `MOST_BACKOFF` seconds."""
END_SECONDS = 15.0
"""Beyond the grace, for a worker to settle and end before it is killed."""


def serve_workers(config: ServeConfig, read: Callable[[], ServeConfig]) -> int:
    """Serve with `config.workers` processes until SIGTERM or Ctrl-C; the exit status.

    Raises:
        OSError: the port is taken.
    """
    folder = tempfile.mkdtemp(prefix="elastic-agent-metrics-")
    os.environ[METRICS_FOLDER] = folder
    from prometheus_client import values

    # It may have been imported before
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
    try:
        return Parent(config, read).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Worker:
    """A worker's place: its socket, and the process that serves there now.

    Attributes:
        started: when the process was started; monotonic.
        deaths: in a row, each within `MOST_BACKOFF` seconds of its start.
        restart_at: when the next process is to be started; None: one runs.
    """

    bound: socket.socket
    process: ForkProcess | None = None
    started: float = 0.0
    deaths: int = 0
    restart_at: float | None = None


class Parent:
    """Starts workers and keeps them running; see the module."""

    def __init__(self, config: ServeConfig, read: Callable[[], ServeConfig]) -> None:
        self._config, self._read = config, read
        self._workers: list[Worker] = []
        self._signals: list[int] = []
        self._stopping = False
        self._woken, self._wakes = socket.socketpair()
        self._lives, self._life = os.pipe()
        """Closed by the system when the parent dies; workers read it."""

    def run(self) -> int:
        """Run until all workers have ended; 0, or the status of a worker that could not start."""
        from . import serve_process  # with the gateway, which all workers share by being forked

        self._say = serve_process.say
        for model in self._config.upstreams:
            if model.url is not None:  # its tokenizer is shared by being forked
                model.load()
        bound = listening_sockets(self._config.host, self._config.port, self._config.workers)
        self._workers = [Worker(one) for one in bound]
        self._url = f"{address_of(bound[0])}/v1"
        self._listen_to_signals()
        first, *others = self._workers
        if not self._start(first, wait=True):
            first.process.join()  # type: ignore[union-attr]
            return first.process.exitcode or 1  # type: ignore[union-attr]
        for one in others:
            self._start(one)
        self._greet()
        while any(one.process is not None or one.restart_at is not None for one in self._workers):
            self._wait()
            while self._signals:
                self._on_signal(self._signals.pop(0))
            self._look_after_workers()
        return 0

    # The beginning

    def _listen_to_signals(self) -> None:
        self._wakes.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda number, _: self._signals.append(number))

    def _greet(self) -> None:
        from .serve_process import OPEN_TO_ALL

        config = self._config
        names = ", ".join(one.name for one in config.upstreams)
        ledger = without_password(config.place)
        self._say(f"serving {names} at {self._url}; {config.workers} workers; ledger: {ledger}")
        if inside := [one.name for one in config.upstreams if one.url is None]:
            self._say(f"each worker loads its own copy of {', '.join(inside)}: that memory counts for each")
        if config.no_keys:
            self._say(OPEN_TO_ALL)

    def _start(self, worker: Worker, *, wait: bool = False) -> bool:
        """Start a worker's process; whether it serves. Without `wait`, it is taken to."""
        ready, told = get_context("fork").Pipe(duplex=False)
        process = get_context("fork").Process(target=self._work, args=(worker, told))
        worker.process, worker.started, worker.restart_at = process, time.monotonic(), None
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        told.close()
        with ready:
            return not wait or _heard(ready)

    # The worker

    def _work(self, worker: Worker, told: Any) -> None:
        """What a worker's process runs. Signals are blocked until there is somebody to hear them."""
        from .serve_process import serve_worker

        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._life)
        self._woken.close()
        self._wakes.close()
        for other in self._workers:
            if other is not worker:
                other.bound.close()
        sys.exit(serve_worker(self._config, self._read, worker.bound, self._lives, lambda: told.send(True)))

    # Until the end

    def _wait(self) -> None:
        """Wait for a signal, a death, or the time of a restart."""
        due = [one.restart_at for one in self._workers if one.restart_at is not None]
        deadline = None if not due else max(0.0, min(due) - time.monotonic())
        if self._stopping:
            deadline = max(0.0, self._kill_at - time.monotonic())
        running = [one.process.sentinel for one in self._workers if one.process is not None]
        connection.wait([self._woken, *running], deadline)
        with suppress(BlockingIOError):
            self._woken.recv(4096)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif not self._stopping:
            self._stopping = True
            grace = self._config.limits.model_dump()["grace_seconds"]
            self._kill_at = time.monotonic() + grace + END_SECONDS
            self._say(f"stopping: what runs has {grace:g} s to end")
            for one in self._workers:
                one.restart_at = None
                one.bound.close()  # its worker closes its own
            self._send(signal.SIGTERM)

    def _reload(self) -> None:
        """Pass a SIGHUP on, if the new config can be used."""
        try:
            config = self._read()
            check_reload(self._config, config)
        except (ElasticError, ValueError, OSError) as error:
            self._say(f"the new config is refused, and the old one stays: {error}")
            return
        self._config = config  # of workers that start from now on
        self._send(signal.SIGHUP)

    def _send(self, number: int) -> None:
        for one in self._workers:
            if one.process is not None and one.process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(one.process.pid, number)

    def _look_after_workers(self) -> None:
        now = time.monotonic()
        for one in self._workers:
            if one.process is not None and one.process.exitcode is not None:
                self._on_death(one, now)
            if one.restart_at is not None and now >= one.restart_at:
                self._start(one)
        if self._stopping and now >= self._kill_at:
            self._send(signal.SIGKILL)
            self._kill_at = now + END_SECONDS

    def _on_death(self, worker: Worker, now: float) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        assert worker.process is not None
        pid, status = worker.process.pid, worker.process.exitcode
        worker.process.close()
        worker.process = None
        # What it counted stays counted; its gauges go
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
        if self._stopping:
            return
        worker.deaths = worker.deaths + 1 if now - worker.started < MOST_BACKOFF else 1
        pause = min(MOST_BACKOFF, BACKOFF * 2 ** (worker.deaths - 1))
        worker.restart_at = now + pause
        self._say(f"worker {pid} ended by itself ({status}): another one starts in {pause:g} s")


def _heard(ready: Any) -> bool:
    """Whether a worker said that it serves, before it ended."""
    try:
        return bool(ready.recv())
    except EOFError:
        return False
