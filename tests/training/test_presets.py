"""The presets for real models, on small ones: what `benchmarks/presets.py` runs is the preset but for the
fields that it names, and one goes from the launcher to an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks._small_models import ANSWERS
from benchmarks._small_presets import PRESETS, REDUCED, THINKING, make_small
from benchmarks.presets import alike, answer
from elastic_agent.training.config.loading import load_config, presets
from elastic_agent.training.export import main as export
from elastic_agent.training.run import train

CHEAPEST = "e1-math-1.5b-lora"


def fields(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each field of a config by its path; `data.path` is one, whatever sets it names."""
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path != "data.path":
            yield from fields(value, f"{path}.")
        else:
            yield path, value


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The cheapest preset's folder, and the parameters of its model."""
    folder = tmp_path_factory.mktemp("preset")
    _, size = make_small(folder, CHEAPEST)
    return folder, size


@pytest.mark.parametrize("preset", PRESETS)
def test_a_small_run_is_the_preset_but_for_the_fields_that_are_listed(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks._small_presets.make_model", lambda *_: 0)
    config, _ = make_small(tmp_path, preset)
    published = dict(fields(load_config(preset).model_dump(mode="json")))
    run = dict(fields(load_config(str(config)).model_dump(mode="json")))
    assert published.keys() == run.keys()
    assert {name for name in run if run[name] != published[name]} == set(REDUCED)


def test_every_preset_for_a_real_model_is_run() -> None:
    assert set(PRESETS) == {*presets()} - {"e1-tiny", "agent"}


@pytest.mark.slow
@pytest.mark.timeout(600)  # seconds on an idle machine
def test_a_preset_from_its_config_to_an_answer(
    small: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The one for one GPU, with adapters, graded by math-verify; transformers samples, as vLLM isn't here."""
    folder, size = small
    trainer = train(load_config(str(folder / "run.yaml"), ["rollout.engine=transformers"]))
    assert "kept 8 of 8 problems" in capsys.readouterr().out
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == 2
    assert all(entry["grad_norm"] > 0 for entry in log)
    assert any(0 < entry["reward"] < 1 for entry in log)
    assert all(entry["math/failures"] == 0 for entry in log)
    export([str(folder / "out"), str(folder / "exported")])
    assert alike(folder / "out", folder / "exported")
    thinking, solution = answer(folder / "exported")
    assert thinking <= THINKING
    assert solution in {f"\\boxed{{{digit}}}." for digit in ANSWERS}
    assert 1.7e7 < size < 2.2e7, "about a hundredth of 1.78B"
