"""The engine "vllm-server": vLLM servers sample, and get the adapters in training before each batch.

A batch is: write the adapter, let every server load it, run each call's two-phase machine over one of them,
and measure on some of the samples how far the servers' log-probs are from the trainer's. A sample that is
lost (the server died, or was restarted and does not know the adapter) is drawn again from its beginning, with
the same seeds: otherwise long samples, which are lost more often, would become rarer.

Seeds follow from the run's seed and the number of the batch: a resumed run asks for the same draws. They are
not bit for bit the same draws, since vLLM's rounding depends on which requests share a step of its engine:
now and then another token comes, and from there on the sample is another.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Backend
from elastic_agent.errors import BackendError, BackendUnavailableError
from elastic_agent.generation.machine_runner import run_machine

from ...config.fields import ConfigError
from ...config.processes import rank
from ...config.schema import ServerConfig, TrainConfig
from ..prompts import codec_of
from ..rollout import Rollout, machine_for, rollout_of
from .adapter_server import AdapterServer, name_of
from .adapters import adapters_folder, write_adapter, write_blank_adapter
from .correction import correct_for
from .engine import Batch, Sampled, whole_model
from .logprobs import logprob_gap

_LONGEST_PAUSE = 60.0  # seconds
_MEASURED = 8  # samples a batch whose log-probs are compared
_WRONG = 0.3  # nats a token, on the mean of these: no rounding, but other weights
# What decode_in_process does. A server fills in what a request leaves out from the model's generation_config,
# such as Qwen's top_k of 20; and it may know ends of text that the tokenizer in training does not.
_PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
_PLAIN |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}


def make_served_rollouts(
    config: TrainConfig, base: str, tokenizer: Any, log: Callable[[str], None]
) -> ServedRollouts:
    """The engine of a config, once every server has shown that it can load an adapter of the run's shape.

    Raises:
        ConfigError: no `lora`, or a server that can't be reached, lacks the base, or can't load adapters.
    """
    if config.lora is None:
        raise ConfigError(
            "rollout.engine vllm-server takes the weights as adapters: set lora, for example with --set "
            "lora.rank=16"
        )
    settings = config.rollout.server
    codec = codec_of(tokenizer, config.named_markers)
    servers = [AdapterServer(url, settings, codec, config.rollout.context) for url in settings.urls]
    if rank() == 0:
        names = (settings.base,) if settings.base else (config.base, base)
        asyncio.run(_check(servers, names, lambda: write_blank_adapter(config, base)))
    plain = config.rollout.temperature == config.rollout.top_p == 1
    return ServedRollouts(servers, settings, adapters_folder(config), log, corrects=plain)


async def _check(servers: Sequence[AdapterServer], names: tuple[str, ...], blank: Callable[[], Path]) -> None:
    try:
        for server in servers:
            await server.check(names)
        adapter = blank()
        try:
            for server in servers:
                await server.load(adapter)
                await server.unload()
        finally:
            shutil.rmtree(adapter)
    except BackendError as error:
        raise ConfigError(f"rollout.server: {error}") from error


Attempt = Callable[[Backend, int], Awaitable[Rollout]]
"""(backend, number of the call) -> its sample."""


@dataclass(slots=True)
class _Progress:
    """A batch while it is sampled: the calls that are still to do, and the rollouts of the others."""

    adapter: Path
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
        servers: Sequence[AdapterServer],
        settings: ServerConfig,
        folder: Path,
        log: Callable[[str], None],
        *,
        corrects: bool = True,
    ) -> None:
        self._servers, self._settings, self._folder, self._log = servers, settings, folder, log
        self._corrects = corrects
        self._published: Path | None = None
        self._publishing = 0.0  # seconds

    gathers = False

    def start(self, trainer: Any) -> None:
        """Nothing to load: the servers run."""
        if self._corrects:
            correct_for(self, trainer)

    def sync_weights(self) -> None:
        """Nothing: `decode` syncs, since a server may be restarted in mid-batch."""

    def rest(self) -> None: ...

    def close(self) -> None: ...

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        adapter = self.publish(trainer)
        sampled = asyncio.run(self.sample(adapter, batch))
        self.check(trainer, [sampled])
        return sampled.rollouts

    def publish(self, trainer: Any) -> Path:
        """The folder with the weights as they are now; collective."""
        began = time.perf_counter()
        adapter = self._publish(whole_model(trainer), trainer.accelerator)
        self._publishing = time.perf_counter() - began
        return adapter

    async def sample(self, weights: Path, batch: Batch) -> Sampled:
        """One rollout a call, with weights that were published; reads neither the model nor the trainer."""

        async def attempt(backend: Backend, i: int) -> Rollout:
            machine = machine_for(*batch.calls[i], batch.markers, batch.context)
            drawn = replace(batch.sampling, seed=batch.seeds[i], logprobs=True)
            await run_machine(backend, machine, drawn, _PLAIN)
            return rollout_of(machine)

        began = time.perf_counter()
        progress = _Progress(weights, attempt, deque(range(len(batch.calls))))
        await self._run(progress)
        done = [progress.done[i] for i in range(len(batch.calls))]
        return Sampled(done, len(progress.lost), (progress.synced or began) - began)

    def check(self, trainer: Any, sampled: Sequence[Sampled]) -> None:
        """Log how far the servers' log-probs of a batch are from those that the trainer has now."""
        done = [rollout for part in sampled for rollout in part.rollouts]
        mean, most = logprob_gap(whole_model(trainer), done[:_MEASURED])
        if mean > _WRONG:
            raise BackendError(
                f"rollout.server: the log-probs of the sampled tokens differ by {mean:.2g} nats a token from "
                f"the trainer's; rounding explains {_WRONG} at most: the servers serve another model under "
                f"this name, or in a precision that it can't be trained with"
            )
        trainer.note(
            {
                "rollout/sync_seconds": self._publishing + sum(part.loading for part in sampled),
                "rollout/lost": float(sum(part.lost for part in sampled)),
                "rollout/logprob_gap": mean,
                "rollout/logprob_gap_max": most,
            }
        )

    def _publish(self, model: Any, accelerator: Any) -> Path:
        """Write the weights as they are now, once for all processes; those of the last batch go.

        The first process also loads the new adapter on every server that it reaches, and unloads the old
        one; the others wait until it has, and then find the adapter there.
        """
        path: list[Path | None] = [None]
        if accelerator.is_main_process:
            # What `state_dict` would give where weights are sharded is this process's part
            whole = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
            path[0] = write_adapter(model, self._folder, whole)
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            if path[0] is not None:
                asyncio.run(self._load_all(path[0]))
            broadcast_object_list(path)
        adapter = path[0]
        assert adapter is not None
        if accelerator.is_main_process and self._published is not None and self._published != adapter:
            shutil.rmtree(self._published, ignore_errors=True)
        self._published = adapter
        return adapter

    async def _load_all(self, adapter: Path) -> Sequence[BackendUnavailableError | None]:
        """Load the adapter on every server; why a server can't be reached, for each."""
        return await asyncio.gather(*(_load(server, adapter) for server in self._servers))

    async def _run(self, progress: _Progress) -> None:
        """Try until nothing is left to do, with pauses that grow while nothing comes."""
        tries = 0
        while True:
            before = len(progress.done)
            faults = await self._load_all(progress.adapter)
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
            pause = min(_LONGEST_PAUSE, self._settings.backoff * 2 ** (tries - 1))
            self._log(
                f"{missing}: {why}; trying again in {pause:.0f} s ({tries} of {self._settings.retries})"
            )
            await asyncio.sleep(pause)

    async def _sample_on(self, server: AdapterServer, progress: _Progress) -> None:
        """Run calls on one server until none is left or one is lost.

        The lost call goes back to the progress, for another server or the next try; calls in flight may end.
        """
        backend = server.backend(progress.adapter)
        healthy = True

        async def work() -> None:
            nonlocal healthy
            while progress.todo and healthy:
                i = progress.todo.popleft()
                try:
                    progress.done[i] = await progress.attempt(backend, i)
                except BackendError as error:
                    lost = isinstance(error, BackendUnavailableError) or await _forgot(
                        server, progress.adapter
                    )
                    if not lost:
                        raise
                    healthy = False
                    progress.todo.append(i)
                    progress.lost.append(error)

        await asyncio.gather(*(work() for _ in range(self._settings.concurrency)))


async def _load(server: AdapterServer, adapter: Path) -> BackendUnavailableError | None:
    """Load the adapter on a server; returns why the server can't be reached, or None."""
    try:
        await server.load(adapter)
    except BackendUnavailableError as error:
        return error
    return None


async def _forgot(server: AdapterServer, adapter: Path) -> bool:
    """Whether the server was restarted since it loaded the adapter, or is lost altogether."""
    try:
        return not await server.serves(name_of(adapter))
    except BackendUnavailableError:
        return True
