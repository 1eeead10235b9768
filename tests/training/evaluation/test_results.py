"""The results file: nothing is lost or drawn twice, and other runs' files are left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.training.evaluation.results import Results, ResultsFileError
from tests.training.evaluation.grids import record

HEADER = {"problems": "numbers", "seed": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "results.jsonl"


def test_what_is_written_is_there_again(path: Path) -> None:
    """By key, in order, whatever the text; a name may hold slashes."""
    first = record(model="org/model-1.5B", t=None, solution="</think>\n<script>\u2028\x00\ud800 é")
    with Results(path, HEADER) as results:
        results.add(first)
        results.add(record(sample=1, right=False))
        results.note_model("org/model-1.5B", "abc")
    with Results(path, HEADER) as results:
        assert list(results.records.values()) == [first, record(sample=1, right=False)]
        assert results.models == {"org/model-1.5B": "abc"}
        assert results.dropped == 0


@given(cut=st.integers(0, 2000))
def test_a_torn_end_costs_only_its_line(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Killed at any byte: every whole line is kept, and the file goes on as if nothing had happened."""
    path = tmp_path_factory.mktemp("torn") / "results.jsonl"
    with Results(path, HEADER) as results:
        for i in range(4):
            results.add(record(sample=i))
    whole = path.read_bytes()
    torn = whole[: min(cut, len(whole))]
    path.write_bytes(torn)
    with Results(path, HEADER) as results:
        assert len(results.records) == max(0, torn.count(b"\n") - 1)
        for i in range(4):
            results.add(record(sample=i))
    assert path.read_bytes() == whole


def test_a_line_of_nulls_at_the_end_is_torn_too(path: Path) -> None:
    """What a power cut may leave."""
    with Results(path, HEADER) as results:
        results.add(record())
    path.write_bytes(path.read_bytes() + b"\x00" * 20 + b"\n")
    with Results(path, HEADER) as results:
        assert len(results.records) == 1
        assert results.dropped == 21


def test_the_same_sample_twice_counts_once(path: Path) -> None:
    """Files that were joined by hand: the first one counts."""
    with Results(path, HEADER) as results:
        results.add(record())
        results.add(record(right=False))
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with Results(path, HEADER) as results:
        assert [r.right for r in results.records.values()] == [True]


def test_two_runs_do_not_write_one_file(path: Path) -> None:
    with Results(path, HEADER), pytest.raises(ResultsFileError, match="another run is writing"):
        Results(path, HEADER)
    Results(path, HEADER).close()


def test_a_file_of_another_run_is_refused_and_left_alone(path: Path) -> None:
    """And the message says what differs."""
    Results(path, HEADER).close()
    before = path.read_bytes()
    with pytest.raises(ResultsFileError, match="its seed is 0, this one's is 1"):
        Results(path, {**HEADER, "seed": 1})
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["hello", '{"a": 1}\n', "[1]\n", "\n\n", '{"model": "m"}\n{"x'])
def test_a_file_that_is_none_of_ours_is_left_alone(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ResultsFileError, match="not a results file"):
        Results(path, HEADER)
    assert path.read_text() == text


def test_damage_in_the_middle_is_named(path: Path) -> None:
    with Results(path, HEADER) as results:
        results.add(record())
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:30], lines[1]]) + "\n")
    with pytest.raises(ResultsFileError, match="line 2 is damaged"):
        Results(path, HEADER)
    row = json.loads(lines[1])
    del row["right"]
    path.write_text("\n".join([lines[0], json.dumps(row), lines[1]]) + "\n")
    with pytest.raises(ResultsFileError, match="line 2 is no sample"):
        Results(path, HEADER)


def test_other_weights_under_the_same_name_are_refused(path: Path) -> None:
    """A checkpoint that was trained on is another model."""
    with Results(path, HEADER) as results:
        results.note_model("run/checkpoint", "abc")
        results.note_model("run/checkpoint", "abc")
        with pytest.raises(ResultsFileError, match="other weights"):
            results.note_model("run/checkpoint", "def")
    assert path.read_text().count("abc") == 1
    assert replace(record(), model="a/b").key.model == "a/b"
