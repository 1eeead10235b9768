"""The engine "vllm-server": vLLM servers sample, and get the weights in training before each batch.

A batch is: give every server the weights (`vllm_server.ServedWeights`), run each call's two-phase machine
over one of them, and measure on some of the samples how far the servers' log-probs are from the trainer's. A
sample that is lost (the server died, or does not have the weights any more) is drawn again from its
beginning, with the same seeds: otherwise long samples, which are lost more often, would become rarer.

Seeds follow from the run's seed and the number of the batch: a resumed run asks for the same draws. They are
not bit for bit the same draws, since vLLM's rounding depends on which requests share a step of its engine:
now and then another token comes, and from there on the sample is another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Backend
from elastic_agent.errors import BackendError, BackendUnavailableError, ConfigError
from elastic_agent.generation.machine_runner import run_machine

from ...config.schema import ServerConfig, TrainConfig
from ..rollout import Rollout, machine_for, rollout_of
from .correction import correct_for
from .engine import MOST_ROWS, Batch, Sample, Sampled, is_sharded, whole_model
from .logprobs import logprob_gap
from .served_backend import ServedServers, serving_servers
from .serving import ServedModel
from .vllm_server import PLAIN, ServedWeights, VllmServer, forgot, load_all, pause
from .ways import WAYS

_MEASURED = 8  # samples a batch whose log-probs are compared
_WRONG = 0.3  # nats a token, on the mean of these: no rounding, but other weights


def make_served_rollouts(
    config: TrainConfig, base: str, tokenizer: Any, log: Callable[[str], None]
) -> ServedRollouts:
    """The engine of a config, once every server has shown that it serves the base and can take weights.

    Raises:
        ConfigError: adapters without `lora`, or a server that can't be reached, lacks the base, or can't
            take weights as `rollout.server.weights` wants.
    """
    settings = config.rollout.server
    way = settings.weights or ("folder" if config.lora is None else "adapters")
    try:
        servers, weights = WAYS[way](config, base, tokenizer, log)
    except BackendError as error:
        raise ConfigError(f"rollout.server: {error}") from error
    plain = config.rollout.temperature == config.rollout.top_p == 1
    served = ServedModel.of(config, tokenizer)
    return ServedRollouts(servers, settings, weights, served, log, corrects=plain)


Attempt = Callable[[Backend, int], Awaitable[Rollout]]
"""(backend, number of the call) -> its sample."""


@dataclass(slots=True)
class _Progress:
    """A batch while it is sampled: the calls that are still to do, and the rollouts of the others."""

    weights: Path
    attempt: Attempt
    todo: deque[int]
    done: dict[int, Rollout] = field(default_factory=dict)
    lost: list[BackendError] = field(default_factory=list)
    """Why, for each attempt that failed."""
    synced: float | None = None
    """When the servers first had the weights, by time.perf_counter."""


class ServedRollouts:
    """The engine. `log` gets a line about lost samples.

    With `corrects` the loss is corrected for the servers' log-probs. These are of the model's own
    distribution, so temperature and top-p must be 1.

    Raises, when it decodes:
        BackendUnavailableError: after `retries` tries in a row that brought no sample.
        BackendError: a server answered something that no retry will change, or its log-probs are another
            model's.
    """

    def __init__(
        self,
        servers: Sequence[VllmServer],
        settings: ServerConfig,
        weights: ServedWeights,
        served: ServedModel,
        log: Callable[[str], None],
        *,
        corrects: bool = True,
    ) -> None:
        self._servers, self._settings, self._weights, self._log = servers, settings, weights, log
        self._served = served
        self._corrects = corrects
        self._syncing = 0.0  # seconds
        self._lost = 0  # passes of served batches

    @property
    def gathers(self) -> bool:
        return self._weights.gathers

    def start(self, trainer: Any) -> None:
        """Let TRL sync the servers.

        Raises:
            ConfigError: the servers can't take the weights, or serve another model.
        """
        self._weights.start(trainer)
        correct_for(self, trainer)
        if not self._corrects:
            trainer.vllm_importance_sampling_correction = False

    def sync_weights(self) -> None:
        """Give the servers the weights; `sample` gives them again where a server was restarted since."""
        began = time.perf_counter()
        self._weights.sync()
        self._syncing += time.perf_counter() - began

    gives_logprobs = True

    def serving(self, trainer: Any, rows: int = MOST_ROWS) -> AbstractAsyncContextManager[Backend]:
        """The servers as a Backend; they decide by themselves how many rows they decode together."""
        return self._serving(self.publish(trainer))

    @asynccontextmanager
    async def _serving(self, weights: Path) -> AsyncGenerator[Backend]:
        async with self.serve(weights) as backend:
            try:
                yield backend
            finally:
                self._lost += backend.lost
                self._syncing += backend.loading

    def serve(self, weights: Path) -> AbstractAsyncContextManager[ServedServers]:
        """The servers as a Backend with weights that were published."""
        return serving_servers(self._servers, weights, self._served, self._settings, self._log)

    def check_served(self, trainer: Any, samples: Sequence[Sample]) -> None:
        """Log what a served batch came to, and compare the log-probs of its first samples."""
        self.check(trainer, samples)

    def rest(self) -> None: ...

    def close(self) -> None:
        """Remove what the servers were given."""
        self._weights.close()

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        weights = self.publish(trainer)
        sampled = asyncio.run(self.sample(weights, batch))
        self.check(trainer, sampled.rollouts, sampled.lost, sampled.loading)
        return sampled.rollouts

    def publish(self, trainer: Any) -> Path:
        """The folder with the weights as they are now; collective."""
        began = time.perf_counter()
        weights = self._weights.current(trainer)
        self._syncing += time.perf_counter() - began
        return weights

    async def sample(self, weights: Path, batch: Batch) -> Sampled:
        """One rollout a call, with weights that were published; reads neither the model nor the trainer."""

        async def attempt(backend: Backend, i: int) -> Rollout:
            machine = machine_for(*batch.calls[i], batch.markers, batch.context)
            drawn = replace(batch.sampling, seed=batch.seeds[i], logprobs=True)
            await run_machine(backend, machine, drawn, PLAIN)
            return rollout_of(machine)

        began = time.perf_counter()
        progress = _Progress(weights, attempt, deque(range(len(batch.calls))))
        await self._run(progress)
        done = [progress.done[i] for i in range(len(batch.calls))]
        return Sampled(done, len(progress.lost), (progress.synced or began) - began)

    def check(self, trainer: Any, samples: Sequence[Sample], lost: int = 0, loading: float = 0.0) -> None:
        """Log how far the servers' log-probs of a batch are from those that the trainer has now."""
        trainer.note(
            {"rollout/sync_seconds": self._syncing + loading, "rollout/lost": float(self._lost + lost)}
        )
        self._syncing, self._lost = 0.0, 0
        if self.gathers and is_sharded(trainer):
            return  # log-probs are collective there, and the number of samples may differ
        mean, most = logprob_gap(whole_model(trainer), samples[:_MEASURED])
        if mean > _WRONG:
            raise BackendError(
                f"rollout.server: the log-probs of the sampled tokens differ by {mean:.2g} nats a token from "
                f"the trainer's; rounding explains {_WRONG} at most: the servers serve another model under "
                f"this name, or in a precision that it can't be trained with"
            )
        trainer.note({"rollout/logprob_gap": mean, "rollout/logprob_gap_max": most})

    async def _run(self, progress: _Progress) -> None:
        """Try until nothing is left to do, with pauses that grow while nothing comes."""
        tries = 0
        while True:
            before = len(progress.done)
            faults = await load_all(self._servers, progress.weights)
            progress.synced = progress.synced or time.perf_counter()
            alive = [server for server, fault in zip(self._servers, faults, strict=True) if fault is None]
            await asyncio.gather(*(self._sample_on(server, progress) for server in alive))
            if not progress.todo:
                return
            tries = 1 if len(progress.done) > before else tries + 1
            missing = f"{len(progress.todo)} of {len(progress.todo) + len(progress.done)} samples are missing"
            why = next((fault for fault in faults if fault is not None), None) or progress.lost[-1]
            if tries > self._settings.retries:
                raise BackendUnavailableError(
                    f"{missing}, and {tries} tries in a row brought none: {why}"
                ) from why
            seconds = pause(self._settings, tries)
            self._log(
                f"{missing}: {why}; trying again in {seconds:.0f} s ({tries} of {self._settings.retries})"
            )
            await asyncio.sleep(seconds)

    async def _sample_on(self, server: VllmServer, progress: _Progress) -> None:
        """Run calls on one server until none is left or one is lost.

        The lost call goes back to the progress, for another server or the next try; calls in flight may end.
        """
        backend = server.backend(progress.weights)
        healthy = True

        async def work() -> None:
            nonlocal healthy
            while progress.todo and healthy:
                i = progress.todo.popleft()
                try:
                    rollout = await progress.attempt(backend, i)
                    await server.confirm(progress.weights)
                    progress.done[i] = rollout
                except BackendError as error:
                    lost = isinstance(error, BackendUnavailableError)
                    if not lost and not await forgot(server, progress.weights):
                        raise
                    healthy = False
                    progress.todo.append(i)
                    progress.lost.append(error)

        await asyncio.gather(*(work() for _ in range(self._settings.concurrency)))
