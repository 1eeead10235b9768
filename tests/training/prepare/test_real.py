"""A real model, where there is one: ELASTIC_REAL_MODELS names a folder with smollm2-135m in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from elastic_agent.prompts.tokenizer import load_codec
from elastic_agent.training.prepare.run import prepare
from tests.training.prepare.bases import rows, settings_for, write

MODEL = "smollm2-135m"
FOLDER = Path(os.environ.get("ELASTIC_REAL_MODELS", ""))


@pytest.mark.skipif(
    not (FOLDER / MODEL / "config.json").is_file(), reason=f"ELASTIC_REAL_MODELS has no {MODEL}"
)
@pytest.mark.timeout(300)
def test_two_steps_on_a_real_model(tmp_path: Path) -> None:
    """Its vocabulary has no spare rows, so its markers are text; the folder loads, and the check ran."""
    traces = write(tmp_path / "traces.jsonl", rows(20))
    said: list[str] = []
    settings = settings_for(FOLDER / MODEL, tmp_path / "out", traces, check=2, rate=3e-4, dtype="bfloat16")
    prepare(settings, log=said.append)
    assert "as plain text" in said[1]
    assert load_codec(tmp_path / "out").markers.close_text == "</think>"
    assert json.loads((tmp_path / "out" / "check.json").read_text())["questions"] == 2
