"""Fills the virtual environment that runs this script with LiteLLM: `make litellm`, after `python -m venv`.

An environment of its own, since LiteLLM pins dozens of packages by itself and nothing of ours imports it: the
benchmarks that compare with it (`decision_cost.py`) start it as another process. With its proxy; the versions
are those of constraints-litellm.txt.
"""

from __future__ import annotations

import sys

from setup_env import PIP, ROOT, UV, environment, have_uv, pinned, pip_settings, run

LOCK = ROOT / "constraints-litellm.txt"


def main() -> int:
    env = environment(pip_settings())
    wanted = ["install", "--quiet", "-c", str(LOCK), pinned("litellm", LOCK).replace("==", "[proxy]==", 1)]
    if any(run([*tool, *wanted], env) for tool in ([UV, PIP] if have_uv(env) else [PIP])):
        return 0
    print(
        "litellm: could not install everything (see above); `make litellm` goes on from here", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
