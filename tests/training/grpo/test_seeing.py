"""What a run shows: validation by budget, rollouts to read, seconds by phase and tokens a second."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from torch.nn import Linear, Module
from torch.nn.modules.module import register_module_forward_hook

from elastic_agent.training.agents.sequences import row_of
from elastic_agent.training.config.observe import SamplesConfig
from elastic_agent.training.grpo.phases import Phases, TimedEngine
from elastic_agent.training.grpo.sample_table import SampleTable
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.grpo.validation import hold_out
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.trl_columns import episode_columns
from elastic_agent.training.run import train
from tests.training.episode_rows import call
from tests.training.runs import EASY, make_base, small

RUN: dict[str, Any] = {
    "steps": 2,
    "rollout": {"prompts": 2, "context": 96},
    "learning": {"minibatches": 2},
    "reward": {"kind": EASY},
    "validation": {"every": 2, "budgets": [4, None], "problems": 3, "samples": 2},
    "sample_table": {"every": 1, "rows": 3},
}


pytestmark = pytest.mark.timeout(300)  # the first run imports TRL, on a machine that may be busy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


LOGITS: list[tuple[int, ...]] = []
"""Shapes of what heads have computed in `run`."""


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = json.loads((base / "config.json").read_text())["vocab_size"]

    def note(module: Module, _: Any, out: Any) -> None:
        if isinstance(module, Linear) and module.out_features == words:
            LOGITS.append(tuple(out.shape))

    hook = register_module_forward_hook(note)
    train(small(base, folder, **RUN), log=lambda _: None)
    hook.remove()
    return folder


@pytest.mark.usefixtures("run")
def test_no_head_computes_the_logits_of_a_whole_row() -> None:
    """Neither to sample nor to validate nor to learn: one position a row, while rows have up to 96 tokens."""
    assert LOGITS
    assert max(rows for rows, _, _ in LOGITS) == 12, "validation: 3 problems x 2 budgets x 2 samples"
    assert all(positions == 1 for _, positions, _ in LOGITS)


def test_validation_phases_and_speed_are_columns_and_lines(run: Path) -> None:
    """In metrics.csv, in the plot, and in TRL's log, which goes to every `report_to`."""
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    validated = [
        f"validation/{b}/{what}" for b in ("t=4", "unconstrained") for what in ("reward", "thinking")
    ]
    assert [rows[0][name] for name in validated] == [""] * 4
    assert all(float(rows[1][name]) >= 0 for name in validated)
    assert float(rows[1]["validation/t=4/thinking"]) <= 4
    for row in rows:
        assert all(float(row[f"seconds/{name}"]) > 0 for name in ("rollout", "reward", "update"))
        assert float(row["tokens_s/rollout"]) > 0
        assert float(row["tokens_s/update"]) > 0
    assert float(rows[0]["seconds/validation"]) < float(rows[1]["seconds/validation"])
    logged = json.loads((run / "train_log.json").read_text())
    assert {*validated, "seconds/sync", "tokens_s/rollout"} <= logged[1].keys()
    plot = (run / "metrics.svg").read_text()
    assert all(text in plot for text in ("validation: reward", "unconstrained", "seconds a batch", "sync"))


def test_a_table_holds_what_was_thought_said_and_earned(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 1, 1, 2, 2, 2]
    for line in lines:
        assert line["prompt"][-1]["role"] == "user"
        assert line["thinking_limit"] in (4, 8)
        assert line["thinking"].endswith("</think>") or not line["cut"]
        assert line["solution"]
        assert line["solution_tokens"] <= 6
        assert 0 <= line["reward"] <= 1


def test_the_same_weights_validate_alike_and_no_draw_of_training_moves(base: Path, tmp_path: Path) -> None:
    """Validation changes nothing: the same weights as without (where the problems are the same)."""
    import torch

    data = {**RUN, "data": {"source": "own", "path": str(tmp_path / "own.jsonl")}}
    questions = [{"question": f"What is {n} + 1 ?", "answer": n + 1} for n in range(9)]
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in questions))
    config = small(base, tmp_path / "a", **data)
    ready = validate(config)
    assert ready.validation is not None
    held = {str(row["prompt"]) for row in ready.validation.rows}
    assert len(held) == 3
    assert not held & {str(row["prompt"]) for row in ready.rows}
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in questions[:6]))
    without = small(base, tmp_path / "b", **{**data, "validation": {"every": 0}})
    plain = train(without, log=lambda _: None).model.state_dict()
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in questions))
    weights = train(config, log=lambda _: None).model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in plain.items())


def test_what_can_not_be_validated_is_said(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation: only runs of single calls are validated"):
        small(base, tmp_path, **RUN, anytime={})
    with pytest.raises(ValueError, match=r"validation: the longest prompt .* thinking 90"):
        validate(small(base, tmp_path, **{**RUN, "validation": {"every": 1, "budgets": [90]}}))
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}]
    assert hold_out(rows, 1) == ([rows[1]], [rows[2]])  # a problem that comes twice is held out twice
    with pytest.raises(ValueError, match="all 3 problems would be held out"):
        hold_out(rows, 2)


def test_seconds_are_those_of_the_phases_and_the_rest_is_the_update() -> None:
    now = [0.0]

    class Fake:
        def sync_weights(self) -> None:
            now[0] += 2

        def decode(self, *_: Any) -> list[Any]:
            now[0] += 3
            return []

    phases = Phases(lambda: now[0])
    engine = TimedEngine(Fake(), phases)  # type: ignore[arg-type]
    engine.sync_weights()
    engine.decode(None, Batch((), None, 0, None, ()))  # type: ignore[arg-type]
    phases.sampled, phases.read = 30, 100
    now[0] += 5
    found = phases.batch()
    assert (found["seconds/sync"], found["seconds/rollout"], found["seconds/update"]) == (2, 3, 5)
    assert (found["tokens_s/rollout"], found["tokens_s/update"]) == (10, 20)
    assert phases.batch()["seconds/update"] == 0


def test_an_episodes_line_shows_each_call_apart(tmp_path: Path) -> None:
    """The new part of its prompt, its thinking, its solution; a placeholder has no calls."""
    rows = [row_of([call([1, 2], [3, 4]), call([1, 2, 3, 4, 5], [6], number=1), call([7], [8, 9], number=2)])]
    columns = episode_columns([*rows, None], [False, True], token=0, logprobs=False)
    columns |= {"prompts": ["a", "b"], "task_cap": [9, 9], "tokens": [5, 0]}
    table = SampleTable(
        tmp_path / "t.jsonl", SamplesConfig(every=1, rows=2), lambda ids: " ".join(map(str, ids))
    )
    table.add(1, columns, [0.5, None])
    whole, failed = (json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines())
    assert whole["episode"] == [
        {"prompt": "1 2", "thinking": "3", "solution": "4"},
        {"prompt": "5", "thinking": "", "solution": "6"},
        {"prompt": "7", "thinking": "8", "solution": "9"},
    ]
    assert (whole["task_cap"], whole["reward"], whole["failed"]) == (9, 0.5, False)
    assert (failed["episode"], failed["failed"]) == ([], True)
