"""The benchmark of deadlines: files, made-up traces from a seed, and the counts of a short run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import arrivals as bench
from benchmarks._arrival_traces import SHAPES, json_lines, synthetic, thinned
from elastic_agent.scheduler import Timing


def test_a_trace_of_json_lines(tmp_path: Path) -> None:
    """Milliseconds and tokens, in order of time; other fields don't matter, and a bad line is named."""
    file = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 2500, "input_length": 9, "output_length": 7, "hash_ids": [1]}]
    rows += [{"timestamp": 0, "output_length": 3}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert json_lines(file) == [(0.0, 3), (2.5, 7)]
    file.write_text('{"timestamp": 0, "output_length": 3}\n{"timestamp": 1}\n')
    with pytest.raises(SystemExit, match=r"trace.jsonl, line 2: .*output_length"):
        json_lines(file)
    file.write_text("\n")
    with pytest.raises(SystemExit, match="no requests"):
        json_lines(file)


def test_a_long_trace_keeps_its_rhythm_and_a_short_one_all_its_rows() -> None:
    """One in so many of the whole, not its beginning."""
    assert thinned([(float(i), 1) for i in range(10)], 5) == [(float(i), 1) for i in range(0, 10, 2)]
    assert len(thinned([(0.0, 1)] * 3, 5)) == 3


@pytest.mark.parametrize("name", list(SHAPES))
def test_made_up_traces_follow_from_their_seed(name: str) -> None:
    """The same rows again, others from another seed; time goes on, answers have tokens."""
    rows = synthetic(name, 200, 1)
    assert rows == synthetic(name, 200, 1) != synthetic(name, 200, 2)
    assert len(rows) == 200
    assert rows == sorted(rows, key=lambda row: row[0])
    assert min(tokens for _, tokens in rows) >= 1


def test_a_short_run() -> None:
    """Everybody is counted once, and those that are admitted are answered."""
    found = bench.play("two-sizes", synthetic("two-sizes", 40, 0), 1.5, 0, Timing(), compare=False)
    assert found["admitted"] + found["refused"] == found["tasks"] == 40
    assert found["late"] == 0 == len(found["late_named"])
    assert found["answered"] == found["admitted"]
    assert (found["in_time"], found["latest_ms"] < 0) == (1.0, True)
    assert 0 <= found["needless_as_declared"] <= found["needless"] <= found["refused"]
