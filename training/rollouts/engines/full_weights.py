"""All weights in training, for servers: through a folder, or from GPU to GPU.

The first process gives them to every server before a batch; the others take part where weights are gathered,
and know the log-probs that a server must have. A folder of weights appears in one step, is whole, and goes
when the next one is loaded; within a batch a server that was restarted is given it again.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from elastic_agent.errors import BackendError, ConfigError

from .full_server import FullWeightsServer, Target
from .probe import WRONG, StaleWeightsError, most_gap, trainer_logprobs
from .vllm_server import broadcast, load_all
from .weight_files import write_weights
from .weights import named_weights


class FolderWeights:
    """Writes all weights in training to a folder, and has every server reload them.

    Args:
        precisions: those of the servers; asked by the first process alone.
        folder: where weights are written.
        probe: ids of a fixed text.
        log: gets a line when the servers have shown that they take weights.
    """

    gathers = True

    def __init__(
        self,
        servers: Sequence[FullWeightsServer],
        precisions: Sequence[str],
        folder: Path,
        probe: Sequence[int],
        log: Callable[[str], None],
    ) -> None:
        self._servers, self._folder, self._probe, self._log = servers, folder, probe, log
        self._precision = "bfloat16" if set(precisions) == {"bfloat16"} else "float32"
        self._rounding = "float32" if set(precisions) == {"float32"} else "bfloat16"
        self._published: Path | None = None
        self._step = -1
        self._most = math.nan
        """Nats a token by which the log-probs of a server may differ after a sync."""
        self._trainer: Any = None

    def start(self, trainer: Any) -> None:
        """Give every server the base, and see how far its log-probs are from the trainer's."""
        began = time.perf_counter()
        self._trainer, self._most = trainer, WRONG[self._rounding]
        try:
            self._publish(every=True)
        except StaleWeightsError as error:
            raise ConfigError(f"{error}; or the server serves another model under this name") from error
        except BackendError as error:
            raise ConfigError(f"rollout.server: {error}") from error
        fresh = max(server.gap for server in self._servers)
        (self._most,) = broadcast(trainer.accelerator, [most_gap(self._rounding, fresh)])
        self._log(
            f"the servers took the weights in {time.perf_counter() - began:.0f} s; their log-probs differ by "
            f"{fresh:.1e} nats a token from the trainer's, and may by {self._most:.1e}"
        )

    def sync(self) -> None:
        """Give the servers the weights of this update, if they are not those of the last batch.

        Raises:
            StaleWeightsError: a server has not taken them.
        """
        if self._step != self._trainer.state.global_step:
            self._publish()
        self._trainer.note({"rollout/sync_gap": max(server.gap for server in self._servers)})

    def current(self, trainer: Any) -> Path:
        """The weights of the last sync; a sync, where they are older than the last update."""
        if self._published is None or self._step != trainer.state.global_step:
            self.sync()
        assert self._published is not None
        return self._published

    def close(self) -> None:
        """Remove the weights that were given last: the servers have them."""
        if self._published is not None and self._trainer.accelerator.is_main_process:
            shutil.rmtree(self._published, ignore_errors=True)
        self._published = None

    def _publish(self, *, every: bool = False) -> None:
        """Give the weights as they are to all servers; those before go.

        Args:
            every: a server that can't be reached is an error.
        """
        accelerator = self._trainer.accelerator
        logprobs = trainer_logprobs(self._trainer, self._probe)
        (given,) = broadcast(accelerator, [self._folder / uuid4().hex[:16]])
        self._aim(given, logprobs)
        self._hand_over(given)
        if accelerator.is_main_process:
            faults = asyncio.run(load_all(self._servers, given))
            if every and any(faults):
                raise next(fault for fault in faults if fault is not None)
        broadcast(accelerator, [given])  # the others wait until the servers have them
        if accelerator.is_main_process and self._published is not None:
            shutil.rmtree(self._published, ignore_errors=True)
        self._published, self._step = given, self._trainer.state.global_step

    def _aim(self, folder: Path, logprobs: Sequence[float]) -> None:
        for server in self._servers:
            server.target = Target(folder, self._probe, logprobs, self._most)

    def _hand_over(self, given: Path) -> None:
        """Put the weights where the servers get them. All processes must call this."""
        weights = named_weights(self._trainer)
        if not self._trainer.accelerator.is_main_process:
            for _ in weights:  # gathers its part
                pass
            return
        writing = given.with_name(f".writing-{given.name}")
        writing.mkdir(parents=True)
        write_weights(weights, writing, precision=self._precision)
        writing.rename(given)
