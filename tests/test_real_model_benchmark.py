"""The benchmark of a real model: what is measured reads back, and its numbers are those of the outcomes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import _allocation_data as data
from benchmarks import real_model as bench
from benchmarks._replay import Outcome, Sizes, load
from tests.training.gym_only import needs_gym

SIZES = Sizes(256, 32, 3)
GRID = (0, 16, 32, 64, 128, 256)


def outcome(problem: int, thinking: int, right: str, kind: str = "sums") -> Outcome:
    """Right or not at each limit of the grid; solutions of 5 tokens."""
    return Outcome(kind, problem, 20, thinking, GRID, tuple(c == "1" for c in right), (5,) * 6, SIZES)


def test_rows_by_family_and_budget() -> None:
    """A cut beyond the thinking's end is the uncut answer."""
    rows = bench.rows_of("e1", [outcome(0, 40, "001111"), outcome(1, 100, "000011", "legs")])
    found = {(row["family"], row["t"]): row for row in rows}
    assert [found["all", t]["accuracy"] for t in (0, 16, 32, 64, 128, None)] == [0, 0, 0.5, 0.5, 1, 1]
    assert found["sums", 32]["tokens"] == 37
    assert found["sums", 128]["tokens"] == 45
    assert found["all", None] == {**found["all", None], "n": 2, "s": 32, "tokens": 75}
    assert "| e1 | legs | 0.00 | 0.00 | 0.00 | 0.00 | 1.00 | 1.00 | 105 |" in bench.table(rows)


def test_one_model_against_another() -> None:
    """Pairs of the same problems; the share of the other's thinking that is cut."""
    base = [outcome(n, 100, "000111" if n % 2 else "000011") for n in range(40)]
    e1 = [outcome(n, 40, "001111") for n in range(40)]
    found = bench.against(e1, base)
    assert found["ahead"]["32"] == [1.0, 1.0, 1.0]
    assert found["ahead"]["64"][0] == 0.5
    assert 0.3 < found["ahead"]["64"][1] < 0.5 < found["ahead"]["64"][2] < 0.7
    assert found["ratio_at_32"] == 40.0
    assert found["tokens"] == round(45 / 105, 3)
    assert found["cut"] == {"0": 1.0, "16": 1.0, "32": 1.0, "64": 1.0, "128": 0.0, "uncut": 0.0}
    with pytest.raises(SystemExit, match="different problems"):
        bench.against(e1[1:], base)


@needs_gym
def test_measured_on_a_recipes_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """e1-tiny can't do them; the file reads back, is the same when measured again, and says its limits."""
    path = tmp_path / "out.csv.gz"
    options = ["--recipe", "e1-gym-135m", "--problems", "2", "--threads", "1", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["x", "--model", "e1-tiny", *options])
    data.main()
    first = path.read_bytes()
    outcomes = load(path)
    assert {one.kind for one in outcomes} == {"chain_sum", "leg_counting", "letter_counting"}
    assert len(outcomes) == 6
    assert outcomes[0].sizes == Sizes(256, 32, 1)
    path.unlink()
    data.main()
    assert path.read_bytes() == first


@pytest.mark.skipif(not list(bench.DATA.glob("*/base.csv.gz")), reason="no outcomes of a real model ship yet")
def test_what_ships_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every shipped model was asked at least 300 problems of each family, the same for all."""
    monkeypatch.setattr(sys, "argv", ["x", "--quick"])
    found = bench.main()
    assert {row["n"] for row in found["rows"] if row["family"] != "all"} >= {300}
    assert all(row["n"] >= 300 for row in found["rows"])
    assert "| base | all |" in capsys.readouterr().out
    assert bench.PICTURE.read_text(encoding="utf-8") == bench.drawn(found["rows"])
