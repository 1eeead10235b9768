"""Each preset for real models, run end to end on a small model: launcher, rollouts, reward, export, answer.

    python benchmarks/presets.py [--quick] [--json] [--preset NAME,...] [--engine NAME]

Each runs for two batches on a random model of its architecture and vocabulary, at a hundredth of the size
(`_small_models.py`), on problems in small files, with the launcher, sharding, engine, reward and all fields
of the preset but those that `_small_presets.REDUCED` names. The model that the run wrote answers a question
under a budget, and is compared with what `elastic-agent export` makes of the run's checkpoint.

The presets sample with vLLM in process, so this runs with the Python of `make vllm`
(`PYTHONPATH=. .venv-vllm/bin/python`); with --engine another engine takes its place, and the JSON says so.
--quick runs the preset for one GPU alone, with the engine "transformers" where this Python has no vLLM.

One JSON line for each preset, by its name: `parameters`, `ranks`, `shard`, `engine`, `lora`, `seconds` and
`peak_mib` (the largest process) of the run, `rewards` and `grad_norms` by batch, `answer`: thinking tokens
and solution, `exported_alike`; with --json the last line holds all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _commands import environment
from _small_presets import PRESETS, SOLUTION, THINKING, make_small

QUICK = "e1-math-1.5b-lora"


def run_preset(folder: Path, preset: str, engine: str | None = None) -> dict[str, Any]:
    """Run a preset in a folder. Returns what the module's text says of a preset.

    Args:
        engine: in place of the preset's.
    """
    config, parameters = make_small(folder, preset)
    ranks = PRESETS[preset].ranks
    words = ["-m", "elastic_agent.training", "--config", str(config)]
    if ranks > 1:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), *words]
    if engine is not None:
        words += ["--set", f"rollout.engine={engine}"]
    seconds, peak = command(folder / "log", *words)
    output, exported = folder / "out", folder / "exported"
    export = ("-m", "elastic_agent.integrations.commands.main", "export")
    command(folder / "log", *export, str(output), str(exported))
    return {
        "parameters": parameters,
        "ranks": ranks,
        **ran(output),
        "seconds": round(seconds, 1),
        "peak_mib": round(peak),
        "answer": answer(output),
        "exported_alike": alike(output, exported),
    }


def command(log: Path, *words: str) -> tuple[float, float]:
    """Run this Python. Returns its seconds, and the MiB of its largest process. Its error is ours."""
    began = time.perf_counter()
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, *words], env=environment(), stdout=file, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)  # counts the processes that it started, too
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\n{log.read_text()[-8000:]}")
    return time.perf_counter() - began, used.ru_maxrss / 1024


def ran(output: Path) -> dict[str, Any]:
    """What a finished run says of itself."""
    import yaml

    config = yaml.safe_load((output / "config.yaml").read_text())
    log = [entry for entry in json.loads((output / "train_log.json").read_text()) if "loss" in entry]
    return {
        "engine": config["rollout"]["engine"],
        "shard": config["device"]["shard"],
        "lora": config["lora"] is not None,
        "rewards": [round(entry["reward"], 3) for entry in log],
        "grad_norms": [round(entry["grad_norm"], 4) for entry in log],
    }


def answer(model: Path) -> list[Any]:
    """Thinking tokens and the solution of the model in a folder, under the budget of the run."""
    from elastic_agent.integrations.langchain import ChatElasticReasoning

    llm = ChatElasticReasoning(model=str(model), thinking_budget=THINKING, solution_budget=SOLUTION)
    said: Any = llm.invoke("What is 2 + 1?")
    return [said.usage_metadata["output_token_details"]["reasoning"], said.text]


def alike(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights, byte for byte."""
    names = sorted(path.name for path in one.glob("model*.safetensors"))
    return bool(names) and all((one / n).read_bytes() == (other / n).read_bytes() for n in names)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} alone")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--preset", default=",".join(PRESETS), help=f"any of {', '.join(PRESETS)}; all")
    parser.add_argument("--engine", help="an engine in place of the preset's")
    options = parser.parse_args(argv)
    engine = options.engine
    if options.quick and find_spec("vllm") is None:
        engine = engine or "transformers"
    result: dict[str, Any] = {}
    for preset in [QUICK] if options.quick else options.preset.split(","):
        with tempfile.TemporaryDirectory() as folder:
            result[preset] = run_preset(Path(folder), preset, engine)
        print(json.dumps({preset: result[preset]}), flush=True)
    if options.json:
        print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
