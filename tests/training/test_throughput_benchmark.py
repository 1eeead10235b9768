"""The benchmark of training's speed: what its JSON holds, on a model of one layer and a scripted server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import train_throughput as bench
from tests.training.rollouts.engines.test_vllm_servers import serving
from tests.training.runs import make_base


@pytest.mark.timeout(300)  # the first run imports TRL, on a machine that may be busy
def test_its_json_has_the_numbers_of_each_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_base(tmp_path)

    @contextmanager
    def servers(name: str, model: Path) -> Iterator[dict[str, Any]]:
        with serving(model) as wire:
            yield {"rollout": {"server": {"urls": [wire.base_url]}}} if "server" in name else {}

    monkeypatch.setattr(bench, "servers", servers)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # torch's threads are the process's
    engines = ("transformers", "transformers-bfloat16-lora", "vllm-server-lora")
    bench.main(["--quick", "--json", "--model", str(base), "--engine", ",".join(engines)])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in engines:
        numbers = found[name]
        assert {"rollout_tokens_s", "update_tokens_s", "sync_s", "budget_overhead"} <= numbers.keys()
        assert min(numbers["rollout_tokens_s"], numbers["update_tokens_s"], numbers["budget_overhead"]) > 0
        assert (numbers["sync_s"] > 0) == (name != "transformers")
        for what, (low, high) in numbers["spread"].items():
            assert low <= numbers[what] <= high
        assert 0 < numbers["new"] <= 12
    for numbers in found["batch 32"].values():
        assert numbers.keys() == {"ours", "generate", "of_generate", "spread"}
        assert min(numbers["ours"], numbers["generate"], numbers["of_generate"]) > 0
    assert list(found["batch 32"]) == ["float32", "bfloat16"]
    assert found["made"] is False
