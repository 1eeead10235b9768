"""Configs: what is shipped loads, what is wrong is named before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import ConfigError
from elastic_agent.integrations.commands.main import main as command
from elastic_agent.training.cli import configure, parser
from elastic_agent.training.config.budgets import SpreadBudgets
from elastic_agent.training.config.loading import (
    build,
    describe,
    dump,
    load_config,
    presets,
    read_layers,
)
from elastic_agent.training.config.schema import DEFECTS
from elastic_agent.training.data.training_set import SOURCES
from elastic_agent.training.grpo.validate import micro_batch, row_order, validate
from tests.training.runs import SMALL, make_base, small

LORA = ("output", "lora", "learning", "about")
"""Sections that e1-math-1.5b-lora has otherwise than e1-math-1.5b."""


def test_presets_load_and_say_what_they_are() -> None:
    assert presets() == ["agent", "e1-code-14b", "e1-math-1.5b", "e1-math-1.5b-lora", "e1-math-7b", "e1-tiny"]
    for name in presets():
        about = load_config(name).about
        assert all((about.what, about.launch, about.memory, about.time))
        assert f"--config {name} " in about.launch or name in ("agent", "e1-tiny")
        assert name == "e1-tiny" or "Estimate, not measured" in about.memory


def test_the_math_preset_has_the_authors_numbers() -> None:
    """FACTS section 1; their mini-batch of 64 prompts out of 128 is two updates a batch."""
    config = load_config("e1-math-1.5b")
    assert (config.steps, config.rollout.prompts, config.rollout.group, config.updates) == (200, 128, 8, 2)
    assert (config.learning.rate, config.learning.kl, config.learning.entropy) == (1e-6, 0.001, 0.001)
    assert config.learning.clip_low == config.learning.clip_high == 0.2
    assert config.rollout.temperature == 0.6
    assert config.budgets.distribution().largest() == (1024, 1024)
    assert config.authors_compat == ()
    code = load_config("e1-code-14b", ["authors_compat=true"])
    assert (code.learning.kl, code.learning.entropy, code.learning.clip_high) == (0, 0, 0.28)
    assert code.authors_compat == DEFECTS
    for name, microbatch in (("e1-math-1.5b", 4), ("e1-math-7b", 2), ("e1-code-14b", 1)):
        preset = load_config(name)
        assert f"--nproc_per_node 8 -m elastic_agent.training --config {name} " in preset.about.launch
        assert micro_batch(preset, 8) == microbatch
        assert (preset.lora, preset.learning.rate, preset.rollout.engine) == (None, 1e-6, "vllm")
    adapters = load_config("e1-math-1.5b-lora")
    assert adapters.model_copy(update={n: getattr(config, n) for n in LORA}) == config
    assert micro_batch(adapters, 1) == 4


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("learning.rte=1", "no field learning.rte: did you mean learning.rate?"),
        ("learning_rate=1e-4", "no field learning_rate: did you mean learning.rate?"),
        ("stps=3", "no field stps: did you mean steps?"),
        ("xyzzy=3", "no field xyzzy: a config has base, output"),
        ("steps=0", "steps: must be at least 1, got 0"),
        ("steps=yes", "steps: must be a whole number from 1 to 2147483647, not True"),
        ("rollout.group=1", "rollout.group: must be at least 2, got 1"),
        (
            "budgets.kind=uniform",
            "budgets.low is missing.*budgets.high is missing.*budgets.solution is m",
        ),
        ("budgets.low=3", "budgets.low: not used by kind mixture"),
        ("budgets.thinking=[4, -2]", r"budgets.thinking.1: must be at least 0 tokens, got -2"),
        ("learning.rate=.inf", r"learning.rate: must be finite, got inf"),
        ("seed=99999999999999999999999", r"seed: must be at most 2147483647, got 9999"),
        ("budgets.kind=unifrm", "budgets.kind: input should be 'mixture', 'uniform'"),
        ("lora.rnk=3", "no field lora.rnk: did you mean lora.rank?"),
        ("authors_compat=all-of-them", "authors_compat.0: input should be 'forced-close-in-loss'"),
        ("learning=3", "learning: input should be a valid dictionary"),
        ("data={source: [still, taco], path: x.jsonl}", "data: path: one path for 2 sources"),
        ("data={source: taco, path: {tako: x}}", "data: path: tako is not among taco"),
        ("data={source: taco, times: {own: 2}}", "data: times: own is not among taco"),
        ("data.source=[taco, taco]", "data: source: taco, taco: each once"),
        ("data.source=[]", "data.source: tuple should have at least 1 item"),
        ("steps", "expected --set section.field=value"),
        ("steps=[", "'\\[' is not a YAML value"),
    ],
)
def test_a_typo_is_named_with_the_nearest_field(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("e1-tiny", [assignment])


def test_files_build_on_presets_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "preset: e1-tiny\nbudgets: {kind: log-uniform, low: 8, high: 128, unlimited: 0.4, solution: 96}\n"
        "learning:\n  rate: 1e-5\n"
    )
    config = load_config(str(path), ["seed=3"])
    assert (config.learning.rate, config.learning.schedule, config.seed, config.steps) == (
        1e-5,
        "linear",
        3,
        80,
    )
    assert config.budgets == SpreadBudgets(kind="log-uniform", low=8, high=128, unlimited=0.4, solution=96)
    for text, said in (
        ("preset: e1-tny\n", "no preset 'e1-tny': did you mean e1-tiny?"),
        ("steps: 3\nsteps: 4\n", "line 2: steps is given twice"),
        ("steps: [3\n", "mine.yaml, line"),
        ("- 3\n", "holds no fields"),
        ("steps: 3\n", "base is missing.*output is missing.*budgets is missing"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_config(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(str(path))
    with pytest.raises(ConfigError, match="no preset or file 'e1-math': did you mean e1-math"):
        load_config("e1-math")


@pytest.mark.parametrize(
    "budgets",
    [
        {"thinking": [4, "none"], "solution": 6},
        {"thinking": 4, "solution": 6},
        {"kind": "uniform", "low": 0, "high": 9, "solution": 6},
        {"kind": "grants", "logs": "run.jsonl", "unlimited": 0.5},
        {"kind": "schedule", "stages": [{"steps": 2, "thinking": 9, "solution": 4}]},
    ],
)
def test_a_config_is_written_as_it_was_read(budgets: dict[str, Any], tmp_path: Path) -> None:
    config = build({**SMALL, "base": "e1-tiny-base", "output": "x", "budgets": budgets, "lora": {"rank": 4}})
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    assert load_config(str(path)) == config


def test_flags_win_over_set_and_set_over_the_preset() -> None:
    def read(*words: str) -> Any:
        return configure(parser().parse_args(list(words)))

    config = read(
        "--set", "steps=9", "--set", "seed=4", "--steps", "7", "--base", "b/c", "--thinking", "16,none"
    )
    assert (config.steps, config.seed, config.base, config.budgets.thinking) == (7, 4, "b/c", (16, None))
    assert config.budgets.solution == 96
    assert read("--config", "e1-math-7b").steps == 200
    with pytest.raises(ConfigError, match="--thinking is for a mixture"):
        read(
            "--set", "budgets={kind: uniform, low: 1, high: 2, solution: 3}", "--thinking", "16"
        )  # fmt: skip


def test_every_field_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    lines = describe().splitlines()
    assert all(text.strip() for text in lines[1::2]), "a field without a string under it"
    assert command(["train", "--fields"]) == 0
    assert "budgets.stages.thinking (required)" in capsys.readouterr().out
    assert command(["train"]) == 2  # a bare command starts no run of 45 minutes
    assert "what shall be trained?" in capsys.readouterr().err
    assert command(["train", "--steps", "0"]) == 2
    assert capsys.readouterr().err.startswith("elastic-agent train: --steps must be at least 1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def refused(base: Path, said: str, **changes: Any) -> None:
    """Refused before a weight is loaded: the check knows nothing of torch models."""
    with pytest.raises(Exception, match=said) as caught:
        validate(small(base, base / "out", **changes), lambda _: None)
    assert isinstance(caught.value, ValueError) or "Error" in type(caught.value).__name__


def test_what_a_config_names_is_checked_before_anything_is_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    refused(
        base,
        "data.source: there is no 'word-problem'; did you mean word-problems?",
        data={"source": "word-problem"},
    )
    refused(base, "reward.kind: no reward 'mths': did you mean math?", reward={"kind": "mths"})
    refused(base, "reward.kind: 'no.module:here' can't be imported", reward={"kind": "no.module:here"})
    refused(
        base,
        "length: goes with word-problems, math, code, gym, not with a:b",
        reward={"kind": "a:b", "length": "l1-max"},
    )
    refused(base, "set budgets.stated", reward={"length": "l1-max"})
    refused(base, "set reward.length to l1-max", budgets={"stated": "l1-max"})
    refused(base, "can't ask for unlimited", budgets={"stated": "l1-max", "thinking": [4, None]})
    refused(base, "rollout.engine: there is no 'hand'", rollout={"engine": "hand"})
    refused(base, "rollout.context: 4096 tokens, but .* was made for 1024", rollout={"context": 4096})
    refused(
        base, r"longest prompt \d+ \+ thinking 90", budgets={"thinking": [90, None], "solution": 20}
    )  # fmt: skip
    refused(base, "thinking 8 .* solution 300", budgets={"solution": 300})
    refused(
        base, "3 prompts x 2 samples = 6 do not divide", rollout={"prompts": 3}, learning={"minibatches": 4}
    )
    refused(base, "8 samples a mini-batch and device", device={"microbatch": 3})
    refused(base, "there is no run log", budgets={"kind": "grants", "logs": ["/nowhere"]})
    refused(base, "no prompt has 3 tokens", data={"longest_prompt": 3})
    for name, said in (
        ("e1-tny", "no model 'e1-tny'"),
        ("./gone", "no model"),
        (str(tmp_path), "no config.json"),
    ):
        with pytest.raises(Exception, match=said):
            validate(small(Path("x"), tmp_path).model_copy(update={"base": name}))
    SOURCES["empty"] = lambda *_: []
    SOURCES["bare"] = lambda *_: [{"prompt": [{"role": "user", "content": "Ben"}], "solution": "4"}]
    try:
        refused(base, "data.source empty holds no problems", data={"source": "empty"})
        refused(base, "problem 1 lacks answer.*it has prompt, solution", data={"source": "bare"})
    finally:
        del SOURCES["empty"], SOURCES["bare"]


def test_a_tokenizer_without_markers_or_template_is_refused(base: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<e>": 1}, unk_token="a")), eos_token="<e>"
    )
    plain.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    refused(tmp_path, "has no end-of-thinking marker")
    named = json.loads((tmp_path / "tokenizer.json").read_text())
    named["model"]["vocab"]["</think>"] = 2
    (tmp_path / "tokenizer.json").write_text(json.dumps(named))
    refused(tmp_path, "has no chat template")


def test_problems_come_in_whole_passes_each_in_its_own_order(base: Path) -> None:
    order = row_order(5, 2, 5, seed=0)
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))
    assert order[:5] != order[5:]
    assert row_order(5, 2, 5, seed=0) == order != row_order(5, 2, 5, seed=1)
    lines: list[str] = []
    ready = validate(small(base, base / "out", data={"longest_prompt": 60}), lines.append)
    assert len(ready.rows) == 8
    assert "problems left out: prompts of more than 60 tokens" in lines[0]


def test_the_default_is_the_recipe_of_the_shipped_model() -> None:
    assert read_layers("e1-tiny")["base"] == "e1-tiny-base"
