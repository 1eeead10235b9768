"""The speed of an endpoint as a dispatcher reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..latency.model import Speed, Speeds

if TYPE_CHECKING:
    from .recorder import Recorder


class Readings:
    """A `Speeds` that is read once a step; a reading that differs from the last one is written to the log."""

    def __init__(self, recorder: Recorder, name: str, latency: Speeds) -> None:
        self._recorder, self.name, self._latency = recorder, name, latency
        self._read: dict[int | None, tuple[int, Speed | None]] = {}

    def occupy(self, load: int, most: int | None) -> None:
        """See `Speeds`."""
        self._latency.occupy(load, most)

    def speed(self) -> Speed | None:
        """See `Speeds`."""
        return self._now(None)

    def at(self, load: int) -> Speed | None:
        """See `Speeds`."""
        return self._now(load)

    def _now(self, load: int | None) -> Speed | None:
        step, last = self._read.get(load, (0, None))
        if step == self._recorder.step:
            return last
        speed = self._latency.speed() if load is None else self._latency.at(load)
        if speed != last:
            self._recorder.speed(self.name, load, speed)
        self._read[load] = (self._recorder.step, speed)
        return speed
