"""A recipe from a pretrained folder to an E1: of e1-tiny's size, and on a real model where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from elastic_agent.errors import ConfigError, DataError, UsageError
from elastic_agent.training.cli import main as train
from elastic_agent.training.evaluation.cli import main as evaluate
from elastic_agent.training.recipes.recipe import Recipe, read_recipe, recipes
from elastic_agent.training.recipes.run import run
from tests.snippets import ROOT
from tests.training.gym_only import needs_gym

REAL = {"e1-gym-135m": "smollm2-135m"}
"""Recipe -> folder under ELASTIC_REAL_MODELS."""
FOLDER = Path(os.environ.get("ELASTIC_REAL_MODELS", ""))


def small(base: str, **changes: Any) -> dict[str, Any]:
    """A recipe of two steps each."""
    return {
        "base": base,
        "families": {"chain_sum": {"max_terms": 3, "max_digits": 1, "min_digits": 1}, "leg_counting": {}},
        "traces": {"each": 8},
        "prepare": {"steps": 2, "batch": 4},
        "adapter": 8,
        "train": {
            "steps": 2,
            "lora": {"rank": 4, "alpha": 8},
            "budgets": {"kind": "mixture", "thinking": [4, None], "solution": 8},
            "rollout": {"prompts": 2, "group": 2, "context": 400},
            "learning": {"rate": 1e-3},
        },
        **changes,
    }


def documented() -> str:
    """The recipe that docs/recipes.md prints."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    return page.split("cat > mine.yaml <<'END'\n")[1].split("END\n")[0]


@needs_gym
@pytest.mark.timeout(300)
def test_from_a_base_to_an_e1(tmp_path: Path) -> None:
    """The documented command, each of its folders, the adapter, and --resume, which makes nothing again."""
    file, output = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(documented())
    train(["--recipe", str(file), "--output", str(output), "--seed", "3"])
    assert len((output / "traces.jsonl").read_text().splitlines()) == 16
    for stage in ("thinks", "e1"):
        assert (output / stage / "model.safetensors").is_file()
    joined = json.loads((output / "adapter" / "adapter_config.json").read_text())
    assert (joined["r"], joined["lora_alpha"], joined["base_model_name_or_path"]) == (8, 8, "e1-tiny-base")
    before = (output / "e1" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="--resume goes on"):
        train(["--recipe", str(file), "--output", str(output)])
    train(["--recipe", str(file), "--output", str(output), "--seed", "3", "--resume"])
    assert (output / "e1" / "model.safetensors").stat().st_mtime_ns == before


@needs_gym
@pytest.mark.timeout(300)
def test_what_it_trains_can_be_measured(tmp_path: Path) -> None:
    """`eval --data gym`: the families are the kinds."""
    evaluate(
        [
            *("--model", "e1-tiny-base", "--data", "gym", "--family", "chain_sum:max_terms=3,max_digits=1"),
            *("--family", "leg_counting", "--problems", "3", "--thinking", "0,8", "--solution", "8"),
            *("--output", str(tmp_path)),
        ]
    )
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()[1:]]
    assert len(rows) >= 12
    assert "chain_sum" in (tmp_path / "results.jsonl").read_text()


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_that_ships_is_sound(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if read_recipe(name).families:
        pytest.importorskip("reasoning_gym")
    train(["--recipe", name, "--output", str(tmp_path / "out"), "--check"])
    assert "nothing is wrong" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_faults_are_told_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipes are e1-gym-135m"):
        read_recipe("e1-gym")
    with pytest.raises(UsageError, match="--output"):
        train(["--recipe", recipes()[0]])
    with pytest.raises(UsageError, match="--config does not go with --recipe"):
        train(["--recipe", recipes()[0], "--config", "e1-tiny", "--output", "x"])
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(small("e1-tiny-base", train={"base": "x"})))
    with pytest.raises(ConfigError, match="base come from the recipe"):
        read_recipe(str(file))


@needs_gym
def test_families_without_worked_solutions(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(small("e1-tiny-base", families={"sudoku": {}})))
    with pytest.raises(DataError, match="no worked solutions of sudoku"):
        train(["--recipe", str(file), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@needs_gym
@pytest.mark.parametrize("name", list(REAL))
@pytest.mark.timeout(900)
def test_two_steps_on_a_real_model(name: str, tmp_path: Path) -> None:
    """Each recipe that ships, from the pretrained folder on; ELASTIC_REAL_MODELS names where these lie."""
    base = FOLDER / REAL[name]
    if not (base / "config.json").is_file():
        pytest.skip(f"ELASTIC_REAL_MODELS has no {REAL[name]}")
    recipe = read_recipe(name)
    tree = {**recipe.train, "steps": 2, "rollout": {**recipe.train["rollout"], "prompts": 2, "group": 4}}
    short = Recipe.model_validate(
        {
            **recipe.model_dump(),
            "folder": str(base),
            "traces": {"each": 8},
            "prepare": {**recipe.prepare.model_dump(), "steps": 2, "batch": 4},
            "train": tree,
        }
    )
    run(short, tmp_path / "out")
    log = json.loads((tmp_path / "out" / "e1" / "train_log.json").read_text())
    assert [entry["step"] for entry in log if "loss" in entry][-1] >= 2
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").stat().st_size < 20e6
