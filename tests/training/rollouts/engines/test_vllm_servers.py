"""The engine "vllm-server" on a scripted wire: what it asks for, and what it does when samples are lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.budget import Budget
from elastic_agent.errors import BackendError, BackendUnavailableError, ConfigError
from elastic_agent.training.budgets.distributions import call_seeds
from elastic_agent.training.config.schema import TrainConfig
from elastic_agent.training.config.trl_arguments import make_adapters
from elastic_agent.training.grpo.checkpoints import checkpoints, fault
from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.rollouts.engines.adapter_server import AdapterServer, name_of
from elastic_agent.training.rollouts.engines.adapters import write_blank_adapter
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.in_process import roll_out
from elastic_agent.training.rollouts.engines.vllm_servers import ServedRollouts, make_served_rollouts
from elastic_agent.training.rollouts.prompts import codec_of
from elastic_agent.training.rollouts.rollout import Rollout
from elastic_agent.training.run import train
from tests.training.ranks import launch
from tests.training.runs import EASY, at_servers, make_base, small
from tests.wire import Faults, Wire, serve_in_thread
from tools.e1_tiny.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
PLAN = Callable[[Wire, int], None]
CALLS = [([5 + i, 9, 11], Budget(t, 6)) for i, t in enumerate((0, 3, 12, None) * 3)]
CONTEXT = 48
STEPS = itertools.count()
SHORT = {"id": "short", "max_model_len": 64}


class Staged(Wire):
    """A wire on which `plan(wire, n)` is called before its n-th completion, from 1."""

    plan: PLAN = staticmethod(lambda wire, n: None)

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        self.plan(self, len(self.requests) + 1)
        return await super()._completions(http)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@contextmanager
def serving(base: Path, **options: Any) -> Iterator[Staged]:
    """The base behind a wire that loads adapters, and samples without them."""
    import torch

    backend = TransformersBackend.load(str(base), name=str(base))
    # In another process, as a server is, it would not draw from the generator of the run that it serves
    backend._decoder = BatchDecoder(backend.module, generator=torch.Generator())
    with serve_in_thread(backend, make=Staged, **{"adapters": {}, **options}) as wire:
        yield wire  # type: ignore[misc]
    asyncio.run(backend.aclose())


@pytest.fixture
def wire(base: Path) -> Iterator[Staged]:
    with serving(base) as wire:
        yield wire


def served(base: Path, output: Path, *wires: Wire, **changes: Any) -> TrainConfig:
    rollout = at_servers(*(wire.base_url for wire in wires), **changes.pop("server", {}))
    return small(base, output, **{"rollout": rollout, "lora": {"rank": 4}, **changes})


def make_engine(config: TrainConfig, lines: list[str] | None = None) -> ServedRollouts:
    return make_served_rollouts(config, config.base, TOKENIZER, ([] if lines is None else lines).append)


def trainer_of(base: Path, numbers: dict[str, float]) -> Any:
    """What an engine reads of a trainer, with adapters that were just made; `numbers` gets what is noted."""
    from peft import get_peft_model

    config = small(base, base, lora={"rank": 4})
    accelerator = SimpleNamespace(unwrap_model=lambda m: m, is_main_process=True, num_processes=1)
    model = get_peft_model(load_model(base), make_adapters(config))
    state = SimpleNamespace(global_step=next(STEPS))
    return SimpleNamespace(model=model, accelerator=accelerator, note=numbers.update, state=state)


def run(engine: ServedRollouts, base: Path, sampling: Sampling | None = None, seed: int = 1) -> list[Rollout]:
    """One batch of CALLS for adapters that were just made."""
    numbers: dict[str, float] = {}
    seeds = call_seeds(seed, calls=range(len(CALLS)))
    markers = codec_of(TOKENIZER).markers
    batch = Batch(CALLS, markers, CONTEXT, sampling or Sampling(1.0, 1.0), seeds)
    done = engine.decode(trainer_of(base, numbers), batch)
    assert numbers["rollout/logprob_gap_max"] < 1e-4
    return done


def test_greedy_samples_are_those_of_the_engine_in_process(base: Path, wire: Wire, tmp_path: Path) -> None:
    """Law 3 and law 6, and one set of rules: ids, masks and limits are the same, token for token."""
    done = run(make_engine(served(base, tmp_path, wire)), base, Sampling(0.0, 1.0))
    decoder = BatchDecoder(load_model(base))
    seeds = call_seeds(1, calls=range(len(CALLS)))
    markers = codec_of(TOKENIZER).markers
    want = roll_out(decoder, Batch(CALLS, markers, CONTEXT, Sampling(0.0, 1.0), seeds))
    for ours, theirs in zip(done, want, strict=True):
        assert (ours.completion_ids, ours.env_mask) == (theirs.completion_ids, theirs.env_mask)
        assert [p is None for p in ours.logprobs] == [not sampled for sampled in ours.env_mask]


def test_requests_leave_nothing_to_the_servers_defaults(base: Path, wire: Wire, tmp_path: Path) -> None:
    """A server adds what its generation_config says to what is left out; every pass has a seed of its own."""
    run(make_engine(served(base, tmp_path, wire)), base)
    plain = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "ignore_eos"}
    assert all(plain <= body.keys() and body["ignore_eos"] for body in wire.requests)
    seeds = [body["seed"] for body in wire.requests]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def ids(rollouts: list[Rollout]) -> list[tuple[int, ...]]:
    """Log-probs aside: they depend a little on which rows share a forward pass."""
    return [rollout.completion_ids for rollout in rollouts]


def test_draws_follow_from_the_seed(base: Path, wire: Wire, tmp_path: Path) -> None:
    engine = make_engine(served(base, tmp_path, wire))
    first = ids(run(engine, base))
    assert ids(run(make_engine(served(base, tmp_path, wire)), base)) == first
    assert ids(run(engine, base, seed=2)) != first


def cut(wire: Wire, n: int) -> None:
    """Connections 3 to 6 break after two tokens."""
    wire.faults.cut_after = 2 if 3 <= n <= 6 else None


def restart(wire: Wire, n: int) -> None:
    """A server that comes back knows nothing of adapters."""
    if n == 5 and wire.adapters:
        wire.adapters.clear()


def overload(wire: Wire, n: int) -> None:
    wire.faults.status = 503 if 4 <= n <= 5 else None


@pytest.mark.parametrize("plan", [cut, restart, overload])
def test_what_is_lost_is_drawn_again_with_the_same_seeds(base: Path, tmp_path: Path, plan: PLAN) -> None:
    with serving(base) as quiet:
        want = ids(run(make_engine(served(base, tmp_path, quiet)), base))
    lines: list[str] = []
    with serving(base) as wire:
        engine = make_engine(served(base, tmp_path, wire), lines)
        wire.plan = plan
        assert ids(run(engine, base)) == want
    assert lines
    assert all("are missing" in line and "trying again" in line for line in lines)


def test_other_servers_take_over(base: Path, wire: Wire, tmp_path: Path) -> None:
    """One of two is lost for good: nothing stops, nobody waits."""
    with serving(base) as dying:
        engine = make_engine(served(base, tmp_path, dying, wire))
    assert len(run(engine, base)) == len(CALLS)
    assert len(wire.requests) >= len(CALLS)


def test_a_server_that_stays_away_stops_the_run_with_the_numbers(base: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with serving(base) as wire:
        engine = make_engine(served(base, tmp_path, wire), lines)
    with pytest.raises(BackendUnavailableError, match=r"12 of 12 samples are missing, and 3 tries .*reached"):
        run(engine, base)
    assert len(lines) == 2


def test_what_no_retry_will_change_stops_at_once(base: Path, wire: Wire, tmp_path: Path) -> None:
    lines: list[str] = []
    engine = make_engine(served(base, tmp_path, wire), lines)
    wire.faults.status = 400
    with pytest.raises(BackendError, match="answered 400"):
        run(engine, base)
    assert not lines
    wire.faults.status = None
    wire.faults.refuse_adapters = "no room for it"
    with pytest.raises(BackendError, match="no room for it"):
        run(engine, base, seed=2)


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({}, {"lora": None, "server": {"weights": "adapters"}}, "set lora, for example"),
        ({}, {"lora": None}, r"can't reload weights \(404: .*DEV_MODE=1 .* --worker-extension-cls elastic_w"),
        (
            {},
            {"server": {"urls": "http://127.0.0.1:9/v1"}},
            "can't be reached .*: is the vLLM server running",
        ),
        ({}, {"server": {"base": "other"}}, "not other: if that is the same model, set rollout.server.base"),
        ({"adapters": None}, {}, "started with --enable-lora .* VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ({"faults": Faults(refuse_adapters="LoRA rank 4 is greater than max_lora_rank 2.")}, {}, "rank 4 is"),
        ({"faults": Faults(models="<html>")}, {}, "did not answer like vLLM"),
        (
            {"faults": Faults(models={"data": [{"id": "x", "max_model_len": 64}]})},
            {"server": {"base": "x"}},
            "64",
        ),
    ],
)
def test_preflight_says_what_the_server_lacks(
    base: Path, tmp_path: Path, options: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with serving(base, **options) as wire, pytest.raises(ConfigError, match=said):
        validate(served(base, tmp_path, wire, **changes))
    assert not list(tmp_path.rglob("*.safetensors")), "the adapter of the check was left behind"


def test_every_batch_names_its_own_weights(base: Path, wire: Wire, tmp_path: Path) -> None:
    """Names are never used again, so no request can be answered with older weights, nor from their cache."""
    train(served(base, tmp_path, wire, steps=3, reward={"kind": EASY}, learning={"rate": 0.01}))
    names = list(dict.fromkeys(body["model"] for body in wire.requests))
    assert len(names) == 3
    assert wire.adapters is not None
    assert list(wire.adapters) == names[-1:]
    assert [f"elastic-{path.name}" for path in (tmp_path / "adapters").iterdir()] == names[-1:]


def test_an_adapter_that_another_process_loads_just_now_is_loaded(
    base: Path, wire: Wire, tmp_path: Path
) -> None:
    """Two processes of a run ask at once; vLLM refuses the second: "has already been loaded"."""
    config = served(base, tmp_path, wire)
    adapter = write_blank_adapter(config, str(base))

    async def both() -> None:
        codec = codec_of(TOKENIZER)
        servers = [AdapterServer(wire.base_url, config.rollout.server, codec, CONTEXT) for _ in range(2)]
        await asyncio.gather(*(server.load(adapter) for server in servers))

    asyncio.run(both())
    assert wire.adapters is not None
    assert list(wire.adapters) == [name_of(adapter)]


def test_the_loss_is_corrected_for_the_servers_log_probs(base: Path, wire: Wire, tmp_path: Path) -> None:
    """Where they are of the distribution that is sampled: not with another temperature than 1."""
    import math

    trainer = train(served(base, tmp_path / "plain", wire, reward={"kind": EASY}))
    row = trainer.state.log_history[0]
    assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
    assert row["sampling/sampling_logp_difference/max"] < 1e-4
    warm = served(base, tmp_path / "warm", wire)
    warm = warm.model_copy(update={"rollout": warm.rollout.model_copy(update={"temperature": 1.5})})
    trainer = train(warm)
    assert "sampling/importance_sampling_ratio/mean" not in trainer.state.log_history[0]
    assert not math.isnan(trainer.state.log_history[0]["rollout/logprob_gap"])


def test_servers_of_another_model_are_named(base: Path, tmp_path: Path) -> None:
    """The same name and shape, but other weights: no sample of theirs is trained on."""
    from elastic_agent.training.grpo.export import load_model
    from tools.e1_tiny.model import save_model

    other = load_model(base)
    for weight in other.parameters():
        weight.data.mul_(3)
    save_model(other, tmp_path / "other")
    with serving(tmp_path / "other") as wire:
        config = served(base, tmp_path / "out", wire, server={"base": str(tmp_path / "other")})
        with pytest.raises(BackendError, match="the servers serve another model under this name"):
            train(config)


@pytest.mark.timeout(400)  # a launcher and two interpreters that import TRL, on a machine that may be busy
def test_of_two_processes_the_first_loads_the_adapter(base: Path, wire: Wire, tmp_path: Path) -> None:
    """Weights whole or sharded: the adapter of a batch is that of the checkpoint before it."""
    from safetensors.torch import load_file

    given = {
        "rollout": at_servers(wire.base_url),
        "lora": {"rank": 4},
        "device": {"bucket_tokens": 8192},
        "reward": {"kind": EASY},
        "checkpoint": {"every": 1},
    }
    sharded = given | {"seed": 1, "device": {"bucket_tokens": 8192, "shard": "fsdp2"}}
    done, results = launch(base, tmp_path, {"whole": given, "sharded": sharded})
    assert done.returncode == 0, done.stderr[-3000:]
    assert wire.adapters is not None
    names = list(dict.fromkeys(body["model"] for body in wire.requests))
    check = wire.loads[0]
    assert wire.loads == [check, *names[:2], check, *names[2:]], "that of each check, then one a batch"
    assert list(wire.adapters) == [names[1], names[3]], "the last of each run"
    for name, kind in (("whole", "MULTI_CPU"), ("sharded", "FSDP")):
        assert (results[name]["processes"], results[name]["kind"]) == (2, kind)
        (sent,) = (tmp_path / name / "adapters").iterdir()
        files = (sent, tmp_path / name / "checkpoints" / "checkpoint-1")
        mine, saved = (load_file(folder / "adapter_model.safetensors") for folder in files)
        assert mine.keys() == saved.keys()
        assert all(weight.equal(saved[key]) for key, weight in mine.items())


def test_a_run_that_lost_its_server_resumes_to_the_same_weights(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No checkpoint is due; one is written when the server is gone, and from it the run ends as in one go."""
    import torch

    options: dict[str, Any] = {"steps": 4, "reward": {"kind": EASY}}
    options["learning"] = {"rate": 0.01, "minibatches": 2}
    # The servers' log-probs depend a little on which samples they decode together
    options["trl"] = {"vllm_importance_sampling_correction": False}
    with serving(base) as wire:
        whole = train(served(base, tmp_path / "whole", wire, **options))
        batch = len(wire.requests) // 4

    def die(wire: Wire, n: int) -> None:
        if n == 2 * batch + 3:
            wire.faults.status = 503

    with serving(base) as wire:
        wire.plan = die
        with pytest.raises(BackendUnavailableError, match="tries in a row"):
            train(served(base, tmp_path / "lost", wire, **options))
        left = checkpoints(tmp_path / "lost" / "checkpoints")
        assert [(step, fault(path)) for step, path in left] == [(4, None)]
        assert f"stopped after step 2: --resume goes on from {left[0][1]}" in capsys.readouterr().out
        wire.plan, wire.faults.status = Staged.plan, None
        resumed = train(served(base, tmp_path / "lost", wire, **options), resume=True)
    weights = resumed.model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in whole.model.state_dict().items())
