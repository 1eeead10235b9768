"""The command: its help, and what it refuses in one sentence before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastic_agent.integrations.commands.main import main
from elastic_agent.training.prepare.cli import parser, settings_of
from tests.training.prepare.bases import bpe, make_base, rows, write


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """A newcomer finds the traces' format, the markers and the two ways to call it."""
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for words in ("--traces FILE", '"thinking": "', "--markers", "--resume", "--lora", "check.json"):
        assert words in said


def test_settings(tmp_path: Path) -> None:
    """Defaults, and what the settings of a run say of its traces."""
    traces = write(tmp_path / "t.jsonl", rows(3))
    given = ["--base", "b", "--output", "o", "--traces", str(traces)]
    found = settings_of(parser(None).parse_args(given))
    assert (found.epochs, found.steps, found.lora, found.batch) == (3.0, None, None, 16)
    assert len(found.digest) == 64
    assert settings_of(parser(None).parse_args([*given, "--lora", "--steps", "7"])).lora == 16
    assert settings_of(parser(None).parse_args([*given, "--lora", "8", "--epochs", "2"])).epochs == 2.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the following arguments are required"),
        (["--traces", "none.jsonl"], "--traces none.jsonl does not exist"),
        (["--steps", "3"], "--steps is for the training on traces"),
        (["--steps", "3", "--epochs", "1"], "not allowed with"),
        (["--markers", "mull"], "invalid choice: 'mull'"),
        (["--base", "no/such/model"], "no model 'no/such/model'"),
        (["--output", "taken"], "--output taken holds something else (notes.txt)"),
        (["--output", "taken/notes.txt"], "is a file"),
    ],
)
def test_bad_usage(
    given: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 2 and one sentence; nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").touch()
    usual = {"--base": "e1-tiny-base", "--output": "out"}
    named = [word for name, value in usual.items() if name not in given for word in (name, value)]
    assert main(["prepare", *(named if given else []), *given]) == 2
    heard = capsys.readouterr().err
    assert said in heard
    assert heard.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_without_traces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markers and template alone, and it says so."""
    monkeypatch.chdir(tmp_path)
    make_base(tmp_path / "base", bpe(), spare=2)
    assert main(["prepare", "--base", "base", "--output", "marked"]) == 0
    said = capsys.readouterr().out
    assert "prepared, not taught" in said
    assert "next: elastic-agent prepare --base marked --traces FILE" in said
    assert main(["prepare", "--base", "base", "--output", "marked"]) == 2
    assert "is a prepared model already" in capsys.readouterr().err
