"""`elastic-agent eval` from the command line: files, resuming after a kill -9, a server, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.integrations.commands.main import main
from elastic_agent.scheduler.estimates.curve_files import load_file
from elastic_agent.training.evaluation.progress import Progress, minutes
from elastic_agent.training.evaluation.runners.in_process import InProcess
from tests import wire
from tools.e1_tiny.model import new_model, save_model

SMALL = ("--thinking", "0,8,none", "--solution", "12", "--problems", "7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, in a folder of its own."""
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("some") / "model"
    save_model(new_model(hidden=64, layers=1, heads=1, mlp=64), path)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_table_plot_and_json(folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All cells in the table, every sample in the file; the same command again draws nothing."""
    command = ["eval", "--model", str(folder), *SMALL, "--strategy", "elastic,s1:waits=2", "--json"]
    assert main(command) == 0
    said = capsys.readouterr()
    cells = json.loads(said.out.splitlines()[-1])["cells"]
    assert [(c["strategy"], c["t"], c["n"]) for c in cells] == [
        (strategy, t, 7) for strategy in ("elastic", "s1:waits=2") for t in (0, 8, None)
    ]
    assert "42 of 42 samples" in said.err
    assert "t=none on" in said.err
    assert "thinking may fill the context of" in said.err
    assert "s left" in said.err
    rows = lines(here / "eval/results.jsonl")
    assert len(rows) == 2 + 42
    assert rows[1]["model"] == str(folder)
    assert "| unconstrained | t=0 | t=8 |" in (here / "eval/table.md").read_text()
    assert (here / "eval/plot.svg").read_text().startswith("<svg")
    assert main(command) == 0
    assert lines(here / "eval/results.jsonl") == rows
    assert main([*command, "--samples", "2"]) == 0
    assert len(lines(here / "eval/results.jsonl")) == 2 + 84


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_and_taken_up_again(folder: Path, here: Path, root: Path) -> None:
    """kill -9 in the middle: what was written is kept, and the whole is what it would have been."""
    command = ["eval", "--model", str(folder), "--rows", "4", "--problems", "40"]
    command += ["--thinking", "0,16", "--solution", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "elastic_agent.integrations.commands.main", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    results = here / "eval/results.jsonl"
    try:
        deadline = time.monotonic() + 90
        while not results.exists() or results.read_bytes().count(b"\n") < 12:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 12 <= results.read_bytes().count(b"\n") < 82, "it was killed too late to show anything"
    assert main(command) == 0
    assert main([*command, "--output", "whole"]) == 0
    resumed, whole = ({json.dumps(r) for r in lines(here / f / "results.jsonl")} for f in ("eval", "whole"))
    assert len(resumed) == 82
    # Batches of other shapes round differently, so a few draws may fall on the other side
    assert len(resumed & whole) >= 0.9 * len(whole)


def test_a_server_a_swap_curves_and_the_inspector(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the wire; then thinking and solution of two models swapped, curves and a page, in process."""
    with wire.serving(model="org/e1") as base_url:
        served = ["eval", "--model", "org/e1", "--base-url", base_url, "--tokenizer", "e1-tiny"]
        assert main([*served, *SMALL, "--strategy", "elastic,truncate", "--output", "served"]) == 0
    assert len(lines(here / "served/results.jsonl")) == 1 + 42
    assert "| org/e1 | truncate |" in capsys.readouterr().out
    both = ["eval", "--model", "e1-tiny-base", "--model", "e1-tiny", "--swap", "e1-tiny-base", "e1-tiny"]
    few = ["--thinking", "0,8,16", "--solution", "12", "--problems", "3"]
    loaded: list[str] = []
    load = InProcess.load

    def count(name: str, **options: Any) -> InProcess:
        loaded.append(name)
        return load(name, **options)

    monkeypatch.setattr(InProcess, "load", count)
    assert main([*both, *few, "--inspect", "steps.html"]) == 0
    assert loaded == ["e1-tiny-base", "e1-tiny"], "each model is loaded once"
    assert "| e1-tiny>e1-tiny-base | elastic |" in capsys.readouterr().out
    assert (here / "steps.html").read_text().count("<article") == 3
    small = ["--thinking", "0,8,none", "--solution", "12", "--problems", "1"]
    assert main(["eval", "--model", "e1-tiny", *small, "--curves", "curves.json", "--output", "c"]) == 0
    assert set(load_file("curves.json").kinds) == {f"steps-{n}" for n in range(2, 9)}
    assert json.loads((here / "curves.json").read_text())["model"] == "e1-tiny"


def test_problems_of_ones_own(folder: Path, here: Path) -> None:
    """Rows that repeat are left out; a grader of one's own decides."""
    (here / "mine.jsonl").write_text(
        '{"question": "1 + 1", "answer": 2}\n{"question": "1 + 1", "answer": 2}\n\n'
        '{"problem": "2 + 2", "answer": "4", "level": "easy"}\n'
    )
    grader = here / "mine.py"
    grader.write_text("def grade(problem, solution, finished):\n    return problem.reference == '4'\n")
    sys.path.insert(0, str(here))
    try:
        command = ["eval", "--model", str(folder), "--data", "mine.jsonl", "--grader", "mine:grade"]
        assert main([*command, "--thinking", "4", "--solution", "4"]) == 0
    finally:
        sys.path.remove(str(here))
    rows = lines(here / "eval/results.jsonl")
    assert [(r["right"], r["kind"]) for r in sorted(rows[2:], key=lambda r: r["kind"])] == [
        (False, ""),
        (True, "easy"),
    ]


BAD: list[tuple[list[str], str]] = [
    (["--model", "nonesuch"], "no model called 'nonesuch': embedded are e1-tiny"),
    (["--model", "e1-tiny", "--strategy", "elastc"], "did you mean elastic"),
    (["--model", "e1-tiny", "--strategy", "native"], "--base-url"),
    (["--model", "e1-tiny", "--thinking", "1000"], "context of 1024 tokens"),
    (["--model", "e1-tiny", "--solution", "2000"], "context of 1024 tokens"),
    (["--model", "e1-tiny", "--solution", "0"], "at least 1"),
    (["--model", "e1-tiny", "--thinking", "-3"], "at least 0"),
    (["--model", "e1-tiny", "--problems", "0"], "at least 1"),
    (["--model", "e1-tiny", "--samples", "0"], "at least 1"),
    (["--model", "e1-tiny", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
    (["--model", "e1-tiny", "--data", "bad.jsonl"], "line 1: no column for the question"),
    (["--model", "e1-tiny", "--data", "empty.jsonl"], "gives no problem, it has no rows"),
    (["--model", "e1-tiny", "--data", "mth500"], "did you mean 'math500'"),
    (["--model", "e1-tiny", "--data", "math500"], "--path of eval"),
    (["--model", "e1-tiny", "--data", "own"], "--path FILE"),
    (["--model", "e1-tiny", "--data", "both.jsonl"], "holds code and math problems"),
    (["--model", "e1-tiny", "--split", "tset"], "no split 'tset'"),
    (["--model", "e1-tiny", "--grader", "a:b"], "--grader goes with --data"),
    (["--model", "e1-tiny", "--data", "good.jsonl", "--grader", "no.such:thing"], "no grader"),
    (["--model", "e1-tiny", "--inspect", "x.html"], "--inspect compares two"),
    (["--model", "e1-tiny", "--curves", "c.json", "--strategy", "s1"], "--curves needs"),
    (["--swap", "e1-tiny", "e1-tiny"], "two different models"),
    (["--swap", "e1-tiny", "e1-tiny-base", "--strategy", "truncate"], "two models"),
    (["--model", "a>b"], "can't hold '>'"),
    ([], "name a model"),
    (["--model", "x", "--base-url", "http://127.0.0.1:9/v1", "--tokenizer", "e1-tiny"], "can't be reached"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_input_is_one_sentence_and_costs_nothing(
    arguments: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, what to do, and no sample drawn."""
    (here / "bad.jsonl").write_text('{"text": "1 + 1"}\n')
    (here / "empty.jsonl").write_text("\n")
    (here / "both.jsonl").write_text(
        '{"question": "1 + 1", "answer": 2}\n{"question": "f", "tests": ["assert f()"]}\n'
    )
    (here / "good.jsonl").write_text('{"question": "1 + 1", "answer": 2}\n')
    assert main(["eval", *arguments]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert "Traceback" not in said.err
    results = here / "eval/results.jsonl"
    assert not results.exists() or not [row for row in lines(results) if "right" in row]


def test_results_of_another_run_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another split, seed or temperature is another run, and other weights are another model."""
    command = ["eval", "--model", str(folder), *SMALL]
    assert main(command) == 0
    assert main([*command, "--split", "test"]) == 2
    assert (
        "its problems is 'word-problems dev', this one's is 'word-problems test'" in capsys.readouterr().err
    )
    assert main([*command, "--seed", "1"]) == 2
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert main([*command, "--samples", "2"]) == 2
    finally:
        weights.write_bytes(whole)
    assert "other weights" in capsys.readouterr().err


def test_a_model_without_markers_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before its weights are even looked for."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "hi": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(here / "plain")
    assert main(["eval", "--model", "plain"]) == 2
    assert "no end-of-thinking marker" in capsys.readouterr().err


def test_time_left_comes_from_this_run_alone() -> None:
    """Samples that were there already took no time."""

    class Out:
        text = ""

        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None: ...

    now, out = 0.0, Out()
    progress = Progress(1000, 500, out=out, clock=lambda: now)  # type: ignore[arg-type]
    for _ in range(100):
        now += 1.0
        progress.one(right=True)
    assert progress.line() == "600 of 1000 samples, 60%, 100 of 100 drawn here right, 7 min left"
    assert out.text.count("\n") == 5
    assert [minutes(s) for s in (5, 200, 7260)] == ["5 s", "3 min", "2 h 01 min"]
