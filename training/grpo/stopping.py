"""How a run ends early: by a signal, by a lost engine, or because another process is gone.

Whatever the reason, the weights are those of the last finished update, and a checkpoint of them is written. A
signal that comes while an update is applied waits for the update's end.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from elastic_agent.errors import BackendError

from .checkpoints import rescue
from .launch import lost_others
from .output_lock import OutputLock


class Stopped(KeyboardInterrupt):
    """SIGTERM: the launcher ends its processes so when one of them is gone, and machines that go away do."""


class Signals:
    """SIGTERM and SIGINT as exceptions in the training loop, once; while an update is applied they wait."""

    def __init__(self) -> None:
        self._updating = self._closed = False
        self._waiting: KeyboardInterrupt | None = None

    def updating(self, now: bool) -> None:
        """An update begins to be applied, or is finished.

        Raises:
            KeyboardInterrupt: a signal has come meanwhile.
        """
        self._updating = now
        if not now and self._waiting is not None:
            self._closed, waiting = True, self._waiting
            raise waiting

    def ignore(self) -> None:
        """From here on signals change nothing: the run is ending already."""
        self._closed = True

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals within; torch's launcher sends SIGTERM, and kills after 30 seconds."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        error = Stopped("SIGTERM") if number == signal.SIGTERM else KeyboardInterrupt()
        if self._closed:
            return
        if self._updating:
            self._waiting = error
            return
        self._closed = True
        raise error


def make_update_callback(signals: Signals) -> Any:
    """Tells `signals` when an update is applied, as a callback of transformers' Trainer."""
    from transformers import TrainerCallback

    class UpdateCallback(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            signals.updating(True)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            signals.updating(False)

    return UpdateCallback()


@contextmanager
def rescued(trainer: Any, lock: OutputLock, updates: int, log: Callable[[str], None]) -> Iterator[None]:
    """Train within: whatever ends the run early, a checkpoint is written first and `log` says how to go on.

    Args:
        lock: of the output; with several processes the one that has the lock writes.
        updates: of a batch.
    """
    signals = Signals()
    trainer.add_callback(make_update_callback(signals))
    with signals.caught():
        try:
            yield
        except (BackendError, KeyboardInterrupt, RuntimeError) as error:
            signals.ignore()
            if isinstance(error, BackendError | KeyboardInterrupt) or lost_others(error):
                said = rescue(trainer, lock)
                if lock.held:  # one process speaks
                    log(f"stopped after step {trainer.state.global_step // updates}: {said}")
            raise
