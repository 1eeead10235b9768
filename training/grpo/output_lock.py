"""One run at a time on an output folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from elastic_agent.errors import ConfigError

_PAUSE = 0.1  # seconds between tries


class OutputLock:
    """The right to write in an output folder: a lock of the operating system, which ends with its process.

    The first process of a run holds the lock while it lives. When the process is killed, a survivor may take
    the lock and write the last checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: IO[str] | None = None

    def hold(self) -> Self:
        """Take the lock at once.

        Raises:
            ConfigError: another run has it.
        """
        if not self.take():
            raise ConfigError(
                f"{self._path.parent} belongs to a run that goes on ({self._path.read_text().strip()}): wait "
                f"for its end, or give another --output"
            )
        return self

    @property
    def held(self) -> bool:
        """Whether this process has the lock."""
        return self._file is not None

    def take(self, patience: float = 0.0) -> bool:
        """Whether this process has the lock now; tries for `patience` seconds."""
        until = time.monotonic() + patience
        while self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                if time.monotonic() >= until:
                    return False
                time.sleep(_PAUSE)
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
